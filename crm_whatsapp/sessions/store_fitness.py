"""Whether what was read from a store may be copied, or used as one."""

import sqlite3
from contextlib import closing
from enum import StrEnum

from crm_whatsapp.domain.snapshots import StoreCopy, StoreUnfit
from crm_whatsapp.sessions.device_row import RUBBISH, StoreCorrupt, one_row
from crm_whatsapp.sessions.snapshot_cipher import MOST_DATABASE_BYTES
from crm_whatsapp.sessions.store_content import is_whole, open_in_memory


class Unfit(StrEnum):
    """Why a store may not be copied; in the details of StoreUnfit as `reason`."""

    MISSING = "missing"  # there is no store
    BUSY = "busy"  # a writer did not let go in time; try again
    UNFINISHED = "unfinished"  # a killed writer left a rollback journal; the next start settles it
    TOO_LARGE = "too-large"  # more than 256 MiB
    DAMAGED = "damaged"  # not a whole whatsmeow store, or creds.json cannot be read
    NO_DEVICE = "no-device"  # never paired, or emptied by a logout
    SEVERAL_DEVICES = "several-devices"  # neonize would resume one of them
    OTHER_DEVICE = "other-device"  # not the one that creds.json names


def no_device() -> StoreUnfit:
    """Return the refusal of a store without a device."""
    return unfit(Unfit.NO_DEVICE, "The store holds no device: never paired, or logged out.")


def unfit(reason: Unfit, message: str) -> StoreUnfit:
    """Return the refusal of a store, for this reason."""
    return StoreUnfit(message, reason=reason)


def check_copy(copy: StoreCopy) -> None:
    """Refuse a copy that is not a whole store of exactly the device its credentials name.

    Raises:
        StoreUnfit: says what is wrong with it.
    """
    if len(copy.database) > MOST_DATABASE_BYTES:
        raise unfit(Unfit.TOO_LARGE, "The store is larger than 256 MiB.")
    try:
        with closing(open_in_memory(copy.database)) as db:
            require_whole(db)
            _check_length(db, copy.database)
            jids = db.execute("select jid from whatsmeow_device limit 2").fetchall()
            if len(jids) == 1:
                one_row(db)  # with all its keys
    except (sqlite3.Error, StoreCorrupt) as exc:
        raise unfit(Unfit.DAMAGED, f"The store is damaged: {exc}.") from exc
    except RUBBISH as exc:
        raise unfit(Unfit.DAMAGED, "The store is damaged: it holds rubbish.") from exc
    if not jids:
        raise no_device()
    if len(jids) > 1:
        raise unfit(Unfit.SEVERAL_DEVICES, "The store holds more than one device.")
    if jids[0][0] != copy.credentials.jid.encode():
        raise unfit(Unfit.OTHER_DEVICE, "The store holds another device than creds.json names.")


def require_whole(db: sqlite3.Connection) -> None:
    """Refuse a database that SQLite finds a fault in. Raises StoreUnfit."""
    if not is_whole(db):
        raise unfit(Unfit.DAMAGED, "The store is damaged: its check failed.")


def _check_length(db: sqlite3.Connection, database: bytes) -> None:
    if pages_bytes(db) != len(database):
        raise unfit(Unfit.DAMAGED, "The store is cut off.")


def pages_bytes(db: sqlite3.Connection) -> int:
    """Return how many bytes its pages take, those in the log too."""
    page_size = int(db.execute("pragma page_size").fetchone()[0])
    return page_size * int(db.execute("pragma page_count").fetchone()[0])

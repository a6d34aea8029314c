"""Writes a device that another library paired into an empty store of whatsmeow."""

import os
import secrets
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from crm_whatsapp.domain.errors import StorageError
from crm_whatsapp.sessions.baileys_credentials import MOST_PRE_KEY_ID, BaileysSession


def write_device(path: Path, session: BaileysSession, pre_keys: Mapping[int, bytes]) -> None:
    """Write what whatsmeow writes at pairing: device, hidden id, account's identity, keys.

    Args:
        path: an empty store of the neonize in use; left with mode 0600 and synced.
        pre_keys: number -> private key of the one-time keys that come along.

    Raises:
        StorageError: the disk refuses, or the tables of this neonize are not known here.
    """
    try:
        path.chmod(0o600)
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("pragma foreign_keys = on")
            db.execute("begin immediate")
            _insert(db, "whatsmeow_device", _device_row(session))
            _insert_identity(db, session)
            for row in _pre_key_rows(session, pre_keys):
                _insert(db, "whatsmeow_pre_keys", row)
            db.execute("commit")
        _sync(path)
    except (sqlite3.Error, OSError) as exc:
        raise StorageError(f"The session cannot be written to a store: {exc}.") from exc


def _device_row(session: BaileysSession) -> dict[str, object]:
    return {
        "jid": session.jid,
        "lid": session.lid,
        "registration_id": session.registration_id,
        "noise_key": session.noise_key,
        "identity_key": session.identity_key,
        "signed_pre_key": session.signed_pre_key,
        "signed_pre_key_id": session.signed_pre_key_id,
        "signed_pre_key_sig": session.signed_pre_key_signature,
        "adv_key": session.adv_secret,
        "adv_details": session.adv_details,
        "adv_account_sig": session.account_signature,
        "adv_account_sig_key": session.account_signature_key,
        "adv_device_sig": session.device_signature,
        "platform": session.platform or "",
        "push_name": session.push_name or "",
    }


def _insert_identity(db: sqlite3.Connection, session: BaileysSession) -> None:
    """Write the identity of the account's phone, under the name Signal sessions use for it."""
    phone = f"{_user(session.jid)}:0"
    if session.lid is not None:
        phone = f"{_user(session.lid)}_1:0"
        _insert(db, "whatsmeow_lid_map", {"lid": _user(session.lid), "pn": _user(session.jid)})
    row = {"our_jid": session.jid, "their_id": phone, "identity": session.account_signature_key}
    _insert(db, "whatsmeow_identity_keys", row)


def _pre_key_rows(
    session: BaileysSession, pre_keys: Mapping[int, bytes]
) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = [
        {
            "jid": session.jid,
            "key_id": number,
            "key": key,
            "uploaded": number < session.first_unuploaded_pre_key_id,
        }
        for number, key in pre_keys.items()
    ]
    following = session.next_pre_key_id
    if 1 < following <= MOST_PRE_KEY_ID and max(pre_keys, default=0) < following - 1:
        # whatsmeow counts on from the highest number it finds. A fresh key under the next number
        # keeps it from giving out numbers that WhatsApp still holds other keys for.
        fresh = secrets.token_bytes(32)
        rows.append({"jid": session.jid, "key_id": following, "key": fresh, "uploaded": False})
    return rows


def _insert(db: sqlite3.Connection, table: str, row: Mapping[str, object]) -> None:
    columns, marks = ", ".join(row), ", ".join("?" * len(row))
    db.execute(f"insert into {table} ({columns}) values ({marks})", tuple(row.values()))  # noqa: S608


def _user(jid: str) -> str:
    return jid.partition("@")[0].partition(":")[0].partition(".")[0]


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

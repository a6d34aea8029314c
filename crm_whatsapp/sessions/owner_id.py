"""The identity of this service: a UUID that stays with its SESSIONS_DIR."""

import logging
import uuid
from pathlib import Path

from crm_whatsapp.domain.company import parse_company_id
from crm_whatsapp.domain.errors import InvalidInput
from crm_whatsapp.sessions.durable_file import (
    NotAPlainFile,
    read_bounded,
    refused,
    write_durably,
)

_LOG = logging.getLogger(__name__)
_MOST_BYTES = 256


def load_owner_id(root: Path) -> str:
    """Return the UUID in SESSIONS_DIR/owner-id; it is made when missing, replaced when damaged.

    Call it under the lock on SESSIONS_DIR.

    Raises:
        StorageError: the disk refuses.
    """
    path = root / "owner-id"
    try:
        raw = read_bounded(path, _MOST_BYTES)
        return parse_company_id(raw.decode("ascii").strip(), field="owner-id")
    except FileNotFoundError:
        pass
    except (NotAPlainFile, UnicodeDecodeError, InvalidInput):
        _LOG.warning(
            "%s is damaged and is replaced. Leases under the old identity end by themselves.", path
        )
    except OSError as exc:
        raise refused("read", path, exc) from exc
    owner_id = str(uuid.uuid4())
    write_durably(path, f"{owner_id}\n".encode())
    return owner_id

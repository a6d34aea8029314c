"""The service key of an installation that sets none: made once, kept in SESSIONS_DIR/api-key."""

import logging
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from crm_whatsapp.domain.errors import StorageError
from crm_whatsapp.sessions.durable_file import (
    NotAPlainFile,
    read_bounded,
    refused,
    write_durably,
)

_LOG = logging.getLogger(__name__)
_MOST_BYTES = 4096
_USABLE = re.compile(r"[\x21-\x7e]{16,512}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceKey:
    """The key and where it is kept. made: True when it did not exist before."""

    key: str = field(repr=False)
    path: Path
    made: bool


def load_service_key(root: Path) -> ServiceKey:
    """Return the key in SESSIONS_DIR/api-key; it is made when missing, replaced when damaged.

    Its mode is brought back to 0600. Call it under the lock on SESSIONS_DIR.

    Raises:
        StorageError: the disk refuses.
    """
    path = root / "api-key"
    found = _find(path)
    if found is not None:
        return ServiceKey(key=found, path=path, made=False)
    key = secrets.token_urlsafe(32)
    write_durably(path, f"{key}\n".encode())
    return ServiceKey(key=key, path=path, made=True)


def _find(path: Path) -> str | None:
    try:
        key = read_bounded(path, _MOST_BYTES).decode("ascii").strip()
        if _USABLE.fullmatch(key):
            path.chmod(0o600)
            return key
    except FileNotFoundError:
        return None
    except (NotAPlainFile, UnicodeDecodeError):
        pass
    except OSError as exc:
        raise refused("read", path, exc) from exc
    if path.is_dir():
        raise StorageError(f"{path} is a folder; the service key belongs there.")
    _LOG.warning(
        "%s held no usable key (16 to 512 visible ASCII characters); a new one is made.", path
    )
    return None

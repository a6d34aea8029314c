"""What a session folder can be."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class FolderState(StrEnum):
    """The condition of `session-<company_id>/` on disk."""

    MISSING = "missing"  # no folder, or one without any session in it
    VALID = "valid"  # store.db with one device row; creds.json matches, or is to be adopted
    CORRUPT = "corrupt"  # present and unreadable; the reason says what
    FOREIGN = "foreign"  # of whatsapp-web.js or Baileys
    LOCKED = "locked"  # in use by another process
    UNREADABLE = "unreadable"  # permissions or an I/O error; nothing is known


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """The content of creds.json. Holds no key material: that is in store.db."""

    company_id: str
    jid: str
    lid: str | None
    push_name: str | None
    platform: str | None
    paired_at: datetime
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderReport:
    """One look at a session folder.

    credentials: from creds.json, or read from the device row when creds.json is still missing.
    needs_adoption: a device row without creds.json (a crash in between): write it, then go on.
    """

    state: FolderState
    detail: str = ""
    credentials: Credentials | None = None
    needs_adoption: bool = False
    file_count: int = 0
    size_bytes: int = 0

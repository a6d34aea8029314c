"""What somebody wants to move in: recognised by what lies there, and read without touching it."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crm_whatsapp.domain.errors import InvalidInput, StorageError
from crm_whatsapp.sessions.baileys_json import (
    NotJson,
    Record,
    find_creds,
    is_baileys_creds,
    parse_json,
)
from crm_whatsapp.sessions.durable_file import NotAPlainFile, read_bounded, refused

_CREDS = "creds.json"
_MOST_FOLDER_CREDS_BYTES = 16_777_216
_MOST_DUMP_BYTES = 67_108_864
_MOST_KEY_FILE_BYTES = 65_536
_MOST_KEY_FILES = 10_000
_PRE_KEY_FILE = re.compile(r"pre-key-([0-9]{1,8})\.json")
_SQLITE_MAGIC = b"SQLite format 3\x00"
_ZIP_MAGIC = b"PK\x03\x04"
_HEAD_BYTES = 262_144
_MOST_SUBFOLDERS = 200

_WEBJS = (
    "{path} is a session of whatsapp-web.js. It cannot move in: it is the profile of a browser, "
    "and the keys in it do not leave that browser. Connect the company by QR code or pairing "
    "code, then remove the old device on the phone, under Linked devices."
)
_WHATSMEOW = (
    "{path} is a store of whatsmeow (neonize and others): it needs no conversion. End the program "
    "that uses it, stop this service, copy the file to session-<company id>/store.db in "
    "SESSIONS_DIR, and start this service again; it adopts it. A store with several devices "
    "cannot be taken over: link those companies anew."
)
_OWN = (
    "{path} is a session of this service already. Stop both services and copy the whole folder "
    "into the other SESSIONS_DIR; the name of the folder holds the company."
)
_SEVERAL = "{path} holds {count} Baileys sessions. Import them one at a time, such as {first}."
_NO_SESSION = "{path} holds no Baileys session: {why}."
_HALF = (
    "{path} cannot be read: {why}. If Baileys is still running, stop it first and try again: it "
    "may be writing the file."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BaileysSource:
    """What Baileys left.

    creds: its creds object, unchecked.
    pre_keys: number of each one-time key -> its key pair, unchecked; a dump has none.
    """

    path: Path
    creds: Record = field(repr=False)
    pre_keys: dict[int, Any] = field(repr=False)


def read_source(path: Path) -> BaileysSource:
    """Read a multi-file folder or a dump. Files are opened for reading only.

    Raises:
        InvalidInput: it is something else, or several sessions; says what it is and what to do.
        StorageError: the disk refuses.
    """
    try:
        path = path.resolve(strict=True)
        return _read_folder(path) if path.is_dir() else _read_dump(path)
    except FileNotFoundError as exc:
        raise InvalidInput(f"{path} does not exist.") from exc
    except NotAPlainFile as exc:
        raise InvalidInput(f"{path} is neither a folder nor a file.") from exc
    except (RecursionError, MemoryError) as exc:
        raise InvalidInput(f"{path} is nested or filled beyond reason.") from exc
    except RuntimeError as exc:  # a loop of links
        raise InvalidInput(f"{path} leads nowhere: {exc}.") from exc
    except ValueError as exc:  # a NUL in the name
        raise InvalidInput("The path is not usable.") from exc
    except OSError as exc:
        raise refused("read", path, exc) from exc


def _read_folder(folder: Path) -> BaileysSource:
    names = _names(folder)
    if "Default" in names or "Crashpad" in names:
        raise InvalidInput(_WEBJS.format(path=folder))
    if _CREDS not in names:
        raise InvalidInput(_without_creds(folder, names))
    record = _parse_file(folder / _CREDS, _MOST_FOLDER_CREDS_BYTES)
    if not is_baileys_creds(record):
        if isinstance(record, dict) and "format_version" in record:
            raise InvalidInput(_OWN.format(path=folder))
        raise InvalidInput(_NO_SESSION.format(path=folder, why=f"{_CREDS} is not one of Baileys"))
    return BaileysSource(path=folder, creds=record, pre_keys=_read_pre_keys(folder, names))


def _without_creds(folder: Path, names: list[str]) -> str:
    """Say what a folder without creds.json is, as far as it can be told."""
    for name in names:
        if name.endswith((".db", ".sqlite", ".sqlite3")) and _is_whatsmeow(folder / name):
            return _WHATSMEOW.format(path=folder / name)
    inside = [folder / name for name in names[:_MOST_SUBFOLDERS] if (folder / name).is_dir()]
    if any((item / "Default").is_dir() for item in inside):
        return _WEBJS.format(path=folder)
    sessions = [item for item in inside if (item / _CREDS).is_file()]
    if sessions:
        return _SEVERAL.format(path=folder, count=len(sessions), first=sessions[0])
    return _NO_SESSION.format(path=folder, why=f"there is no {_CREDS} in it")


def _read_pre_keys(folder: Path, names: list[str]) -> dict[int, Any]:
    """Return the one-time keys; what cannot be read is None: only first messages need them."""
    numbered = [(int(match[1]), name) for name in names if (match := _PRE_KEY_FILE.fullmatch(name))]
    found: dict[int, Any] = {}
    for number, name in sorted(numbered)[-_MOST_KEY_FILES:]:
        try:
            found[number] = parse_json(_read(folder / name, _MOST_KEY_FILE_BYTES))
        except (NotJson, NotAPlainFile, OSError):
            found[number] = None
    return found


def _read_dump(path: Path) -> BaileysSource:
    raw = _read(path, _MOST_DUMP_BYTES)
    if raw.startswith(_SQLITE_MAGIC):
        if b"whatsmeow_device" in raw[:_HEAD_BYTES]:
            raise InvalidInput(_WHATSMEOW.format(path=path))
        why = "it is a database file: export the row with creds as JSON"
        raise InvalidInput(_NO_SESSION.format(path=path, why=why))
    if raw.startswith(_ZIP_MAGIC):
        if path.name.startswith("RemoteAuth"):
            raise InvalidInput(_WEBJS.format(path=path))
        raise InvalidInput(_NO_SESSION.format(path=path, why="it is an archive: unpack it first"))
    try:
        content = parse_json(raw)
    except NotJson as exc:
        raise InvalidInput(_HALF.format(path=path, why=exc)) from exc
    sessions = find_creds(content)
    if not sessions:
        if b"noiseKey" in raw:
            raise InvalidInput(_HALF.format(path=path, why="the creds in it are not complete"))
        why = "no creds object (with noiseKey and signedIdentityKey) is in it"
        raise InvalidInput(_NO_SESSION.format(path=path, why=why))
    if len(sessions) > 1:
        raise InvalidInput(
            f"{path} holds {len(sessions)} different Baileys sessions. Put the creds of one "
            "company into a file of its own."
        )
    if path.name == _CREDS:
        names = _names(path.parent)
        return BaileysSource(
            path=path, creds=sessions[0], pre_keys=_read_pre_keys(path.parent, names)
        )
    return BaileysSource(path=path, creds=sessions[0], pre_keys={})


def _parse_file(path: Path, most_bytes: int) -> Any:
    try:
        return parse_json(_read(path, most_bytes))
    except NotJson as exc:
        raise InvalidInput(_HALF.format(path=path, why=exc)) from exc


def _read(path: Path, most_bytes: int) -> bytes:
    """Read a file, also through links: mounted secrets are links."""
    raw = read_bounded(path.resolve(), most_bytes)
    if len(raw) > most_bytes:
        raise InvalidInput(f"{path} is larger than {most_bytes} bytes.")
    return raw


def _names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def _is_whatsmeow(path: Path) -> bool:
    try:
        head = read_bounded(path.resolve(), _HEAD_BYTES)
    except (NotAPlainFile, OSError) as exc:
        raise StorageError(f"{path} cannot be read: {exc}.") from exc
    return head.startswith(_SQLITE_MAGIC) and b"whatsmeow_device" in head

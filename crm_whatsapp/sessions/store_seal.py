"""The hash of a store as a clean stop left it: session-<id>/store.sha256.

SQLite has no checksums: a bit that flips inside a value passes every check of its own, and would be
found only by WhatsApp refusing the login. The seal is written when the engine has ended and taken
off before the next start, so it never speaks of a store that a client has changed since.
"""

import hashlib
from pathlib import Path

from crm_whatsapp.sessions.durable_file import NotAPlainFile, read_bounded, refused

FILE_NAME = "store.sha256"
_MOST_BYTES = 128
_CHUNK_BYTES = 1024 * 1024


def put_on(store_path: Path) -> None:
    """Seal a store at rest, whose log has been folded in.

    Raises:
        StorageError: the disk refuses.
    """
    seal = store_path.with_name(FILE_NAME)
    fresh = store_path.with_name(f".{FILE_NAME}.tmp")
    try:
        fresh.unlink(missing_ok=True)
        fresh.touch(mode=0o600)
        fresh.write_text(_digest(store_path))
        fresh.replace(seal)
    except OSError as exc:
        raise refused("seal", store_path, exc) from exc


def take_off(folder: Path) -> None:
    """Remove the seal, because the store is about to change; no error when there is none.

    Raises:
        StorageError: the disk refuses.
    """
    try:
        (folder / FILE_NAME).unlink(missing_ok=True)
    except OSError as exc:
        raise refused("remove", folder / FILE_NAME, exc) from exc


def is_broken(store_path: Path) -> bool:
    """Tell whether a sealed store is not what was sealed; False without a seal.

    Raises:
        OSError: the store cannot be read.
    """
    try:
        sealed = read_bounded(store_path.with_name(FILE_NAME), _MOST_BYTES)
    except FileNotFoundError:
        return False
    except NotAPlainFile:
        return True
    return sealed.decode("ascii", "replace") != _digest(store_path)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()

"""The copy of a store at rest that the second chance puts back: session-<id>/before-start/.

Both files of the database are copied as they lie: nobody has the store open, so together they are
consistent. The copy is not synced to disk, because it only has to outlive the next login; a torn
one is found by the inspection before the start.
"""

import shutil
from pathlib import Path

from crm_whatsapp.sessions import device_row as store
from crm_whatsapp.sessions import store_seal
from crm_whatsapp.sessions.durable_file import refused, sync_folder

_FOLDER = "before-start"
_SUFFIXES = ("", "-wal")


def keep(session: Path) -> None:
    """Copy the store and take its seal off; the earlier copy is replaced by one rename.

    Raises:
        StorageError: the disk refuses.
    """
    kept, fresh = session / _FOLDER, session / f".{_FOLDER}.tmp"
    store_seal.take_off(session)
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        for suffix in _SUFFIXES:
            _copy(session / (store.FILE_NAME + suffix), fresh / (store.FILE_NAME + suffix))
        shutil.rmtree(kept, ignore_errors=True)
        fresh.rename(kept)
    except OSError as exc:
        raise refused("copy the store in", session, exc) from exc


def put_back(session: Path) -> bool:
    """Replace the store by the copy; False when there is none. The copy is used up by it.

    Raises:
        StorageError: the disk refuses.
    """
    kept = session / _FOLDER
    try:
        if not (kept / store.FILE_NAME).is_file():
            return False
        for suffix in ("-wal", "-shm", "-journal"):
            (session / (store.FILE_NAME + suffix)).unlink(missing_ok=True)
        for suffix in reversed(_SUFFIXES):
            if (kept / (store.FILE_NAME + suffix)).is_file():
                (kept / (store.FILE_NAME + suffix)).replace(session / (store.FILE_NAME + suffix))
        shutil.rmtree(kept, ignore_errors=True)
        sync_folder(session)
    except OSError as exc:
        raise refused("put the store back in", session, exc) from exc
    return True


def _copy(source: Path, target: Path) -> None:
    try:
        shutil.copyfile(source, target, follow_symlinks=False)
    except FileNotFoundError:
        return
    target.chmod(0o600)

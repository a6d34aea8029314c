"""The copy of a store at rest that the second chance puts back: session-<id>/before-start/.

The files of the database are copied as they lie, with the record of their pages: nobody has the
store open, so together they are consistent. The copy is not synced to disk, because it only has to
outlive the next login; a torn one is found by the inspection before the start.
"""

import shutil
from pathlib import Path

from crm_whatsapp.sessions import device_row as store
from crm_whatsapp.sessions.durable_file import refused, sync_folder
from crm_whatsapp.sessions.page_record import FILE_NAME as RECORD_NAME
from crm_whatsapp.sessions.page_record import remove_record

_FOLDER = "before-start"
_NAMES = (store.FILE_NAME, f"{store.FILE_NAME}-wal", RECORD_NAME)


def keep(session: Path) -> None:
    """Copy the store; the earlier copy is replaced by one rename.

    Raises:
        StorageError: the disk refuses.
    """
    kept, fresh = session / _FOLDER, session / f".{_FOLDER}.tmp"
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        for name in _NAMES:
            _copy(session / name, fresh / name)
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
        remove_record(session)  # it speaks of the store that goes
        for suffix in ("-shm", "-wal", "-journal"):
            (session / (store.FILE_NAME + suffix)).unlink(missing_ok=True)
        for name in reversed(_NAMES):  # the record first: half a store is then found
            if (kept / name).is_file():
                (kept / name).replace(session / name)
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

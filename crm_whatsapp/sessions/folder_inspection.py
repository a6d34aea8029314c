"""One look at a session folder: what is in it, and whether it can be restored."""

import os
import stat
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from crm_whatsapp.domain.folders import Credentials, FolderReport, FolderState
from crm_whatsapp.sessions import credentials as creds
from crm_whatsapp.sessions import device_row as store
from crm_whatsapp.sessions import page_record
from crm_whatsapp.sessions.device_row import DeviceRow
from crm_whatsapp.sessions.store_pages import StorePages

_WEBJS_FOLDERS = ("Default", "Crashpad")  # a Chromium profile, from whatsapp-web.js LocalAuth


@dataclass(frozen=True, slots=True, kw_only=True)
class _Contents:
    names: frozenset[str]
    file_count: int
    size_bytes: int


def inspect_folder(
    folder: Path, company_id: str, *, deep: bool = True, pages: StorePages | None = None
) -> FolderReport:
    """Tell the state of the folder; never raises for what it finds there.

    Args:
        deep: also check every page of the store and its device row. Without it the store is only
            opened when creds.json is missing. A store in journal mode `delete` must not be in use.
        pages: tells of bits that have flipped, when the look is deep.
    """
    try:
        contents = _list(folder)
    except FileNotFoundError:
        return FolderReport(state=FolderState.MISSING)
    except NotADirectoryError as exc:
        return FolderReport(state=FolderState.UNREADABLE, detail=str(exc))
    except OSError as exc:
        return _unreadable(f"{folder.name} cannot be read", exc)
    report = _inspect(
        folder, company_id, contents, _StoreReader(folder=folder, deep=deep, pages=pages)
    )
    return replace(report, file_count=contents.file_count, size_bytes=contents.size_bytes)


def _inspect(
    folder: Path, company_id: str, contents: _Contents, reader: "_StoreReader"
) -> FolderReport:
    try:
        saved = creds.read_credentials(folder, company_id)
    except FileNotFoundError:
        return _without_credentials(folder, company_id, contents, reader)
    except creds.CredentialsForeign as exc:
        return FolderReport(state=FolderState.FOREIGN, detail=str(exc))
    except creds.CredentialsCorrupt as exc:
        return FolderReport(state=FolderState.CORRUPT, detail=str(exc))
    except OSError as exc:
        return _unreadable(f"{creds.FILE_NAME} cannot be read", exc)
    if reader.deep:
        return _with_store(saved, reader)
    return _with_unopened_store(folder, saved)


def _with_store(saved: Credentials, reader: "_StoreReader") -> FolderReport:
    row = reader.read()
    if isinstance(row, FolderReport):
        if row.state is FolderState.MISSING:
            return _corrupt(f"{creds.FILE_NAME} is there without {store.FILE_NAME}")
        return row
    if row is None:
        return _corrupt(f"{creds.FILE_NAME} is there, but {store.FILE_NAME} holds no device")
    if row.jid != saved.jid:
        return _corrupt(f"{creds.FILE_NAME} and {store.FILE_NAME} belong to different devices")
    return FolderReport(state=FolderState.VALID, credentials=saved)


def _with_unopened_store(folder: Path, saved: Credentials) -> FolderReport:
    try:
        status = (folder / store.FILE_NAME).lstat()
    except FileNotFoundError:
        return _corrupt(f"{creds.FILE_NAME} is there without {store.FILE_NAME}")
    except OSError as exc:
        return _unreadable(f"{store.FILE_NAME} cannot be read", exc)
    if not stat.S_ISREG(status.st_mode) or status.st_size == 0:
        return _corrupt(f"{store.FILE_NAME} is empty or not a regular file")
    return FolderReport(state=FolderState.VALID, credentials=saved)


def _without_credentials(
    folder: Path, company_id: str, contents: _Contents, reader: "_StoreReader"
) -> FolderReport:
    row = reader.read()
    if isinstance(row, DeviceRow):
        return FolderReport(
            state=FolderState.VALID,
            detail=f"{creds.FILE_NAME} is still missing",
            credentials=_adopted(folder, company_id, row),
            needs_adoption=True,
        )
    if isinstance(row, FolderReport) and row.state is not FolderState.MISSING:
        return row
    if any(name in contents.names for name in _WEBJS_FOLDERS):
        return FolderReport(
            state=FolderState.FOREIGN, detail="the folder is a profile of whatsapp-web.js"
        )
    return FolderReport(state=FolderState.MISSING)


@dataclass(frozen=True, slots=True, kw_only=True)
class _StoreReader:
    """Opens the store of a folder, in its turn."""

    folder: Path
    deep: bool
    pages: StorePages | None

    def read(self) -> DeviceRow | FolderReport | None:
        """Return the row, None for a store without device, or the report that settles it."""
        with self.pages.turn(self.folder) if self.pages is not None else nullcontext():
            return self._read()

    def _read(self) -> DeviceRow | FolderReport | None:
        path = self.folder / store.FILE_NAME
        try:
            check = self.pages.begin_check(self.folder) if self.pages and self.deep else None
            if check is None:
                return store.read_device_row(path, quick_check=self.deep)
            if check.damage is not None:  # SQLite would make little of it, and hide the rest
                return _changed(check.damage)
            row = store.read_device_row(path, quick_check=self.deep, also=check.take)
            damage = check.judge()
            return row if damage is None else _changed(damage)
        except FileNotFoundError:
            return FolderReport(state=FolderState.MISSING)
        except store.StoreBusy as exc:
            return FolderReport(state=FolderState.LOCKED, detail=str(exc))
        except store.StoreUnreadable as exc:
            return FolderReport(state=FolderState.UNREADABLE, detail=str(exc))
        except store.StoreCorrupt as exc:
            return _corrupt(str(exc))
        except OSError as exc:
            return _unreadable(f"{store.FILE_NAME} cannot be read", exc)


def _changed(damage: str) -> FolderReport:
    return _corrupt(
        f"{store.FILE_NAME} was changed by no client: {damage}. If another store was put there on "
        f"purpose, remove {page_record.FILE_NAME}"
    )


def _adopted(folder: Path, company_id: str, row: DeviceRow) -> Credentials:
    """Return what creds.json would have said; the pairing is as old as the store's last change."""
    changed_at = (folder / store.FILE_NAME).stat().st_mtime
    return Credentials(
        company_id=company_id,
        jid=row.jid,
        lid=row.lid,
        push_name=row.push_name,
        platform=row.platform,
        paired_at=datetime.fromtimestamp(changed_at, UTC),
        epoch=0,
    )


def _list(folder: Path) -> _Contents:
    require_own_folder(folder)
    names, count, size = set(), 0, 0
    with os.scandir(folder) as entries:
        for entry in entries:
            names.add(entry.name)
            if entry.is_file(follow_symlinks=False):
                count += 1
                size += _size(entry)
    return _Contents(names=frozenset(names), file_count=count, size_bytes=size)


def require_own_folder(folder: Path) -> None:
    """Refuse a link: it may lead out of SESSIONS_DIR or to another company's session.

    Raises:
        FileNotFoundError: nothing has that name.
        NotADirectoryError: a link or a file has it.
    """
    mode = folder.lstat().st_mode
    if not stat.S_ISDIR(mode):
        what = "a symbolic link" if stat.S_ISLNK(mode) else "not a folder"
        raise NotADirectoryError(f"{folder.name} is {what}")


def is_open_to_others(folder: Path) -> bool:
    """Tell whether every user of the machine may write to the folder, sticky or not."""
    return bool(folder.stat().st_mode & stat.S_IWOTH)


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_size
    except FileNotFoundError:  # -wal and -journal come and go
        return 0


def _corrupt(detail: str) -> FolderReport:
    return FolderReport(state=FolderState.CORRUPT, detail=detail)


def _unreadable(what: str, exc: OSError) -> FolderReport:
    return FolderReport(state=FolderState.UNREADABLE, detail=f"{what}: {exc.strerror or exc}")

"""The session folders under SESSIONS_DIR.

    session-<company_id>/creds.json, store.db    one company's session
    session-<company_id>/store.pages             what each page of store.db must hold
    .locks/<company_id>.lock                     never unlinked; its holder runs the session
    quarantine/<company_id>-<time>-<why>/        set aside, for a person to look at
    .trash/                                      on its way out

Folders come and go by one rename, so that a kill never leaves half a session behind.
"""

import os
import re
import shutil
import stat
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from crm_whatsapp.domain.company import parse_company_id
from crm_whatsapp.domain.errors import ConfigurationError, InvalidInput, StorageError
from crm_whatsapp.domain.folders import Credentials, FolderReport, FolderState
from crm_whatsapp.sessions import before_start
from crm_whatsapp.sessions import credentials as creds
from crm_whatsapp.sessions import device_row as store
from crm_whatsapp.sessions.durable_file import refused, sync_folder
from crm_whatsapp.sessions.folder_inspection import inspect_folder, require_own_folder
from crm_whatsapp.sessions.store_pages import StorePages

_PREFIX = "session-"
_WRITE_CHECK_BYTES = 4096


def _utc_now() -> datetime:
    return datetime.now(UTC)


class LocalSessionFolders:
    """The SessionFolders of this machine."""

    def __init__(self, root: Path, *, now: Callable[[], datetime] = _utc_now) -> None:
        """Use the folder; nothing is read or made yet.

        Raises:
            ConfigurationError: root is not absolute.
        """
        if not root.is_absolute():
            raise ConfigurationError(f"SESSIONS_DIR must be an absolute path, not {root}.")
        self._root = root
        self._now = now
        self.pages = StorePages()

    @property
    def root(self) -> Path:
        """SESSIONS_DIR."""
        return self._root

    def prepare_root(self) -> None:
        """Make SESSIONS_DIR and the folder of the locks, mode 0700, where they are missing."""
        for folder in (self._root, self._root / ".locks"):
            self._make(folder)

    def session_path(self, company_id: str) -> Path:
        """Return the folder."""
        return self._root / f"{_PREFIX}{parse_company_id(company_id)}"

    def store_path(self, company_id: str) -> Path:
        """Return where store.db is or will be."""
        return self.session_path(company_id) / store.FILE_NAME

    def lock_path(self, company_id: str) -> Path:
        """Return the lock file of the session; whoever locks it makes it."""
        return self._root / ".locks" / f"{parse_company_id(company_id)}.lock"

    def has_credentials(self, company_id: str) -> bool:
        """Tell whether creds.json, or a store that must be looked at, exists.

        Two stats; only a store without creds.json is opened. A store that is damaged or busy
        counts: it must be inspected, not taken for absent.

        Raises:
            StorageError: the disk refuses, or the folder is a link.
        """
        folder = self.session_path(company_id)
        try:
            require_own_folder(folder)
            if _is_there(folder / creds.FILE_NAME):
                return True
            with self.pages.turn(folder):
                return store.read_device_row(folder / store.FILE_NAME) is not None
        except FileNotFoundError:
            return False
        except (store.StoreCorrupt, store.StoreBusy):
            return True
        except store.StoreUnreadable as exc:
            raise StorageError(f"{folder}: {exc}.") from exc
        except OSError as exc:
            raise refused("read", folder, exc) from exc

    def has_credentials_file(self, company_id: str) -> bool:
        """Tell whether creds.json exists; one stat, and never a look into the store.

        Raises:
            StorageError: the disk refuses.
        """
        path = self.session_path(company_id) / creds.FILE_NAME
        try:
            return _is_there(path)
        except OSError as exc:
            raise refused("read", path, exc) from exc

    def inspect(self, company_id: str, *, deep: bool = True) -> FolderReport:
        """Look at the folder; deep also checks the store. Only for a company without client."""
        company_id = parse_company_id(company_id)
        folder = self.session_path(company_id)
        return inspect_folder(folder, company_id, deep=deep, pages=self.pages)

    def list_companies(self) -> list[str]:
        """Return the companies that have a folder, sorted; links are left out."""
        found = []
        try:
            with os.scandir(self._root) as entries:
                for entry in entries:
                    company_id = _company_of(entry.name)
                    if company_id and entry.is_dir(follow_symlinks=False):
                        found.append(company_id)
        except FileNotFoundError:
            return []
        except OSError as exc:
            raise refused("read", self._root, exc) from exc
        return sorted(found)

    def prepare(self, company_id: str) -> None:
        """Make an empty folder, mode 0700, for a pairing.

        What an aborted pairing left is removed; another library's folder goes to quarantine.

        Raises:
            StorageError: the disk refuses, or the folder holds a session, whole or damaged.
        """
        folder = self.session_path(company_id)
        report = self.inspect(company_id, deep=False)
        if report.state is FolderState.FOREIGN:
            self.quarantine(company_id, "foreign")
        elif report.state is not FolderState.MISSING:
            raise StorageError(
                f"{folder} is not empty ({report.state}): set it aside before a new pairing.",
                state=report.state,
            )
        self.prepare_root()
        self.remove(company_id)
        self._make(folder)

    def write_credentials(self, credentials: Credentials) -> None:
        """Write creds.json atomically and durably, mode 0600.

        Raises:
            InvalidInput: these credentials could not be read back.
            StorageError: the disk refuses; an earlier file is as it was.
        """
        folder = self.session_path(credentials.company_id)
        try:
            require_own_folder(folder)
            folder.chmod(0o700)
        except OSError as exc:
            raise refused("write to", folder, exc) from exc
        creds.write_credentials(folder, credentials)

    def remove_credentials(self, company_id: str) -> None:
        """Remove creds.json alone; no error when there is none."""
        folder = self.session_path(company_id)
        try:
            require_own_folder(folder)
            (folder / creds.FILE_NAME).unlink()
            sync_folder(folder)
        except FileNotFoundError:
            return
        except OSError as exc:
            raise refused(f"remove {creds.FILE_NAME} in", folder, exc) from exc

    def remove(self, company_id: str) -> None:
        """Remove the folder; no error when there is none.

        Raises:
            StorageError: the disk refuses. The folder may be out of its place already; calling
                again removes the rest.
        """
        company_id = parse_company_id(company_id)
        trash = self._root / ".trash"
        self._set_aside(company_id, trash / f"{company_id}-{uuid.uuid4().hex}")
        try:
            for leftover in trash.glob(f"{company_id}-*"):
                shutil.rmtree(leftover)
        except OSError as exc:
            raise refused("remove", trash, exc) from exc

    def keep_before_start(self, company_id: str) -> None:
        """Copy the store of a company at rest, so that `put_back` can undo the next start.

        Raises:
            StorageError: the disk refuses.
        """
        folder = self.session_path(company_id)
        with self.pages.turn(folder):
            self.pages.prepare(folder)
            before_start.keep(folder)

    def put_back(self, company_id: str) -> bool:
        """Replace the store of a company at rest by that copy; False when there is none.

        Raises:
            StorageError: the disk refuses.
        """
        folder = self.session_path(company_id)
        with self.pages.turn(folder):
            return before_start.put_back(folder)

    def quarantine(self, company_id: str, why: str) -> Path | None:
        """Set the folder aside under quarantine/; None when there is none.

        Raises:
            StorageError: the disk refuses; the folder is as it was.
        """
        company_id = parse_company_id(company_id)
        word = re.sub(r"[^a-z0-9]+", "-", why.lower()).strip("-")[:40] or "unknown"
        stamp = self._now().astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
        target = self._root / "quarantine" / f"{company_id}-{stamp}-{word}"
        if target.exists():
            target = target.with_name(f"{target.name}-{uuid.uuid4().hex[:8]}")
        return target if self._set_aside(company_id, target) else None

    def check_writable(self) -> None:
        """Raise StorageError, saying why, when SESSIONS_DIR cannot be written.

        Writes, syncs and removes 4 KB, which finds a full disk too.
        """
        probe = self._root / f".write-check-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        try:
            try:
                with probe.open("xb") as file:
                    file.write(bytes(_WRITE_CHECK_BYTES))
                    file.flush()
                    os.fsync(file.fileno())
            finally:
                probe.unlink(missing_ok=True)
        except OSError as exc:
            raise refused("write to SESSIONS_DIR", self._root, exc) from exc

    def _set_aside(self, company_id: str, target: Path) -> bool:
        """Move the session folder by one rename; tell whether there was one."""
        folder = self.session_path(company_id)
        try:
            require_own_folder(folder)
        except FileNotFoundError:
            return False
        except OSError as exc:
            raise refused("move", folder, exc) from exc
        self._make(target.parent)
        try:
            folder.rename(target)
            sync_folder(target.parent)
            sync_folder(self._root)
        except OSError as exc:
            raise refused("move", folder, exc) from exc
        return True

    def _make(self, folder: Path) -> None:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            require_own_folder(folder if folder != self._root else folder.resolve())
            if stat.S_IMODE(folder.stat().st_mode) != 0o700 and folder != self._root:
                folder.chmod(0o700)
            sync_folder(folder.parent)
        except OSError as exc:
            raise refused("make", folder, exc) from exc


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


def _company_of(folder_name: str) -> str | None:
    if not folder_name.startswith(_PREFIX):
        return None
    raw = folder_name.removeprefix(_PREFIX)
    try:
        company_id = parse_company_id(raw)
    except InvalidInput:
        return None
    return company_id if company_id == raw else None

"""Where a session from elsewhere enters SESSIONS_DIR: it is built aside and appears by one rename.

Safe beside a running service, for a company without a session: the company's lock is held from the
first look to the rename, so no client of it starts meanwhile, and the service sees no folder or a
whole one. Replacing a session is not: the service remembers what it knew of the old one.
"""

import fcntl
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from crm_whatsapp.domain.errors import InvalidInput, StorageError, WrongState
from crm_whatsapp.domain.folders import Credentials, FolderReport, FolderState
from crm_whatsapp.sessions import credentials as creds
from crm_whatsapp.sessions.durable_file import refused, sync_folder
from crm_whatsapp.sessions.folder_inspection import inspect_folder
from crm_whatsapp.sessions.session_folders import LocalSessionFolders

_UNKNOWN = frozenset({FolderState.LOCKED, FolderState.UNREADABLE})


class Lock(Protocol):
    """The lock on one company's session."""

    def try_acquire(self) -> bool:
        """Take it; say whether it is ours."""

    def release(self) -> None:
        """Give it back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A company's place under SESSIONS_DIR, held for a session that is moving in.

    occupant: what is there now; None when there is no session.
    service_runs: a service uses this SESSIONS_DIR at the moment.
    """

    company_id: str
    folder: Path
    occupant: FolderReport | None
    service_runs: bool


class SessionIntake:
    """Lets sessions move into SESSIONS_DIR."""

    def __init__(self, folders: LocalSessionFolders, session_lock: Callable[[Path], Lock]) -> None:
        self._folders = folders
        self._session_lock = session_lock

    @contextmanager
    def hold(self, company_id: str, *, replace: bool, look_only: bool) -> Iterator[Place]:
        """Hold the company's place; look_only writes nothing, not even lock files.

        Raises:
            WrongState: the company has a session and replace is False, or a client, or a service
                runs where a session would be replaced.
            StorageError: the disk refuses.
        """
        if not look_only:
            self._folders.prepare_root()
        with self._session_locked(company_id, look_only), self._service_kept_out() as service_runs:
            place = Place(
                company_id=company_id,
                folder=self._folders.session_path(company_id),
                occupant=self._occupant(company_id),
                service_runs=service_runs,
            )
            _require_vacancy(place, replace)
            yield place

    def require_new_device(self, place: Place, jid: str) -> None:
        """Refuse a device that is another company's session: the two would replace each other.

        Raises:
            WrongState: naming the other company.
        """
        for company_id in self._folders.list_companies():
            if company_id == place.company_id:
                continue
            try:
                saved = creds.read_credentials(self._folders.session_path(company_id), company_id)
            except (creds.CredentialsCorrupt, creds.CredentialsForeign, OSError):
                continue  # not readable as a session, so nothing runs from it
            if saved.jid == jid:
                raise WrongState(
                    f"The device {jid} is the session of company {company_id} already. One "
                    "device belongs to one company."
                )

    def install(self, place: Place, fill: Callable[[Path], Credentials]) -> Path | None:
        """Build the session aside, check it, and put it in place; return what was set aside.

        Args:
            fill: writes store.db into the folder it is given, and says what creds.json shall hold.

        Raises:
            StorageError: the disk refuses, or what was built is not a whole session. What was
                there is still there, or in quarantine.
        """
        staging = self._stage(place.company_id)
        try:
            creds.write_credentials(staging, fill(staging))
            built = inspect_folder(staging, place.company_id, deep=True)
            if built.state is not FolderState.VALID:
                raise StorageError(f"The session was not written whole: {built.detail}.")
            sync_folder(staging)
            set_aside = self._make_room(place)
            staging.rename(place.folder)
            sync_folder(place.folder.parent)
        except OSError as exc:
            shutil.rmtree(staging, ignore_errors=True)
            raise refused("put in place", place.folder, exc) from exc
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)  # what is left, the next import removes
            raise
        return set_aside

    def _stage(self, company_id: str) -> Path:
        incoming = self._folders.root / ".incoming"
        staging = incoming / f"{company_id}-{uuid.uuid4().hex}"
        try:
            incoming.mkdir(mode=0o700, exist_ok=True)
            for leftover in incoming.glob(
                f"{company_id}-*"
            ):  # of a killed import; we hold its lock
                shutil.rmtree(leftover)
            staging.mkdir(mode=0o700)
        except OSError as exc:
            raise refused("make", staging, exc) from exc
        return staging

    def _make_room(self, place: Place) -> Path | None:
        if place.occupant is not None:
            return self._folders.quarantine(place.company_id, "replaced-by-import")
        self._folders.remove(place.company_id)  # what an aborted pairing left
        return None

    def _occupant(self, company_id: str) -> FolderReport | None:
        report = self._folders.inspect(company_id, deep=False)
        return None if report.state is FolderState.MISSING else report

    @contextmanager
    def _session_locked(self, company_id: str, look_only: bool) -> Iterator[None]:
        path = self._folders.lock_path(company_id)
        if look_only and not path.exists():
            yield
            return
        lock = self._session_lock(path)
        try:
            ours = lock.try_acquire()
        except OSError as exc:
            raise refused("lock", path, exc) from exc
        if not ours:
            raise WrongState(
                "The company has a client or a pairing in the running service. Disconnect it "
                "first (POST /disconnect), or stop the service."
            )
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def _service_kept_out(self) -> Iterator[bool]:
        """Tell whether a service runs; when none does, one that starts now waits for us.

        The lock is taken without writing a holder into it, so that a starting service takes us for
        the last worker of its predecessor and waits.
        """
        path = self._folders.root / ".locks" / "service.lock"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            yield False
            return
        except OSError as exc:
            raise refused("open", path, exc) from exc
        try:
            yield not _try_lock(descriptor, path)
        finally:
            os.close(descriptor)


def _try_lock(descriptor: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as exc:
        raise refused("lock", path, exc) from exc
    return True


def _require_vacancy(place: Place, replace: bool) -> None:
    occupant = place.occupant
    if occupant is None:
        return
    if occupant.state in _UNKNOWN:
        raise WrongState(f"{place.folder} cannot be used now: {occupant.detail}.")
    if not replace:
        raise WrongState(
            f"The company has a session already: {place.folder} ({_description(occupant)}). "
            "Nothing was changed. To let the imported one take its place, stop the service and "
            "add --replace: the present one is then set aside in quarantine/, not deleted."
        )
    if place.service_runs:
        raise WrongState(
            "A service runs on this SESSIONS_DIR. Stop it before a session is replaced: it "
            "remembers the present one."
        )


def _description(occupant: FolderReport) -> str:
    if occupant.credentials is not None:
        return f"device {occupant.credentials.jid}"
    return f"{occupant.state}: {occupant.detail}" if occupant.detail else str(occupant.state)


def require_source_outside(source: Path, folder: Path) -> None:
    """Refuse to import a folder into itself.

    Raises:
        InvalidInput: the source is the company's own session folder, or lies in it.
    """
    if source.is_relative_to(folder.resolve()):
        raise InvalidInput(
            f"{source} is the company's own folder in SESSIONS_DIR. Give this service a "
            "SESSIONS_DIR of its own, and import from the old folder into that."
        )

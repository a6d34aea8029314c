"""Makes a session folder ready for a start: decides between the local store and a snapshot.

A snapshot wins over a valid local store only if its epoch is above the local one, because then
another pod has run the session since; in the same epoch the local store wins. A missing or
damaged local store is replaced by the newest snapshot that can be opened. What is replaced goes to
quarantine. Of a snapshot that may not be the last condition of its session, the Signal sessions are
left out. Before the client starts, the lease's epoch is written into creds.json and a copy of
the store is put beside it for the second chance.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import structlog

from crm_whatsapp.domain.connection import Reason
from crm_whatsapp.domain.errors import CrmWhatsappError, StorageError, StoreUnavailable
from crm_whatsapp.domain.folders import FolderReport, FolderState
from crm_whatsapp.domain.ports import (
    SessionFolders,
    SessionInstaller,
    SnapshotCipher,
    SnapshotStore,
)
from crm_whatsapp.domain.snapshots import (
    KeyMissing,
    KeyRefused,
    SnapshotDamaged,
    SnapshotMeta,
    StoreCopy,
)
from crm_whatsapp.service.lease_keeper import LeaseKeeper
from crm_whatsapp.service.snapshot_catalogue import SnapshotCatalogue

log = structlog.get_logger(__name__)

Ready = Callable[[], None]
Refuse = Callable[[Reason, str], None]
Later = Callable[[Callable[[], None]], None]
"""Runs the work in the company's mailbox, unless the start is no longer wanted by then."""

REASONS = {
    FolderState.MISSING: Reason.CREDENTIALS_MISSING,
    FolderState.CORRUPT: Reason.STORE_CORRUPT,
    FolderState.FOREIGN: Reason.STORE_FOREIGN,
    FolderState.LOCKED: Reason.HELD_ELSEWHERE,
    FolderState.UNREADABLE: Reason.STORAGE_UNAVAILABLE,
}


@dataclass(frozen=True, slots=True)
class RemoteSnapshots:
    """Where snapshots come from; cipher is None when no key is configured."""

    store: SnapshotStore
    cipher: SnapshotCipher | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """A snapshot that opened. is_last: taken after a clean stop, and no newer one is known."""

    copy: StoreCopy
    is_last: bool


def _at_once(work: Callable[[], None]) -> None:
    work()


class SessionOpener:
    """Looks at the folder in the company's mailbox; downloads on threads of its own."""

    def __init__(
        self,
        *,
        folders: SessionFolders,
        installer: SessionInstaller,
        leases: LeaseKeeper,
        catalogue: SnapshotCatalogue,
        remote: RemoteSnapshots | None,
        threads: int = 4,
    ) -> None:
        self._folders = folders
        self._installer = installer
        self._leases = leases
        self._catalogue = catalogue
        self._remote = remote
        self._downloads = ThreadPoolExecutor(threads, thread_name_prefix="snapshot-restore")

    def stop(self) -> None:
        """Begin no further download."""
        self._downloads.shutdown(wait=False, cancel_futures=True)

    def open(
        self, company_id: str, *, ready: Ready, refuse: Refuse, later: Later = _at_once
    ) -> None:
        """Answer by one of the callbacks: at once, or after a download.

        Args:
            later: what was downloaded is installed by it: by then the folder may belong to another
                start, or to a pairing.
        Raises:
            StorageError: the disk refuses.
        """
        report = self._folders.inspect(company_id)
        if self._remote is not None and self._needs_snapshot(company_id, report):
            remote = self._remote
            try:
                self._downloads.submit(
                    self._open_remote, remote, company_id, report, ready, refuse, later
                )
            except RuntimeError:  # stopped
                refuse(Reason.STORAGE_UNAVAILABLE, "The service is stopping.")
        else:
            self._open_local(company_id, report, ready, refuse)

    def _needs_snapshot(self, company_id: str, report: FolderReport) -> bool:
        newest = self._catalogue.find(company_id)
        if newest is None:
            return False
        if report.state is FolderState.VALID and report.credentials is not None:
            return newest[0] > report.credentials.epoch
        return report.state in (FolderState.MISSING, FolderState.CORRUPT)

    def _open_local(
        self, company_id: str, report: FolderReport, ready: Ready, refuse: Refuse
    ) -> None:
        known = report.credentials
        if report.state is not FolderState.VALID or known is None:
            refuse(REASONS.get(report.state, Reason.STORE_CORRUPT), report.detail)
            return
        if report.needs_adoption:
            log.info("adopting a paired store without creds.json", company_id=company_id)
        epoch = max(self._leases.epoch_of(company_id), known.epoch)
        if report.needs_adoption or known.epoch != epoch:
            self._folders.write_credentials(replace(known, epoch=epoch))
        self._folders.keep_before_start(company_id)
        ready()

    def _open_remote(
        self,
        remote: RemoteSnapshots,
        company_id: str,
        report: FolderReport,
        ready: Ready,
        refuse: Refuse,
        later: Later,
    ) -> None:
        """Fetch the newest snapshot that can be opened, and have it installed."""

        def fetch() -> None:
            has_store = report.state is FolderState.VALID
            found = self._fetch(remote, company_id, has_store=has_store)
            later(lambda: _refusing(company_id, refuse, lambda: use(found)))

        def use(found: _Found | None) -> None:
            if found is None or _is_older_pairing(found.copy, report):
                self._open_local(company_id, report, ready, refuse)
            else:
                self._install(company_id, report, found)
                ready()

        _refusing(company_id, refuse, fetch)

    def _install(self, company_id: str, report: FolderReport, found: _Found) -> None:
        epoch = max(self._leases.epoch_of(company_id), found.copy.credentials.epoch)
        self._installer.install(found.copy, epoch=epoch, reset_signal=not found.is_last)
        self._folders.keep_before_start(company_id)
        log.info(
            "session restored from its snapshot",
            company_id=company_id,
            instead_of=report.state.value,
            detail=report.detail,
            signal_sessions_reset=not found.is_last,
        )

    def _fetch(self, remote: RemoteSnapshots, company_id: str, *, has_store: bool) -> _Found | None:
        """Return the newest snapshot that opens, trying older ones after a damaged one.

        A missing key ends the search: an older store would hurt a session that is whole.
        """
        if remote.cipher is None:
            raise KeyMissing("SNAPSHOT_ENCRYPTION_KEYS is not set.")
        snapshots = remote.store.list(company_id)
        refusals: list[SnapshotDamaged] = []
        for meta in snapshots:
            try:
                sealed = remote.store.read(company_id, meta.epoch, meta.seq)
                copy = remote.cipher.open(sealed)
            except SnapshotDamaged as error:
                _log_damage(meta, error)
                refusals.append(error)
            else:
                return _Found(copy=copy, is_last=sealed.meta.clean and not refusals)
        if not refusals:
            self._catalogue.forget(company_id)
            return None
        if all(isinstance(error, KeyRefused) for error in refusals):
            raise KeyMissing(refusals[0].message)
        if not has_store:
            raise SnapshotDamaged(f"None of {len(snapshots)} snapshots can be opened.")
        log.error("no snapshot can be opened; the older store is used", company_id=company_id)
        return None


def _refusing(company_id: str, refuse: Refuse, work: Callable[[], None]) -> None:
    """Do the work; what stands in its way is the answer."""
    try:
        work()
    except KeyMissing as error:
        refuse(Reason.KEY_MISSING, error.message)
    except (StoreUnavailable, StorageError) as error:
        refuse(Reason.STORAGE_UNAVAILABLE, error.message)
    except CrmWhatsappError as error:
        refuse(Reason.STORE_CORRUPT, error.message)
    except Exception as error:
        log.exception("a snapshot could not be restored", company_id=company_id)
        refuse(Reason.STORAGE_UNAVAILABLE, f"internal error: {type(error).__name__}")


def _is_older_pairing(copy: StoreCopy, report: FolderReport) -> bool:
    """Tell whether a valid local store was paired, or moved in, after the snapshot's."""
    local = report.credentials if report.state is FolderState.VALID else None
    if report.needs_adoption and local is not None and local.jid == copy.credentials.jid:
        return False  # the time is that of the store's last change, not of a pairing
    return local is not None and local.paired_at > copy.credentials.paired_at


def _log_damage(meta: SnapshotMeta, error: SnapshotDamaged) -> None:
    log.error(
        "a snapshot is damaged; the next older one is tried",
        company_id=meta.company_id,
        epoch=meta.epoch,
        seq=meta.seq,
        detail=error.message,
    )

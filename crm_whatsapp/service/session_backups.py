"""What is saved of a session, what that survives, and snapshots by hand."""

from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from crm_whatsapp.domain.connection import ClientPhase
from crm_whatsapp.domain.errors import CrmWhatsappError, NothingSaved, StorageError, WrongState
from crm_whatsapp.domain.folders import FolderReport, FolderState
from crm_whatsapp.domain.ports import SessionFolders, SnapshotStore
from crm_whatsapp.domain.snapshots import SnapshotMeta
from crm_whatsapp.service.session_manager import SessionManager
from crm_whatsapp.service.snapshot_keeper import SnapshotKeeper

log = structlog.get_logger(__name__)


class SnapshotsOff(WrongState):
    """Snapshots are off: set SNAPSHOT_ENCRYPTION_KEYS, see python -m crm_whatsapp new-key."""

    code = "snapshots-off"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the session survives, and why."""

    restart: bool
    disk_loss: bool
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionInfo:
    """What is saved for one company, here and elsewhere."""

    storage_valid: bool
    storage_path: str
    storage_writable: bool
    storage_detail: str
    session: FolderReport
    snapshots: Sequence[SnapshotMeta]
    verdict: Verdict


class SessionBackups:
    """Looks at the disk and asks the database; not for status polls."""

    def __init__(
        self,
        *,
        manager: SessionManager,
        folders: SessionFolders,
        store: SnapshotStore,
        keeper: SnapshotKeeper | None,
    ) -> None:
        self._manager = manager
        self._folders = folders
        self._store = store
        self._keeper = keeper

    def info(self, company_id: str) -> SessionInfo:
        """Return everything about the saved session; without the database, what is known here."""
        detail = ""
        try:
            self._folders.check_writable()
        except StorageError as error:
            detail = error.message
        connection = self._manager.find(company_id)
        at_rest = connection is None or connection.client is ClientPhase.NONE
        report = self._folders.inspect(company_id, deep=at_rest)
        snapshots = self._snapshots(company_id)
        return SessionInfo(
            storage_valid=not detail,
            storage_path=str(self._folders.session_path(company_id)),
            storage_writable=not detail,
            storage_detail=detail,
            session=report,
            snapshots=snapshots,
            verdict=self._verdict(company_id, report, snapshots, detail),
        )

    def backup(self, company_id: str) -> SnapshotMeta:
        """Write a verified snapshot now, also when nothing has changed.

        Raises:
            SnapshotsOff: no key is configured.
            NothingSaved: there is nothing to copy.
            StoreUnfit, LeaseFenced, StoreUnavailable, StoreRejected: it was not written.
        """
        if self._keeper is None or not self._keeper.is_on:
            raise SnapshotsOff
        if not self._manager.has_credentials(company_id):
            raise NothingSaved(user_action="connect")
        connection = self._manager.find(company_id)
        clean = connection is None or connection.client is ClientPhase.NONE
        self._keeper.take(company_id, clean=clean, even_if_same=True)
        meta = self._keeper.state(company_id).meta
        if meta is None:
            raise NothingSaved(user_action="connect")
        return meta

    def clean_up(self, company_id: str | None, keep: int) -> int:
        """Remove all but the newest snapshots of one company, or of each; return how many went."""
        return self._store.prune(company_id, keep)

    def _snapshots(self, company_id: str) -> Sequence[SnapshotMeta]:
        try:
            return self._store.list(company_id)
        except CrmWhatsappError as error:
            log.warning("snapshots cannot be listed", company_id=company_id, detail=error.message)
            last = self._keeper.state(company_id).meta if self._keeper else None
            return [last] if last else []

    def _verdict(
        self,
        company_id: str,
        report: FolderReport,
        snapshots: Sequence[SnapshotMeta],
        storage_problem: str,
    ) -> Verdict:
        here, why_here = _survives_restart(report, storage_problem)
        elsewhere, why_elsewhere = self._survives_disk_loss(company_id, snapshots)
        if report.state is FolderState.MISSING and not storage_problem and elsewhere:
            return Verdict(
                restart=True,
                disk_loss=True,
                why="Nothing is on this disk; the next start takes it from the snapshot.",
            )
        return Verdict(restart=here, disk_loss=elsewhere, why=f"{why_here} {why_elsewhere}")

    def _survives_disk_loss(
        self, company_id: str, snapshots: Sequence[SnapshotMeta]
    ) -> tuple[bool, str]:
        if self._keeper is None or not self._keeper.is_on:
            return False, "Snapshots are off: SNAPSHOT_ENCRYPTION_KEYS is not set."
        if not snapshots:
            problem = self._keeper.state(company_id).problem
            return False, f"There is no copy elsewhere{f': {problem}' if problem else '.'}"
        taken = snapshots[0].created_at.isoformat(timespec="seconds")
        return True, f"The newest copy elsewhere is of {taken}."


def _survives_restart(report: FolderReport, storage_problem: str) -> tuple[bool, str]:
    if storage_problem:
        return False, f"The sessions folder cannot be used: {storage_problem}"
    if report.state is FolderState.MISSING:
        return False, "Nothing is saved for this company."
    if report.state not in (FolderState.VALID, FolderState.LOCKED):
        return False, f"The saved session cannot be used: {report.detail or report.state}."
    return True, "The session is saved on this disk."

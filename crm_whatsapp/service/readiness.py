"""Whether the service can do its work, check by check."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from crm_whatsapp.domain.engines import EngineFleet
from crm_whatsapp.domain.errors import CrmWhatsappError, StorageError
from crm_whatsapp.domain.ports import ConnectionStore, SessionFolders, StateJournal
from crm_whatsapp.service.reconciliation import Reconciliation
from crm_whatsapp.service.recorder import Recorder
from crm_whatsapp.service.session_manager import SessionManager
from crm_whatsapp.service.snapshot_keeper import SnapshotKeeper
from crm_whatsapp.service.startup_restore import StartupRestore
from crm_whatsapp.service.write_behind import WriteBehind

_STUCK_SECONDS = 60.0
_STORAGE_SECONDS = 1.0  # anybody may ask, and each look writes to the disk and syncs it
_HANGS_SECONDS = 10.0


class JobFigures(Protocol):
    """What readiness wants to know of a job."""

    runs: int
    failures: int
    failures_in_a_row: int
    last_error: str | None
    running_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadinessCheck:
    """One check: ok or not, a sentence, and figures."""

    name: str
    ok: bool
    detail: str
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadinessReport:
    """ready: it can serve. degraded: it serves, and something needs the operator."""

    ready: bool
    degraded: bool
    checks: list[ReadinessCheck]


@dataclass(frozen=True, slots=True)
class Observed:
    """What readiness looks at."""

    manager: SessionManager
    fleet: EngineFleet
    store: ConnectionStore
    journal: StateJournal
    recorder: Recorder
    folders: SessionFolders
    write_behind: WriteBehind
    restore: StartupRestore
    reconciliation: Reconciliation
    jobs: Callable[[], Mapping[str, JobFigures]]
    expected_schema: int
    snapshots: SnapshotKeeper | None


class Readiness:
    """Answers from memory; only the storage check touches the disk."""

    def __init__(self, observed: Observed, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._seen = observed
        self._monotonic = monotonic
        self._looking = threading.Lock()
        self._look_begun_at = 0.0
        self._storage_seen: tuple[float, ReadinessCheck] | None = None
        self._lock = threading.Lock()
        self._schema: int | None = None
        self._schema_problem: str | None = None
        self._more: list[Callable[[], ReadinessCheck]] = []

    def add(self, check: Callable[[], ReadinessCheck]) -> None:
        """Have another check reported; while the service is wired. It answers from memory."""
        self._more.append(check)

    def check_schema(self) -> None:
        """Ask the database which migration it has; run by a job.

        Raises:
            StoreUnavailable: it cannot be asked now.
        """
        try:
            version = self._seen.store.schema_version()
            problem = None
        except CrmWhatsappError as error:
            if not error.permanent:
                raise
            version, problem = 0, error.message
        with self._lock:
            self._schema, self._schema_problem = version, problem

    def report(self) -> ReadinessReport:
        """Return every check. Not ready only when the sessions cannot be kept at all."""
        storage = self._storage()
        checks = [
            storage,
            self._database(),
            self._journal(),
            self._engines(),
            self._jobs(),
            self._restore(),
            self._sync(),
            self._snapshots(),
            *(check() for check in self._more),
        ]
        return ReadinessReport(
            ready=storage.ok,
            degraded=any(not check.ok for check in checks),
            checks=checks,
        )

    def _storage(self) -> ReadinessCheck:
        """Look at the disk, at most once a second and for one caller at a time.

        Who comes meanwhile is told what was seen last: a disk that hangs holds one thread, not all.
        """
        begun, seen = self._look_begun_at, self._storage_seen
        if seen is not None and not self._looking.acquire(blocking=False):
            waited = self._monotonic() - begun
            return seen[1] if waited < _HANGS_SECONDS else _hanging(waited)
        if seen is None:
            self._looking.acquire()
        try:
            now, seen = self._monotonic(), self._storage_seen
            if seen is None or now - seen[0] >= _STORAGE_SECONDS:
                self._look_begun_at = now
                seen = self._storage_seen = (now, self._look_at_storage())
            return seen[1]
        finally:
            self._looking.release()

    def _look_at_storage(self) -> ReadinessCheck:
        try:
            self._seen.folders.check_writable()
        except StorageError as error:
            return ReadinessCheck(name="storage", ok=False, detail=error.message)
        return ReadinessCheck(name="storage", ok=True, detail="SESSIONS_DIR can be written")

    def _database(self) -> ReadinessCheck:
        expected = self._seen.expected_schema
        with self._lock:
            schema, refusal = self._schema, self._schema_problem
        problem = refusal or self._seen.write_behind.problem
        if problem is None and schema is not None and schema < expected:
            problem = (
                f"migrated to {schema}, this release needs {expected}: "
                "run python -m crm_whatsapp migrate"
            )
        return ReadinessCheck(
            name="database",
            ok=problem is None,
            detail=problem or "reachable",
            data={"schema": schema, "expected_schema": expected},
        )

    def _journal(self) -> ReadinessCheck:
        held = self._seen.recorder.held_count
        lost = self._seen.recorder.lost
        refused = self._seen.write_behind.refused
        problems = []
        try:
            pending: int | None = self._seen.journal.pending_count()
        except StorageError as error:
            pending = None
            problems.append(error.message)
        if held:
            problems.append(f"{held} changes only in memory")
        if lost:
            problems.append(f"{lost} changes lost")
        if refused:
            problems.append(f"the database refused {refused}")
        if self._seen.recorder.lost_notices:
            problems.append(f"{self._seen.recorder.lost_notices} notices lost")
        notice_problem = self._seen.write_behind.notice_problem
        if notice_problem:
            problems.append(f"notices wait: {notice_problem}")
        return ReadinessCheck(
            name="journal",
            ok=not problems,
            detail="; ".join(problems) or "every change is on disk",
            data={
                "pending": pending,
                "held_in_memory": held,
                "lost": lost,
                "sent": self._seen.write_behind.sent,
                "notices_sent": self._seen.write_behind.sent_notices,
                "refused": refused,
            },
        )

    def _engines(self) -> ReadinessCheck:
        engines = self._seen.fleet.health()
        down = [item for item in engines if not item.alive and not item.retiring]
        return ReadinessCheck(
            name="engines",
            ok=not down,
            detail=f"{len(engines) - len(down)} of {len(engines)} running",
            data={
                "engines": [
                    {
                        "name": item.name,
                        "role": item.role.value,
                        "pid": item.pid,
                        "alive": item.alive,
                        "retiring": item.retiring,
                        "sessions": item.sessions,
                        "abandoned": item.abandoned,
                        "starts": item.starts,
                        "deaths": item.deaths,
                        "open_descriptors": item.open_descriptors,
                        "memory_mb": round(item.memory_mb, 1),
                        "heartbeat_age_seconds": round(item.heartbeat_age_seconds, 1),
                        "retry_in_seconds": item.retry_in_seconds,
                    }
                    for item in engines
                ]
            },
        )

    def _jobs(self) -> ReadinessCheck:
        records = self._seen.jobs()
        failing = [name for name, record in records.items() if record.failures_in_a_row]
        stuck = [
            name for name, record in records.items() if record.running_seconds > _STUCK_SECONDS
        ]
        problems = [
            f"{what}: {', '.join(names)}"
            for what, names in (("failing", failing), ("stuck", stuck))
            if names
        ]
        return ReadinessCheck(
            name="jobs",
            ok=not problems,
            detail="; ".join(problems) or "all jobs run",
            data={
                name: {
                    "runs": record.runs,
                    "failures": record.failures,
                    "failures_in_a_row": record.failures_in_a_row,
                    "last_error": record.last_error,
                    "running_seconds": round(record.running_seconds, 1),
                }
                for name, record in records.items()
            },
        )

    def _restore(self) -> ReadinessCheck:
        progress = self._seen.restore.progress
        by_status = Counter(item.status.value for item in self._seen.manager.connections())
        state = "finished" if progress.finished else "under way"
        return ReadinessCheck(
            name="restore",
            ok=True,
            detail=f"{state}: {progress.restored} restored, {progress.failed} failed "
            f"of {progress.total}",
            data={
                "finished": progress.finished,
                "total": progress.total,
                "restored": progress.restored,
                "failed": progress.failed,
                "sessions_by_status": dict(by_status),
            },
        )

    def _snapshots(self) -> ReadinessCheck:
        keeper = self._seen.snapshots
        if keeper is None or not keeper.is_on:
            return ReadinessCheck(
                name="snapshots",
                ok=False,
                detail="off: SNAPSHOT_ENCRYPTION_KEYS is not set, a lost disk loses every session",
            )
        problems = keeper.problems()
        return ReadinessCheck(
            name="snapshots",
            ok=not problems,
            detail=f"{len(problems)} sessions could not be copied"
            if problems
            else "every session has its copy",
            data={"written": keeper.written, "failed": keeper.failed},
        )

    def _sync(self) -> ReadinessCheck:
        counts, last = self._seen.reconciliation.mismatches, self._seen.reconciliation.last
        return ReadinessCheck(
            name="sync",
            ok=True,
            detail=f"{last.updated} of {last.checked} corrected at {last.at:%Y-%m-%dT%H:%M:%SZ}"
            if last
            else "rows and runtime have not been compared yet",
            data={kind.value: count for kind, count in counts.items()},
        )


def _hanging(seconds: float) -> ReadinessCheck:
    return ReadinessCheck(
        name="storage",
        ok=False,
        detail=f"SESSIONS_DIR has not answered for {seconds:.0f} s: look at its disk",
    )

"""The status report: how the sessions are, and how they have been."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from crm_whatsapp.domain.connection import Connection, Status


@dataclass(frozen=True, slots=True, kw_only=True)
class CompanyUptime:
    """How long one session was connected, of the time in which anybody wanted it connected."""

    company_id: str
    percent: float
    connected_seconds: float
    wanted_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportHistory:
    """What happened in a window of time, as the database has it.

    Attributes:
        succeeded, failed: restores that ended in the window; those that a person or a stop of the
            service ended count as neither.
        p50_seconds, p95_seconds: how long the successful ones took; None when there were none.
        companies: how many sessions the average is of.
        average_percent: of their uptimes; None when there are none.
        worst: the lowest uptimes, worst first.
        snapshot_companies, oldest_snapshot_at: companies with a live snapshot, and the age of the
            oldest among the newest of each.
    """

    since: datetime
    until: datetime
    succeeded: int
    failed: int
    p50_seconds: float | None
    p95_seconds: float | None
    companies: int
    average_percent: float | None
    worst: Sequence[CompanyUptime]
    snapshot_companies: int
    oldest_snapshot_at: datetime | None


class ReportStore(Protocol):
    """Reads the history; raises StoreUnavailable and StoreRejected as ConnectionStore does."""

    def read(
        self,
        since: datetime,
        until: datetime,
        *,
        company_ids: Sequence[str],
        running_ids: Sequence[str],
        worst: int,
    ) -> ReportHistory:
        """Return what happened from since (inclusive) to until (exclusive).

        Args:
            company_ids: whose restores count.
            running_ids: the sessions that should be connected: whose uptime counts.
            worst: how many uptimes are named.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotCover:
    """How many of the sessions that should run have a snapshot.

    oldest_seconds: age of the oldest among the newest of each; None when it is not known, or there
        is none.
    """

    enabled: bool
    covered: int
    without: int
    oldest_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSummary:
    """The engine processes of this pod. deaths: unasked ends since its start."""

    total: int
    running: int
    deaths: int
    memory_mb: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """A session that should be connected and is not. since: as far as is known."""

    connection: Connection
    since: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How everything is at generated_at, and what happened since.

    Attributes:
        history: None when the database cannot be read; then history_problem says why.
        names: what companies of the report are called, where a name is known.
        database_problem: why the database cannot be used; None when nothing is known against it.
    """

    generated_at: datetime
    since: datetime
    total: int
    should_run: int
    by_status: Mapping[Status, int]
    history: ReportHistory | None
    history_problem: str | None
    snapshots: SnapshotCover
    troubles: Sequence[Trouble]
    engines: EngineSummary
    database_problem: str | None
    names: Mapping[str, str]

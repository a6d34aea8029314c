"""How far the snapshots are behind the sessions they are copies of."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client.core import Metric

from crm_whatsapp.domain.connection import ClientPhase, Connection
from crm_whatsapp.service.metrics.families import ages, counter, gauge
from crm_whatsapp.service.snapshot_keeper import SnapshotKeeper

_AGE_BUCKETS = (60.0, 300.0, 900.0, 1_800.0, 3_600.0, 21_600.0, 86_400.0, 604_800.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotFigures:
    """Figures of connected sessions, and counts since start.

    Attributes:
        failing: sessions whose last attempt failed.
        missing: sessions that this process has taken no snapshot of yet.
        ages: seconds since the newest snapshot. An old one is no harm where nothing has changed.
        lags: seconds for which a session has held something that its snapshot does not; 0 when
            its snapshot holds everything.
        overdue: how many of these lags are beyond what is planned.
    """

    is_on: bool
    written: int
    failed: int
    failing: int
    missing: int
    ages: Sequence[float]
    lags: Sequence[float]
    overdue: int

    def metrics(self) -> Iterator[Metric]:
        """Yield them as Prometheus takes them."""
        yield gauge(
            "whatsapp_snapshots_enabled", "1 when SNAPSHOT_ENCRYPTION_KEYS is set.", self.is_on
        )
        yield counter("whatsapp_snapshots_written", "Snapshots written and verified.", self.written)
        yield counter(
            "whatsapp_snapshots_failed",
            "Attempts to take a snapshot that failed.",
            self.failed,
        )
        for name, documentation, value in (
            ("sessions_failing", "Sessions whose last snapshot failed.", self.failing),
            ("sessions_missing", "Connected sessions without one since start.", self.missing),
            (
                "sessions_overdue",
                "Connected sessions with changes uncopied for long.",
                self.overdue,
            ),
            (
                "lag_max_seconds",
                "Longest time that a connected session has had changes uncopied.",
                max(self.lags, default=0.0),
            ),
            (
                "age_max_seconds",
                "Age of the oldest newest snapshot of a connected session.",
                max(self.ages, default=0.0),
            ),
        ):
            yield gauge(f"whatsapp_snapshot_{name}", documentation, value)
        yield ages(
            "whatsapp_snapshot_age_seconds",
            "Connected sessions by the age of their newest snapshot.",
            self.ages,
            _AGE_BUCKETS,
        )


def snapshot_figures(
    keeper: SnapshotKeeper,
    connections: Iterable[Connection],
    uptimes: Mapping[str, float],
    *,
    now_monotonic: float,
    overdue_after_seconds: float,
) -> SnapshotFigures:
    """Look at what the keeper remembers.

    Args:
        uptimes: seconds since each connected session connected, by company.
        overdue_after_seconds: a lag beyond it is not planned.
    """
    states, behind = keeper.states(), keeper.behind_seconds()
    connected = [
        item.company_id
        for item in connections
        if item.is_connected and item.client is ClientPhase.LIVE
    ]
    newest: list[float] = []
    lags: list[float] = []
    for company_id in connected if keeper.is_on else ():
        state = states.get(company_id)
        if state is None or state.meta is None:
            lags.append(uptimes.get(company_id, 0.0))
            continue
        newest.append(max(0.0, now_monotonic - state.taken_at_monotonic))
        lags.append(behind.get(company_id, 0.0))
    return SnapshotFigures(
        is_on=keeper.is_on,
        written=keeper.written,
        failed=keeper.failed,
        failing=sum(state.problem is not None for state in states.values()),
        missing=len(connected) - len(newest) if keeper.is_on else 0,
        ages=newest,
        lags=lags,
        overdue=sum(lag > overdue_after_seconds for lag in lags),
    )

"""What the parts of the service are like at the moment of a scrape; nothing is kept in between."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import structlog
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from crm_whatsapp.domain.connection import Connection, DesiredState, Reason, Status
from crm_whatsapp.domain.engines import EngineHealth, EngineRole
from crm_whatsapp.service.metrics.session_meter import SessionMeter
from crm_whatsapp.service.metrics.snapshot_figures import SnapshotFigures, ages
from crm_whatsapp.service.reconciliation import Mismatch
from crm_whatsapp.service.startup_restore import RestoreProgress

log = structlog.get_logger(__name__)

_MIB = 1024 * 1024
_UPTIME_BUCKETS = (60.0, 600.0, 3_600.0, 21_600.0, 86_400.0, 604_800.0, 2_592_000.0)


class JobFigures(Protocol):
    """How a job fares."""

    runs: int
    failures: int
    failures_in_a_row: int
    last_run_at: datetime | None
    last_duration_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalFigures:
    """Changes on their way to the database; counts since start but for the first two.

    Attributes:
        pending: on disk, not yet in the database.
        held: in memory, because the disk refuses.
        lost: will be nowhere.
        dropped: passing ones, given up because the backlog was full.
        refused: the database will not have them.
    """

    pending: int
    held: int
    lost: int
    dropped: int
    sent: int
    refused: int
    is_reachable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """Where the figures come from. None of it waits for a disk, a network or an engine."""

    build: Mapping[str, str]
    connections: Callable[[], list[Connection]]
    meter: SessionMeter
    engines: Callable[[], list[EngineHealth]]
    engine_deaths: Callable[[], Mapping[EngineRole, int]]
    journal: Callable[[], JournalFigures]
    startup: Callable[[], RestoreProgress]
    mismatches: Callable[[], Mapping[Mismatch, int]]
    snapshots: Callable[[list[Connection]], SnapshotFigures]
    jobs: Callable[[], Mapping[str, JobFigures]]
    names_companies: bool = False


class StateCollector(Collector):
    """Reads the parts when Prometheus asks. One part that fails costs its own figures only."""

    def __init__(self, observed: Observed) -> None:
        self._seen = observed
        self._failures = 0
        self._more: list[Callable[[], Iterable[Metric]]] = []

    def add(self, figures: Callable[[], Iterable[Metric]]) -> None:
        """Have further figures shown, of a part that this module need not know."""
        self._more.append(figures)

    def describe(self) -> list[Metric]:
        """Nothing is read while the service is wired."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield every figure."""
        parts: list[Callable[[], Iterable[Metric]]] = [
            self._build,
            self._sessions,
            self._uptime,
            self._engines,
            self._journal,
            self._startup,
            self._snapshots,
            self._jobs,
            *self._more,
        ]
        for part in parts:
            try:
                yield from list(part())
            except Exception:
                self._failures += 1
                log.exception("figures could not be read", part=getattr(part, "__name__", "?"))
        yield counter(
            "whatsapp_metrics_failures", "Parts whose figures could not be read.", self._failures
        )

    def _build(self) -> Iterator[Metric]:
        yield InfoMetricFamily(
            "whatsapp_build", "The release that runs.", value=dict(self._seen.build)
        )

    def _sessions(self) -> Iterator[Metric]:
        """Companies that nothing is on record of have no row either: they are left out."""
        known = [item for item in self._seen.connections() if item.version > 0]
        yield by_label(
            "whatsapp_sessions",
            "Companies by the status of their session.",
            "status",
            Counter(item.status.value for item in known),
            [status.value for status in Status],
        )
        yield by_label(
            "whatsapp_sessions_by_reason",
            "Companies by the reason of their status.",
            "reason",
            Counter(item.reason.value for item in known),
            [reason.value for reason in Reason],
        )
        yield by_label(
            "whatsapp_sessions_desired",
            "Companies by what their session should do.",
            "desired_state",
            Counter(item.desired_state.value for item in known),
            [wish.value for wish in DesiredState],
        )
        yield GaugeMetricFamily(
            "whatsapp_sessions_degraded",
            "Connected sessions that did not answer in time and are being probed.",
            value=sum(item.degraded for item in known),
        )

    def _uptime(self) -> Iterator[Metric]:
        uptimes = self._seen.meter.uptimes()
        yield ages(
            "whatsapp_session_uptime_seconds",
            "Connected sessions by the time since they connected.",
            uptimes.values(),
            _UPTIME_BUCKETS,
        )
        yield counter(
            "whatsapp_session_connected_seconds",
            "Time that sessions have been connected, added up.",
            self._seen.meter.seconds_connected(),
        )
        if self._seen.names_companies:
            each = GaugeMetricFamily(
                "whatsapp_company_uptime_seconds",
                "Time since the company's session connected; 0 while it is not.",
                labels=["company_id"],
            )
            for item in self._seen.connections():
                if item.version > 0:
                    each.add_metric([item.company_id], uptimes.get(item.company_id, 0.0))
            yield each

    def _engines(self) -> Iterator[Metric]:
        """By role: engines come and go, and their names with them."""
        engines = self._seen.engines()
        count = GaugeMetricFamily("whatsapp_engines", "Engine processes.", labels=["role", "state"])
        for role in EngineRole:
            states = Counter(_state(item) for item in engines if item.role is role)
            for state in ("up", "down", "retiring"):
                count.add_metric([role.value, state], states[state])
        yield count
        roles = [role.value for role in EngineRole]
        deaths = self._seen.engine_deaths()
        died = CounterMetricFamily(
            "whatsapp_engine_deaths", "Engines that ended unasked.", labels=["role"]
        )
        for role in EngineRole:
            died.add_metric([role.value], deaths.get(role, 0))
        yield died
        for name, documentation, figure in _ENGINE_SUMS:
            sums: Counter[str] = Counter()
            for item in engines:
                sums[item.role.value] += figure(item)
            yield by_label(name, documentation, "role", sums, roles)
        yield GaugeMetricFamily(
            "whatsapp_engine_memory_max_bytes",
            "Memory of the largest engine (PSS).",
            value=max((_memory(item) for item in engines), default=0),
        )

    def _journal(self) -> Iterator[Metric]:
        figures = self._seen.journal()
        yield GaugeMetricFamily(
            "whatsapp_journal_pending",
            "Changes on disk that the database has not seen yet.",
            value=figures.pending,
        )
        yield GaugeMetricFamily(
            "whatsapp_journal_held",
            "Changes in memory only, because the disk refuses them.",
            value=figures.held,
        )
        yield GaugeMetricFamily(
            "whatsapp_database_reachable",
            "1 when the last write to the database succeeded.",
            value=figures.is_reachable,
        )
        for name, documentation, value in (
            ("lost", "Changes that will never be on record.", figures.lost),
            ("dropped", "Passing changes given up because too many waited.", figures.dropped),
            ("sent", "Changes that the database has taken.", figures.sent),
            ("refused", "Changes that the database refused for good.", figures.refused),
        ):
            yield counter(f"whatsapp_journal_{name}", documentation, value)
        mismatches = CounterMetricFamily(
            "whatsapp_sync_mismatches", "Rows that disagreed with the runtime.", labels=["kind"]
        )
        found = self._seen.mismatches()
        for kind in Mismatch:
            mismatches.add_metric([kind.value], found.get(kind, 0))
        yield mismatches

    def _startup(self) -> Iterator[Metric]:
        progress = self._seen.startup()
        yield GaugeMetricFamily(
            "whatsapp_startup_restore_finished",
            "1 when every session has had its first outcome since start.",
            value=progress.finished,
        )
        under_way = progress.total - progress.restored - progress.failed
        yield by_label(
            "whatsapp_startup_sessions",
            "Sessions that start-up brings back, by their first outcome.",
            "outcome",
            Counter(restored=progress.restored, failed=progress.failed, pending=max(0, under_way)),
            ["restored", "failed", "pending"],
        )

    def _snapshots(self) -> Iterator[Metric]:
        return self._seen.snapshots(self._seen.connections()).metrics()

    def _jobs(self) -> Iterator[Metric]:
        records = self._seen.jobs()
        label = "job_name"  # `job` is Prometheus' own, the name of the target
        runs = CounterMetricFamily("whatsapp_job_runs", "Runs of a job.", labels=[label])
        failures = CounterMetricFamily(
            "whatsapp_job_failures", "Runs of a job that failed.", labels=[label]
        )
        in_a_row = GaugeMetricFamily(
            "whatsapp_job_failures_in_a_row", "Failed runs since the last good one.", labels=[label]
        )
        took = GaugeMetricFamily(
            "whatsapp_job_last_duration_seconds", "Time of the last run.", labels=[label]
        )
        last = GaugeMetricFamily(
            "whatsapp_job_last_run_timestamp_seconds", "End of the last run.", labels=[label]
        )
        for name, record in records.items():
            runs.add_metric([name], record.runs)
            failures.add_metric([name], record.failures)
            in_a_row.add_metric([name], record.failures_in_a_row)
            took.add_metric([name], record.last_duration_seconds)
            if record.last_run_at is not None:
                last.add_metric([name], record.last_run_at.timestamp())
        yield from (runs, failures, in_a_row, took, last)


def counter(name: str, documentation: str, value: float) -> Metric:
    """Return a counter without labels; `_total` is added to its name."""
    return CounterMetricFamily(name, documentation, value=value)


def by_label(
    name: str,
    documentation: str,
    label: str,
    counts: Mapping[str, float],
    words: Iterable[str],
) -> Metric:
    """Return a gauge with a series for each word, also for those that nothing is counted for."""
    family = GaugeMetricFamily(name, documentation, labels=[label])
    for word in words:
        family.add_metric([word], counts.get(word, 0))
    return family


def _state(engine: EngineHealth) -> str:
    if engine.retiring:
        return "retiring"
    return "up" if engine.alive else "down"


def _memory(engine: EngineHealth) -> int:
    return int(engine.memory_mb * _MIB)


_ENGINE_SUMS: tuple[tuple[str, str, Callable[[EngineHealth], int]], ...] = (
    ("whatsapp_engine_memory_bytes", "Memory of the engines of a role (PSS).", _memory),
    (
        "whatsapp_engine_open_fds",
        "Open file descriptors of the engines of a role.",
        lambda engine: engine.open_descriptors,
    ),
    (
        "whatsapp_engine_sessions",
        "Sessions held by the engines of a role.",
        lambda engine: engine.sessions,
    ),
    (
        "whatsapp_engine_abandoned_clients",
        "Clients that could not be stopped, in engines that wait to be replaced.",
        lambda engine: engine.abandoned,
    ),
)

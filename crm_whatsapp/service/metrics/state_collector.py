"""What the parts of the service are like at the moment of a scrape; nothing is kept in between."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import structlog
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from crm_whatsapp.domain.connection import Connection, DesiredState, Reason, Status
from crm_whatsapp.domain.engines import EngineHealth, EngineRole
from crm_whatsapp.service.metrics.families import ages, counter, counters, gauge, gauges
from crm_whatsapp.service.metrics.journal_figures import JournalFigures
from crm_whatsapp.service.metrics.session_meter import SessionMeter
from crm_whatsapp.service.metrics.snapshot_figures import SnapshotFigures
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
        yield gauges(
            "whatsapp_sessions",
            "Companies by the status of their session.",
            "status",
            Counter(item.status.value for item in known),
            [status.value for status in Status],
        )
        yield gauges(
            "whatsapp_sessions_by_reason",
            "Companies by the reason of their status.",
            "reason",
            Counter(item.reason.value for item in known),
            [reason.value for reason in Reason],
        )
        yield gauges(
            "whatsapp_sessions_desired",
            "Companies by what their session should do.",
            "desired_state",
            Counter(item.desired_state.value for item in known),
            [wish.value for wish in DesiredState],
        )
        yield gauge(
            "whatsapp_sessions_degraded",
            "Connected sessions that did not answer in time and are being probed.",
            sum(item.degraded for item in known),
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
            for state in ("up", "starting", "down", "retiring"):
                count.add_metric([role.value, state], states[state])
        yield count
        roles = [role.value for role in EngineRole]
        yield counters(
            "whatsapp_engine_deaths",
            "Engines that ended unasked.",
            "role",
            {role.value: count for role, count in self._seen.engine_deaths().items()},
            roles,
        )
        for name, documentation, figure in _ENGINE_SUMS:
            sums: Counter[str] = Counter()
            for item in engines:
                sums[item.role.value] += figure(item)
            yield gauges(name, documentation, "role", sums, roles)
        yield gauge(
            "whatsapp_engine_memory_max_bytes",
            "Memory of the largest engine (PSS).",
            max((_memory(item) for item in engines), default=0),
        )

    def _journal(self) -> Iterator[Metric]:
        yield from self._seen.journal().metrics()
        yield counters(
            "whatsapp_sync_mismatches",
            "Rows that disagreed with the runtime.",
            "kind",
            {kind.value: count for kind, count in self._seen.mismatches().items()},
            [kind.value for kind in Mismatch],
        )

    def _startup(self) -> Iterator[Metric]:
        progress = self._seen.startup()
        yield gauge(
            "whatsapp_startup_restore_finished",
            "1 when every session has had its first outcome since start.",
            progress.finished,
        )
        under_way = progress.total - progress.restored - progress.failed
        yield gauges(
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
        label = "job_name"  # `job` is Prometheus' own: the name of the target
        for name, documentation, make, figure in _JOB_FIGURES:
            values = {job: figure(record) for job, record in records.items()}
            yield make(f"whatsapp_job_{name}", documentation, label, values)
        yield gauges(
            "whatsapp_job_last_run_timestamp_seconds",
            "End of the last run.",
            label,
            {
                job: record.last_run_at.timestamp()
                for job, record in records.items()
                if record.last_run_at
            },
        )


def _state(engine: EngineHealth) -> str:
    if engine.retiring:
        return "retiring"
    if engine.alive:
        return "up"
    return "starting" if engine.pid is not None else "down"


def _memory(engine: EngineHealth) -> int:
    return int(engine.memory_mb * _MIB)


_JOB_FIGURES: tuple[
    tuple[
        str,
        str,
        Callable[[str, str, str, Mapping[str, float]], Metric],
        Callable[[JobFigures], float],
    ],
    ...,
] = (
    ("runs", "Runs of a job.", counters, lambda job: job.runs),
    ("failures", "Runs of a job that failed.", counters, lambda job: job.failures),
    (
        "failures_in_a_row",
        "Failed runs since the last good one.",
        gauges,
        lambda job: job.failures_in_a_row,
    ),
    (
        "last_duration_seconds",
        "Time of the last run.",
        gauges,
        lambda job: job.last_duration_seconds,
    ),
)
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

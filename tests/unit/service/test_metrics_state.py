"""The page says what the parts are like when it is asked for, and stays cheap."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families

from crm_whatsapp.domain.connection import (
    ClientPhase,
    Connection,
    DesiredState,
    Reason,
    Status,
)
from crm_whatsapp.domain.engines import EngineHealth, EngineRole
from crm_whatsapp.domain.transitions import Transition
from crm_whatsapp.service.metrics.journal_figures import Carried, JournalFigures
from crm_whatsapp.service.metrics.service_metrics import ServiceMetrics
from crm_whatsapp.service.metrics.snapshot_figures import SnapshotFigures
from crm_whatsapp.service.metrics.state_collector import Observed, StateCollector
from crm_whatsapp.service.reconciliation import Mismatch
from crm_whatsapp.service.startup_restore import RestoreProgress
from tests.unit.service.fakes import NOON, ManualClock

COMPANY = "3b1bee0c-cbee-4de1-88f1-d6e890f4c995"
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def connected(company_id: str = COMPANY, **changes: Any) -> Connection:
    return replace(
        Connection(
            company_id=company_id,
            desired_state=DesiredState.RUN,
            status=Status.CONNECTED,
            reason=Reason.ONLINE,
            client=ClientPhase.LIVE,
            version=1,
        ),
        **changes,
    )


def engine(name: str, role: EngineRole = EngineRole.SHARD, **changes: Any) -> EngineHealth:
    values: dict[str, Any] = {
        "pid": 7,
        "alive": True,
        "retiring": False,
        "sessions": 50,
        "abandoned": 0,
        "starts": 50,
        "deaths": 0,
        "open_descriptors": 200,
        "memory_mb": 80.0,
        "heartbeat_age_seconds": 0.5,
        "retry_in_seconds": None,
    }
    return EngineHealth(name=name, role=role, **(values | changes))


class Parts:
    """What the collector reads, to be set by the test."""

    def __init__(self) -> None:
        self.connections: list[Connection] = []
        self.engines: list[EngineHealth] = []
        self.deaths: dict[EngineRole, int] = {}
        nothing = Carried(pending=0, held=0, sent=0, dropped=0, lost=0)
        self.journal = JournalFigures(
            transitions=nothing, notices=nothing, refused=0, is_reachable=True
        )
        self.progress = RestoreProgress(finished=True, total=0, restored=0, failed=0)
        self.mismatches: Counter[Mismatch] = Counter()
        self.snapshots = SnapshotFigures(
            is_on=True, written=0, failed=0, failing=0, missing=0, ages=(), lags=(), overdue=0
        )
        self.jobs: dict[str, Any] = {}
        self.clock = ManualClock()
        self.metrics = ServiceMetrics(self.clock)

    def observe(self, *, names_companies: bool = False) -> StateCollector:
        return self.metrics.observe(
            Observed(
                build={"version": "0.1.0", "python": "3.11.7", "neonize": "0.5.2"},
                connections=lambda: self.connections,
                meter=self.metrics.sessions,
                engines=lambda: self.engines,
                engine_deaths=lambda: self.deaths,
                journal=lambda: self.journal,
                startup=lambda: self.progress,
                mismatches=lambda: self.mismatches,
                snapshots=lambda connections: self.snapshots,
                jobs=lambda: self.jobs,
                names_companies=names_companies,
            )
        )

    def connect(self, *connections: Connection) -> None:
        """Have these connected now, as their transitions tell."""
        for connection in connections:
            self.connections.append(connection)
            self.metrics.sessions.take(
                Transition(
                    id="",
                    connection=connection,
                    event="ClientConnected",
                    from_status=Status.CONNECTING,
                    occurred_at=NOON,
                )
            )

    def read(self) -> Samples:
        page, _ = self.metrics.render("")
        return samples(text_string_to_metric_families(page.decode()))


def samples(families: Iterable[Metric]) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def labelled(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


@pytest.fixture
def parts() -> Parts:
    return Parts()


def test_every_status_reason_and_role_is_there_when_nothing_runs(parts: Parts) -> None:
    parts.observe()

    page = parts.read()

    for status in Status:
        assert page[labelled("whatsapp_sessions", status=status.value)] == 0
    for reason in Reason:
        assert page[labelled("whatsapp_sessions_by_reason", reason=reason.value)] == 0
    for role in EngineRole:
        assert page[labelled("whatsapp_engine_deaths_total", role=role.value)] == 0
        assert page[labelled("whatsapp_engines", role=role.value, state="down")] == 0
    for kind in Mismatch:
        assert page[labelled("whatsapp_sync_mismatches_total", kind=kind.value)] == 0
    build = labelled("whatsapp_build_info", version="0.1.0", python="3.11.7", neonize="0.5.2")
    assert page[build] == 1


def test_sessions_are_counted_as_their_rows_are(parts: Parts) -> None:
    """A company that somebody only asked about has no row, and is no session."""
    other = "9d6f2061-60e5-4e93-a0df-f55dd5c3d40c"
    failed = connected(other, status=Status.FAILED, reason=Reason.CLIENT_OUTDATED, degraded=False)
    parts.connections = [connected(degraded=True), failed, Connection(company_id="unheard-of")]
    parts.observe()

    page = parts.read()

    assert page[labelled("whatsapp_sessions", status="connected")] == 1
    assert page[labelled("whatsapp_sessions", status="failed")] == 1
    assert page[labelled("whatsapp_sessions", status="disconnected")] == 0
    assert page[labelled("whatsapp_sessions_by_reason", reason="client-outdated")] == 1
    assert page[labelled("whatsapp_sessions_desired", desired_state="run")] == 2
    assert page[labelled("whatsapp_sessions_degraded")] == 1


def test_uptime_is_told_without_naming_a_company(parts: Parts) -> None:
    parts.observe()
    parts.connect(connected())
    parts.clock.advance(4_000.0)
    parts.connect(connected("9d6f2061-60e5-4e93-a0df-f55dd5c3d40c"))
    parts.clock.advance(30.0)

    page = parts.read()

    assert page[labelled("whatsapp_session_uptime_seconds_bucket", le="60.0")] == 1
    assert page[labelled("whatsapp_session_uptime_seconds_bucket", le="3600.0")] == 1
    assert page[labelled("whatsapp_session_uptime_seconds_bucket", le="21600.0")] == 2
    assert page[labelled("whatsapp_session_uptime_seconds_gsum")] == 4_060.0
    assert page[labelled("whatsapp_session_connected_seconds_total")] == 4_060.0
    assert not [labels for _, labels in page if any(name == "company_id" for name, _ in labels)]


def test_companies_are_named_when_the_operator_wants_it(parts: Parts) -> None:
    parts.observe(names_companies=True)
    away = "9d6f2061-60e5-4e93-a0df-f55dd5c3d40c"
    parts.connect(connected())
    parts.connections.append(connected(away, status=Status.FAILED))
    parts.clock.advance(30.0)

    page = parts.read()

    assert page[labelled("whatsapp_company_uptime_seconds", company_id=COMPANY)] == 30.0
    assert page[labelled("whatsapp_company_uptime_seconds", company_id=away)] == 0.0


def test_engines_are_added_up_by_role(parts: Parts) -> None:
    parts.engines = [
        engine("engine-0.1"),
        engine("engine-0.2", alive=False, pid=None),
        engine("engine-2.1", alive=False, memory_mb=0.0),
        engine("engine-1.1", retiring=True, memory_mb=300.0),
        engine("pairing-9", EngineRole.PAIRING, sessions=1),
    ]
    parts.deaths = {EngineRole.SHARD: 3}
    parts.observe()

    page = parts.read()

    for state in ("up", "starting", "down", "retiring"):
        assert page[labelled("whatsapp_engines", role="shard", state=state)] == 1
    assert page[labelled("whatsapp_engine_deaths_total", role="shard")] == 3
    assert page[labelled("whatsapp_engine_memory_bytes", role="shard")] == 460 * 1024 * 1024
    assert page[labelled("whatsapp_engine_memory_max_bytes")] == 300 * 1024 * 1024
    assert page[labelled("whatsapp_engine_sessions", role="pairing")] == 1
    assert page[labelled("whatsapp_engine_open_fds", role="isolation")] == 0


def test_the_way_to_the_database_is_told(parts: Parts) -> None:
    parts.journal = JournalFigures(
        transitions=Carried(pending=12, held=3, sent=500, dropped=4, lost=1),
        notices=Carried(pending=7, held=8, sent=90, dropped=6, lost=5),
        refused=2,
        is_reachable=False,
    )
    parts.mismatches[Mismatch.ROW_NEWER] = 5
    parts.progress = RestoreProgress(finished=False, total=10, restored=6, failed=1)
    parts.observe()

    page = parts.read()

    carried = {
        kind: [
            page[labelled(f"whatsapp_journal_{name}", kind=kind)]
            for name in ("pending", "held", "sent_total", "dropped_total", "lost_total")
        ]
        for kind in ("transition", "notice")
    }
    assert carried == {"transition": [12, 3, 500, 4, 1], "notice": [7, 8, 90, 6, 5]}
    assert page[labelled("whatsapp_journal_refused_total")] == 2
    assert page[labelled("whatsapp_database_reachable")] == 0
    assert page[labelled("whatsapp_sync_mismatches_total", kind="row-newer")] == 5
    assert page[labelled("whatsapp_startup_sessions", outcome="pending")] == 3
    assert page[labelled("whatsapp_startup_restore_finished")] == 0


def test_jobs_are_told_by_name(parts: Parts) -> None:
    ran_at = datetime(2026, 1, 8, 12, tzinfo=UTC)
    parts.jobs = {
        "session-sync": job(
            runs=3, failures=2, failures_in_a_row=1, last_run_at=ran_at, last_duration_seconds=0.25
        ),
        "keepalive": job(),
    }
    parts.observe()

    page = parts.read()

    assert page[labelled("whatsapp_job_runs_total", job_name="session-sync")] == 3
    assert page[labelled("whatsapp_job_failures_total", job_name="session-sync")] == 2
    assert page[labelled("whatsapp_job_failures_in_a_row", job_name="session-sync")] == 1
    assert page[labelled("whatsapp_job_last_duration_seconds", job_name="session-sync")] == 0.25
    ended = labelled("whatsapp_job_last_run_timestamp_seconds", job_name="session-sync")
    assert page[ended] == ran_at.timestamp()
    assert labelled("whatsapp_job_last_run_timestamp_seconds", job_name="keepalive") not in page


def test_a_part_that_fails_costs_its_own_figures_only(parts: Parts) -> None:
    def fail() -> Iterator[Metric]:
        yield GaugeMetricFamily("whatsapp_half", "Told before it failed.", value=1)
        raise RuntimeError("broken")

    parts.observe().add(fail)
    parts.connections = [connected()]

    page = parts.read()

    assert page[labelled("whatsapp_sessions", status="connected")] == 1
    assert page[labelled("whatsapp_metrics_failures_total")] == 1
    assert labelled("whatsapp_half") not in page


def test_nothing_is_read_while_the_service_is_wired(parts: Parts) -> None:
    def fail() -> Mapping[str, Any]:
        raise AssertionError("read before anybody asked")

    parts.metrics.observe(
        Observed(
            build={},
            connections=fail,  # type: ignore[arg-type]
            meter=parts.metrics.sessions,
            engines=fail,  # type: ignore[arg-type]
            engine_deaths=fail,  # type: ignore[arg-type]
            journal=fail,  # type: ignore[arg-type]
            startup=fail,  # type: ignore[arg-type]
            mismatches=fail,  # type: ignore[arg-type]
            snapshots=fail,  # type: ignore[arg-type]
            jobs=fail,
        )
    )


def test_two_services_in_one_process_do_not_mix(parts: Parts) -> None:
    other = Parts()
    other.observe()
    parts.observe()
    parts.connect(connected())

    assert other.read()[labelled("whatsapp_session_connected_seconds_total")] == 0
    assert other.read()[labelled("whatsapp_session_transitions_total", to_status="connected")] == 0


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        (
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3",
            "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores",
        ),
        ("application/openmetrics-text;version=none", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/plain;version=1.x", "text/plain; version=0.0.4; charset=utf-8"),
    ],
)
def test_the_page_is_spoken_as_the_scraper_wants_it(
    parts: Parts, accept: str, content_type: str
) -> None:
    parts.observe()
    parts.metrics.note_request("/api/whatsapp/status", "GET", 200, 0.002)

    page, spoken = parts.metrics.render(accept)

    assert spoken == content_type
    parse = parse_openmetrics if "openmetrics" in spoken else text_string_to_metric_families
    found = samples(parse(page.decode()))
    request = labelled(
        "whatsapp_http_requests_total", route="/api/whatsapp/status", method="GET", status="2xx"
    )
    assert found[request] == 1
    assert not [name for name, _ in found if name.endswith("_created")]


def test_labels_of_requests_are_bounded(parts: Parts) -> None:
    for number in range(1000):
        parts.metrics.note_request(None, f"GET{number}", 404, 0.001)

    page = parts.read()

    other = labelled("whatsapp_http_requests_total", route="other", method="other", status="4xx")
    assert page[other] == 1000
    assert len([name for name, _ in page if name == "whatsapp_http_requests_total"]) == 1


def test_calls_to_the_database_are_told_by_outcome(parts: Parts) -> None:
    parts.metrics.database.note("whatsapp_tick_v1", "ok", 0.004)
    parts.metrics.database.note("whatsapp_tick_v1", "unavailable", 5.0)

    page = parts.read()

    for outcome in ("ok", "unavailable"):
        call = labelled("whatsapp_database_calls_total", call="whatsapp_tick_v1", outcome=outcome)
        assert page[call] == 1
    took = labelled(
        "whatsapp_database_call_duration_seconds_bucket", call="whatsapp_tick_v1", le="0.005"
    )
    assert page[took] == 1


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text;version=1.0.0"])
@pytest.mark.alone
def test_a_scrape_with_300_sessions_takes_less_than_20_ms_of_the_processor(
    parts: Parts, record_property: Callable[[str, object], None], accept: str
) -> None:
    """Processor time, and the best of several: the machine may be busy with something else."""
    parts.observe(names_companies=True)
    parts.connect(*(connected(f"3b1bee0c-cbee-4de1-88f1-{number:012d}") for number in range(300)))
    parts.engines = [engine(f"engine-{index}.1") for index in range(6)]
    parts.jobs = {f"job-{number}": job(last_run_at=NOON) for number in range(10)}
    aged = tuple(float(number) for number in range(300))
    parts.snapshots = replace(parts.snapshots, ages=aged, lags=aged)
    for number in range(25):
        for status in (200, 404, 503):
            parts.metrics.note_request(f"/api/whatsapp/{number}", "GET", status, 0.002)
        parts.metrics.database.note(f"whatsapp_function_{number}", "ok", 0.004)

    took = min(_processor_seconds(parts, accept) for _ in range(15))

    record_property("scrape_300_ms", round(took * 1000, 2))
    assert took < 0.020, f"{took * 1000:.1f} ms"


def job(**changes: Any) -> Any:
    values: dict[str, Any] = {
        "runs": 0,
        "failures": 0,
        "failures_in_a_row": 0,
        "last_run_at": None,
        "last_duration_seconds": 0.0,
    }
    return SimpleNamespace(**(values | changes))


def _processor_seconds(parts: Parts, accept: str) -> float:
    begun = time.thread_time()
    parts.metrics.render(accept)
    return time.thread_time() - begun

"""The report: the present from memory, the past from the database, and never one for the other."""

import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from crm_whatsapp.domain.connection import Connection, DesiredState, Reason, Status
from crm_whatsapp.domain.decisions import become
from crm_whatsapp.domain.engines import EngineHealth, EngineRole
from crm_whatsapp.domain.errors import StoreUnavailable
from crm_whatsapp.domain.reports import ReportHistory, ReportStore
from crm_whatsapp.domain.snapshots import SnapshotMeta
from crm_whatsapp.service.snapshot_catalogue import SnapshotCatalogue
from crm_whatsapp.service.snapshot_ledger import SnapshotState
from crm_whatsapp.service.status_report import ReportSources, StatusReport
from tests.unit.service.fakes import DEADLINE_SECONDS, ManualClock


class FakeReportStore(ReportStore):
    """Answers with what it was asked, or fails, or waits to be let go."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.failure: StoreUnavailable | None = None
        self.oldest_snapshot_at: datetime | None = None
        self.most_at_once = 0
        self._inside: list[int] = []
        self.entered = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    def read(
        self,
        since: datetime,
        until: datetime,
        *,
        company_ids: Sequence[str],
        running_ids: Sequence[str],
        worst: int,
    ) -> ReportHistory:
        self.calls.append({"since": since, "ids": company_ids, "running": running_ids})
        self._inside.append(1)
        self.most_at_once = max(self.most_at_once, len(self._inside))
        self.entered.set()
        assert self.go_on.wait(DEADLINE_SECONDS)
        self._inside.pop()
        if self.failure is not None:
            raise self.failure
        return ReportHistory(
            since=since,
            until=until,
            succeeded=len(self.calls),
            failed=0,
            p50_seconds=None,
            p95_seconds=None,
            companies=0,
            average_percent=None,
            worst=(),
            snapshot_companies=0,
            oldest_snapshot_at=self.oldest_snapshot_at,
        )


class FakeKeeper:
    """Knows of the snapshots that a test names."""

    def __init__(self) -> None:
        self.is_on = True
        self.known: dict[str, SnapshotState] = {}

    def states(self) -> dict[str, SnapshotState]:
        return self.known


class World:
    """A report on fakes."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = FakeReportStore()
        self.connections: list[Connection] = []
        self.catalogue = SnapshotCatalogue(None)
        self.keeper = FakeKeeper()
        self.database_problem: str | None = None
        self.report = StatusReport(
            ReportSources(
                connections=lambda: self.connections,
                catalogue=self.catalogue,
                keeper=self.keeper,  # type: ignore[arg-type]
                engines=lambda: [engine(alive=True), engine(alive=False)],
                engine_deaths=lambda: 3,
                database_problem=lambda: self.database_problem,
            ),
            self.store,
            self.clock,
            cache_seconds=10.0,
        )

    def add(self, company_id: str, reason: Reason, **changes: Any) -> None:
        made = Connection(
            company_id=company_id,
            desired_state=DesiredState.RUN,
            jid="5511987654321:1@s.whatsapp.net",
            push_name=f"Name {company_id}",
        )
        self.connections.append(replace(become(made, reason), **changes))

    def snapshot(self, company_id: str, hours_ago: float | None) -> None:
        self.catalogue.note(company_id, (1, 1))
        if hours_ago is not None:
            self.keeper.known[company_id] = SnapshotState(
                meta=SnapshotMeta(
                    company_id=company_id,
                    epoch=1,
                    seq=1,
                    key_id="k",
                    sha256="0" * 64,
                    size_bytes=1,
                    clean=False,
                    created_at=self.clock.now() - timedelta(hours=hours_ago),
                )
            )


def engine(*, alive: bool) -> EngineHealth:
    return EngineHealth(
        name="engine-0.1",
        role=EngineRole.SHARD,
        pid=1,
        alive=alive,
        retiring=False,
        sessions=1,
        abandoned=0,
        starts=1,
        deaths=0,
        open_descriptors=1,
        memory_mb=40.0,
        heartbeat_age_seconds=0.1,
        retry_in_seconds=None,
    )


@pytest.fixture
def world() -> World:
    return World()


def test_the_present_is_counted_from_memory(world: World) -> None:
    world.add("a", Reason.ONLINE)
    world.add("b", Reason.PHONE_UNLINKED, last_disconnected_at=world.clock.now())
    world.add("c", Reason.CONNECT_FAILURE, failed_at=world.clock.now())
    world.add("d", Reason.STOPPED, desired_state=DesiredState.STOP)
    world.add("e", Reason.PAIRING)
    world.add("f", Reason.NETWORK_LOST)
    report = world.report.report(hours=24, companies=None)
    assert (report.total, report.should_run) == (6, 5)
    assert report.by_status == {
        Status.DISCONNECTED: 1,
        Status.CONNECTING: 1,
        Status.AWAITING_SCAN: 1,
        Status.CONNECTED: 1,
        Status.LOGGED_OUT: 1,
        Status.BANNED: 0,
        Status.FAILED: 1,
    }
    assert [item.connection.company_id for item in report.troubles] == ["c", "b", "f"]
    assert [item.since for item in report.troubles] == [world.clock.now()] * 2 + [None]
    assert (report.engines.total, report.engines.running, report.engines.deaths) == (2, 1, 3)
    assert report.names["a"] == "Name a"


def test_the_past_is_asked_for_the_window_and_for_whom_it_is(world: World) -> None:
    world.add("a", Reason.ONLINE)
    world.add("b", Reason.STOPPED, desired_state=DesiredState.STOP)
    report = world.report.report(hours=6, companies=None)
    (call,) = world.store.calls
    assert call["since"] == world.clock.now() - timedelta(hours=6)
    assert (call["ids"], call["running"]) == (["a", "b"], ["a"])
    assert report.history is not None
    assert report.history.until == world.clock.now()


def test_one_company_is_reported_alone(world: World) -> None:
    world.add("a", Reason.ONLINE)
    world.add("b", Reason.PHONE_UNLINKED)
    report = world.report.report(hours=24, companies=frozenset({"a"}))
    assert (report.total, report.troubles, report.names) == (1, [], {"a": "Name a"})
    assert world.store.calls[0]["ids"] == ["a"]


def test_the_database_is_asked_at_most_every_so_often(world: World) -> None:
    for _ in range(50):
        world.report.report(hours=24, companies=None)
    assert len(world.store.calls) == 1
    world.report.report(hours=1, companies=None)
    assert len(world.store.calls) == 2, "another window is another question"
    world.clock.advance(11)
    report = world.report.report(hours=24, companies=None)
    assert len(world.store.calls) == 3
    assert report.history is not None
    assert report.history.succeeded == 3


def test_while_the_past_is_cached_the_present_is_not(world: World) -> None:
    world.add("a", Reason.ONLINE)
    world.report.report(hours=24, companies=None)
    world.connections.clear()
    world.add("a", Reason.NETWORK_LOST)
    assert len(world.report.report(hours=24, companies=None).troubles) == 1


def test_many_at_once_ask_once(world: World) -> None:
    world.store.go_on.clear()
    threads = [
        threading.Thread(target=lambda: world.report.report(hours=24, companies=None))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    assert world.store.entered.wait(DEADLINE_SECONDS)
    world.store.go_on.set()
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
    assert len(world.store.calls) == 1


def test_whoever_asks_for_ever_other_windows_leaves_the_database_to_others(world: World) -> None:
    world.store.go_on.clear()
    with ThreadPoolExecutor(30) as pool:
        asked = [
            pool.submit(world.report.report, hours=hours, companies=frozenset({"a"}))
            for hours in range(1, 31)
        ]
        refused, _ = wait(asked, DEADLINE_SECONDS, FIRST_COMPLETED)
        assert refused, "nobody is to wait for others' windows"
        told = world.report.report(hours=24, companies=frozenset({"b"}))
        assert told.history is None
        assert "ask again" in (told.history_problem or "")
        assert told.database_problem is None
        world.store.go_on.set()
    assert world.store.most_at_once == 4
    assert world.report.report(hours=24, companies=frozenset({"b"})).history is not None


def test_without_the_database_the_present_is_told_and_the_past_is_not_made_up(
    world: World,
) -> None:
    world.add("a", Reason.ONLINE)
    world.store.failure = StoreUnavailable("The database did not answer in time.")
    report = world.report.report(hours=24, companies=None)
    assert report.history is None
    assert report.history_problem == "The database did not answer in time."
    assert report.database_problem == report.history_problem
    assert report.by_status[Status.CONNECTED] == 1
    for hours in range(1, 20):
        world.report.report(hours=hours, companies=None)
    assert len(world.store.calls) == 1, "a database that is away is not asked again at once"
    world.store.failure = None
    world.clock.advance(11)
    assert world.report.report(hours=24, companies=None).history is not None


def test_an_outage_does_not_void_what_was_just_read(world: World) -> None:
    world.report.report(hours=24, companies=None)
    world.clock.advance(5)
    world.store.failure = StoreUnavailable("away")
    world.report.report(hours=1, companies=None)
    assert world.report.report(hours=24, companies=None).history is not None


def test_snapshots_are_counted_over_linked_sessions_that_should_run(world: World) -> None:
    world.add("a", Reason.ONLINE)
    world.add("b", Reason.ONLINE)
    world.add("c", Reason.ONLINE)
    world.add("d", Reason.PAIRING, jid=None)
    world.add("f", Reason.PHONE_UNLINKED)
    world.add("e", Reason.STOPPED, desired_state=DesiredState.STOP)
    world.snapshot("a", 1)
    world.snapshot("b", 5)
    world.snapshot("e", 500)
    snapshots = world.report.report(hours=24, companies=None).snapshots
    assert (snapshots.covered, snapshots.without) == (2, 1)
    assert snapshots.oldest_seconds == pytest.approx(5 * 3600)


def test_an_age_that_memory_does_not_have_comes_from_the_database_or_is_not_told(
    world: World,
) -> None:
    world.add("a", Reason.ONLINE)
    world.add("b", Reason.WHATSAPP_UNREACHABLE)
    world.snapshot("a", 1)
    world.snapshot("b", None)
    world.store.oldest_snapshot_at = world.clock.now() - timedelta(hours=30)
    snapshots = world.report.report(hours=24, companies=None).snapshots
    assert snapshots.oldest_seconds == pytest.approx(30 * 3600)
    world.clock.advance(11)
    world.store.failure = StoreUnavailable("away")
    assert world.report.report(hours=24, companies=None).snapshots.oldest_seconds is None


def test_what_is_kept_is_bounded(world: World) -> None:
    for number in range(500):
        world.report.report(hours=24, companies=frozenset({str(number)}))
    assert len(world.report._kept) <= 200
    assert len(world.report._turns) <= 201

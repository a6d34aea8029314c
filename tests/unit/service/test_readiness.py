"""Readiness tells what is amiss, and cannot be brought down by it."""

from collections.abc import Callable
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any

import pytest

from crm_whatsapp.domain.errors import StorageError, StoreRejected, StoreUnavailable
from crm_whatsapp.service.readiness import Observed, Readiness, ReadinessCheck
from tests.unit.service.fakes import DEADLINE_SECONDS
from tests.unit.service.pod import Pod

Ask = Callable[[str], ReadinessCheck]


def job(**figures: Any) -> Any:
    values = {
        "runs": 1,
        "failures": 0,
        "failures_in_a_row": 0,
        "last_error": None,
        "running_seconds": 0.0,
    }
    return SimpleNamespace(**(values | figures))


@pytest.fixture
def jobs() -> dict[str, Any]:
    return {"sweep": job()}


@pytest.fixture
def keeper() -> Any:
    return SimpleNamespace(is_on=True, problems=dict, written=2, failed=0)


class Time:
    """A monotonic clock that moves when told."""

    def __init__(self) -> None:
        self._now = 100.0

    def __call__(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += seconds


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def readiness(pod: Pod, jobs: dict[str, Any], keeper: Any, time: Time) -> Readiness:
    return Readiness(
        Observed(
            manager=pod.manager,
            fleet=pod.fleet,
            store=pod.store,
            journal=pod.journal,
            recorder=pod.recorder,
            folders=pod.folders,
            write_behind=pod.write_behind,
            restore=pod.restore,
            reconciliation=pod.reconciliation,
            jobs=lambda: jobs,
            expected_schema=3,
            snapshots=keeper,
        ),
        time,
    )


@pytest.fixture
def ask(readiness: Readiness) -> Ask:
    return lambda name: next(item for item in readiness.report().checks if item.name == name)


def test_when_all_is_well(readiness: Readiness) -> None:
    readiness.check_schema()
    report = readiness.report()
    assert (report.ready, report.degraded) == (True, False)


def test_only_the_storage_makes_it_not_ready(pod: Pod, readiness: Readiness, time: Time) -> None:
    pod.write_behind.problem = "The database cannot be reached."
    report = readiness.report()
    assert (report.ready, report.degraded) == (True, True)
    pod.folders.refusing.add("check_writable")
    time.advance(2)
    assert not readiness.report().ready


def test_whoever_asks_often_makes_the_disk_work_once_a_second(
    readiness: Readiness, pod: Pod, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []
    monkeypatch.setattr(pod.folders, "check_writable", lambda: looks.append(time()))
    for _ in range(50):
        readiness.report()
    assert len(looks) == 1
    time.advance(1)
    readiness.report()
    assert len(looks) == 2


def test_a_disk_that_hangs_holds_one_caller_and_is_told(
    readiness: Readiness, pod: Pod, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert readiness.report().ready
    hangs, answers = Event(), Event()

    def hang() -> None:
        hangs.set()
        assert answers.wait(DEADLINE_SECONDS)

    monkeypatch.setattr(pod.folders, "check_writable", hang)
    time.advance(2)
    first = Thread(target=readiness.report)
    first.start()
    try:
        assert hangs.wait(DEADLINE_SECONDS)
        assert readiness.report().ready  # as it was last seen
        time.advance(30)
        told = readiness.report()
        assert not told.ready
        assert "has not answered for 30 s" in told.checks[0].detail
    finally:
        answers.set()
        first.join()


def test_a_journal_that_cannot_be_read_is_told_and_not_raised(pod: Pod, ask: Ask) -> None:
    def fail() -> int:
        raise StorageError("The state journal cannot be used.")

    pod.journal.pending_count = fail  # type: ignore[method-assign]
    check = ask("journal")
    assert not check.ok
    assert check.detail == "The state journal cannot be used."
    pod.journal.pending_count = lambda: 0  # type: ignore[method-assign]


def test_what_is_lost_stays_visible(pod: Pod, ask: Ask) -> None:
    pod.recorder.lost = 2
    assert ask("journal").detail == "2 changes lost"
    assert not ask("journal").ok


def test_failing_and_stuck_jobs_are_named(jobs: dict[str, Any], ask: Ask) -> None:
    jobs["sync"] = job(failures_in_a_row=3, last_error="away")
    jobs["renewal"] = job(running_seconds=61.0)
    assert ask("jobs").detail == "failing: sync; stuck: renewal"
    assert not ask("jobs").ok


def test_an_outdated_schema_says_what_to_do(pod: Pod, readiness: Readiness, ask: Ask) -> None:
    pod.store.schema_version = lambda: 1  # type: ignore[method-assign]
    readiness.check_schema()
    assert "python -m crm_whatsapp migrate" in ask("database").detail


def test_a_refusal_is_a_finding_and_an_outage_a_failed_job(
    pod: Pod, readiness: Readiness, ask: Ask
) -> None:
    def refuse() -> int:
        raise StoreRejected("Check SUPABASE_SERVICE_ROLE_KEY.")

    pod.store.schema_version = refuse  # type: ignore[method-assign]
    readiness.check_schema()
    assert ask("database").detail == "Check SUPABASE_SERVICE_ROLE_KEY."
    pod.store.database.reachable = False
    del pod.store.schema_version
    with pytest.raises(StoreUnavailable):
        readiness.check_schema()


def test_sessions_without_a_copy_are_counted(readiness: Readiness, keeper: Any) -> None:
    keeper.problems = lambda: {"3b1bee0c-cbee-4de1-88f1-d6e890f4c995": "no lease"}
    check = {item.name: item for item in readiness.report().checks}["snapshots"]
    assert (check.ok, check.detail) == (False, "1 sessions could not be copied")


def test_snapshots_that_are_off_are_told(readiness: Readiness, keeper: Any) -> None:
    keeper.is_on = False
    check = {item.name: item for item in readiness.report().checks}["snapshots"]
    assert not check.ok
    assert "SNAPSHOT_ENCRYPTION_KEYS" in check.detail

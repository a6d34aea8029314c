"""Jobs run when they should, and a failing one is counted and runs again."""

import threading
from collections.abc import Iterator

import pytest

from crm_whatsapp.domain.errors import StoreUnavailable
from crm_whatsapp.jobs.job_board import Job, JobBoard

HOUR = 3600.0


@pytest.fixture
def board() -> Iterator[JobBoard]:
    made = JobBoard()
    yield made
    made.stop()


def test_only_a_job_that_asks_for_it_runs_with_the_start(board: JobBoard) -> None:
    first, second = threading.Event(), threading.Event()
    board.add(Job(name="first", interval_seconds=HOUR, function=first.set, at_once=True))
    board.add(Job(name="second", interval_seconds=HOUR, function=second.set))

    board.start()

    assert first.wait(10)
    assert board.records()["second"].runs == 0
    board.run_soon("second")
    assert second.wait(10)


def test_a_daily_job_does_not_wait_for_a_day(board: JobBoard) -> None:
    soon, at_its_interval = threading.Event(), threading.Event()
    board.add(
        Job(name="soon", interval_seconds=24 * HOUR, function=soon.set, first_after_seconds=0.01)
    )
    board.add(
        Job(
            name="quick",
            interval_seconds=0.01,
            function=at_its_interval.set,
            first_after_seconds=HOUR,
        )
    )
    board.start()
    assert soon.wait(10)
    assert at_its_interval.wait(10)


def test_a_job_that_failed_does_not_wait_for_its_interval(board: JobBoard) -> None:
    done = threading.Event()
    outcomes = iter([StoreUnavailable("away"), StoreUnavailable("away"), None])

    def work() -> None:
        outcome = next(outcomes)
        if outcome is not None:
            raise outcome
        done.set()

    board.add(
        Job(
            name="work",
            interval_seconds=24 * HOUR,
            function=work,
            at_once=True,
            retry_after_seconds=0.01,
        )
    )
    board.start()
    assert done.wait(10)


def test_failures_are_counted_until_the_next_success(board: JobBoard) -> None:
    outcomes = iter([StoreUnavailable("away"), None])

    def work() -> None:
        outcome = next(outcomes)
        if outcome is not None:
            raise outcome

    job = Job(name="work", interval_seconds=HOUR, function=work)
    board.add(job)
    board.run(job)
    assert board.records()["work"].last_error == "away"
    assert board.records()["work"].failures_in_a_row == 1

    board.run(job)

    record = board.records()["work"]
    assert (record.runs, record.failures, record.failures_in_a_row) == (2, 1, 0)
    assert record.last_error is None
    assert record.last_run_at is not None
    assert record.last_duration_seconds > 0


def test_a_stopped_board_takes_no_orders(board: JobBoard) -> None:
    board.add(Job(name="work", interval_seconds=HOUR, function=lambda: None))
    board.start()
    board.stop()

    board.run_soon("work")

    assert board.records()["work"].runs == 0


def test_an_order_during_a_run_is_carried_out_after_it(board: JobBoard) -> None:
    """The run under way may have looked too early; and two never overlap."""
    entered, go_on, second = threading.Event(), threading.Event(), threading.Event()
    at_once: list[int] = []
    running = threading.Semaphore(1)

    def work() -> None:
        assert running.acquire(blocking=False), "two runs at once"
        at_once.append(1)
        if len(at_once) == 1:
            entered.set()
            assert go_on.wait(10)
        else:
            second.set()
        running.release()

    board.add(Job(name="work", interval_seconds=HOUR, function=work, at_once=True))
    board.start()
    assert entered.wait(10)
    board.run_soon("work")
    board.run_soon("work")
    go_on.set()
    assert second.wait(10)


def test_a_run_that_does_not_end_is_visible(board: JobBoard) -> None:
    entered, go_on, done = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        entered.set()
        assert go_on.wait(10)

    job = Job(name="work", interval_seconds=HOUR, function=work)
    board.add(job)
    thread = threading.Thread(target=lambda: (board.run(job), done.set()))
    thread.start()
    assert entered.wait(10)
    assert board.records()["work"].running_seconds > 0
    board.run(job)
    assert board.records()["work"].runs == 0, "a second run waits for no one and does not start"
    go_on.set()
    assert done.wait(10)
    record = board.records()["work"]
    assert (record.runs, record.running_seconds) == (1, 0.0)


def test_any_failure_is_told_and_kills_nothing(board: JobBoard) -> None:
    def work() -> None:
        raise KeyError("a defect")

    job = Job(name="work", interval_seconds=HOUR, function=work)
    board.add(job)
    board.run(job)
    assert board.records()["work"].last_error == "KeyError: 'a defect'"
    board.run(job)
    assert board.records()["work"].failures_in_a_row == 2

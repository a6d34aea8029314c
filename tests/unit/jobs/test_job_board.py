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


def test_a_stopped_board_takes_no_orders(board: JobBoard) -> None:
    board.add(Job(name="work", interval_seconds=HOUR, function=lambda: None))
    board.start()
    board.stop()

    board.run_soon("work")

    assert board.records()["work"].runs == 0

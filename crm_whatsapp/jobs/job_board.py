"""The APScheduler jobs and how each of them fares."""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import structlog
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from crm_whatsapp.domain.errors import StoreUnavailable

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One row of the table: a name, how often, and what.

    at_once: the first run comes with the start of the board, not one interval later.
    first_after_seconds: the first run comes so long after it, if that is before one interval is
        over: a daily job must not wait for a service that is never up for a day.
    retry_after_seconds: after a failure the next run comes so soon, if that is before its interval.
    """

    name: str
    interval_seconds: float
    function: Callable[[], object]
    at_once: bool = False
    first_after_seconds: float = math.inf
    retry_after_seconds: float = math.inf


@dataclass(slots=True)
class JobRecord:
    """How a job has fared since start.

    running_seconds: how long the present run has lasted so far; 0 between runs.
    last_duration_seconds: how long the last run took; 0 before the first.
    """

    runs: int = 0
    failures: int = 0
    failures_in_a_row: int = 0
    last_error: str | None = None
    last_run_at: datetime | None = None
    running_seconds: float = 0.0
    last_duration_seconds: float = 0.0


class JobBoard:
    """Runs the table. A failing job is logged and counted, and runs again at its next time."""

    def __init__(self) -> None:
        self._jobs: list[Job] = []
        self._lock = threading.Lock()
        self._records: dict[str, JobRecord] = {}
        self._running: dict[str, float] = {}
        self._again: set[str] = set()
        self._scheduler = BackgroundScheduler(
            timezone=UTC,
            executors={"default": ThreadPoolExecutor(8)},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )

    def add(self, job: Job) -> None:
        """Add a row; before `start` only."""
        self._jobs.append(job)
        self._records[job.name] = JobRecord()

    def start(self) -> None:
        """Begin to run the table; first runs come one interval after this, or at once."""
        now = datetime.now(UTC)
        for job in self._jobs:
            wait = 0.0 if job.at_once else min(job.interval_seconds, job.first_after_seconds)
            self._scheduler.add_job(
                self.run,
                "interval",
                args=[job],
                seconds=job.interval_seconds,
                next_run_time=now + timedelta(seconds=wait),
                id=job.name,
                name=job.name,
            )
        self._scheduler.start()

    def stop(self) -> None:
        """Start no job any more; a running one is not waited for."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    def run_soon(self, name: str) -> None:
        """Run a job now, and then at its interval again; returns at once.

        A run under way may have looked too early: another one follows it.
        """
        with self._lock:
            if name in self._running:
                self._again.add(name)
                return
        if self._scheduler.running:
            self._scheduler.modify_job(name, next_run_time=datetime.now(UTC))

    def run(self, job: Job) -> None:
        """Run one job now and note the outcome; once more if that was asked for meanwhile.

        While a run lasts there is no second one: this returns at once.
        """
        with self._lock:
            if job.name in self._running:
                return
            self._running[job.name] = time.monotonic()
        try:
            again = True
            while again:
                begun = time.monotonic()
                error = self._attempt(job)
                with self._lock:
                    self._note(self._records[job.name], error, time.monotonic() - begun)
                    again = job.name in self._again
                    self._again.discard(job.name)
                    self._running[job.name] = time.monotonic()
            if error and job.retry_after_seconds < job.interval_seconds and self._scheduler.running:
                soon = datetime.now(UTC) + timedelta(seconds=job.retry_after_seconds)
                self._scheduler.modify_job(job.name, next_run_time=soon)
        finally:
            with self._lock:
                self._running.pop(job.name, None)

    @staticmethod
    def _attempt(job: Job) -> str | None:
        """Run the job's function; return what went wrong."""
        try:
            job.function()
        except StoreUnavailable as reason:
            log.warning("a job could not reach the database", job=job.name, detail=reason.message)
            return reason.message
        except Exception as reason:
            log.exception("a job failed", job=job.name)
            return f"{type(reason).__name__}: {reason}"
        return None

    @staticmethod
    def _note(record: JobRecord, error: str | None, seconds: float) -> None:
        record.runs += 1
        record.last_duration_seconds = seconds
        record.last_run_at = datetime.now(UTC)
        record.last_error = error
        record.failures += error is not None
        record.failures_in_a_row = record.failures_in_a_row + 1 if error else 0

    def records(self) -> dict[str, JobRecord]:
        """Return a copy of the records, by job name."""
        now = time.monotonic()
        with self._lock:
            return {
                name: replace(record, running_seconds=max(0.0, now - self._running.get(name, now)))
                for name, record in self._records.items()
            }

"""What is wrong with the service as a whole."""

from dataclasses import dataclass, replace

import pytest

from crm_whatsapp.domain.connection import Connection, Reason, Status
from crm_whatsapp.domain.decisions import become
from crm_whatsapp.domain.transitions import Transition
from crm_whatsapp.service.restore_watch import RestoreRate, RestoreWatch
from crm_whatsapp.service.service_alerts import (
    AlertLimits,
    EngineDeaths,
    database_sightings,
    engine_sightings,
    job_sightings,
    merged,
    restore_sightings,
    snapshots_off_sightings,
    storage_sightings,
    webhook_sightings,
)
from tests.unit.service.fakes import NOON, ManualClock

LIMITS = AlertLimits()


@dataclass
class Job:
    failures_in_a_row: int = 0
    last_error: str | None = None


@pytest.mark.parametrize(
    ("companies", "failed", "told"),
    [(5, 1, False), (5, 2, True), (4, 4, False), (100, 20, False), (100, 21, True), (0, 0, False)],
)
def test_restores_that_fail_too_often(companies: int, failed: int, told: bool) -> None:
    seen = restore_sightings(RestoreRate(companies=companies, failed=failed), NOON, LIMITS)
    assert bool(seen.present) is told


class Restores:
    """A watch that hears of transitions."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.watch = RestoreWatch(self.clock, window_seconds=600)

    def happen(self, company_id: str, *reasons: Reason, **changes: Status) -> None:
        for reason in reasons:
            connection = become(Connection(company_id=company_id), reason, **changes)
            self.watch.watch(
                Transition(
                    id="x",
                    connection=connection,
                    event="Test",
                    from_status=Status.DISCONNECTED,
                    occurred_at=self.clock.now(),
                )
            )

    def rate(self) -> tuple[int, int]:
        rate = self.watch.rate()
        return rate.companies, rate.failed


def test_restores_are_counted_by_company_and_by_their_last_outcome() -> None:
    restores = Restores()
    restores.happen("a", Reason.RESTORING, Reason.RESTORING, Reason.ONLINE)
    restores.happen("b", Reason.RESTORING, Reason.CONNECT_FAILURE)
    assert restores.rate() == (2, 1)
    for _ in range(9):
        restores.happen("b", Reason.RESTORING, Reason.WHATSAPP_UNREACHABLE)
    assert restores.rate() == (2, 1), "one company that fails all the time counts once"
    restores.happen("b", Reason.RESTORING, Reason.ONLINE)
    assert restores.rate() == (2, 0)


def test_what_is_no_restore_or_was_cancelled_is_not_counted() -> None:
    restores = Restores()
    restores.happen("a", Reason.NETWORK_LOST, Reason.ONLINE, Reason.PHONE_UNLINKED)
    restores.happen("b", Reason.RESTORING, Reason.STOPPED)
    restores.happen("c", Reason.RESTORING, Reason.SERVICE_STOPPED)
    restores.happen("d", Reason.RESTORING, status=Status.DISCONNECTED)
    restores.happen("d", Reason.CONNECT_FAILURE)
    assert restores.rate() == (0, 0)


def test_restores_leave_the_window() -> None:
    restores = Restores()
    restores.happen("a", Reason.RESTORING, Reason.CONNECT_FAILURE)
    restores.clock.advance(599)
    assert restores.rate() == (1, 1)
    restores.clock.advance(2)
    assert restores.rate() == (0, 0)


def test_engines_that_die_too_often() -> None:
    clock = ManualClock()
    deaths = EngineDeaths(clock, window_seconds=600)
    assert deaths.within_window(0) == 0
    assert deaths.within_window(1) == 1
    clock.advance(300)
    assert deaths.within_window(3) == 3
    assert deaths.within_window(3) == 3
    assert engine_sightings(3, NOON, LIMITS).present
    clock.advance(301)
    assert deaths.within_window(3) == 2
    assert not engine_sightings(2, NOON, LIMITS).present


def test_jobs_that_fail_again_and_again() -> None:
    jobs = {"a": Job(), "b": Job(2, "no"), "c": Job(3, "KeyError: 'x'")}
    ((key, alert),) = job_sightings(jobs, NOON, LIMITS, database_is_away=False).present.items()
    assert (key, alert.label, alert.detail) == ("job-failing:c", "c", "KeyError: 'x'")


def test_jobs_are_no_news_while_the_database_is_away() -> None:
    seen = job_sightings({"c": Job(9, "no")}, NOON, LIMITS, database_is_away=True)
    assert seen.present == {}
    assert seen.unsure == {"job-failing:c"}


def test_the_rest_is_one_alert_each_while_it_lasts() -> None:
    parts = [
        database_sightings("The database did not answer in time.", NOON),
        storage_sightings("3 changes are only in memory", NOON),
        snapshots_off_sightings(True, NOON),
        webhook_sightings({"crm": 4, "other": 0}, NOON),
    ]
    assert sorted(merged(parts).present) == [
        "database-away:",
        "disk-refuses:",
        "snapshots-off:",
        "webhooks-parked:crm",
    ]
    quiet = [
        database_sightings(None, NOON),
        storage_sightings(None, NOON),
        snapshots_off_sightings(False, NOON),
        webhook_sightings({}, NOON),
    ]
    assert merged(quiet).present == {}


def test_limits_are_settings() -> None:
    strict = replace(LIMITS, restore_minimum=1, restore_failure_percent=0)
    assert restore_sightings(RestoreRate(companies=1, failed=1), NOON, strict).present

"""What is wrong with the service as a whole, as alerts."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from crm_whatsapp.domain.alerts import Alert, AlertKind, Sightings, alert_key
from crm_whatsapp.domain.connection import UserAction
from crm_whatsapp.domain.ports import Clock
from crm_whatsapp.service.restore_watch import RestoreRate


class JobFigures(Protocol):
    """What alerts want to know of a job."""

    failures_in_a_row: int
    last_error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertLimits:
    """From when on something is worth an alert.

    restore_failure_percent: of the companies restored within the window of RestoreWatch, when
        they are at least restore_minimum.
    engine_deaths: within engine_window_seconds.
    """

    restore_failure_percent: float = 20.0
    restore_minimum: int = 5
    engine_deaths: int = 3
    engine_window_seconds: float = 600.0
    job_failures: int = 3


class EngineDeaths:
    """The deaths of the last minutes, from a count that only rises."""

    def __init__(self, clock: Clock, *, window_seconds: float) -> None:
        self._clock = clock
        self._window_seconds = window_seconds
        self._seen = 0
        self._deaths: list[float] = []

    def within_window(self, total: int) -> int:
        """Take note of the count as it is now; return how many deaths the window has.

        Args:
            total: unasked ends of engines since the start of the service.
        """
        now = self._clock.monotonic()
        self._deaths += [now] * max(0, total - self._seen)
        self._seen = total
        self._deaths = [at for at in self._deaths if now - at <= self._window_seconds]
        return len(self._deaths)


def restore_sightings(rate: RestoreRate, now: datetime, limits: AlertLimits) -> Sightings:
    """Return an alert when too many companies failed to come back."""
    enough = rate.companies >= limits.restore_minimum
    if not enough or rate.failed * 100 <= limits.restore_failure_percent * rate.companies:
        return Sightings()
    detail = f"{rate.failed} of {rate.companies} companies"
    return _one(Alert(kind=AlertKind.RESTORE_FAILURES, detail=detail, since=now))


def engine_sightings(deaths: int, now: datetime, limits: AlertLimits) -> Sightings:
    """Return an alert when engines died too often."""
    if deaths < limits.engine_deaths:
        return Sightings()
    minutes = limits.engine_window_seconds / 60
    detail = f"{deaths} deaths within {minutes:g} minutes"
    return _one(Alert(kind=AlertKind.ENGINES_DYING, detail=detail, since=now))


def database_sightings(problem: str | None, now: datetime) -> Sightings:
    """Return an alert while the database does not do its part."""
    if problem is None:
        return Sightings()
    return _one(
        Alert(kind=AlertKind.DATABASE_AWAY, detail=problem, since=now, user_action=UserAction.WAIT)
    )


def storage_sightings(problem: str | None, now: datetime) -> Sightings:
    """Return an alert while the disk refuses."""
    if problem is None:
        return Sightings()
    return _one(Alert(kind=AlertKind.DISK_REFUSES, detail=problem, since=now))


def snapshots_off_sightings(is_off: bool, now: datetime) -> Sightings:
    """Return an alert when sessions run that nothing copies."""
    return _one(Alert(kind=AlertKind.SNAPSHOTS_OFF, since=now)) if is_off else Sightings()


def job_sightings(
    jobs: Mapping[str, JobFigures], now: datetime, limits: AlertLimits, *, database_is_away: bool
) -> Sightings:
    """Return an alert for each job that fails all the time.

    Args:
        database_is_away: there is an alert for that, so nothing new is said about the jobs.
    """
    if database_is_away:
        return Sightings(unsure=frozenset(alert_key(AlertKind.JOB_FAILING, name) for name in jobs))
    alerts = [
        Alert(
            kind=AlertKind.JOB_FAILING,
            subject=name,
            label=name,
            detail=record.last_error or "",
            since=now,
        )
        for name, record in jobs.items()
        if record.failures_in_a_row >= limits.job_failures
    ]
    return Sightings(present={alert.key: alert for alert in alerts})


def webhook_sightings(parked: Mapping[str, int], now: datetime) -> Sightings:
    """Return an alert for each webhook with deliveries that were given up.

    Args:
        parked: what the webhook is known by -> how many.
    """
    alerts = [
        Alert(
            kind=AlertKind.WEBHOOKS_PARKED,
            subject=name,
            label=name,
            detail=f"{count} deliveries",
            since=now,
        )
        for name, count in parked.items()
        if count > 0
    ]
    return Sightings(present={alert.key: alert for alert in alerts})


def merged(parts: list[Sightings]) -> Sightings:
    """Return all of them as one."""
    present: dict[str, Alert] = {}
    unsure: frozenset[str] = frozenset()
    for part in parts:
        present.update(part.present)
        unsure |= part.unsure
    return Sightings(present=present, unsure=unsure)


def _one(alert: Alert) -> Sightings:
    return Sightings(present={alert.key: alert})

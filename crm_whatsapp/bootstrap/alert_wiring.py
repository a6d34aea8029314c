"""The pieces that tell people what needs them."""

import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from crm_whatsapp.config import Settings
from crm_whatsapp.domain.alert_book import AlertTerms
from crm_whatsapp.domain.alerts import AlertKind, AlertMessage, AlertState, Severity, Sightings
from crm_whatsapp.domain.connection import Connection
from crm_whatsapp.jobs.job_board import Job
from crm_whatsapp.outbound.alert_channels import AppriseChannels
from crm_whatsapp.service.alert_courier import AlertCourier, CourierTerms
from crm_whatsapp.service.alert_desk import AlertDesk
from crm_whatsapp.service.alert_health import alert_check
from crm_whatsapp.service.alert_memory import AlertMemory
from crm_whatsapp.service.effect_runner import EffectRunner
from crm_whatsapp.service.notice_board import NoticeBoard
from crm_whatsapp.service.restore_watch import RestoreWatch
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
from crm_whatsapp.service.session_alerts import (
    outdated_sightings,
    session_sightings,
    snapshot_sightings,
)
from crm_whatsapp.service.snapshot_lag import snapshot_problem
from crm_whatsapp.service.steady_clock import SteadyClock
from crm_whatsapp.sessions.alert_file import AlertFile

if TYPE_CHECKING:
    from crm_whatsapp.bootstrap.wiring import Parts

CHECK = "alert-check"
_LEASE_JOB = "lease-renewal"


class ParkedReaders:
    """Who knows of deliveries that were given up. They answer from memory."""

    def __init__(self) -> None:
        self._readers: list[Callable[[], Mapping[str, int]]] = []

    def add(self, reader: Callable[[], Mapping[str, int]]) -> None:
        """Have it asked at every check: what a webhook is known by -> how many were given up."""
        self._readers.append(reader)

    def read(self) -> dict[str, int]:
        """Return what all of them know."""
        return {name: count for reader in self._readers for name, count in reader().items()}


class AlertParts:
    """What tells people what needs them.

    Attributes:
        parked: takes who knows of webhook deliveries that were given up.
    """

    def __init__(self, settings: Settings, clock: SteadyClock, notices: NoticeBoard) -> None:
        self._settings = settings
        self._look: Callable[[datetime], Sightings] = lambda now: Sightings()
        self._is_settled: Callable[[], bool] = lambda: False
        self.parked = ParkedReaders()
        self.memory = AlertMemory(AlertFile(settings.sessions_dir / "alerts.json"))
        self.courier = AlertCourier(
            memory=self.memory,
            sender=alert_channels(settings),
            clock=clock,
            terms=CourierTerms(
                retry_seconds=min(5.0, settings.alert_retry_max_seconds),
                retry_max_seconds=settings.alert_retry_max_seconds,
                give_up_seconds=settings.alert_give_up_seconds,
            ),
        )
        self.desk = AlertDesk(
            look=lambda now: self._look(now),
            terms=alert_terms(settings),
            memory=self.memory,
            courier=self.courier,
            post=notices.post,
            clock=clock,
            source=socket.gethostname(),
            is_settled=lambda: self._is_settled(),
            quiet_seconds=settings.alert_quiet_start_seconds,
        )

    def observe(self, parts: "Parts", effects: EffectRunner) -> None:
        """Look at these parts by the clock, and at once when the policy asks for it."""
        self._look = _look_of(parts, self.memory, self.parked)
        self._is_settled = lambda: parts.restore.progress.finished
        parts.readiness.add(lambda: alert_check(self.memory, self.courier))
        parts.jobs.add(
            Job(
                name=CHECK,
                interval_seconds=self._settings.alert_check_seconds,
                function=self.desk.check,
            )
        )
        effects.on_alert(lambda connection, kind: parts.jobs.run_soon(CHECK))

    def start(self) -> None:
        """Read what was told before, and begin to send."""
        self.desk.start()

    def stop(self, timeout_seconds: float) -> None:
        """Tell nothing more; what was not sent is sent after the next start."""
        self.desk.stop(timeout_seconds)


def alert_terms(settings: Settings) -> AlertTerms:
    """Return when alerts open and end, and when people are told."""
    return AlertTerms(
        hold_seconds={
            AlertKind.UNREACHABLE: settings.alert_unreachable_seconds,
            AlertKind.DATABASE_AWAY: settings.alert_database_away_seconds,
            AlertKind.DISK_REFUSES: settings.alert_storage_seconds,
        },
        clear_seconds=settings.alert_clear_seconds,
        group_seconds=settings.alert_group_seconds,
        pause_seconds=settings.alert_pause_seconds,
        cool_down_seconds=settings.alert_cool_down_seconds,
        resolve_wait_seconds=settings.alert_resolve_wait_seconds,
    )


def alert_channels(settings: Settings) -> AppriseChannels:
    """Return the channels of ALERT_URLS."""
    urls = settings.alert_urls
    return AppriseChannels(
        urls.get_secret_value() if urls else None,
        timeout_seconds=settings.alert_send_timeout_seconds,
        environment=os.environ,
    )


def _look_of(
    parts: "Parts", memory: AlertMemory, parked: ParkedReaders
) -> Callable[[datetime], Sightings]:
    settings = parts.settings
    limits = AlertLimits(
        restore_failure_percent=settings.alert_restore_failure_percent,
        restore_minimum=settings.alert_restore_minimum,
        engine_deaths=settings.alert_engine_deaths,
        engine_window_seconds=settings.alert_engine_window_seconds,
        job_failures=settings.alert_job_failures,
    )
    restores = RestoreWatch(parts.clock, window_seconds=settings.alert_restore_window_seconds)
    parts.recorder.listen(restores.watch)
    deaths = EngineDeaths(parts.clock, window_seconds=settings.alert_engine_window_seconds)
    keeper = parts.snapshots.keeper

    def look(now: datetime) -> Sightings:
        connections = parts.manager.connections()
        states, behind = keeper.states(), keeper.behind_seconds()
        database = database_problem(parts)

        def uncovered(connection: Connection) -> str | None:
            company_id = connection.company_id
            return snapshot_problem(
                states.get(company_id),
                behind_seconds=behind.get(company_id, 0.0),
                connected_since=connection.connected_since,
                now=now,
                bound_seconds=settings.alert_snapshot_seconds,
            )

        linked = any(connection.jid is not None for connection in connections)
        return merged(
            [
                session_sightings(connections, now),
                outdated_sightings(connections, now),
                snapshot_sightings(connections if keeper.is_on else [], now, uncovered),
                snapshots_off_sightings(linked and not keeper.is_on, now),
                restore_sightings(restores.rate(), now, limits),
                engine_sightings(
                    deaths.within_window(sum(parts.fleet.deaths().values())), now, limits
                ),
                database_sightings(database, now),
                storage_sightings(storage_problem(parts, memory), now),
                job_sightings(
                    parts.jobs.records(), now, limits, database_is_away=database is not None
                ),
                webhook_sightings(parked.read(), now),
            ]
        )

    return look


def database_problem(parts: "Parts") -> str | None:
    """Return why the database cannot be used, as far as is known without asking it."""
    problem: str | None = parts.write_behind.problem
    lease_job = parts.jobs.records().get(_LEASE_JOB)
    return problem or (lease_job.last_error if lease_job else None)


def storage_problem(parts: "Parts", memory: AlertMemory) -> str | None:
    """Return what SESSIONS_DIR has refused, None when nothing waits for it."""
    held = parts.recorder.held_count
    if held:
        return f"{held} changes are only in memory"
    return memory.problem


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelTest:
    """What came of a test message. detail: why it failed."""

    channel: str
    sent: bool
    detail: str
    took_seconds: float


def send_test_alert(settings: Settings) -> tuple[list[ChannelTest], list[str]]:
    """Send a test message through each channel; return the outcomes and what is not a channel."""
    channels = alert_channels(settings)
    message = AlertMessage(
        state=AlertState.RESOLVED,
        severity=Severity.WARNING,
        title="WhatsApp: this is a test",
        body="Alerts of crm_whatsapp arrive here. Nothing has to be done.\n\n"
        f"crm_whatsapp on {socket.gethostname()}",
    )
    outcomes = []
    for name in channels.channels:
        outcome = channels.send(name, message)
        outcomes.append(
            ChannelTest(
                channel=name,
                sent=outcome.sent,
                detail=outcome.detail,
                took_seconds=outcome.took_seconds,
            )
        )
    return outcomes, list(channels.problems)

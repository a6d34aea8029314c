"""Rules for whatever asks that a saved session should run: polls, start-up, people, the table."""

from dataclasses import replace
from datetime import datetime

from crm_whatsapp.domain import events as ev
from crm_whatsapp.domain.connection import (
    UNLINKING,
    ClientPhase,
    Connection,
    DesiredState,
    Intent,
    Reason,
    Status,
    UserAction,
)
from crm_whatsapp.domain.decisions import (
    Decision,
    PolicyLimits,
    become,
    second_chance,
    start_restore,
    stop_client,
)
from crm_whatsapp.domain.rules.request_rules import stop_for_good
from crm_whatsapp.domain.rules.unlink_rules import begin_unlink


def on_poll(
    connection: Connection, event: ev.PollArrived, now: datetime, limits: PolicyLimits
) -> Decision:
    """Restore when nothing else is decided; otherwise only report."""
    if connection.client is not ClientPhase.NONE:
        return Decision(connection=connection)
    unknown = connection.reason is Reason.NEVER_CONNECTED
    if connection.desired_state is DesiredState.STOP and not unknown:
        return Decision(connection=connection)
    if not event.has_credentials:
        return Decision(connection=_without_credentials(connection, now))
    if _may_start_on_poll(connection, now, limits):
        return start_restore(connection, now, limits)
    return Decision(connection=connection)


def _may_start_on_poll(connection: Connection, now: datetime, limits: PolicyLimits) -> bool:
    if connection.retry_at is not None and connection.retry_at > now:
        return False
    if connection.status in (Status.LOGGED_OUT, Status.AWAITING_SCAN):
        return False
    if connection.reason in (Reason.CLIENT_OUTDATED, Reason.STREAM_REPLACED, Reason.LOGGING_OUT):
        return connection.reason is Reason.STREAM_REPLACED and connection.retry_at is not None
    if connection.status is Status.FAILED and connection.failed_at is not None:
        waited = (now - connection.failed_at).total_seconds()
        return waited >= limits.failed_poll_interval_seconds
    return True


def _without_credentials(connection: Connection, now: datetime) -> Connection:
    """Correct a record that claims a session where nothing is saved."""
    claims = connection.status in (Status.CONNECTED, Status.CONNECTING, Status.AWAITING_SCAN)
    if claims and connection.retry_at is None:
        return become(connection, Reason.CREDENTIALS_MISSING, last_disconnected_at=now)
    return connection


def on_startup(
    connection: Connection, event: ev.StartupFound, now: datetime, limits: PolicyLimits
) -> Decision:
    """Restore unless people, a ban or a logout forbid it; finish a logout that was cut short."""
    if connection.client is not ClientPhase.NONE:
        return Decision(connection=connection)
    if connection.intent is Intent.SECOND_CHANCE:
        return second_chance(connection, now, limits)
    if connection.intent in UNLINKING:
        return begin_unlink(connection, now, limits, has_credentials=True)
    unknown = connection.reason is Reason.NEVER_CONNECTED
    stopped = connection.desired_state is DesiredState.STOP and not unknown
    banned = connection.status is Status.BANNED and (
        connection.retry_at is None or connection.retry_at > now
    )
    if stopped or banned or connection.status is Status.LOGGED_OUT:
        return Decision(connection=connection)
    return start_restore(connection, now, limits, restore_attempts=0)


_CLAIMS = (Status.CONNECTED, Status.CONNECTING, Status.AWAITING_SCAN)


def is_unfounded(connection: Connection, now: datetime) -> bool:
    """Tell whether it claims a client, or one to come, and there is none."""
    if connection.client is not ClientPhase.NONE or connection.intent is not Intent.NONE:
        return False
    waits = (connection.retry_at, connection.status_deadline_at)
    return connection.status in _CLAIMS and not any(until and until > now for until in waits)


def on_loaded(
    connection: Connection, event: ev.RecordLoaded, now: datetime, limits: PolicyLimits
) -> Decision:
    """Correct what a record claims of a client that this process does not have."""
    if connection.client is not ClientPhase.NONE or connection.status not in _CLAIMS:
        return Decision(connection=connection)
    pairing = connection.reason in (Reason.PAIRING, Reason.PREPARING_PAIRING)
    if pairing or connection.status is Status.AWAITING_SCAN:
        return Decision(connection=become(connection, Reason.PAIRING_EXPIRED))
    if not event.has_credentials:
        return Decision(connection=become(connection, Reason.CREDENTIALS_MISSING))
    if connection.desired_state is DesiredState.STOP:
        return Decision(connection=become(connection, Reason.STOPPED))
    waiting = become(
        connection,
        Reason.RESTORING,
        status=Status.DISCONNECTED,
        user_action=UserAction.RETRY,
        detail="waiting for the next status poll",
    )
    return Decision(connection=waiting)


def on_restore(
    connection: Connection, event: ev.RestoreRequested, now: datetime, limits: PolicyLimits
) -> Decision:
    """Start now and forget the backoff; a ban is still waited for."""
    if connection.intent in UNLINKING:
        return Decision(connection=connection)
    wanted = replace(
        connection, desired_state=DesiredState.RUN, unreachable_attempts=0, replaced_retries=0
    )
    banned = wanted.status is Status.BANNED
    if banned and wanted.retry_at is not None and wanted.retry_at > now:
        return Decision(connection=wanted)
    match wanted.client:
        case ClientPhase.NONE if event.has_credentials:
            return start_restore(wanted, now, limits, restore_attempts=0)
        case ClientPhase.LIVE if wanted.status is not Status.CONNECTED:
            return stop_client(become(wanted, Reason.RESTORING))
        case ClientPhase.STOPPING:
            return Decision(connection=become(wanted, Reason.RESTORING, restore_attempts=0))
        case _:
            return Decision(connection=wanted)


def on_desired_state(
    connection: Connection, event: ev.DesiredStateChanged, now: datetime, limits: PolicyLimits
) -> Decision:
    """Follow what somebody wrote into the table."""
    if connection.desired_state is event.desired_state:
        return Decision(connection=connection)
    if event.desired_state is DesiredState.STOP:
        return stop_for_good(connection, now)
    wanted = replace(connection, desired_state=DesiredState.RUN)
    blocked = wanted.status in (Status.LOGGED_OUT, Status.BANNED)
    if wanted.client is ClientPhase.NONE and event.has_credentials and not blocked:
        return start_restore(wanted, now, limits, restore_attempts=0)
    if wanted.client is ClientPhase.STOPPING and not blocked:
        return Decision(connection=become(wanted, Reason.RESTORING))
    return Decision(connection=wanted)

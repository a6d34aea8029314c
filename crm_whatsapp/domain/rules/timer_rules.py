"""Rules for what becomes due."""

from dataclasses import replace
from datetime import datetime

from crm_whatsapp.domain import events as ev
from crm_whatsapp.domain.connection import (
    ClientPhase,
    Connection,
    DesiredState,
    Intent,
    Reason,
    Status,
)
from crm_whatsapp.domain.decisions import (
    Decision,
    PolicyLimits,
    after,
    become,
    start_restore,
    stop_client,
)
from crm_whatsapp.domain.rules.refusal_rules import unreachable
from crm_whatsapp.domain.rules.restore_rules import on_loaded
from crm_whatsapp.domain.rules.unlink_rules import finish_unlink


def is_due(connection: Connection, now: datetime) -> bool:
    """Tell whether `on_timer` would have something to do."""
    retry = connection.retry_at is not None and connection.retry_at <= now
    if retry and connection.client is ClientPhase.NONE:
        return connection.desired_state is DesiredState.RUN
    deadline = connection.status_deadline_at
    if connection.client is ClientPhase.STOPPING:
        return False
    if deadline is not None and deadline <= now:
        return True
    expiry = connection.qr_expires_at
    return expiry is not None and expiry <= now and connection.status is Status.AWAITING_SCAN


def on_timer(
    connection: Connection, event: ev.TimerDue, now: datetime, limits: PolicyLimits
) -> Decision:
    """Retry what may be retried; end what has taken too long."""
    if not is_due(connection, now):
        return Decision(connection=connection)
    if connection.client is ClientPhase.NONE and connection.retry_at is not None:
        if not event.has_credentials:
            return Decision(connection=become(connection, Reason.CREDENTIALS_MISSING))
        return start_restore(connection, now, limits)
    deadline = connection.status_deadline_at
    if deadline is not None and deadline <= now:
        return _deadline_passed(connection, event, now, limits)
    return Decision(connection=_between_codes(connection))


def _between_codes(connection: Connection) -> Connection:
    """The shown code has expired and the next one has not come yet."""
    return become(
        connection,
        Reason.PREPARING_PAIRING,
        status_deadline_at=connection.status_deadline_at,
    )


def _deadline_passed(
    connection: Connection, event: ev.TimerDue, now: datetime, limits: PolicyLimits
) -> Decision:
    if connection.intent in (Intent.LOGOUT, Intent.DELETE):
        if connection.client is ClientPhase.NONE:
            return finish_unlink(connection, now)
        return stop_client(connection)
    match connection.client:
        case ClientPhase.PAIRING if connection.jid is None:
            return stop_client(become(connection, Reason.PAIRING_EXPIRED))
        case ClientPhase.PAIRING:
            return stop_client(become(connection, Reason.RESTORING))
        case ClientPhase.HANDOVER:
            return stop_client(become(connection, Reason.RESTORING, last_disconnected_at=now))
        case ClientPhase.RESUMING:
            slow = become(
                connection,
                Reason.RESTORING,
                client=ClientPhase.STARTING,
                status_deadline_at=after(now, limits.restore_timeout_seconds),
                last_disconnected_at=now,
                connected_since=None,
            )
            return Decision(connection=slow)
        case ClientPhase.STARTING | ClientPhase.LIVE:
            return stop_client(unreachable(connection, now, limits))
        case _:  # a record of an earlier process, or of another one, that nobody has judged yet
            undated = replace(connection, status_deadline_at=None)
            loaded = ev.RecordLoaded(has_credentials=event.has_credentials)
            return on_loaded(undated, loaded, now, limits)

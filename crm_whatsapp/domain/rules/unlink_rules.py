"""Rules for a logout: ask WhatsApp first, remove the files last, and never be stopped half-way."""

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
)
from crm_whatsapp.domain.decisions import (
    Decision,
    ForgetCompany,
    PolicyLimits,
    RemoveFiles,
    SendLogout,
    TombstoneSnapshots,
    after,
    become,
    start_restore,
    stop_client,
)

_STILL_LISTED = "WhatsApp did not confirm: the device may still be listed on the phone"


def on_logout(
    connection: Connection, event: ev.LogoutRequested, now: datetime, limits: PolicyLimits
) -> Decision:
    """Unlink at WhatsApp, then remove what is saved."""
    if connection.intent in (Intent.LOGOUT, Intent.DELETE):
        return Decision(connection=connection)
    wanted = replace(connection, intent=Intent.LOGOUT, desired_state=DesiredState.STOP)
    return begin_unlink(wanted, now, limits, has_credentials=event.has_credentials)


def on_delete(
    connection: Connection, event: ev.DeleteRequested, now: datetime, limits: PolicyLimits
) -> Decision:
    """Log out, best effort, and forget."""
    wanted = replace(connection, intent=Intent.DELETE, desired_state=DesiredState.STOP)
    if connection.intent is Intent.LOGOUT:
        return Decision(connection=wanted)
    return begin_unlink(wanted, now, limits, has_credentials=event.has_credentials)


def begin_unlink(
    connection: Connection, now: datetime, limits: PolicyLimits, *, has_credentials: bool
) -> Decision:
    """Log out through the live client; without one, start it once for that purpose."""
    deadline = after(now, limits.logout_timeout_seconds)
    unlinking = become(connection, Reason.LOGGING_OUT, status_deadline_at=deadline)
    match connection.client:
        case ClientPhase.LIVE if connection.is_connected:
            effect = SendLogout(generation=connection.generation)
            return Decision(connection=unlinking, effects=(effect,))
        case ClientPhase.PAIRING:
            return stop_client(unlinking)
        case ClientPhase.NONE if has_credentials and _may_log_in(connection, now):
            started = start_restore(unlinking, now, limits)
            return Decision(
                connection=become(
                    replace(started.connection, desired_state=DesiredState.STOP),
                    Reason.LOGGING_OUT,
                    status_deadline_at=deadline,
                ),
                effects=started.effects,
            )
        case ClientPhase.NONE:
            return finish_unlink(unlinking, now)
        case ClientPhase.STOPPING:  # for another reason: what is saved is unlinked after it
            waits = has_credentials and _may_log_in(connection, now)
            return Decision(connection=replace(unlinking, unlink_waits=waits))
        case _:
            return Decision(connection=unlinking)


def unlink_after_stop(connection: Connection, now: datetime, limits: PolicyLimits) -> Decision:
    """The client is gone: start one to unlink if that has not been tried, or finish."""
    if not connection.unlink_waits:
        return finish_unlink(connection, now)
    next_step = replace(connection, unlink_waits=False)
    return begin_unlink(next_step, now, limits, has_credentials=True)


def _may_log_in(connection: Connection, now: datetime) -> bool:
    if connection.status is Status.BANNED:
        return connection.retry_at is not None and connection.retry_at <= now
    return connection.status is not Status.LOGGED_OUT


def finish_unlink(connection: Connection, now: datetime) -> Decision:
    """Remove what is saved; there is no client any more."""
    detail = None if connection.unlink_confirmed or connection.jid is None else _STILL_LISTED
    done = become(
        replace(
            connection,
            client=ClientPhase.NONE,
            intent=Intent.NONE,
            connected_since=None,
            unlink_confirmed=False,
            unlink_waits=False,
        ),
        Reason.LOGGED_OUT_BY_USER,
        detail=detail,
        last_disconnected_at=now,
        engine_crashes=0,
        restore_attempts=0,
    )
    if connection.intent is Intent.DELETE:
        return Decision(connection=done, effects=(RemoveFiles(), ForgetCompany()))
    return Decision(connection=done, effects=(RemoveFiles(), TombstoneSnapshots()))


def on_logout_answered(
    connection: Connection, event: ev.LogoutAnswered, now: datetime, limits: PolicyLimits
) -> Decision:
    """The unlink request is done with; stop the client and remove the files."""
    if connection.intent not in UNLINKING:
        return Decision(connection=connection)
    return stop_client(replace(connection, unlink_confirmed=event.succeeded))

"""Rules for connecting and disconnecting, and for the end of the service."""

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
    QuarantineFiles,
    become,
    start_pairing,
    start_restore,
    stop_client,
)


def on_connect(
    connection: Connection, event: ev.ConnectRequested, now: datetime, limits: PolicyLimits
) -> Decision:
    """Restore what is saved, or pair; the same request twice changes nothing."""
    wanted = replace(
        connection,
        desired_state=DesiredState.RUN,
        user_id=event.user_id or connection.user_id,
    )
    if wanted.intent in (Intent.LOGOUT, Intent.DELETE):
        return Decision(connection=connection)
    foreign = wanted.reason is Reason.STORE_FOREIGN
    # The files of a logged out session go once its client has stopped.
    ended = wanted.status is Status.LOGGED_OUT and wanted.client is ClientPhase.STOPPING
    pair_anew = event.fresh or foreign or ended or not event.has_credentials
    match wanted.client:
        case ClientPhase.PAIRING:
            return Decision(connection=wanted)
        case ClientPhase.NONE:
            return _connect_from_rest(wanted, event, now, limits, pair_anew=pair_anew)
        case ClientPhase.STOPPING if pair_anew:
            return Decision(connection=_pair_next(wanted, event))
        case ClientPhase.STOPPING if _is_banned(wanted, now):
            return Decision(connection=wanted)
        case ClientPhase.STOPPING:
            return Decision(connection=become(wanted, Reason.RESTORING))
        case _ if event.fresh:
            return stop_client(_pair_next(wanted, event))
        case _:
            return Decision(connection=wanted)


def _pair_next(connection: Connection, event: ev.ConnectRequested) -> Connection:
    return become(
        connection,
        Reason.PREPARING_PAIRING,
        intent=Intent.PAIR,
        pairing_method=event.method,
        pairing_phone=event.phone_number,
    )


def _is_banned(connection: Connection, now: datetime) -> bool:
    until = connection.retry_at
    return connection.status is Status.BANNED and until is not None and until > now


def _connect_from_rest(
    connection: Connection,
    event: ev.ConnectRequested,
    now: datetime,
    limits: PolicyLimits,
    *,
    pair_anew: bool,
) -> Decision:
    if _is_banned(connection, now) and not event.fresh:
        return Decision(connection=connection)
    if not pair_anew:
        cleared = replace(connection, unreachable_attempts=0, replaced_retries=0)
        return start_restore(cleared, now, limits, restore_attempts=0)
    decision = start_pairing(connection, now, limits, event.method, event.phone_number)
    aside = (QuarantineFiles(why="fresh"),) if event.fresh else ()
    return Decision(connection=decision.connection, effects=(*aside, *decision.effects))


def on_disconnect(
    connection: Connection, event: ev.DisconnectRequested, now: datetime, limits: PolicyLimits
) -> Decision:
    """Stop the client and remember that it shall stay stopped."""
    if connection.intent in (Intent.LOGOUT, Intent.DELETE):
        return Decision(connection=connection)
    decision = stop_for_good(connection, now)
    unheard_of = decision.connection.reason is Reason.NEVER_CONNECTED
    if unheard_of and connection.client is ClientPhase.NONE and event.has_credentials:
        # A saved session that nothing is recorded of: the wish must be, or a poll restores it.
        return Decision(connection=become(decision.connection, Reason.STOPPED))
    return decision


def stop_for_good(connection: Connection, now: datetime) -> Decision:
    """Stop; a ban or a logout stays what it is."""
    wanted = replace(connection, desired_state=DesiredState.STOP, intent=Intent.NONE)
    if wanted.status in (Status.LOGGED_OUT, Status.BANNED) or (
        wanted.client is ClientPhase.NONE and wanted.reason is Reason.NEVER_CONNECTED
    ):
        return Decision(connection=wanted)
    linked = wanted.client is not ClientPhase.PAIRING or wanted.jid is not None
    stopped = become(
        wanted,
        Reason.STOPPED if linked else Reason.NEVER_CONNECTED,
        last_disconnected_at=now if wanted.is_connected else wanted.last_disconnected_at,
    )
    return stop_client(stopped)


def on_service_stopping(
    connection: Connection, event: ev.ServiceStopping, now: datetime, limits: PolicyLimits
) -> Decision:
    """Tell the truth about the time until the next start; nobody's wish is changed by it."""
    if connection.client in (ClientPhase.NONE, ClientPhase.STOPPING):
        return Decision(connection=connection)
    unpaired = connection.client is ClientPhase.PAIRING and connection.jid is None
    reason = Reason.PAIRING_EXPIRED if unpaired else Reason.SERVICE_STOPPED
    stopping = become(
        connection,
        reason,
        client=ClientPhase.STOPPING,
        connected_since=None,
        last_disconnected_at=now if connection.is_connected else connection.last_disconnected_at,
    )
    return Decision(connection=stopping)

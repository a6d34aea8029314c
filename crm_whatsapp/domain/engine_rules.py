"""Rules for what the engines report of a client."""

from dataclasses import replace
from datetime import datetime
from typing import Any

from crm_whatsapp.domain import events as ev
from crm_whatsapp.domain.connection import (
    ClientPhase,
    Connection,
    DesiredState,
    Intent,
    PairingMethod,
    Reason,
    Status,
    UserAction,
)
from crm_whatsapp.domain.decisions import (
    Decision,
    Effect,
    PolicyLimits,
    ProbeClient,
    QuarantineFiles,
    RaiseAlert,
    RemoveCredentials,
    RemoveFiles,
    SendLogout,
    StartClient,
    WriteCredentials,
    after,
    backoff_seconds,
    become,
    settled,
    start_pairing,
    start_restore,
    stop_effect,
)
from crm_whatsapp.domain.jids import phone_number_of
from crm_whatsapp.domain.request_rules import finish_unlink, stop_client

_UNLINKING = (Intent.LOGOUT, Intent.DELETE)


def on_connected(
    connection: Connection, event: ev.ClientConnected, now: datetime, limits: PolicyLimits
) -> Decision:
    """Login is proven. A paired client moves on to a shard engine without leaving `connected`."""
    if connection.client in (ClientPhase.STOPPING, ClientPhase.HANDOVER):
        return Decision(connection=connection)
    if connection.intent in _UNLINKING:
        unlinking = replace(connection, client=ClientPhase.LIVE)
        effect = SendLogout(generation=connection.generation)
        return Decision(connection=unlinking, effects=(effect,))
    paired = connection.client is ClientPhase.PAIRING
    jid = event.jid or connection.jid
    online = become(
        connection,
        Reason.ONLINE,
        client=ClientPhase.HANDOVER if paired else ClientPhase.LIVE,
        status_deadline_at=after(now, limits.handover_timeout_seconds) if paired else None,
        jid=jid,
        lid=event.lid or connection.lid,
        phone_number=phone_number_of(jid) if jid else None,
        push_name=event.push_name or connection.push_name,
        connected_since=now,
        last_connected_at=now,
        last_event_at=now,
        pairing_method=None,
        pairing_phone=None,
    )
    effects: tuple[Effect, ...] = (WriteCredentials(),)
    if paired:
        effects = (*effects, stop_effect(connection))
    return Decision(connection=online, effects=effects)


def on_disconnected(
    connection: Connection, event: ev.ClientDisconnected, now: datetime, limits: PolicyLimits
) -> Decision:
    """Whatsmeow reconnects by itself; the deadline rebuilds what does not come back."""
    if connection.client is not ClientPhase.LIVE or not connection.is_connected:
        return Decision(connection=connection)
    if connection.intent in _UNLINKING:
        return Decision(connection=connection)
    lost = become(
        settled(connection, now, limits),
        Reason.NETWORK_LOST,
        status_deadline_at=after(now, limits.reconnect_timeout_seconds),
        last_disconnected_at=now,
        last_event_at=now,
        connected_since=None,
    )
    return Decision(connection=lost)


def on_keepalive_timeout(
    connection: Connection, event: ev.KeepAliveTimedOut, now: datetime, limits: PolicyLimits
) -> Decision:
    """Doubt the link and ask WhatsApp for a round trip."""
    if connection.client is not ClientPhase.LIVE or not connection.is_connected:
        return Decision(connection=connection)
    doubted = replace(connection, degraded=True, last_event_at=now)
    return Decision(connection=doubted, effects=(ProbeClient(generation=connection.generation),))


def on_alive(
    connection: Connection,
    event: ev.KeepAliveRestored | ev.ProbeAnswered,
    now: datetime,
    limits: PolicyLimits,
) -> Decision:
    """Any answer of WhatsApp ends the doubt."""
    if not connection.degraded:
        return Decision(connection=connection)
    return Decision(connection=replace(connection, degraded=False, last_event_at=now))


def on_deaf(
    connection: Connection,
    event: ev.ProbeFailed | ev.SendShowedDeadSession,
    now: datetime,
    limits: PolicyLimits,
) -> Decision:
    """Connected but deaf: rebuild the client."""
    if connection.client is not ClientPhase.LIVE or not connection.is_connected:
        return Decision(connection=connection)
    if connection.intent in _UNLINKING:
        return Decision(connection=connection)
    return rebuild(connection, now, limits, Reason.NETWORK_LOST)


def rebuild(
    connection: Connection, now: datetime, limits: PolicyLimits, reason: Reason
) -> Decision:
    """Stop the client; a new one starts when it is gone."""
    lost = become(
        settled(connection, now, limits),
        reason,
        last_disconnected_at=now if connection.is_connected else connection.last_disconnected_at,
        last_event_at=now,
        connected_since=None,
    )
    return stop_client(lost)


def on_replaced(
    connection: Connection, event: ev.StreamReplaced, now: datetime, limits: PolicyLimits
) -> Decision:
    """Yield to the other connection; try once more later, then leave it to a person."""
    if connection.intent in _UNLINKING:
        return stop_client(connection)
    calm = settled(connection, now, limits)
    first = calm.replaced_retries == 0
    yielded = become(
        calm,
        Reason.STREAM_REPLACED,
        user_action=UserAction.WAIT if first else UserAction.RETRY,
        retry_at=after(now, limits.replaced_retry_seconds) if first else None,
        replaced_retries=calm.replaced_retries + 1,
        last_disconnected_at=now,
        last_event_at=now,
        connected_since=None,
    )
    decision = stop_client(yielded)
    if first:
        return decision
    alert = RaiseAlert(kind=Reason.STREAM_REPLACED)
    return Decision(connection=decision.connection, effects=(*decision.effects, alert))


def on_logged_out(
    connection: Connection, event: ev.LoggedOut, now: datetime, limits: PolicyLimits
) -> Decision:
    """The device row is gone: final, until somebody pairs again."""
    if connection.intent in _UNLINKING:
        return stop_client(replace(connection, unlink_confirmed=True))
    reason = Reason.LOGGED_OUT_BY_SERVER if event.on_connect else Reason.PHONE_UNLINKED
    ended = become(
        connection,
        reason,
        last_disconnected_at=now,
        last_event_at=now,
        connected_since=None,
        restore_attempts=0,
    )
    decision = stop_client(ended)
    effects = (RemoveCredentials(), *decision.effects, RaiseAlert(kind=reason))
    return Decision(connection=decision.connection, effects=effects)


def on_banned(
    connection: Connection, event: ev.TemporarilyBanned, now: datetime, limits: PolicyLimits
) -> Decision:
    """Keep the credentials and make no attempt before the ban ends."""
    if connection.intent in _UNLINKING:
        return stop_client(connection)
    seconds = event.expires_in_seconds
    if seconds is None or seconds <= 0:
        seconds = limits.default_ban_seconds
    banned = become(
        connection,
        Reason.TEMPORARY_BAN,
        retry_at=after(now, seconds),
        last_disconnected_at=now,
        last_event_at=now,
        connected_since=None,
    )
    return _stop_and_alert(banned)


def on_outdated(
    connection: Connection, event: ev.ClientOutdated, now: datetime, limits: PolicyLimits
) -> Decision:
    """Only a newer release helps."""
    if connection.intent in _UNLINKING:
        return stop_client(connection)
    return _stop_and_alert(
        become(connection, Reason.CLIENT_OUTDATED, failed_at=now, last_event_at=now)
    )


def _stop_and_alert(connection: Connection) -> Decision:
    decision = stop_client(connection)
    alert = RaiseAlert(kind=connection.reason)
    return Decision(connection=decision.connection, effects=(*decision.effects, alert))


def on_connect_failed(
    connection: Connection, event: ev.ConnectFailed, now: datetime, limits: PolicyLimits
) -> Decision:
    """A refusal that may pass: spend one of the retries."""
    if connection.intent in _UNLINKING:
        return stop_client(connection)
    if connection.client is ClientPhase.PAIRING and connection.jid is None:
        return stop_client(become(connection, Reason.PAIRING_FAILED, detail=event.detail))
    detail = f"WhatsApp answered {event.code}"
    return stop_client(_spend_retry(connection, now, limits, Reason.CONNECT_FAILURE, detail))


def _spend_retry(
    connection: Connection, now: datetime, limits: PolicyLimits, reason: Reason, detail: str
) -> Connection:
    """Wait for the next attempt, or fail when the budget is spent."""
    calm = settled(connection, now, limits)
    attempts = calm.restore_attempts + 1
    common: dict[str, Any] = {
        "restore_attempts": attempts,
        "last_event_at": now,
        "last_disconnected_at": now if connection.is_connected else calm.last_disconnected_at,
        "connected_since": None,
    }
    if attempts > limits.max_retries:
        return become(calm, reason, detail=detail, failed_at=now, **common)
    wait = backoff_seconds(
        calm.company_id,
        attempts,
        base_seconds=limits.retry_delay_seconds,
        cap_seconds=limits.backoff_cap_seconds,
    )
    return become(
        calm,
        reason,
        status=Status.CONNECTING,
        user_action=UserAction.WAIT,
        detail=f"{detail}; attempt {attempts} of {limits.max_retries + 1}",
        retry_at=after(now, wait),
        **common,
    )


def unreachable(connection: Connection, now: datetime, limits: PolicyLimits) -> Connection:
    """Back off without spending the budget: WhatsApp did not answer at all."""
    calm = settled(connection, now, limits)
    attempts = calm.unreachable_attempts + 1
    wait = backoff_seconds(
        calm.company_id,
        attempts,
        base_seconds=limits.retry_delay_seconds,
        cap_seconds=limits.backoff_cap_seconds,
    )
    return become(
        calm,
        Reason.WHATSAPP_UNREACHABLE,
        unreachable_attempts=attempts,
        retry_at=after(now, wait),
        last_event_at=now,
        last_disconnected_at=now if connection.is_connected else calm.last_disconnected_at,
        connected_since=None,
    )


def on_ended(
    connection: Connection, event: ev.ClientEnded, now: datetime, limits: PolicyLimits
) -> Decision:
    """connect() returned or raised: the client is gone without having been asked to go."""
    asked = connection.client in (ClientPhase.STOPPING, ClientPhase.HANDOVER)
    if asked or connection.intent in _UNLINKING:
        return after_stop(connection, now, limits)
    if connection.client is ClientPhase.PAIRING and connection.jid is None:
        reason = Reason.WHATSAPP_UNREACHABLE if event.unreachable else Reason.PAIRING_FAILED
        failed = become(
            connection,
            reason,
            status=Status.DISCONNECTED,
            user_action=UserAction.CONNECT,
            detail=None if event.unreachable else event.detail,
        )
        return Decision(connection=replace(failed, client=ClientPhase.NONE))
    if event.store_corrupt:
        corrupt = become(connection, Reason.STORE_CORRUPT, failed_at=now, last_disconnected_at=now)
        alert = RaiseAlert(kind=Reason.STORE_CORRUPT)
        return Decision(connection=replace(corrupt, client=ClientPhase.NONE), effects=(alert,))
    if event.locked:
        held = become(
            connection,
            Reason.HELD_ELSEWHERE,
            retry_at=after(now, limits.retry_delay_seconds),
            last_event_at=now,
        )
        return Decision(connection=replace(held, client=ClientPhase.NONE))
    if event.unreachable:
        waiting = unreachable(connection, now, limits)
    else:
        waiting = _spend_retry(connection, now, limits, Reason.CONNECT_FAILURE, event.detail)
    return Decision(connection=replace(waiting, client=ClientPhase.NONE))


def on_stopped(
    connection: Connection, event: ev.ClientStopped, now: datetime, limits: PolicyLimits
) -> Decision:
    """The client went as asked."""
    return after_stop(connection, now, limits)


def after_stop(connection: Connection, now: datetime, limits: PolicyLimits) -> Decision:
    """Do what was waiting for the client to be gone."""
    if connection.client is ClientPhase.HANDOVER:
        return _start_again(connection)
    gone = replace(connection, client=ClientPhase.NONE)
    if gone.intent in _UNLINKING:
        return finish_unlink(gone, now)
    if gone.intent is Intent.PAIR:
        decision = start_pairing(
            replace(gone, intent=Intent.NONE),
            now,
            limits,
            gone.pairing_method or PairingMethod.QR,
            gone.pairing_phone,
        )
        effects = (QuarantineFiles(why="fresh"), *decision.effects)
        return Decision(connection=decision.connection, effects=effects)
    if gone.status is Status.LOGGED_OUT:
        return Decision(connection=gone, effects=(RemoveFiles(),))
    waits = gone.retry_at is not None and gone.retry_at > now
    wanted = gone.desired_state is DesiredState.RUN and gone.status is Status.CONNECTING
    if wanted and not waits:
        return start_restore(gone, now, limits)
    return Decision(connection=gone)


def _start_again(connection: Connection) -> Decision:
    """Start the next generation of a session that moves between engines; status stays."""
    generation = connection.generation + 1
    moved = replace(connection, client=ClientPhase.RESUMING, generation=generation)
    return Decision(connection=moved, effects=(StartClient(generation=generation, isolated=False),))


def on_engine_died(
    connection: Connection, event: ev.EngineDied, now: datetime, limits: PolicyLimits
) -> Decision:
    """Bring the session back at once; a suspect alone, and only once."""
    if connection.client in (ClientPhase.STOPPING, ClientPhase.HANDOVER):
        return after_stop(connection, now, limits)
    if connection.client is ClientPhase.PAIRING and connection.jid is None:
        failed = become(connection, Reason.PAIRING_FAILED, detail="the engine ended")
        return Decision(connection=replace(failed, client=ClientPhase.NONE))
    calm = settled(connection, now, limits)
    crashes = calm.engine_crashes + (1 if event.suspect else 0)
    counted = replace(calm, engine_crashes=crashes, client=ClientPhase.NONE, last_event_at=now)
    if connection.intent in _UNLINKING:
        return finish_unlink(counted, now)
    if crashes >= 2:
        failed = become(counted, Reason.ENGINE_CRASH, failed_at=now, last_disconnected_at=now)
        alert = RaiseAlert(kind=Reason.ENGINE_CRASH)
        return Decision(connection=failed, effects=(alert,))
    lost_at = now if connection.is_connected else connection.last_disconnected_at
    return start_restore(counted, now, limits, last_disconnected_at=lost_at)


def on_handover(
    connection: Connection, event: ev.HandoverRequested, now: datetime, limits: PolicyLimits
) -> Decision:
    """Move to a fresh engine without leaving the status."""
    if connection.client is not ClientPhase.LIVE or connection.intent in _UNLINKING:
        return Decision(connection=connection)
    if not connection.is_connected:
        return rebuild(connection, now, limits, connection.reason)
    moving = replace(
        connection,
        client=ClientPhase.HANDOVER,
        status_deadline_at=after(now, limits.handover_timeout_seconds),
    )
    return Decision(connection=moving, effects=(stop_effect(connection),))


def on_logout_answered(
    connection: Connection, event: ev.LogoutAnswered, now: datetime, limits: PolicyLimits
) -> Decision:
    """The unlink request is done with; stop the client and remove the files."""
    if connection.intent not in _UNLINKING:
        return Decision(connection=connection)
    return stop_client(replace(connection, unlink_confirmed=event.succeeded))

"""Rules for the link of a client: up, down, doubtful, and moved to another engine."""

from dataclasses import replace
from datetime import datetime

from crm_whatsapp.domain import events as ev
from crm_whatsapp.domain.connection import (
    UNLINKING,
    ClientPhase,
    Connection,
    Reason,
)
from crm_whatsapp.domain.decisions import (
    Decision,
    Effect,
    PolicyLimits,
    ProbeClient,
    SendLogout,
    StopClient,
    WriteCredentials,
    after,
    become,
    settled,
    stop_client,
)
from crm_whatsapp.domain.jids import phone_number_of


def on_starting(
    connection: Connection, event: ev.ClientStarting, now: datetime, limits: PolicyLimits
) -> Decision:
    """The wait for an engine is over: the time of the start itself runs from now."""
    if connection.client is not ClientPhase.STARTING or connection.intent in UNLINKING:
        return Decision(connection=connection)
    deadline = after(now, limits.restore_timeout_seconds)
    return Decision(connection=replace(connection, status_deadline_at=deadline))


def on_connected(
    connection: Connection, event: ev.ClientConnected, now: datetime, limits: PolicyLimits
) -> Decision:
    """Login is proven. A paired client moves on to a shard engine without leaving `connected`."""
    if connection.client in (ClientPhase.STOPPING, ClientPhase.HANDOVER):
        return Decision(connection=connection)
    if connection.intent in UNLINKING:
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
        effects = (*effects, StopClient(generation=connection.generation))
    return Decision(connection=online, effects=effects)


def on_disconnected(
    connection: Connection, event: ev.ClientDisconnected, now: datetime, limits: PolicyLimits
) -> Decision:
    """Whatsmeow reconnects by itself; the deadline rebuilds what does not come back."""
    if connection.client is not ClientPhase.LIVE or not connection.is_connected:
        return Decision(connection=connection)
    if connection.intent in UNLINKING:
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
    if connection.intent in UNLINKING:
        return Decision(connection=connection)
    return rebuild(connection, now, limits, Reason.NETWORK_LOST)


def on_store_damage(
    connection: Connection, event: ev.StoreDamageFound, now: datetime, limits: PolicyLimits
) -> Decision:
    """Start anew before the client writes flipped bits back; the start replaces the store."""
    if connection.client is not ClientPhase.LIVE or not connection.is_connected:
        return Decision(connection=connection)
    if connection.intent in UNLINKING:
        return Decision(connection=connection)
    return rebuild(connection, now, limits, Reason.RESTORING)


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


def on_handover(
    connection: Connection, event: ev.HandoverRequested, now: datetime, limits: PolicyLimits
) -> Decision:
    """Move to a fresh engine without leaving the status."""
    if connection.client is not ClientPhase.LIVE or connection.intent in UNLINKING:
        return Decision(connection=connection)
    if not connection.is_connected:
        return rebuild(connection, now, limits, connection.reason)
    moving = replace(
        connection,
        client=ClientPhase.HANDOVER,
        status_deadline_at=after(now, limits.handover_timeout_seconds),
    )
    return Decision(connection=moving, effects=(StopClient(generation=connection.generation),))

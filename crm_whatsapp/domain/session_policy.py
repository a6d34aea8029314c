"""The session policy: the only place that changes a status.

`decide` is pure: the same connection, event and time give the same decision. What follows from
it (a start, a stop, a file) is described by effects and carried out by the runtime.
"""

from collections.abc import Callable
from dataclasses import fields, replace
from datetime import datetime
from typing import Any

from crm_whatsapp.domain import events
from crm_whatsapp.domain.connection import LOCAL_FIELDS, Connection
from crm_whatsapp.domain.decisions import Decision, PolicyLimits
from crm_whatsapp.domain.rules import (
    ending_rules,
    link_rules,
    obstacle_rules,
    pairing_rules,
    refusal_rules,
    request_rules,
    restore_rules,
    timer_rules,
    unlink_rules,
)

_Rule = Callable[[Connection, Any, datetime, PolicyLimits], Decision]

_RULES: dict[type[events.Event], _Rule] = {
    events.PollArrived: restore_rules.on_poll,
    events.StartupFound: restore_rules.on_startup,
    events.RecordLoaded: restore_rules.on_loaded,
    events.ConnectRequested: request_rules.on_connect,
    events.RestoreRequested: restore_rules.on_restore,
    events.DisconnectRequested: request_rules.on_disconnect,
    events.LogoutRequested: unlink_rules.on_logout,
    events.DeleteRequested: unlink_rules.on_delete,
    events.ServiceStopping: request_rules.on_service_stopping,
    events.DesiredStateChanged: restore_rules.on_desired_state,
    events.LeaseDenied: obstacle_rules.on_lease_denied,
    events.LeaseLost: obstacle_rules.on_lease_lost,
    events.StorageFailed: obstacle_rules.on_storage_failed,
    events.StoreDamageFound: link_rules.on_store_damage,
    events.TimerDue: timer_rules.on_timer,
    events.QrIssued: pairing_rules.on_code_issued,
    events.PairingCodeIssued: pairing_rules.on_code_issued,
    events.PairingSucceeded: pairing_rules.on_pairing_succeeded,
    events.PairingFailed: pairing_rules.on_pairing_ended,
    events.PairingExpired: pairing_rules.on_pairing_ended,
    events.ClientStarting: link_rules.on_starting,
    events.ClientConnected: link_rules.on_connected,
    events.ClientDisconnected: link_rules.on_disconnected,
    events.KeepAliveTimedOut: link_rules.on_keepalive_timeout,
    events.KeepAliveRestored: link_rules.on_alive,
    events.ProbeAnswered: link_rules.on_alive,
    events.ProbeFailed: link_rules.on_deaf,
    events.SendShowedDeadSession: link_rules.on_deaf,
    events.StreamReplaced: refusal_rules.on_replaced,
    events.LoggedOut: refusal_rules.on_logged_out,
    events.TemporarilyBanned: refusal_rules.on_banned,
    events.ClientOutdated: refusal_rules.on_outdated,
    events.ConnectFailed: refusal_rules.on_connect_failed,
    events.ClientEnded: ending_rules.on_ended,
    events.ClientStopped: ending_rules.on_stopped,
    events.EngineDied: ending_rules.on_engine_died,
    events.HandoverRequested: link_rules.on_handover,
    events.LogoutAnswered: unlink_rules.on_logout_answered,
}

_STORED_FIELDS = tuple(
    item.name
    for item in fields(Connection)
    if item.name not in LOCAL_FIELDS | {"version", "status_deadline_at"}
)


def decide(
    connection: Connection, event: events.Event, now: datetime, limits: PolicyLimits
) -> Decision:
    """Answer one event.

    Args:
        now: aware UTC.
    Returns:
        The new connection and what has to be done. An event of an older generation, or one that
        nothing follows from, returns the connection unchanged.
    """
    if isinstance(event, events.EngineEvent) and event.generation != connection.generation:
        return Decision(connection=connection)
    rule = _RULES.get(type(event))
    if rule is None:
        return Decision(connection=connection)
    decision = rule(connection, event, now, limits)
    if not is_recorded_change(connection, decision.connection):
        return decision
    version = max(connection.version + 1, int(now.timestamp() * 1_000_000))
    return replace(decision, connection=replace(decision.connection, version=version))


def is_recorded_change(before: Connection, after: Connection) -> bool:
    """Tell whether anything differs that the journal and the database keep."""
    return any(getattr(before, name) != getattr(after, name) for name in _STORED_FIELDS)

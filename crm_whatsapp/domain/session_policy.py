"""The session policy: the only place that changes a status.

`decide` is pure: the same connection, event and time give the same decision. What follows from
it (a start, a stop, a file) is described by effects and carried out by the runtime.
"""

from collections.abc import Callable
from dataclasses import fields, replace
from datetime import datetime
from typing import Any

from crm_whatsapp.domain import engine_rules, events, pairing_rules, request_rules, timer_rules
from crm_whatsapp.domain.connection import LOCAL_FIELDS, Connection
from crm_whatsapp.domain.decisions import Decision, PolicyLimits

_Rule = Callable[[Connection, Any, datetime, PolicyLimits], Decision]

_RULES: dict[type[events.Event], _Rule] = {
    events.PollArrived: request_rules.on_poll,
    events.StartupFound: request_rules.on_startup,
    events.RecordLoaded: request_rules.on_loaded,
    events.ConnectRequested: request_rules.on_connect,
    events.RestoreRequested: request_rules.on_restore,
    events.DisconnectRequested: request_rules.on_disconnect,
    events.LogoutRequested: request_rules.on_logout,
    events.DeleteRequested: request_rules.on_delete,
    events.ServiceStopping: request_rules.on_service_stopping,
    events.DesiredStateChanged: request_rules.on_desired_state,
    events.LeaseDenied: request_rules.on_lease_denied,
    events.LeaseLost: request_rules.on_lease_lost,
    events.StorageFailed: request_rules.on_storage_failed,
    events.TimerDue: timer_rules.on_timer,
    events.QrIssued: pairing_rules.on_code_issued,
    events.PairingCodeIssued: pairing_rules.on_code_issued,
    events.PairingSucceeded: pairing_rules.on_pairing_succeeded,
    events.PairingFailed: pairing_rules.on_pairing_ended,
    events.PairingExpired: pairing_rules.on_pairing_ended,
    events.ClientConnected: engine_rules.on_connected,
    events.ClientDisconnected: engine_rules.on_disconnected,
    events.KeepAliveTimedOut: engine_rules.on_keepalive_timeout,
    events.KeepAliveRestored: engine_rules.on_alive,
    events.ProbeAnswered: engine_rules.on_alive,
    events.ProbeFailed: engine_rules.on_deaf,
    events.SendShowedDeadSession: engine_rules.on_deaf,
    events.StreamReplaced: engine_rules.on_replaced,
    events.LoggedOut: engine_rules.on_logged_out,
    events.TemporarilyBanned: engine_rules.on_banned,
    events.ClientOutdated: engine_rules.on_outdated,
    events.ConnectFailed: engine_rules.on_connect_failed,
    events.ClientEnded: engine_rules.on_ended,
    events.ClientStopped: engine_rules.on_stopped,
    events.EngineDied: engine_rules.on_engine_died,
    events.HandoverRequested: engine_rules.on_handover,
    events.LogoutAnswered: engine_rules.on_logout_answered,
}

_STORED_FIELDS = tuple(
    item.name for item in fields(Connection) if item.name not in LOCAL_FIELDS | {"version"}
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

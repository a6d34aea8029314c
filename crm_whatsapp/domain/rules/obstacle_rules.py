"""Rules for what stands in the way of a start: another pod, or the disk."""

from dataclasses import replace
from datetime import datetime

from crm_whatsapp.domain import events as ev
from crm_whatsapp.domain.connection import (
    UNLINKING,
    ClientPhase,
    Connection,
    Reason,
    UserAction,
)
from crm_whatsapp.domain.decisions import (
    Decision,
    PolicyLimits,
    after,
    become,
    stop_client,
)
from crm_whatsapp.domain.rules.unlink_rules import finish_unlink


def on_lease_denied(
    connection: Connection, event: ev.LeaseDenied, now: datetime, limits: PolicyLimits
) -> Decision:
    """Wait for the other pod; nothing was started. A logout ends at its deadline all the same."""
    if connection.client not in (
        ClientPhase.STARTING,
        ClientPhase.RESUMING,
        ClientPhase.PAIRING,
    ):
        return Decision(connection=connection)
    if connection.intent in UNLINKING:
        return Decision(connection=replace(connection, client=ClientPhase.NONE))
    if connection.client is ClientPhase.PAIRING:
        refused = become(
            connection,
            Reason.PAIRING_FAILED,
            detail="another instance still holds this session",
            client=ClientPhase.NONE,
            pairing_method=None,
            pairing_phone=None,
        )
        return Decision(connection=refused)
    wait = min(max(event.retry_after_seconds, 1.0), limits.lease_retry_seconds)
    waiting = become(
        connection,
        Reason.HELD_ELSEWHERE,
        client=ClientPhase.NONE,
        retry_at=after(now, wait),
        connected_since=None,
        last_disconnected_at=now if connection.is_connected else connection.last_disconnected_at,
    )
    return Decision(connection=waiting)


def on_lease_lost(
    connection: Connection, event: ev.LeaseLost, now: datetime, limits: PolicyLimits
) -> Decision:
    """Another pod has it: stop at once, and watch."""
    if connection.client is ClientPhase.NONE:
        return Decision(connection=connection)
    if connection.intent in UNLINKING:
        return stop_client(connection)
    lost = become(
        connection,
        Reason.HELD_ELSEWHERE,
        retry_at=after(now, limits.lease_retry_seconds),
        last_disconnected_at=now,
    )
    return stop_client(lost)


def on_storage_failed(
    connection: Connection, event: ev.StorageFailed, now: datetime, limits: PolicyLimits
) -> Decision:
    """Say what is wrong with the folder; touch nothing."""
    if connection.client not in (ClientPhase.STARTING, ClientPhase.PAIRING, ClientPhase.RESUMING):
        return Decision(connection=connection)
    if connection.intent in UNLINKING:
        return finish_unlink(connection, now)
    waits = {
        Reason.STORAGE_UNAVAILABLE: limits.storage_retry_seconds,
        Reason.HELD_ELSEWHERE: limits.retry_delay_seconds,  # by an engine that is just ending
    }
    wait = waits.get(event.reason)
    retry_at = after(now, wait) if wait is not None else None
    action = UserAction.CONNECT if event.reason is Reason.CREDENTIALS_MISSING else None
    told = become(
        connection,
        event.reason,
        detail=event.detail or None,
        user_action=action,
        client=ClientPhase.NONE,
        retry_at=retry_at,
        failed_at=None if event.reason is Reason.CREDENTIALS_MISSING else now,
        last_disconnected_at=now,
    )
    return Decision(connection=told)

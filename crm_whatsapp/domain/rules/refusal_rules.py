"""Rules for what WhatsApp refuses, for a while or for good."""

from dataclasses import replace
from datetime import datetime
from typing import Any

from crm_whatsapp.domain import events as ev
from crm_whatsapp.domain.connection import (
    UNLINKING,
    ClientPhase,
    Connection,
    Intent,
    Reason,
    Status,
    UserAction,
)
from crm_whatsapp.domain.decisions import (
    Decision,
    PolicyLimits,
    RaiseAlert,
    RemoveCredentials,
    TombstoneSnapshots,
    after,
    backoff_seconds,
    become,
    settled,
    stop_client,
)


def on_replaced(
    connection: Connection, event: ev.StreamReplaced, now: datetime, limits: PolicyLimits
) -> Decision:
    """Yield to the other connection; try once more later, then leave it to a person."""
    if connection.intent in UNLINKING:
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
    if connection.intent in UNLINKING:
        return stop_client(replace(connection, unlink_confirmed=True))
    if _deserves_second_chance(connection, event, now, limits):
        tried = become(
            connection,
            Reason.RESTORING,
            intent=Intent.SECOND_CHANCE,
            second_chance_used=True,
            last_event_at=now,
            connected_since=None,
        )
        return stop_client(tried)
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
    alert = RaiseAlert(kind=reason)
    effects = (RemoveCredentials(), TombstoneSnapshots(), *decision.effects, alert)
    return Decision(connection=decision.connection, effects=effects)


def _deserves_second_chance(
    connection: Connection, event: ev.LoggedOut, now: datetime, limits: PolicyLimits
) -> bool:
    """Tell whether a 401 on connect may be one of the random ones (whatsmeow #779, #949)."""
    if not event.on_connect or event.code != 401 or connection.second_chance_used:
        return False
    seen = connection.last_connected_at
    recently = seen is not None and (
        (now - seen).total_seconds() <= limits.second_chance_window_seconds
    )
    return recently and connection.client in (ClientPhase.STARTING, ClientPhase.RESUMING)


def on_banned(
    connection: Connection, event: ev.TemporarilyBanned, now: datetime, limits: PolicyLimits
) -> Decision:
    """Keep the credentials and make no attempt before the ban ends."""
    if connection.intent in UNLINKING:
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
    if connection.intent in UNLINKING:
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
    if connection.intent in UNLINKING:
        return stop_client(connection)
    if connection.client is ClientPhase.PAIRING and connection.jid is None:
        return stop_client(become(connection, Reason.PAIRING_FAILED, detail=event.detail))
    detail = f"WhatsApp answered {event.code}"
    return stop_client(spend_retry(connection, now, limits, Reason.CONNECT_FAILURE, detail))


def spend_retry(
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


def unreachable(
    connection: Connection,
    now: datetime,
    limits: PolicyLimits,
    reason: Reason = Reason.WHATSAPP_UNREACHABLE,
) -> Connection:
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
        reason,
        unreachable_attempts=attempts,
        retry_at=after(now, wait),
        last_event_at=now,
        last_disconnected_at=now if connection.is_connected else calm.last_disconnected_at,
        connected_since=None,
    )

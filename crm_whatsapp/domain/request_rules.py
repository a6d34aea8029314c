"""Rules for what people, start-up and the table ask of a session."""

from dataclasses import replace
from datetime import datetime

from crm_whatsapp.domain.connection import (
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
    ForgetCompany,
    PolicyLimits,
    QuarantineFiles,
    RemoveFiles,
    SendLogout,
    after,
    become,
    start_pairing,
    start_restore,
    stop_effect,
)
from crm_whatsapp.domain.events import (
    ConnectRequested,
    DeleteRequested,
    DesiredStateChanged,
    DisconnectRequested,
    LeaseDenied,
    LeaseLost,
    LogoutRequested,
    PollArrived,
    RecordLoaded,
    RestoreRequested,
    ServiceStopping,
    StartupFound,
    StorageFailed,
)

_STILL_LISTED = "WhatsApp did not confirm: the device may still be listed on the phone"


def on_poll(
    connection: Connection, event: PollArrived, now: datetime, limits: PolicyLimits
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
    connection: Connection, event: StartupFound, now: datetime, limits: PolicyLimits
) -> Decision:
    """Restore unless people, a ban or a logout forbid it; finish a logout that was cut short."""
    if connection.client is not ClientPhase.NONE:
        return Decision(connection=connection)
    if connection.intent in (Intent.LOGOUT, Intent.DELETE):
        return _begin_unlink(connection, now, limits, has_credentials=True)
    unknown = connection.reason is Reason.NEVER_CONNECTED
    stopped = connection.desired_state is DesiredState.STOP and not unknown
    banned = connection.status is Status.BANNED and (
        connection.retry_at is None or connection.retry_at > now
    )
    if stopped or banned or connection.status is Status.LOGGED_OUT:
        return Decision(connection=connection)
    return start_restore(connection, now, limits, restore_attempts=0)


def on_loaded(
    connection: Connection, event: RecordLoaded, now: datetime, limits: PolicyLimits
) -> Decision:
    """Correct what a record claims of a client that this process does not have."""
    if connection.client is not ClientPhase.NONE:
        return Decision(connection=connection)
    if connection.reason in (Reason.PAIRING, Reason.PREPARING_PAIRING):
        return Decision(connection=become(connection, Reason.PAIRING_EXPIRED))
    if connection.status not in (Status.CONNECTED, Status.CONNECTING):
        return Decision(connection=connection)
    if connection.desired_state is DesiredState.STOP:
        return Decision(connection=become(connection, Reason.STOPPED))
    if not event.has_credentials:
        return Decision(connection=become(connection, Reason.CREDENTIALS_MISSING))
    waiting = become(
        connection,
        Reason.RESTORING,
        status=Status.DISCONNECTED,
        user_action=UserAction.RETRY,
        detail="waiting for the next status poll",
    )
    return Decision(connection=waiting)


def on_connect(
    connection: Connection, event: ConnectRequested, now: datetime, limits: PolicyLimits
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
    pair_anew = event.fresh or foreign or not event.has_credentials
    match wanted.client:
        case ClientPhase.PAIRING:
            return Decision(connection=wanted)
        case ClientPhase.NONE:
            return _connect_from_rest(wanted, event, now, limits, pair_anew=pair_anew)
        case ClientPhase.STOPPING if pair_anew:
            return Decision(connection=_pair_next(wanted, event))
        case ClientPhase.STOPPING:
            return Decision(connection=become(wanted, Reason.RESTORING))
        case _ if event.fresh:
            return stop_client(_pair_next(wanted, event))
        case _:
            return Decision(connection=wanted)


def _pair_next(connection: Connection, event: ConnectRequested) -> Connection:
    return become(
        connection,
        Reason.PREPARING_PAIRING,
        intent=Intent.PAIR,
        pairing_method=event.method,
        pairing_phone=event.phone_number,
    )


def _connect_from_rest(
    connection: Connection,
    event: ConnectRequested,
    now: datetime,
    limits: PolicyLimits,
    *,
    pair_anew: bool,
) -> Decision:
    banned = connection.status is Status.BANNED and not event.fresh
    if banned and connection.retry_at is not None and connection.retry_at > now:
        return Decision(connection=connection)
    if not pair_anew:
        cleared = replace(connection, unreachable_attempts=0, replaced_retries=0)
        return start_restore(cleared, now, limits, restore_attempts=0)
    decision = start_pairing(connection, now, limits, event.method, event.phone_number)
    aside = (QuarantineFiles(why="fresh"),) if event.fresh else ()
    return Decision(connection=decision.connection, effects=(*aside, *decision.effects))


def on_restore(
    connection: Connection, event: RestoreRequested, now: datetime, limits: PolicyLimits
) -> Decision:
    """Start now and forget the backoff; a ban is still waited for."""
    if connection.intent in (Intent.LOGOUT, Intent.DELETE):
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


def on_disconnect(
    connection: Connection, event: DisconnectRequested, now: datetime, limits: PolicyLimits
) -> Decision:
    """Stop the client and remember that it shall stay stopped."""
    if connection.intent in (Intent.LOGOUT, Intent.DELETE):
        return Decision(connection=connection)
    return stop_for_good(connection, now)


def stop_for_good(connection: Connection, now: datetime) -> Decision:
    """Stop; a ban or a logout stays what it is."""
    wanted = replace(connection, desired_state=DesiredState.STOP, intent=Intent.NONE)
    if wanted.status in (Status.LOGGED_OUT, Status.BANNED) or (
        wanted.client is ClientPhase.NONE and wanted.reason is Reason.NEVER_CONNECTED
    ):
        return Decision(connection=wanted)
    stopped = become(
        wanted,
        Reason.STOPPED,
        last_disconnected_at=now if wanted.is_connected else wanted.last_disconnected_at,
    )
    return stop_client(stopped)


def stop_client(connection: Connection) -> Decision:
    """Order the client to stop, unless there is none or it is stopping already."""
    if connection.client in (ClientPhase.NONE, ClientPhase.STOPPING):
        return Decision(connection=connection)
    stopping = replace(connection, client=ClientPhase.STOPPING)
    if connection.client is ClientPhase.HANDOVER:
        return Decision(connection=stopping)
    return Decision(connection=stopping, effects=(stop_effect(connection),))


def on_logout(
    connection: Connection, event: LogoutRequested, now: datetime, limits: PolicyLimits
) -> Decision:
    """Unlink at WhatsApp, then remove what is saved."""
    if connection.intent in (Intent.LOGOUT, Intent.DELETE):
        return Decision(connection=connection)
    wanted = replace(connection, intent=Intent.LOGOUT, desired_state=DesiredState.STOP)
    return _begin_unlink(wanted, now, limits, has_credentials=event.has_credentials)


def on_delete(
    connection: Connection, event: DeleteRequested, now: datetime, limits: PolicyLimits
) -> Decision:
    """Log out, best effort, and forget."""
    wanted = replace(connection, intent=Intent.DELETE, desired_state=DesiredState.STOP)
    if connection.intent is Intent.LOGOUT:
        return Decision(connection=wanted)
    return _begin_unlink(wanted, now, limits, has_credentials=event.has_credentials)


def _begin_unlink(
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
        case _:
            return Decision(connection=unlinking)


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
        ),
        Reason.LOGGED_OUT_BY_USER,
        detail=detail,
        last_disconnected_at=now,
        engine_crashes=0,
        restore_attempts=0,
    )
    if connection.intent is Intent.DELETE:
        return Decision(connection=done, effects=(RemoveFiles(), ForgetCompany()))
    return Decision(connection=done, effects=(RemoveFiles(),))


def on_service_stopping(
    connection: Connection, event: ServiceStopping, now: datetime, limits: PolicyLimits
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


def on_desired_state(
    connection: Connection, event: DesiredStateChanged, now: datetime, limits: PolicyLimits
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


def on_lease_denied(
    connection: Connection, event: LeaseDenied, now: datetime, limits: PolicyLimits
) -> Decision:
    """Wait for the other pod; nothing was started."""
    if connection.client is not ClientPhase.STARTING:
        return Decision(connection=connection)
    wait = min(max(event.retry_after_seconds, 1.0), limits.lease_retry_seconds)
    waiting = become(
        connection,
        Reason.HELD_ELSEWHERE,
        client=ClientPhase.NONE,
        retry_at=after(now, wait),
    )
    return Decision(connection=waiting)


def on_lease_lost(
    connection: Connection, event: LeaseLost, now: datetime, limits: PolicyLimits
) -> Decision:
    """Another pod has it: stop at once, and watch."""
    if connection.client is ClientPhase.NONE:
        return Decision(connection=connection)
    lost = become(
        connection,
        Reason.HELD_ELSEWHERE,
        retry_at=after(now, limits.lease_retry_seconds),
        last_disconnected_at=now,
    )
    return stop_client(lost)


def on_storage_failed(
    connection: Connection, event: StorageFailed, now: datetime, limits: PolicyLimits
) -> Decision:
    """Say what is wrong with the folder; touch nothing."""
    if connection.client not in (ClientPhase.STARTING, ClientPhase.PAIRING, ClientPhase.RESUMING):
        return Decision(connection=connection)
    if connection.intent in (Intent.LOGOUT, Intent.DELETE):
        return finish_unlink(connection, now)
    retry_at = (
        after(now, limits.storage_retry_seconds)
        if event.reason is Reason.STORAGE_UNAVAILABLE
        else None
    )
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

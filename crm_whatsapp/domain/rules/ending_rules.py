"""Rules for the end of a client: asked for, by itself, or with its engine."""

from dataclasses import replace
from datetime import datetime

from crm_whatsapp.domain import events as ev
from crm_whatsapp.domain.connection import (
    UNLINKING,
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
    PolicyLimits,
    QuarantineFiles,
    RaiseAlert,
    RemoveFiles,
    StartClient,
    after,
    become,
    second_chance,
    settled,
    start_pairing,
    start_restore,
)
from crm_whatsapp.domain.rules.refusal_rules import spend_retry, unreachable
from crm_whatsapp.domain.rules.unlink_rules import finish_unlink, unlink_after_stop


def on_ended(
    connection: Connection, event: ev.ClientEnded, now: datetime, limits: PolicyLimits
) -> Decision:
    """connect() returned or raised: the client is gone without having been asked to go."""
    asked = connection.client in (ClientPhase.STOPPING, ClientPhase.HANDOVER)
    if asked or connection.intent in UNLINKING:
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
    elif event.gave_up:  # strangers can bring it about, so it must not spend the budget
        waiting = unreachable(connection, now, limits, Reason.NETWORK_LOST)
    else:
        waiting = spend_retry(connection, now, limits, Reason.CONNECT_FAILURE, event.detail)
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
    if gone.intent in UNLINKING:
        return unlink_after_stop(gone, now, limits)
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
    if gone.intent is Intent.SECOND_CHANCE:
        return second_chance(gone, now, limits)
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
    if connection.intent in UNLINKING:
        return finish_unlink(counted, now)
    if crashes >= 2:
        failed = become(counted, Reason.ENGINE_CRASH, failed_at=now, last_disconnected_at=now)
        alert = RaiseAlert(kind=Reason.ENGINE_CRASH)
        return Decision(connection=failed, effects=(alert,))
    lost_at = now if connection.is_connected else connection.last_disconnected_at
    return start_restore(counted, now, limits, last_disconnected_at=lost_at)

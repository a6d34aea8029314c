"""What one event does to a company, inside its mailbox."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

import structlog

from crm_whatsapp.domain import events
from crm_whatsapp.domain.connection import ClientPhase, Connection, DesiredState, Reason
from crm_whatsapp.domain.decisions import (
    Decision,
    Effect,
    ForgetCompany,
    PolicyLimits,
    StartClient,
    StartPairing,
)
from crm_whatsapp.domain.errors import StorageError
from crm_whatsapp.domain.ports import Clock, ProxyVault, SessionFolders, StateJournal
from crm_whatsapp.domain.session_policy import decide, is_recorded_change
from crm_whatsapp.domain.transitions import FORGOTTEN
from crm_whatsapp.service.company_runtime import CompanyRuntime
from crm_whatsapp.service.effect_runner import EffectRunner
from crm_whatsapp.service.inbox import Inbox
from crm_whatsapp.service.lease_keeper import LeaseKeeper
from crm_whatsapp.service.notice_board import NoticeBoard
from crm_whatsapp.service.pairing_allowance import PairingAllowance
from crm_whatsapp.service.recorder import Recorder
from crm_whatsapp.service.scan_code_notices import scan_code_notice
from crm_whatsapp.service.snapshot_catalogue import SnapshotCatalogue
from crm_whatsapp.service.snapshot_keeper import SnapshotKeeper
from crm_whatsapp.service.status_notices import forgotten_notice

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RuntimeParts:
    """What the manager is wired from."""

    journal: StateJournal
    recorder: Recorder
    effects: EffectRunner
    folders: SessionFolders
    leases: LeaseKeeper
    clock: Clock
    proxies: ProxyVault
    limits: PolicyLimits
    catalogue: SnapshotCatalogue
    snapshots: SnapshotKeeper | None
    inbox: Inbox
    notices: NoticeBoard
    pairings: PairingAllowance


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the session manager lends.

    then: passes the connection on once everything posted so far is handled.
    retire: takes the runtime of a forgotten company out.
    """

    is_stopping: Callable[[], bool]
    find: Callable[[str], Connection | None]
    then: Callable[[str, Callable[[Connection], None]], None]
    retire: Callable[[CompanyRuntime], None]


class EventHandler:
    """Asks the policy, records what changes, and has the effects carried out."""

    def __init__(self, parts: RuntimeParts, around: Surroundings) -> None:
        self._parts = parts
        self._around = around

    def handle(self, runtime: CompanyRuntime, event: events.Event) -> None:
        """Do all that follows from one event."""
        if isinstance(event, events.PollArrived):
            runtime.poll_posted = False
        before = runtime.connection
        now = self._parts.clock.now()
        decision = self._decide(before, event, now)
        after = decision.connection
        forgets = any(isinstance(effect, ForgetCompany) for effect in decision.effects)
        if forgets and not self._remove_files(runtime, decision.effects):
            # Nothing is forgotten while its files are there: a poll would bring the session back.
            decision = Decision(connection=after)
            forgets = False
        if after != before:
            if is_recorded_change(before, after):
                self._parts.recorder.record(before, after, type(event).__name__, now)
                _log_change(before, after, event)
            code = runtime.keep_scan_code(after, event)
            runtime.set_connection(after)
            if code is not None:
                self._parts.notices.post(scan_code_notice(runtime.company_id, code, now))
        if forgets:
            self._forget(runtime)
            return
        for effect in decision.effects:
            self._parts.effects.run(runtime.connection, effect)
        came_up = after.is_connected and not before.is_connected
        if came_up and self._parts.snapshots is not None:
            # Only now: a snapshot must not be known before creds.json tells its epoch.
            self._parts.snapshots.request(after.company_id)
        if after.client is ClientPhase.NONE and before.client is not ClientPhase.NONE:
            self._after_client(after)

    def _decide(self, before: Connection, event: events.Event, now: datetime) -> Decision:
        """Ask the policy; while the service stops, nothing is started any more."""
        decision = decide(before, event, now, self._parts.limits)
        if not (self._around.is_stopping() and decision.starts_client):
            return decision
        stopped = decide(decision.connection, events.ServiceStopping(), now, self._parts.limits)
        effects = tuple(
            effect
            for effect in decision.effects
            if not isinstance(effect, StartClient | StartPairing)
        )
        return Decision(
            connection=replace(stopped.connection, client=ClientPhase.NONE), effects=effects
        )

    def _remove_files(self, runtime: CompanyRuntime, effects: tuple[Effect, ...]) -> bool:
        """Remove the files of a company before it is forgotten; False when the disk refuses.

        Before the record, so that a crash in between finds the deletion still under way.
        """
        return all(
            self._parts.effects.run(runtime.connection, effect)
            for effect in effects
            if not isinstance(effect, ForgetCompany)
        )

    def _after_client(self, connection: Connection) -> None:
        """Give up the lease of a session that is not to run here any more."""
        if connection.desired_state is not DesiredState.STOP:
            return
        company_id, snapshots = connection.company_id, self._parts.snapshots
        if snapshots is not None and connection.reason is Reason.STOPPED:
            snapshots.finish(
                company_id,
                lambda: self._around.then(company_id, self._give_up_if_stopped),
                at_rest=lambda: self._is_at_rest(company_id),
            )
        else:
            self._parts.leases.give_up(company_id)

    def _is_at_rest(self, company_id: str) -> bool:
        connection = self._around.find(company_id)
        return connection is None or connection.client is ClientPhase.NONE

    def _give_up_if_stopped(self, connection: Connection) -> None:
        at_rest = connection.client is ClientPhase.NONE
        if at_rest and connection.desired_state is DesiredState.STOP:
            self._parts.leases.give_up(connection.company_id)

    def _forget(self, runtime: CompanyRuntime) -> None:
        connection = runtime.connection
        company_id = runtime.company_id
        try:
            self._parts.proxies.remove(company_id)
        except StorageError as error:
            log.error("the proxy was not removed", company_id=company_id, detail=error.message)
        if self._parts.snapshots is not None:
            self._parts.snapshots.retire(company_id, for_good=True)
        now = self._parts.clock.now()
        # Told first: a kill in between tells it twice, the other way round it would never be told.
        self._parts.notices.post(forgotten_notice(connection, now))
        self._parts.recorder.record(connection, connection, FORGOTTEN, now)
        self._around.retire(runtime)
        self._parts.inbox.forget(company_id)
        self._parts.leases.give_up(company_id)


def _log_change(before: Connection, after: Connection, event: events.Event) -> None:
    if before.status is after.status and before.reason is after.reason:
        return
    if before.is_connected and not after.is_connected and after.desired_state is DesiredState.RUN:
        log.warning(
            f"Session {after.company_id} appears disconnected, updating status",
            company_id=after.company_id,
        )
    log.info(
        "session status changed",
        company_id=after.company_id,
        status=after.status.value,
        reason=after.reason.value,
        before=before.status.value,
        event_type=type(event).__name__,
        generation=after.generation,
    )

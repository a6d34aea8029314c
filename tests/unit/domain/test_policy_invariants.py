"""Whatever happens in whatever order: never two clients, never a lie, never a lost wish.

A model of the engines carries out the policy's effects and reports back late, in any order that
the real fleet could. Hypothesis prints the steps of a failure; they replay as they are.
"""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from crm_whatsapp.domain import decisions, events
from crm_whatsapp.domain.connection import (
    ClientPhase,
    Connection,
    DesiredState,
    Intent,
    Reason,
    Status,
)
from crm_whatsapp.domain.decisions import PolicyLimits
from crm_whatsapp.domain.session_policy import decide

COMPANY = "3b1bee0c-cbee-4de1-88f1-d6e890f4c995"
JID = "5511900000001:1@s.whatsapp.net"
LIMITS = PolicyLimits()


class SessionModel(RuleBasedStateMachine):
    """One company, its folder and its engines."""

    def __init__(self) -> None:
        super().__init__()
        self.now = datetime(2026, 11, 21, tzinfo=UTC)
        self.connection = Connection(company_id=COMPANY)
        self.saved = False
        self.running: set[int] = set()
        self.stopping: set[int] = set()
        self.pairing: set[int] = set()

    def happen(self, event: events.Event) -> None:
        before = self.connection
        decision = decide(before, event, self.now, LIMITS)
        self.connection = decision.connection
        for effect in decision.effects:
            self.carry_out(effect)

    def carry_out(self, effect: decisions.Effect) -> None:
        match effect:
            case decisions.StartClient(generation=generation):
                assert not self.running, "two clients of one company"
                wanted = self.connection.desired_state is DesiredState.RUN
                assert wanted or self.connection.intent is not Intent.NONE, "nobody wants it"
                self.running.add(generation)
            case decisions.StartPairing(generation=generation):
                assert not self.running, "two clients of one company"
                self.running.add(generation)
                self.pairing.add(generation)
            case decisions.StopClient(generation=generation):
                assert generation not in self.stopping, "stopped twice"
                assert generation in self.running, "stopped without having been started"
                self.stopping.add(generation)
            case decisions.WriteCredentials():
                self.saved = True
            case decisions.RemoveCredentials():
                self.saved = False
            case decisions.RemoveFiles() | decisions.QuarantineFiles():
                assert not self.running, "files taken from under a client"
                self.saved = False

    def engine(self, kind: type[events.EngineEvent], **values: object) -> None:
        generation = self.connection.generation
        self.happen(kind(company_id=COMPANY, generation=generation, **values))  # type: ignore[arg-type]

    # --- people ---

    @rule()
    def poll(self) -> None:
        self.happen(events.PollArrived(has_credentials=self.saved))

    @rule(fresh=st.booleans())
    def connect(self, fresh: bool) -> None:
        self.happen(events.ConnectRequested(has_credentials=self.saved, fresh=fresh))

    @rule()
    def disconnect(self) -> None:
        self.happen(events.DisconnectRequested())
        if self.connection.intent is Intent.NONE:
            assert self.connection.desired_state is DesiredState.STOP

    @rule()
    def restore(self) -> None:
        self.happen(events.RestoreRequested(has_credentials=self.saved))

    @rule()
    def logout(self) -> None:
        self.happen(events.LogoutRequested(has_credentials=self.saved))

    @rule(state=st.sampled_from(list(DesiredState)))
    def write_into_the_table(self, state: DesiredState) -> None:
        self.happen(events.DesiredStateChanged(desired_state=state, has_credentials=self.saved))

    @rule(seconds=st.sampled_from([0.5, 4.0, 31.0, 200.0, 100_000.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        self.happen(events.TimerDue(has_credentials=self.saved))

    @rule()
    def restart_after_kill(self) -> None:
        self.running.clear()
        self.stopping.clear()
        self.pairing.clear()
        self.connection = replace(
            self.connection, client=ClientPhase.NONE, generation=0, connected_since=None
        )
        if self.saved:
            self.happen(events.StartupFound())
        else:
            self.happen(events.RecordLoaded(has_credentials=False))

    # --- the engines ---

    def client_runs(self) -> bool:
        return self.connection.generation in self.running

    def client_answers(self) -> bool:
        return self.client_runs() and self.connection.generation not in self.stopping

    @precondition(client_answers)
    @rule()
    def connected(self) -> None:
        if self.connection.generation in self.pairing and self.connection.jid is None:
            self.engine(events.PairingSucceeded, jid=JID, lid=None, platform=None)
        self.engine(events.ClientConnected, jid=JID)

    @precondition(client_answers)
    @rule(
        kind=st.sampled_from(
            [events.ClientDisconnected, events.StreamReplaced, events.ClientOutdated]
        )
    )
    def trouble(self, kind: type[events.EngineEvent]) -> None:
        self.engine(kind)

    @precondition(client_answers)
    @rule(on_connect=st.booleans())
    def logged_out(self, on_connect: bool) -> None:
        self.engine(events.LoggedOut, on_connect=on_connect, code=401 if on_connect else 0)

    @precondition(client_answers)
    @rule()
    def banned(self) -> None:
        self.engine(events.TemporarilyBanned, code=1, expires_in_seconds=60.0)

    @precondition(client_answers)
    @rule()
    def refused(self) -> None:
        self.engine(events.ConnectFailed, code=400, detail="")

    @precondition(client_answers)
    @rule()
    def deaf(self) -> None:
        self.engine(events.ProbeFailed, detail="")

    @precondition(client_answers)
    @rule()
    def handover(self) -> None:
        self.engine(events.HandoverRequested)

    @rule()
    def store_damage(self) -> None:
        self.happen(events.StoreDamageFound())

    @precondition(client_answers)
    @rule(succeeded=st.booleans())
    def logout_answered(self, succeeded: bool) -> None:
        self.engine(events.LogoutAnswered, succeeded=succeeded)

    @precondition(client_answers)
    @rule(unreachable=st.booleans(), locked=st.booleans())
    def ended(self, unreachable: bool, locked: bool) -> None:
        self.running.discard(self.connection.generation)
        self.engine(events.ClientEnded, detail="", unreachable=unreachable, locked=locked)

    @precondition(client_runs)
    @rule(suspect=st.booleans())
    def engine_died(self, suspect: bool) -> None:
        self.running.discard(self.connection.generation)
        self.stopping.discard(self.connection.generation)
        self.engine(events.EngineDied, suspect=suspect, detail="")

    @precondition(lambda self: self.connection.generation in self.stopping)
    @rule()
    def stopped(self) -> None:
        generation = self.connection.generation
        self.running.discard(generation)
        self.stopping.discard(generation)
        self.engine(events.ClientStopped)

    # --- what always holds ---

    @invariant()
    def connected_only_with_a_client(self) -> None:
        if self.connection.status is Status.CONNECTED:
            assert self.connection.client in (
                ClientPhase.LIVE,
                ClientPhase.HANDOVER,
                ClientPhase.RESUMING,
            )
            assert self.running

    @invariant()
    def at_rest_nothing_runs(self) -> None:
        if self.connection.client is ClientPhase.NONE:
            assert not self.running

    @invariant()
    def passing_statuses_end(self) -> None:
        passing = self.connection.status in (Status.CONNECTING, Status.AWAITING_SCAN)
        if passing and self.connection.client not in (ClientPhase.NONE, ClientPhase.STOPPING):
            assert self.connection.status_deadline_at is not None
        if (
            self.connection.status is Status.CONNECTING
            and self.connection.client is ClientPhase.NONE
        ):
            assert self.connection.retry_at is not None

    @invariant()
    def reasons_fit(self) -> None:
        if self.connection.reason is Reason.ONLINE:
            assert self.connection.status is Status.CONNECTED


SessionModel.TestCase.settings = settings(max_examples=400, stateful_step_count=40, deadline=None)
TestSessionModel = SessionModel.TestCase

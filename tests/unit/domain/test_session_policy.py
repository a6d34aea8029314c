"""The session policy, row by row of the event table in docs/architecture.md."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from crm_whatsapp.domain import decisions, events
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
from crm_whatsapp.domain.decisions import Decision, PolicyLimits, backoff_seconds
from crm_whatsapp.domain.rules.restore_rules import is_unfounded
from crm_whatsapp.domain.session_policy import decide

COMPANY = "3b1bee0c-cbee-4de1-88f1-d6e890f4c995"
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
LIMITS = PolicyLimits()
JID = "5511900000001:1@s.whatsapp.net"


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def run(connection: Connection, event: events.Event, now: datetime = NOW) -> Decision:
    return decide(connection, event, now, LIMITS)


def kinds(decision: Decision) -> list[type[decisions.Effect]]:
    return [type(effect) for effect in decision.effects]


def engine_event(
    kind: type[events.EngineEvent], generation: int = 1, **values: object
) -> events.EngineEvent:
    return kind(company_id=COMPANY, generation=generation, **values)  # type: ignore[arg-type]


SAVED = Connection(company_id=COMPANY, desired_state=DesiredState.RUN, reason=Reason.RESTORING)
STARTING = run(SAVED, events.PollArrived(has_credentials=True)).connection
LIVE = run(STARTING, engine_event(events.ClientConnected, jid=JID)).connection
PAIRING = run(
    Connection(company_id=COMPANY), events.ConnectRequested(has_credentials=False)
).connection


class TestPoll:
    def test_a_saved_session_without_a_client_is_restored(self) -> None:
        decision = run(SAVED, events.PollArrived(has_credentials=True))
        assert decision.connection.status is Status.CONNECTING
        assert decision.connection.message == "Restoring connection from saved session..."
        assert decision.effects == (decisions.StartClient(generation=1, isolated=False),)

    def test_an_unknown_folder_is_restored(self) -> None:
        decision = run(Connection(company_id=COMPANY), events.PollArrived(has_credentials=True))
        assert decision.starts_client

    def test_nothing_saved_says_how_to_start(self) -> None:
        decision = run(Connection(company_id=COMPANY), events.PollArrived(has_credentials=False))
        assert decision.connection.message == 'Not connected. Click "Connect WhatsApp" to start.'
        assert decision.connection.status is Status.DISCONNECTED
        assert not decision.effects

    @pytest.mark.parametrize("connection", [STARTING, LIVE, PAIRING])
    def test_a_client_is_left_alone(self, connection: Connection) -> None:
        decision = run(connection, events.PollArrived(has_credentials=True), after(5000))
        assert decision == Decision(connection=connection)

    @pytest.mark.parametrize(
        "changes",
        [
            {"desired_state": DesiredState.STOP, "reason": Reason.STOPPED},
            {"status": Status.CONNECTING, "retry_at": after(1)},
            {"status": Status.LOGGED_OUT, "reason": Reason.PHONE_UNLINKED},
            {"status": Status.BANNED, "reason": Reason.TEMPORARY_BAN, "retry_at": after(60)},
            {"status": Status.FAILED, "reason": Reason.CLIENT_OUTDATED, "failed_at": after(-9999)},
            {"status": Status.FAILED, "reason": Reason.CONNECT_FAILURE, "failed_at": after(-299)},
            {"status": Status.DISCONNECTED, "reason": Reason.STREAM_REPLACED},
        ],
        ids=lambda changes: str(changes.get("reason") or "backoff"),
    )
    def test_it_only_reports(self, changes: dict[str, object]) -> None:
        connection = replace(SAVED, **changes)  # type: ignore[arg-type]
        decision = run(connection, events.PollArrived(has_credentials=True))
        assert decision == Decision(connection=connection)

    def test_a_failed_session_is_tried_again_after_five_minutes(self) -> None:
        failed = replace(
            SAVED, status=Status.FAILED, reason=Reason.CONNECT_FAILURE, failed_at=after(-300)
        )
        assert run(failed, events.PollArrived(has_credentials=True)).starts_client

    def test_a_record_that_claims_a_lost_session_is_corrected(self) -> None:
        stale = replace(SAVED, status=Status.CONNECTED, reason=Reason.ONLINE)
        decision = run(stale, events.PollArrived(has_credentials=False))
        assert decision.connection.reason is Reason.CREDENTIALS_MISSING
        assert decision.connection.user_action is UserAction.CONNECT


class TestEngineEvents:
    def test_connected_is_proven_by_its_event(self) -> None:
        assert LIVE.status is Status.CONNECTED
        assert LIVE.phone_number == "+5511900000001"
        assert LIVE.user_action is UserAction.NONE
        assert LIVE.last_connected_at == NOW

    def test_events_of_an_older_generation_are_dropped(self) -> None:
        stale = engine_event(events.LoggedOut, generation=0, on_connect=True, code=401)
        assert run(LIVE, stale) == Decision(connection=LIVE)

    def test_a_drop_waits_for_whatsmeow_to_reconnect(self) -> None:
        dropped = run(LIVE, engine_event(events.ClientDisconnected))
        assert dropped.connection.status is Status.CONNECTING
        assert dropped.connection.reason is Reason.NETWORK_LOST
        assert dropped.connection.status_deadline_at == after(30)
        assert not dropped.effects
        back = run(dropped.connection, engine_event(events.ClientConnected, jid=JID), after(2))
        assert back.connection.status is Status.CONNECTED

    def test_a_reconnect_past_its_deadline_is_rebuilt_with_backoff(self) -> None:
        dropped = run(LIVE, engine_event(events.ClientDisconnected)).connection
        due = run(dropped, events.TimerDue(has_credentials=True), after(31))
        assert kinds(due) == [decisions.StopClient]
        assert due.connection.reason is Reason.WHATSAPP_UNREACHABLE
        assert due.connection.retry_at is not None
        stopped = run(due.connection, engine_event(events.ClientStopped), after(31.1))
        assert not stopped.effects
        again = run(stopped.connection, events.TimerDue(has_credentials=True), after(40))
        assert again.starts_client
        assert again.connection.restore_attempts == 0

    def test_a_deaf_session_is_rebuilt_once_its_client_is_gone(self) -> None:
        doubted = run(LIVE, engine_event(events.KeepAliveTimedOut, error_count=1))
        assert doubted.connection.degraded
        assert kinds(doubted) == [decisions.ProbeClient]
        deaf = run(doubted.connection, engine_event(events.ProbeFailed, detail="no answer"))
        assert kinds(deaf) == [decisions.StopClient]
        assert deaf.connection.status is Status.CONNECTING
        rebuilt = run(deaf.connection, engine_event(events.ClientStopped))
        assert rebuilt.effects == (decisions.StartClient(generation=2, isolated=False),)

    def test_any_answer_ends_the_doubt(self) -> None:
        doubted = run(LIVE, engine_event(events.KeepAliveTimedOut, error_count=1)).connection
        assert not run(doubted, engine_event(events.ProbeAnswered)).connection.degraded
        assert not run(doubted, engine_event(events.KeepAliveRestored)).connection.degraded

    def test_a_replaced_stream_gets_one_retry_and_then_waits_for_a_person(self) -> None:
        first = run(LIVE, engine_event(events.StreamReplaced))
        assert first.connection.status is Status.DISCONNECTED
        assert first.connection.retry_at == after(30)
        gone = run(first.connection, engine_event(events.ClientStopped)).connection
        assert not run(gone, events.PollArrived(has_credentials=True)).starts_client
        retried = run(gone, events.TimerDue(has_credentials=True), after(31))
        assert retried.starts_client
        online = run(
            retried.connection, engine_event(events.ClientConnected, 2, jid=JID), after(32)
        ).connection
        second = run(online, engine_event(events.StreamReplaced, 2), after(33))
        assert second.connection.retry_at is None
        assert second.connection.user_action is UserAction.RETRY
        assert decisions.RaiseAlert in kinds(second)
        gone = run(second.connection, engine_event(events.ClientStopped, 2), after(34)).connection
        assert not run(gone, events.PollArrived(has_credentials=True), after(99999)).starts_client
        assert run(gone, events.RestoreRequested(has_credentials=True), after(40)).starts_client

    @pytest.mark.parametrize(
        ("on_connect", "code", "reason"),
        [
            (False, 0, Reason.PHONE_UNLINKED),
            (True, 401, Reason.LOGGED_OUT_BY_SERVER),
            (True, 403, Reason.LOGGED_OUT_BY_SERVER),
            (True, 406, Reason.LOGGED_OUT_BY_SERVER),
        ],
    )
    def test_a_logout_is_final(self, on_connect: bool, code: int, reason: Reason) -> None:
        out = run(LIVE, engine_event(events.LoggedOut, on_connect=on_connect, code=code))
        assert out.connection.status is Status.LOGGED_OUT
        assert out.connection.reason is reason
        assert out.connection.user_action is UserAction.CONNECT
        assert kinds(out)[:3] == [
            decisions.RemoveCredentials,
            decisions.TombstoneSnapshots,
            decisions.StopClient,
        ]
        gone = run(out.connection, engine_event(events.ClientStopped))
        assert kinds(gone) == [decisions.RemoveFiles]
        assert not run(gone.connection, events.StartupFound()).starts_client

    def test_a_401_on_connect_gets_one_second_chance_with_the_store_of_before(self) -> None:
        again = replace(STARTING, last_connected_at=after(-14 * 86_400))
        refusal = engine_event(events.LoggedOut, on_connect=True, code=401)
        tried = run(again, refusal)
        assert kinds(tried) == [decisions.StopClient]
        assert tried.connection.second_chance_used
        started = run(tried.connection, engine_event(events.ClientStopped))
        assert kinds(started) == [decisions.PutBackStore, decisions.StartClient]
        refused = run(
            started.connection, engine_event(events.LoggedOut, 2, on_connect=True, code=401)
        )
        assert refused.connection.status is Status.LOGGED_OUT

    def test_a_second_chance_cut_short_by_a_kill_is_taken_at_start_up(self) -> None:
        again = replace(STARTING, last_connected_at=NOW)
        refusal = engine_event(events.LoggedOut, on_connect=True, code=401)
        killed = replace(run(again, refusal).connection, client=ClientPhase.NONE, generation=0)
        assert kinds(run(killed, events.StartupFound())) == [
            decisions.PutBackStore,
            decisions.StartClient,
        ]

    @pytest.mark.parametrize(
        ("code", "seen_at", "used"),
        [
            (403, NOW, False),
            (401, after(-15 * 86_400), False),
            (401, None, False),
            (401, NOW, True),
        ],
    )
    def test_no_second_chance(self, code: int, seen_at: datetime | None, used: bool) -> None:
        again = replace(STARTING, last_connected_at=seen_at, second_chance_used=used)
        refusal = engine_event(events.LoggedOut, on_connect=True, code=code)
        assert run(again, refusal).connection.status is Status.LOGGED_OUT

    @pytest.mark.parametrize(("expires", "seconds"), [(120.0, 120), (None, 86_400), (0.0, 86_400)])
    def test_a_ban_is_waited_for(self, expires: float | None, seconds: int) -> None:
        banned = run(
            STARTING, engine_event(events.TemporarilyBanned, code=101, expires_in_seconds=expires)
        )
        assert banned.connection.status is Status.BANNED
        assert banned.connection.retry_at == after(seconds)
        assert decisions.RemoveCredentials not in kinds(banned)
        gone = run(banned.connection, engine_event(events.ClientStopped)).connection
        for event in (
            events.ConnectRequested(has_credentials=True),
            events.RestoreRequested(has_credentials=True),
            events.StartupFound(),
            events.TimerDue(has_credentials=True),
        ):
            assert not run(gone, event, after(seconds - 1)).starts_client
        assert run(gone, events.TimerDue(has_credentials=True), after(seconds)).starts_client

    @pytest.mark.parametrize(
        "asked",
        [
            events.ConnectRequested(has_credentials=True),
            events.RestoreRequested(has_credentials=True),
            events.PollArrived(has_credentials=True),
        ],
    )
    def test_a_ban_is_waited_for_while_its_client_still_stops(self, asked: events.Event) -> None:
        ban = engine_event(events.TemporarilyBanned, code=101, expires_in_seconds=60.0)
        stopping = run(STARTING, ban).connection
        assert stopping.client is ClientPhase.STOPPING
        after_asking = run(stopping, asked).connection
        assert after_asking.status is Status.BANNED
        gone = run(after_asking, engine_event(events.ClientStopped))
        assert (gone.connection.status, gone.starts_client) == (Status.BANNED, False)

    def test_a_logout_while_the_client_still_stops_unlinks_with_another_one(self) -> None:
        stopping = run(LIVE, events.DisconnectRequested(has_credentials=True)).connection
        assert stopping.client is ClientPhase.STOPPING
        waiting = run(stopping, events.LogoutRequested(has_credentials=True)).connection
        again = run(waiting, engine_event(events.ClientStopped))
        assert again.starts_client
        assert again.connection.desired_state is DesiredState.STOP
        up = run(
            again.connection,
            engine_event(events.ClientConnected, generation=again.connection.generation),
        )
        assert decisions.SendLogout in kinds(up)

    def test_an_outdated_client_stops_all_retries(self) -> None:
        outdated = run(STARTING, engine_event(events.ClientOutdated))
        assert outdated.connection.status is Status.FAILED
        assert outdated.connection.user_action is UserAction.UPGRADE
        gone = run(outdated.connection, engine_event(events.ClientStopped)).connection
        assert not run(gone, events.PollArrived(has_credentials=True), after(99999)).starts_client

    @pytest.mark.parametrize(
        ("why", "reason"),
        [
            ({"unreachable": True}, Reason.WHATSAPP_UNREACHABLE),
            ({"gave_up": True}, Reason.NETWORK_LOST),
        ],
    )
    def test_what_is_nobodys_fault_never_spends_the_budget(
        self, why: dict[str, bool], reason: Reason
    ) -> None:
        connection, now, waits = STARTING, NOW, []
        for _ in range(12):
            ended = run(
                connection,
                engine_event(events.ClientEnded, connection.generation, detail="dial", **why),
                now,
            ).connection
            assert (ended.status, ended.reason) == (Status.CONNECTING, reason)
            assert ended.retry_at is not None
            waits.append((ended.retry_at - now).total_seconds())
            now = ended.retry_at
            connection = run(ended, events.TimerDue(has_credentials=True), now).connection
        assert connection.restore_attempts == 0
        assert 0.75 <= waits[0] <= 1.0
        assert waits[:5] == sorted(waits[:5])
        assert 225 <= waits[-1] <= 300

    def test_a_refusal_spends_the_budget_and_ends_failed(self) -> None:
        connection, now, starts = STARTING, NOW, 1
        while True:
            refused = run(
                connection,
                engine_event(
                    events.ConnectFailed, connection.generation, code=400, detail="bad request"
                ),
                now,
            )
            gone = run(
                refused.connection,
                engine_event(events.ClientStopped, connection.generation),
                now,
            ).connection
            if gone.status is Status.FAILED:
                break
            assert gone.retry_at is not None
            now = gone.retry_at
            connection = run(gone, events.TimerDue(has_credentials=True), now).connection
            starts += 1
        assert starts == 1 + LIMITS.max_retries
        assert gone.reason is Reason.CONNECT_FAILURE
        assert gone.user_action is UserAction.RETRY
        assert gone.failed_at == now

    def test_failures_are_forgotten_after_five_stable_minutes(self) -> None:
        tried = replace(LIVE, restore_attempts=2, unreachable_attempts=4)
        early = run(tried, engine_event(events.ClientDisconnected), after(299)).connection
        late = run(tried, engine_event(events.ClientDisconnected), after(300)).connection
        assert (early.restore_attempts, early.unreachable_attempts) == (2, 4)
        assert (late.restore_attempts, late.unreachable_attempts) == (0, 0)

    def test_an_innocent_session_of_a_dead_engine_comes_back_at_once(self) -> None:
        back = run(LIVE, engine_event(events.EngineDied, suspect=False, detail="killed"))
        assert back.effects == (decisions.StartClient(generation=2, isolated=False),)
        assert back.connection.restore_attempts == 0

    def test_a_suspect_is_started_alone_and_fails_at_the_second_death(self) -> None:
        first = run(STARTING, engine_event(events.EngineDied, suspect=True, detail="exit 134"))
        assert first.effects == (decisions.StartClient(generation=2, isolated=True),)
        second = run(
            first.connection, engine_event(events.EngineDied, 2, suspect=True, detail="exit 134")
        )
        assert second.connection.status is Status.FAILED
        assert second.connection.reason is Reason.ENGINE_CRASH
        assert not second.starts_client

    def test_a_damaged_store_is_told_and_not_touched(self) -> None:
        ended = run(
            STARTING, engine_event(events.ClientEnded, detail="malformed", store_corrupt=True)
        )
        assert ended.connection.status is Status.FAILED
        assert ended.connection.reason is Reason.STORE_CORRUPT
        assert kinds(ended) == [decisions.RaiseAlert]

    def test_a_handover_keeps_the_status(self) -> None:
        moving = run(LIVE, engine_event(events.HandoverRequested))
        assert moving.connection.status is Status.CONNECTED
        assert kinds(moving) == [decisions.StopClient]
        restarted = run(moving.connection, engine_event(events.ClientStopped))
        assert restarted.effects == (decisions.StartClient(generation=2, isolated=False),)
        assert restarted.connection.status is Status.CONNECTED
        slow = run(restarted.connection, events.TimerDue(has_credentials=True), after(4))
        assert slow.connection.status is Status.CONNECTING

    def test_a_damaged_store_is_left_at_once_and_started_anew(self) -> None:
        leaving = run(LIVE, events.StoreDamageFound())
        assert leaving.connection.status is Status.CONNECTING
        assert leaving.connection.reason is Reason.RESTORING
        assert kinds(leaving) == [decisions.StopClient]
        gone = run(leaving.connection, engine_event(events.ClientStopped))
        assert gone.effects == (decisions.StartClient(generation=2, isolated=False),)

    def test_a_damaged_store_disturbs_no_logout(self) -> None:
        unlinking = replace(LIVE, intent=Intent.LOGOUT)
        assert run(unlinking, events.StoreDamageFound()).connection == unlinking


class TestPairing:
    def test_connect_without_a_saved_session_opens_a_pairing(self) -> None:
        assert PAIRING.client is ClientPhase.PAIRING
        assert PAIRING.desired_state is DesiredState.RUN
        shown = run(
            PAIRING, engine_event(events.QrIssued, value="qr", expires_in_seconds=60)
        ).connection
        assert shown.status is Status.AWAITING_SCAN
        assert shown.qr_expires_at == after(60)
        assert shown.user_action is UserAction.SCAN

    def test_connect_twice_is_the_same_pairing(self) -> None:
        again = run(PAIRING, events.ConnectRequested(has_credentials=False))
        assert again == Decision(connection=PAIRING)

    def test_a_paired_session_moves_to_a_shard_without_leaving_connected(self) -> None:
        accepted = run(
            PAIRING,
            engine_event(events.PairingSucceeded, jid=JID, lid="1@lid", platform="android"),
        ).connection
        assert accepted.reason is Reason.FINISHING_PAIRING
        online = run(accepted, engine_event(events.ClientConnected, jid=JID))
        assert kinds(online) == [decisions.WriteCredentials, decisions.StopClient]
        assert online.connection.status is Status.CONNECTED
        moved = run(online.connection, engine_event(events.ClientStopped))
        assert moved.connection.status is Status.CONNECTED
        assert kinds(moved) == [decisions.StartClient]

    def test_a_first_login_that_does_not_come_is_rebuilt_as_a_restore(self) -> None:
        accepted = run(
            PAIRING, engine_event(events.PairingSucceeded, jid=JID, lid=None, platform=None)
        ).connection
        late = run(accepted, events.TimerDue(has_credentials=True), after(61))
        assert kinds(late) == [decisions.StopClient]
        assert run(late.connection, engine_event(events.ClientStopped), after(62)).starts_client

    def test_codes_that_ran_out_end_the_pairing(self) -> None:
        expired = run(PAIRING, engine_event(events.PairingExpired))
        assert expired.connection.reason is Reason.PAIRING_EXPIRED
        assert expired.connection.user_action is UserAction.CONNECT
        gone = run(expired.connection, engine_event(events.ClientStopped))
        assert not gone.effects

    def test_a_late_expiry_does_not_undo_an_accepted_pairing(self) -> None:
        accepted = run(
            PAIRING, engine_event(events.PairingSucceeded, jid=JID, lid=None, platform=None)
        ).connection
        assert run(accepted, engine_event(events.PairingExpired)).connection == accepted

    def test_fresh_sets_the_old_store_aside_once_its_client_is_gone(self) -> None:
        fresh = events.ConnectRequested(
            has_credentials=True, fresh=True, method=PairingMethod.PAIRING_CODE, phone_number="551"
        )
        stopping = run(LIVE, fresh)
        assert kinds(stopping) == [decisions.StopClient]
        opened = run(stopping.connection, engine_event(events.ClientStopped))
        assert kinds(opened) == [decisions.QuarantineFiles, decisions.StartPairing]
        assert opened.connection.pairing_phone == "551"
        assert opened.connection.jid is None

    def test_a_kill_before_the_old_client_is_gone_leaves_the_old_session_for_good(self) -> None:
        fresh = events.ConnectRequested(has_credentials=True, fresh=True)
        killed = replace(run(LIVE, fresh).connection, client=ClientPhase.NONE, generation=0)
        assert killed.intent is Intent.PAIR
        restored = run(killed, events.StartupFound())
        assert kinds(restored) == [decisions.StartClient]
        live = run(restored.connection, engine_event(events.ClientConnected, jid=JID)).connection
        deaf = run(live, engine_event(events.ProbeFailed, detail="no answer")).connection
        rebuilt = run(deaf, engine_event(events.ClientStopped))
        assert kinds(rebuilt) == [decisions.StartClient]


class TestRequests:
    def test_disconnect_keeps_the_credentials_and_stays(self) -> None:
        stopped = run(LIVE, events.DisconnectRequested())
        assert kinds(stopped) == [decisions.StopClient]
        assert stopped.connection.status is Status.DISCONNECTED
        assert stopped.connection.desired_state is DesiredState.STOP
        gone = run(stopped.connection, engine_event(events.ClientStopped)).connection
        for event in (
            events.PollArrived(has_credentials=True),
            events.StartupFound(),
            events.TimerDue(has_credentials=True),
        ):
            assert not run(gone, event, after(10_000)).starts_client

    def test_connect_while_stopping_restores_when_the_client_is_gone(self) -> None:
        stopping = run(LIVE, events.DisconnectRequested()).connection
        wanted = run(stopping, events.ConnectRequested(has_credentials=True))
        assert wanted.connection.status is Status.CONNECTING
        assert not wanted.effects
        assert run(wanted.connection, engine_event(events.ClientStopped)).starts_client

    def test_logout_unlinks_first_and_removes_the_files_last(self) -> None:
        begun = run(LIVE, events.LogoutRequested(has_credentials=True))
        assert kinds(begun) == [decisions.SendLogout]
        assert begun.connection.intent is Intent.LOGOUT
        answered = run(begun.connection, engine_event(events.LogoutAnswered, succeeded=True))
        assert kinds(answered) == [decisions.StopClient]
        done = run(answered.connection, engine_event(events.ClientStopped))
        assert kinds(done) == [decisions.RemoveFiles, decisions.TombstoneSnapshots]
        assert done.connection.status is Status.LOGGED_OUT
        assert done.connection.reason is Reason.LOGGED_OUT_BY_USER
        assert "still be listed" not in done.connection.message

    def test_logout_without_a_client_starts_it_once_for_that(self) -> None:
        begun = run(SAVED, events.LogoutRequested(has_credentials=True))
        assert begun.starts_client
        assert begun.connection.desired_state is DesiredState.STOP
        online = run(begun.connection, engine_event(events.ClientConnected, jid=JID))
        assert kinds(online) == [decisions.SendLogout]

    def test_a_logout_that_whatsapp_does_not_confirm_says_so(self) -> None:
        begun = run(LIVE, events.LogoutRequested(has_credentials=True)).connection
        late = run(begun, events.TimerDue(has_credentials=True), after(16))
        assert kinds(late) == [decisions.StopClient]
        done = run(late.connection, engine_event(events.ClientStopped), after(17))
        assert kinds(done) == [decisions.RemoveFiles, decisions.TombstoneSnapshots]
        assert "still be listed" in done.connection.message

    def test_a_logout_cut_short_by_a_restart_is_finished(self) -> None:
        begun = run(LIVE, events.LogoutRequested(has_credentials=True)).connection
        restarted = replace(begun, client=ClientPhase.NONE, generation=0)
        resumed = run(restarted, events.StartupFound())
        assert resumed.starts_client
        assert resumed.connection.reason is Reason.LOGGING_OUT

    def test_delete_forgets(self) -> None:
        deleted = run(Connection(company_id=COMPANY), events.DeleteRequested(has_credentials=False))
        assert kinds(deleted) == [decisions.RemoveFiles, decisions.ForgetCompany]

    def test_a_stop_written_into_the_table_is_followed(self) -> None:
        stopped = run(
            LIVE,
            events.DesiredStateChanged(desired_state=DesiredState.STOP, has_credentials=True),
        )
        assert kinds(stopped) == [decisions.StopClient]
        assert stopped.connection.reason is Reason.STOPPED

    def test_a_lease_held_elsewhere_is_waited_for(self) -> None:
        denied = run(STARTING, events.LeaseDenied(retry_after_seconds=60))
        assert denied.connection.client is ClientPhase.NONE
        assert denied.connection.reason is Reason.HELD_ELSEWHERE
        assert denied.connection.retry_at == after(LIMITS.lease_retry_seconds)

    def test_a_lost_lease_stops_the_client(self) -> None:
        lost = run(LIVE, events.LeaseLost())
        assert kinds(lost) == [decisions.StopClient]
        assert lost.connection.reason is Reason.HELD_ELSEWHERE

    def test_a_bad_disk_is_tried_again_by_time(self) -> None:
        refused = run(
            STARTING,
            events.StorageFailed(reason=Reason.STORAGE_UNAVAILABLE, detail="no space left"),
        )
        assert refused.connection.status is Status.FAILED
        assert "no space left" in refused.connection.message
        assert run(
            refused.connection, events.TimerDue(has_credentials=True), after(60)
        ).starts_client

    def test_a_shutdown_is_told_and_changes_nobodys_wish(self) -> None:
        stopping = run(LIVE, events.ServiceStopping()).connection
        assert stopping.status is Status.DISCONNECTED
        assert stopping.reason is Reason.SERVICE_STOPPED
        gone = run(stopping, engine_event(events.ClientStopped)).connection
        assert run(replace(gone, generation=0), events.StartupFound()).starts_client


def test_versions_rise_with_every_recorded_change_even_if_the_clock_stands() -> None:
    dropped = run(LIVE, engine_event(events.ClientDisconnected)).connection
    assert STARTING.version < LIVE.version < dropped.version


def test_backoff_is_spread_by_company_and_repeatable() -> None:
    others = {
        backoff_seconds(str(number), 3, base_seconds=1, cap_seconds=300) for number in range(50)
    }
    assert len(others) == 50
    assert all(3.0 <= wait <= 4.0 for wait in others)
    assert backoff_seconds("a", 3, base_seconds=1, cap_seconds=300) == backoff_seconds(
        "a", 3, base_seconds=1, cap_seconds=300
    )


class TestRecordsOfOthers:
    """What a journal or a row claims of a client that this process does not have."""

    @pytest.mark.parametrize(
        ("changes", "saved", "status", "reason"),
        [
            ({}, True, Status.DISCONNECTED, Reason.RESTORING),
            ({}, False, Status.DISCONNECTED, Reason.CREDENTIALS_MISSING),
            ({"desired_state": DesiredState.STOP}, True, Status.DISCONNECTED, Reason.STOPPED),
            (
                {"desired_state": DesiredState.STOP},
                False,
                Status.DISCONNECTED,
                Reason.CREDENTIALS_MISSING,
            ),
            (
                {"status": Status.AWAITING_SCAN, "reason": Reason.PAIRING},
                False,
                Status.DISCONNECTED,
                Reason.PAIRING_EXPIRED,
            ),
            (
                {"status": Status.AWAITING_SCAN, "reason": Reason.ONLINE},
                True,
                Status.DISCONNECTED,
                Reason.PAIRING_EXPIRED,
            ),
            ({"status": Status.FAILED}, True, Status.FAILED, Reason.ONLINE),
        ],
    )
    def test_a_claim_is_corrected_by_what_is_saved_also_when_its_deadline_comes_first(
        self, changes: dict[str, object], saved: bool, status: Status, reason: Reason
    ) -> None:
        claim = replace(LIVE, client=ClientPhase.NONE, status_deadline_at=NOW - timedelta(hours=1))
        claim = replace(claim, **changes)  # type: ignore[arg-type]
        for event in (
            events.RecordLoaded(has_credentials=saved),
            events.TimerDue(has_credentials=saved),
        ):
            decision = run(claim, event)
            assert (decision.connection.status, decision.connection.reason) == (status, reason)
            assert decision.effects == ()
        assert decision.connection.status_deadline_at is None, "it is not due again and again"

    @pytest.mark.parametrize(
        ("changes", "unfounded"),
        [
            ({}, True),
            ({"client": ClientPhase.LIVE}, False),
            ({"status": Status.CONNECTING, "retry_at": after(1)}, False),
            ({"status": Status.CONNECTING, "retry_at": after(-1)}, True),
            ({"status": Status.AWAITING_SCAN, "status_deadline_at": after(1)}, False),
            ({"status": Status.AWAITING_SCAN, "status_deadline_at": after(-1)}, True),
            ({"status": Status.BANNED}, False),
            ({"intent": Intent.LOGOUT}, False),
        ],
    )
    def test_a_claim_is_unfounded_without_a_client_or_a_time(
        self, changes: dict[str, object], unfounded: bool
    ) -> None:
        claim = replace(replace(LIVE, client=ClientPhase.NONE), **changes)  # type: ignore[arg-type]
        assert is_unfounded(claim, NOW) is unfounded

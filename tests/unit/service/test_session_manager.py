"""Requests, events and deletions that overlap: one life of a company never disturbs the next."""

import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from crm_whatsapp.domain import events
from crm_whatsapp.domain.connection import (
    ClientPhase,
    Connection,
    DesiredState,
    PairingMethod,
    Reason,
    Status,
)
from crm_whatsapp.domain.errors import (
    NothingSaved,
    NothingToScan,
    PairingConflict,
    ServiceStopping,
    StorageError,
)
from crm_whatsapp.domain.folders import FolderState
from crm_whatsapp.domain.notices import Notice
from crm_whatsapp.domain.transitions import FORGOTTEN
from crm_whatsapp.service.mailroom import Mailbox, Message
from tests.unit.service.fakes import DEADLINE_SECONDS, jid_of
from tests.unit.service.pod import COMPANY, Pod, online

MakePod = Callable[..., Pod]


class Gate:
    """Holds up the first folder call of this name until it is opened."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.reached = threading.Event()
        self.opened = threading.Event()

    def __call__(self, name: str, company_id: str) -> None:
        if name == self.name and not self.opened.is_set():
            self.reached.set()
            assert self.opened.wait(DEADLINE_SECONDS), "the gate was not opened"


def next_post(pod: Pod) -> threading.Event:
    """Return an event that is set once the next message is in its mailbox."""
    posted = threading.Event()
    mailroom = pod.manager._mailroom
    post = mailroom.post

    def noted(mailbox: Mailbox, message: Message) -> None:
        post(mailbox, message)
        posted.set()

    mailroom.post = noted  # type: ignore[method-assign]
    return posted


def pairing(pod: Pod, company_id: str = COMPANY, generation: int = 1) -> None:
    pod.fleet.await_order("pair", company_id, generation)
    pod.fleet.emit(
        events.QrIssued(
            company_id=company_id, generation=generation, value="2@abc", expires_in_seconds=20.0
        )
    )
    pod.await_status(Status.AWAITING_SCAN, company_id)


# --- polls ----------------------------------------------------------------------------------------


def test_many_polls_at_once_start_one_client(pod: Pod) -> None:
    pod.folders.save(COMPANY)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: pod.manager.status(COMPANY), range(64)))
    assert {item.status for item in answers} <= {Status.CONNECTING, Status.CONNECTED}
    pod.await_status(Status.CONNECTED)
    assert pod.fleet.generations(COMPANY) == [1]


def test_a_poll_before_start_up_has_decided_tells_and_starts_nothing(make_pod: MakePod) -> None:
    pod = make_pod()
    pod.folders.save(COMPANY)
    pod.leases.start()
    pod.manager.start()
    assert pod.manager.status(COMPANY).reason is Reason.RESTORING
    pod.settle()
    assert pod.fleet.orders == []
    pod.manager.allow_polls_to_start()
    pod.manager.status(COMPANY)
    pod.await_status(Status.CONNECTED)


def test_a_poll_of_a_stranger_leaves_no_trace(pod: Pod) -> None:
    assert pod.manager.status(COMPANY) == Connection(company_id=COMPANY)
    assert pod.manager.connections() == []


def test_a_poll_of_an_unreadable_folder_is_answered(pod: Pod) -> None:
    pod.folders.unreadable.add(COMPANY)
    assert pod.manager.status(COMPANY).status is Status.CONNECTING
    told = pod.await_connection(
        lambda item: item.reason is Reason.STORAGE_UNAVAILABLE, "the disk's refusal is told"
    )
    assert told.retry_at is not None


# --- requests -------------------------------------------------------------------------------------


def test_the_same_request_twice_is_one_pairing(pod: Pod) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: pod.manager.connect(COMPANY), range(8)))
    pairing(pod)
    assert pod.manager.connect(COMPANY).status is Status.AWAITING_SCAN
    assert pod.fleet.generations(COMPANY) == [1]
    assert pod.manager.qr(COMPANY).value == "2@abc"


def test_two_methods_at_once_are_one_pairing_and_one_conflict(pod: Pod) -> None:
    """Both requests looked when there was no pairing; the second one finds the first's."""
    gate = Gate("has_credentials")
    pod.folders.on_call = gate
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(pod.manager.connect, COMPANY)
        assert gate.reached.wait(DEADLINE_SECONDS)
        posted = next_post(pod)
        second = pool.submit(
            pod.manager.connect,
            COMPANY,
            method=PairingMethod.PAIRING_CODE,
            phone_number="5511999999999",
        )
        assert posted.wait(DEADLINE_SECONDS)
        gate.opened.set()
        assert first.result(DEADLINE_SECONDS).client is ClientPhase.PAIRING
        with pytest.raises(PairingConflict):
            second.result(DEADLINE_SECONDS)


def test_a_request_that_fails_is_not_answered_with_the_old_status(pod: Pod) -> None:
    def explode(*_: object, **__: object) -> None:
        raise RuntimeError("a defect")

    pod.recorder.record = explode  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="a defect"):
        pod.manager.connect(COMPANY)


def test_restoring_nothing_is_said_to_be_impossible(pod: Pod) -> None:
    with pytest.raises(NothingSaved):
        pod.manager.restore(COMPANY)


def test_events_of_an_older_client_change_nothing(pod: Pod) -> None:
    pod.connect_saved()
    pod.fleet.emit(events.LoggedOut(company_id=COMPANY, generation=0, on_connect=True, code=401))
    assert pod.settle().is_connected
    assert COMPANY in pod.folders.saved


def test_a_saved_session_that_nobody_knows_stays_stopped_when_that_is_asked_for(pod: Pod) -> None:
    pod.folders.save(COMPANY)
    assert pod.manager.disconnect(COMPANY).reason is Reason.STOPPED
    assert pod.manager.status(COMPANY).status is Status.DISCONNECTED
    pod.settle()
    assert pod.fleet.orders == []
    pod.flush()
    row = pod.row()
    assert row is not None
    assert row.desired_state is DesiredState.STOP


def test_a_store_that_is_still_in_use_is_tried_again_by_itself(pod: Pod) -> None:
    """By an engine of a killed worker that is just ending: nobody has to poll for it."""
    pod.folders.save(COMPANY)
    pod.folders.states[COMPANY] = FolderState.LOCKED
    pod.manager.connect(COMPANY)
    pod.await_connection(lambda item: item.reason is Reason.HELD_ELSEWHERE, "it is told")
    pod.folders.states.clear()
    pod.clock.advance(5.0)
    pod.manager.sweep()
    pod.await_status(Status.CONNECTED)


def test_a_logout_of_a_session_that_runs_elsewhere_ends(pod: Pod) -> None:
    pod.folders.save(COMPANY)
    pod.lease_store.claim("99999999-2222-4333-8444-555555555555", [COMPANY], 600.0 / 2)
    pod.manager.logout(COMPANY)
    pod.await_connection(
        lambda item: item.client is ClientPhase.NONE and item.reason is Reason.LOGGING_OUT, "denied"
    )
    pod.clock.advance(60.0)
    pod.manager.sweep()
    pod.await_status(Status.LOGGED_OUT)
    pod.settle()
    assert pod.manager.connect(COMPANY).client is ClientPhase.PAIRING


def test_a_pairing_that_is_denied_says_so_at_once(pod: Pod) -> None:
    pod.lease_store.claim("99999999-2222-4333-8444-555555555555", [COMPANY], 60.0)
    pod.manager.connect(COMPANY)
    told = pod.await_connection(lambda item: item.reason is Reason.PAIRING_FAILED, "denied")
    assert told.client is ClientPhase.NONE
    assert "another instance" in told.message


def test_a_request_between_two_events_keeps_their_order(pod: Pod) -> None:
    """Disconnect while the login is under way: the login that comes late starts nothing."""
    pod.fleet.answer_starts = False
    pod.folders.save(COMPANY)
    pod.manager.connect(COMPANY)
    pod.fleet.await_order("start", COMPANY, 1)
    pod.fleet.answer_stops = False
    assert pod.manager.disconnect(COMPANY).status is Status.DISCONNECTED
    pod.fleet.connected(COMPANY, 1)
    pod.fleet.stopped(COMPANY, 1)
    told = pod.settle()
    assert (told.status, told.reason) == (Status.DISCONNECTED, Reason.STOPPED)
    assert told.client is ClientPhase.NONE
    assert pod.fleet.generations(COMPANY) == [1]


# --- forgetting -----------------------------------------------------------------------------------


def test_connect_right_behind_delete_begins_a_new_life(pod: Pod) -> None:
    """The connect is in the mailbox of the company when that is forgotten."""
    pod.connect_saved()
    gate = Gate("remove")
    pod.folders.on_call = gate
    with ThreadPoolExecutor(2) as pool:
        deletion = pool.submit(pod.manager.delete, COMPANY)
        assert gate.reached.wait(DEADLINE_SECONDS)
        posted = next_post(pod)
        connecting = pool.submit(pod.manager.connect, COMPANY, user_id="ana")
        assert posted.wait(DEADLINE_SECONDS)
        gate.opened.set()
        deletion.result(DEADLINE_SECONDS)
        answer = connecting.result(DEADLINE_SECONDS)
    assert answer.client is ClientPhase.PAIRING
    pairing(pod, generation=answer.generation)
    pod.flush()
    row = pod.row()
    assert row is not None
    assert (row.status, row.desired_state) == (Status.AWAITING_SCAN, DesiredState.RUN)
    assert pod.journal.states[COMPANY].status is Status.AWAITING_SCAN


def test_a_correction_of_the_row_behind_a_deletion_does_not_bring_it_back(pod: Pod) -> None:
    pod.connect_saved()
    runtime = pod.manager.runtime(COMPANY)
    gate = Gate("remove")
    pod.folders.on_call = gate
    pod.manager.delete(COMPANY)
    assert gate.reached.wait(DEADLINE_SECONDS)
    pod.manager.rows.reassert(COMPANY, 0)
    gate.opened.set()
    pod.drain(runtime)
    assert pod.manager.find(COMPANY) is None
    pod.flush()
    assert pod.row() is None
    assert COMPANY not in pod.journal.states


def test_the_end_of_a_company_is_told_before_it_is_recorded(pod: Pod) -> None:
    pod.connect_saved()
    told: list[tuple[str, bool]] = []

    def hear(notice: Notice) -> None:
        told.append((notice.data["event"], COMPANY in pod.journal.states))

    pod.notices.listen(hear)
    pod.delete()
    assert told == [(FORGOTTEN, True)]


def test_late_events_of_a_forgotten_client_do_not_reach_the_next_one(pod: Pod) -> None:
    pod.connect_saved()
    pod.delete()
    pod.manager.connect(COMPANY)
    pairing(pod, generation=2)
    pod.fleet.emit(events.PairingExpired(company_id=COMPANY, generation=1))
    assert pod.settle().status is Status.AWAITING_SCAN


def test_what_still_comes_for_a_forgotten_company_makes_it_not_known_again(pod: Pod) -> None:
    pod.connect_saved()
    pod.delete()
    pod.fleet.emit(events.ClientStopped(company_id=COMPANY, generation=1))
    assert pod.manager.find(COMPANY) is None
    pod.manager.delete(COMPANY)
    assert pod.manager.find(COMPANY) is None
    pod.flush()
    assert pod.row() is None
    assert [item.event for item in pod.journal.written].count(FORGOTTEN) == 1


def test_asking_for_companies_that_nobody_has_leaves_nothing_behind(pod: Pod) -> None:
    pod.connect_saved()
    before = len(pod.journal.written)
    for _ in range(200):
        company_id = str(uuid.uuid4())
        assert pod.manager.status(company_id).status is Status.DISCONNECTED
        with pytest.raises(NothingSaved):
            pod.manager.restore(company_id)
        with pytest.raises(NothingToScan):
            pod.manager.qr(company_id)
        pod.manager.logout(company_id)
    assert [item.company_id for item in pod.manager.connections()] == [COMPANY]
    assert len(pod.journal.written) == before


def test_what_is_known_of_deleted_companies_is_bounded(
    pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crm_whatsapp.service.session_runtimes._MOST_FORGOTTEN", 3)
    for _ in range(5):
        pod.manager.delete(str(uuid.uuid4()))
    pod.connect_saved()
    pod.delete()
    assert len(pod.manager._forgotten) == 3
    assert COMPANY in pod.manager._forgotten


def test_a_disk_that_refuses_the_removal_keeps_the_company_known(pod: Pod) -> None:
    """Else the next poll would find the files of a company nobody knows, and restore it."""
    pod.connect_saved()
    pod.folders.refusing.add("remove")
    assert not pod.delete().retired
    assert pod.manager.status(COMPANY).status is Status.LOGGED_OUT
    assert pod.fleet.generations(COMPANY) == [1]

    pod.folders.refusing.clear()
    assert pod.delete().retired
    assert pod.folders.removed == [COMPANY]
    pod.flush()
    assert pod.row() is None


def test_a_kill_between_removal_and_record_leaves_a_deletion_that_goes_on(
    make_pod: MakePod,
) -> None:
    first = make_pod().start(restores=False)
    first.connect_saved()
    before = first.journal.states
    first.delete()
    # The kill came when the files were gone and the journal still knew the intent.
    (deleting,) = [
        item.connection
        for item in first.journal.written
        if item.connection.company_id == COMPANY and item.event == "DeleteRequested"
    ]
    before[COMPANY] = deleting
    second = make_pod(first)
    second.start()
    second.clock.advance(60.0)
    runtime = second.manager.runtime(COMPANY)
    second.manager.sweep()
    second.drain(runtime)
    assert runtime.retired
    second.flush()
    assert second.row() is None


def test_a_proxy_that_cannot_be_removed_does_not_stop_the_forgetting(pod: Pod) -> None:
    pod.connect_saved()
    pod.proxies.refuses = True
    assert pod.delete().retired
    pod.flush()
    assert pod.row() is None


def test_a_new_life_is_written_although_the_clock_went_back(pod: Pod) -> None:
    """Its versions begin below that at which the company was forgotten."""
    pod.connect_saved()
    far = 10**17
    pod.manager.rows.reassert(COMPANY, far)
    pod.settle()
    assert pod.delete().retired
    pod.flush()
    assert pod.store.database.forgotten[COMPANY] > far
    pod.manager.connect(COMPANY)
    pairing(pod, generation=2)
    pod.flush()
    pod.settle()
    pod.flush()
    row = pod.row()
    assert row is not None
    assert row.status is Status.AWAITING_SCAN


# --- stale rows -----------------------------------------------------------------------------------


def test_a_row_that_is_newer_is_overtaken_at_once(pod: Pod) -> None:
    """After a lost disk, or another pod with a fast clock."""
    pod.store.database.rows[COMPANY] = online(version=10**17)
    pod.folders.save(COMPANY)
    pod.manager.connect(COMPANY)
    pod.await_status(Status.CONNECTED)
    pod.manager.disconnect(COMPANY)
    pod.settle()
    pod.flush()
    pod.settle()
    pod.flush()
    row, told = pod.row(), pod.settle()
    assert row is not None
    assert (row.status, row.desired_state) == (Status.DISCONNECTED, DesiredState.STOP)
    assert row.version == told.version > 10**17


def test_a_wish_in_a_stale_transition_is_not_lost(pod: Pod) -> None:
    """Otherwise the sync would take the row's old wish for a new one and start the session."""
    pod.connect_saved()
    pod.flush()
    row = pod.row()
    assert row is not None
    newer = 10**17
    pod.store.database.rows[COMPANY] = replace(row, version=newer)
    pod.manager.disconnect(COMPANY)
    pod.settle()
    pod.flush()
    pod.settle()
    pod.flush()
    row = pod.row()
    assert row is not None
    assert row.desired_state is DesiredState.STOP
    assert pod.reconciliation.sync() == 0
    assert pod.settle().desired_state is DesiredState.STOP


def test_stale_transitions_end_in_one_correction_and_not_in_a_loop(pod: Pod) -> None:
    pod.store.database.rows[COMPANY] = online(version=10**17)
    pod.connect_saved()
    for _ in range(3):
        pod.settle()
        pod.flush()
    corrected = pod.events().count("row-corrected")
    pod.settle()
    pod.flush()
    assert pod.events().count("row-corrected") == corrected <= 3


def test_a_row_of_a_session_that_runs_elsewhere_is_left_to_the_other_instance(pod: Pod) -> None:
    pod.folders.save(COMPANY)
    pod.lease_store.claim("99999999-2222-4333-8444-555555555555", [COMPANY], 60.0)
    pod.manager.connect(COMPANY)
    pod.await_connection(lambda item: item.reason is Reason.HELD_ELSEWHERE, "denied")
    pod.flush()
    pod.store.database.rows[COMPANY] = online(version=10**17)
    assert pod.reconciliation.sync() == 0
    pod.manager.rows.reassert(COMPANY, 10**17)
    pod.settle()
    pod.flush()
    assert pod.row() == online(version=10**17)


# --- the end --------------------------------------------------------------------------------------


def test_nothing_is_started_behind_a_stop(pod: Pod) -> None:
    """A rebuild that is under way when the service stops must not start its new client."""
    pod.connect_saved()
    pod.fleet.answer_stops = False
    pod.fleet.emit(events.ProbeFailed(company_id=COMPANY, generation=1, detail="deaf"))
    pod.fleet.await_order("stop", COMPANY, 1)
    pod.manager.refuse_requests()
    pod.manager.post(COMPANY, events.ServiceStopping())
    pod.fleet.answer_stops = True
    pod.fleet.shutdown(1.0)
    told = pod.settle()
    assert (told.status, told.reason) == (Status.DISCONNECTED, Reason.SERVICE_STOPPED)
    assert told.client is ClientPhase.NONE
    assert told.desired_state is DesiredState.RUN
    assert pod.fleet.generations(COMPANY) == [1]
    with pytest.raises(ServiceStopping):
        pod.manager.connect(COMPANY)


def test_the_last_messages_are_handled_however_many_there_are(pod: Pod) -> None:
    handled: list[int] = []
    held, go_on = threading.Event(), threading.Event()

    def hold(_: Connection) -> None:
        held.set()
        assert go_on.wait(DEADLINE_SECONDS)

    pod.manager.then(COMPANY, hold)
    assert held.wait(DEADLINE_SECONDS)
    for number in range(100):
        pod.manager.then(COMPANY, lambda _, number=number: handled.append(number))  # type: ignore[misc]
    go_on.set()
    pod.manager.stop(DEADLINE_SECONDS)
    assert handled == list(range(100))


def test_a_message_that_fails_does_not_stop_its_company(pod: Pod) -> None:
    def fail(_: Connection) -> None:
        raise RuntimeError("a defect")

    pod.manager.then(COMPANY, fail)
    assert pod.settle().company_id == COMPANY


def test_a_full_disk_stops_no_session_and_loses_no_order(pod: Pod) -> None:
    pod.journal.refusal = StorageError("full")
    pod.connect_saved()
    assert pod.row() is None
    assert not pod.write_behind.flush(0.01)
    pod.journal.refusal = None
    assert pod.recorder.retry_held() > 0
    pod.flush()
    row = pod.row()
    assert row is not None
    assert row.status is Status.CONNECTED
    assert row.jid == jid_of(COMPANY)

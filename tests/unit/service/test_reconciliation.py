"""Rows and runtime come to agree, whoever changes what in between, and never by a loop."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from crm_whatsapp.domain import events
from crm_whatsapp.domain.connection import (
    MOST_VERSION,
    ClientPhase,
    Connection,
    DesiredState,
    Reason,
    Status,
)
from crm_whatsapp.domain.errors import StorageError, StoreUnavailable
from crm_whatsapp.service.reconciliation import Mismatch
from tests.unit.service.fakes import DEADLINE_SECONDS
from tests.unit.service.pod import COMPANY, OTHER, Pod, online

MakePod = Callable[..., Pod]


def sync(pod: Pod, company_id: str = COMPANY) -> int:
    """Compare once and let everything that follows happen."""
    updated = pod.reconciliation.sync()
    if pod.manager.find(company_id) is not None:
        pod.settle(company_id)
    pod.flush()
    return updated


def edit_row(pod: Pod, **changes: object) -> None:
    row = pod.row()
    assert row is not None
    pod.store.database.rows[COMPANY] = replace(row, **changes)  # type: ignore[arg-type]


@pytest.fixture
def live(pod: Pod) -> Pod:
    """A pod with one connected session whose row is written."""
    pod.connect_saved()
    pod.flush()
    return pod


def test_in_agreement_nothing_is_written(live: Pod) -> None:
    before = live.events()
    assert sync(live) == 0
    assert live.events() == before
    assert not live.reconciliation.mismatches.total()


def test_a_wish_written_into_the_table_is_followed(live: Pod) -> None:
    edit_row(live, desired_state=DesiredState.STOP)
    assert sync(live) == 1
    live.await_status(Status.DISCONNECTED)
    live.settle()
    live.flush()
    row = live.row()
    assert row is not None
    assert (row.status, row.desired_state) == (Status.DISCONNECTED, DesiredState.STOP)
    edit_row(live, desired_state=DesiredState.RUN)
    assert sync(live) == 1
    live.await_status(Status.CONNECTED)
    assert sync(live) == 0


def test_a_wish_of_now_wins_over_one_that_was_read_before(live: Pod) -> None:
    """The table says stop, then somebody here disconnects and connects: the newest word stays."""
    edit_row(live, desired_state=DesiredState.STOP)

    def meanwhile() -> None:
        live.store.after_listing = lambda: None
        live.manager.disconnect(COMPANY)
        live.settle()
        live.manager.connect(COMPANY)
        live.await_status(Status.CONNECTED)

    live.store.after_listing = meanwhile
    assert sync(live) == 0
    assert live.settle().desired_state is DesiredState.RUN
    assert sync(live) == 0
    row = live.row()
    assert row is not None
    assert row.desired_state is DesiredState.RUN


def test_a_wish_is_not_followed_once_the_connection_has_changed(live: Pod) -> None:
    """The comparison was right, and somebody was faster on the way to the mailbox."""
    seen = live.settle()
    live.manager.disconnect(COMPANY)
    live.manager.connect(COMPANY)
    live.manager.rows.follow_table(seen, DesiredState.STOP)
    live.await_status(Status.CONNECTED)
    assert live.settle().desired_state is DesiredState.RUN


def test_a_change_between_listing_and_comparison_is_no_mismatch(live: Pod) -> None:
    def meanwhile() -> None:
        live.fleet.emit(events.ClientDisconnected(company_id=COMPANY, generation=1))
        live.settle()

    live.store.after_listing = meanwhile
    assert sync(live) == 0
    live.store.after_listing = lambda: None
    assert sync(live) == 0
    row = live.row()
    assert row is not None
    assert row.reason is Reason.NETWORK_LOST
    assert "row-corrected" not in live.events()


def test_a_company_connected_between_listing_and_comparison_is_no_mismatch(pod: Pod) -> None:
    def meanwhile() -> None:
        pod.store.after_listing = lambda: None
        pod.connect_saved()

    pod.store.after_listing = meanwhile
    assert sync(pod) == 0
    assert pod.settle().is_connected
    assert "row-corrected" not in pod.events()


def test_a_company_deleted_between_listing_and_comparison_stays_deleted(live: Pod) -> None:
    def meanwhile() -> None:
        live.store.after_listing = lambda: None
        live.delete()

    live.store.after_listing = meanwhile
    assert sync(live) == 0
    assert live.manager.find(COMPANY) is None
    live.flush()
    assert live.row() is None
    assert sync(live) == 0
    assert COMPANY not in live.journal.states


def test_a_row_deleted_by_hand_comes_back(live: Pod) -> None:
    del live.store.database.rows[COMPANY]
    assert sync(live) == 1
    row = live.row()
    assert row is not None
    assert (row.status, row.desired_state) == (Status.CONNECTED, DesiredState.RUN)
    assert live.reconciliation.mismatches[Mismatch.RUNTIME_WITHOUT_ROW] == 1
    assert sync(live) == 0


def test_a_status_edited_by_hand_is_put_right(live: Pod) -> None:
    edit_row(live, status=Status.BANNED, reason=Reason.TEMPORARY_BAN)
    assert sync(live) == 1
    row = live.row()
    assert row is not None
    assert row.status is Status.CONNECTED
    assert sync(live) == 0


def test_a_row_that_is_newer_is_overtaken(live: Pod) -> None:
    edit_row(live, version=10**17, status=Status.DISCONNECTED, reason=Reason.STOPPED)
    assert sync(live) == 1
    row = live.row()
    assert row is not None
    assert row.status is Status.CONNECTED
    assert row.version > 10**17
    assert live.reconciliation.mismatches[Mismatch.ROW_NEWER] == 1
    assert sync(live) == 0


def test_a_row_that_cannot_be_mended_is_written_ever_more_seldom(live: Pod) -> None:
    """A trigger changes the row back each time; the history must not fill up with that."""

    def trigger() -> None:
        row = live.row()
        if row is not None:
            edit_row(live, status=Status.FAILED, reason=Reason.ENGINE_CRASH)

    live.store.before_call = lambda name: trigger() if name == "list" else None
    for _ in range(64):
        assert sync(live) == 1
    assert live.events().count("row-corrected") == 7
    assert live.reconciliation.mismatches[Mismatch.ROW_OUTDATED] == 1, "the same one all along"
    live.store.before_call = lambda name: None
    turns = [sync(live) for _ in range(65)]  # the 128th time in a row is among them
    assert turns[-1] == 0
    row = live.row()
    assert row is not None
    assert row.status is Status.CONNECTED
    edit_row(live, status=Status.FAILED)
    assert sync(live) == 1
    assert live.row() != replace(row, status=Status.FAILED), "after agreement it is mended at once"


def test_a_row_nobody_here_knows_is_restored_when_its_session_is_saved(pod: Pod) -> None:
    pod.store.database.rows[COMPANY] = online(version=5)
    pod.folders.save(COMPANY)
    assert sync(pod) == 1
    pod.await_status(Status.CONNECTED)
    assert pod.journal.states[COMPANY].version > 5


def test_a_row_that_claims_a_session_which_is_not_saved_is_corrected(pod: Pod) -> None:
    pod.store.database.rows[COMPANY] = online(version=5)
    assert sync(pod) == 1
    row = pod.row()
    assert row is not None
    assert row.reason is Reason.CREDENTIALS_MISSING
    assert row.desired_state is DesiredState.RUN
    assert sync(pod) == 0


@pytest.mark.parametrize("wish", list(DesiredState))
def test_a_row_that_the_crm_has_made_beforehand_is_taken_in_once(
    pod: Pod, wish: DesiredState
) -> None:
    pod.store.database.rows[COMPANY] = Connection(company_id=COMPANY, desired_state=wish)
    assert [sync(pod) for _ in range(4)] == [1, 0, 0, 0]
    assert pod.events() == []


def test_one_unreadable_folder_does_not_stop_the_comparison_of_the_others(live: Pod) -> None:
    live.store.database.rows[OTHER] = online(OTHER, version=5)
    live.folders.unreadable.update({OTHER, COMPANY})
    edit_row(live, desired_state=DesiredState.STOP)
    sync(live)
    live.await_status(Status.DISCONNECTED)
    live.await_connection(
        lambda item: item.reason is Reason.STORAGE_UNAVAILABLE, "the other is told", OTHER
    )


def test_a_missing_credentials_file_is_written_again(live: Pod) -> None:
    del live.folders.saved[COMPANY]
    assert sync(live) == 1
    assert COMPANY in live.folders.saved
    assert sync(live) == 0


def test_without_the_database_nothing_is_compared(live: Pod) -> None:
    live.store.database.reachable = False
    with pytest.raises(StoreUnavailable):
        live.reconciliation.sync()
    assert live.settle().client is ClientPhase.LIVE


def test_changes_that_the_disk_refuses_postpone_the_comparison(live: Pod) -> None:
    """The row is behind because of the disk: writing it once more would only be held too."""
    live.journal.refusal = StorageError("full")
    live.fleet.emit(events.ClientDisconnected(company_id=COMPANY, generation=1))
    live.settle()
    held = live.recorder.held_count
    assert held
    assert live.reconciliation.sync() == 0
    assert live.recorder.held_count == held
    assert not live.reconciliation.mismatches.total()


def test_after_an_outage_the_comparison_that_was_asked_for_comes(live: Pod) -> None:
    edit_row(live, status=Status.FAILED)
    live.write_behind.on_return(live.reconciliation.request)
    live.reconciliation.start()
    live.store.signal.wait_until(lambda: "row-corrected" in live.events(), "the correction")
    live.reconciliation.stop()


def test_the_same_kind_found_anew_counts_anew(live: Pod) -> None:
    for wish in (DesiredState.STOP, DesiredState.RUN, DesiredState.STOP):
        edit_row(live, desired_state=wish)
        sync(live)
        live.settle()
        live.flush()
    assert live.reconciliation.mismatches[Mismatch.DESIRED_STATE] == 3
    for _ in range(2):
        edit_row(live, status=Status.FAILED)
        sync(live)
        sync(live)
    assert live.reconciliation.mismatches[Mismatch.ROW_OUTDATED] == 2


def test_a_comparison_that_finds_the_database_away_is_made_up_for(live: Pod) -> None:
    edit_row(live, status=Status.FAILED)
    live.store.database.reachable = False
    live.reconciliation._retry_seconds = 0.01
    with pytest.raises(StoreUnavailable):
        live.reconciliation.sync_by_clock()
    live.reconciliation._thread.start()  # as `start`, which asks for one itself
    live.store.database.reachable = True
    live.store.signal.wait_until(lambda: "row-corrected" in live.events(), "the correction")
    live.reconciliation.stop()


def test_the_last_comparison_can_be_asked_for(live: Pod) -> None:
    assert live.reconciliation.last is None
    edit_row(live, status=Status.FAILED)
    sync(live)
    last = live.reconciliation.last
    assert last is not None
    assert (last.checked, last.updated) == (1, 1)


@pytest.mark.parametrize("version", [2**62 + 1, 2**63 - 1])
def test_a_version_that_leaves_no_number_above_it_stops_nobody(live: Pod, version: int) -> None:
    """Whoever can write a row could otherwise have every later change of its company lost."""
    edit_row(live, version=version)
    for _ in range(3):
        sync(live)
    live.manager.disconnect(COMPANY)
    assert live.settle().version <= MOST_VERSION
    assert live.settle().status is Status.DISCONNECTED
    live.flush()
    assert live.settle().version <= MOST_VERSION
    edit_row(live, version=0)  # as the log says
    sync(live)
    row = live.row()
    assert row is not None
    assert row.status is Status.DISCONNECTED
    assert row.version == live.settle().version


# --- claims that nothing is behind -----------------------------------------------------------


def await_stale(pod: Pod, number: int, company_id: str = COMPANY) -> None:
    """Wait until so many claims were corrected and the row tells of it."""

    def corrected() -> bool:
        return pod.reconciliation.mismatches[Mismatch.STALE_STATUS] == number

    runtime = pod.manager.runtime(company_id)
    assert runtime.wait_until(lambda _: corrected(), DEADLINE_SECONDS)
    pod.settle(company_id)
    pod.flush()


@pytest.mark.parametrize("wish", list(DesiredState))
@pytest.mark.parametrize("version", [0, 5])
@pytest.mark.parametrize("status", [Status.CONNECTED, Status.CONNECTING])
def test_a_row_of_an_old_system_that_claims_a_session_saved_nowhere(
    pod: Pod, wish: DesiredState, version: int, status: Status
) -> None:
    pod.store.database.rows[COMPANY] = Connection(
        company_id=COMPANY, status=status, desired_state=wish, version=version
    )
    sync(pod)
    await_stale(pod, 1)
    row = pod.row()
    assert row is not None
    assert (row.status, row.reason) == (Status.DISCONNECTED, Reason.CREDENTIALS_MISSING)
    assert row.desired_state is wish
    assert pod.events() == ["RecordLoaded"]
    assert sync(pod) == 0
    assert pod.reconciliation.mismatches == Counter(
        [Mismatch.ROW_WITHOUT_RUNTIME, Mismatch.STALE_STATUS]
    )
    pod.store.signal.wait_until(lambda: pod.leases.owner_of(COMPANY) is None, "no lease is kept")


def test_a_row_that_claims_a_pairing_nobody_shows(pod: Pod) -> None:
    pod.store.database.rows[COMPANY] = Connection(
        company_id=COMPANY,
        status=Status.AWAITING_SCAN,
        reason=Reason.PAIRING,
        desired_state=DesiredState.RUN,
        status_deadline_at=pod.clock.now(),
        version=5,
    )
    sync(pod)
    await_stale(pod, 1)
    row = pod.row()
    assert row is not None
    assert row.reason is Reason.PAIRING_EXPIRED


def test_a_row_that_claims_a_stopped_session_to_be_connected(pod: Pod) -> None:
    pod.store.database.rows[COMPANY] = online(version=5, desired_state=DesiredState.STOP)
    pod.folders.save(COMPANY)
    sync(pod)
    await_stale(pod, 1)
    row = pod.row()
    assert row is not None
    assert (row.status, row.reason) == (Status.DISCONNECTED, Reason.STOPPED)


def test_a_claim_that_is_edited_into_the_row_of_a_company_asked_about_before(pod: Pod) -> None:
    pod.manager.disconnect(COMPANY)
    assert pod.settle().version == 0
    pod.store.database.rows[COMPANY] = Connection(company_id=COMPANY, status=Status.CONNECTED)
    sync(pod)
    await_stale(pod, 1)
    row = pod.row()
    assert row is not None
    assert row.reason is Reason.CREDENTIALS_MISSING


def test_a_session_that_runs_elsewhere_is_not_called_missing(pod: Pod) -> None:
    pod.lease_store.claim("99999999-2222-4333-8444-555555555555", [COMPANY], 60.0)
    pod.store.database.rows[COMPANY] = online(version=5)
    for _ in range(3):
        sync(pod)
        pod.store.signal.wait_until(
            lambda: pod.leases.owner_of(COMPANY) is not None, "the lease was asked for"
        )
        pod.settle()
    row = pod.row()
    assert row is not None
    assert row.status is Status.CONNECTED
    assert pod.events() == []
    assert pod.reconciliation.mismatches == Counter([Mismatch.ROW_WITHOUT_RUNTIME])


@pytest.mark.parametrize("saved", [True, False])
def test_a_runtime_that_claims_a_client_it_does_not_have(live: Pod, saved: bool) -> None:
    """Row and runtime agree, and both are wrong: an event of the client's end got lost."""
    runtime = live.manager.runtime(COMPANY)
    live.fleet.running.clear()
    runtime.set_connection(replace(runtime.connection, client=ClientPhase.NONE))
    if not saved:
        del live.folders.saved[COMPANY]
    sync(live)
    if saved:
        live.await_connection(lambda item: item.client is ClientPhase.LIVE, "it runs again")
        assert live.reconciliation.mismatches == Counter()
        return
    await_stale(live, 1)
    row = live.row()
    assert row is not None
    assert row.reason is Reason.CREDENTIALS_MISSING


def test_before_start_up_has_decided_a_claim_is_left_to_it(make_pod: MakePod) -> None:
    pod = make_pod()
    pod.journal.states[COMPANY] = online(version=5)
    pod.store.database.rows[COMPANY] = online(version=5)
    pod.leases.start()
    pod.manager.start()
    pod.write_behind.start()
    assert sync(pod) == 0
    assert pod.settle().status is Status.CONNECTED
    pod.manager.allow_polls_to_start()
    sync(pod)
    await_stale(pod, 1)


def test_a_retry_that_is_waited_for_is_no_stale_claim(pod: Pod) -> None:
    pod.store.database.rows[COMPANY] = Connection(
        company_id=COMPANY,
        status=Status.CONNECTING,
        reason=Reason.WHATSAPP_UNREACHABLE,
        desired_state=DesiredState.RUN,
        retry_at=pod.clock.now() + timedelta(seconds=60),
        version=5,
    )
    sync(pod)
    sync(pod)
    assert pod.settle().reason is Reason.WHATSAPP_UNREACHABLE
    assert pod.reconciliation.mismatches == Counter([Mismatch.ROW_WITHOUT_RUNTIME])

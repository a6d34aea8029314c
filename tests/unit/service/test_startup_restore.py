"""Start-up brings back what should run, counts honestly, and waits for nobody it need not."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from crm_whatsapp.domain import events
from crm_whatsapp.domain.connection import DesiredState, Intent, Reason, Status
from crm_whatsapp.service.startup_restore import RestorePlan, RestoreProgress
from tests.unit.service.fakes import DEADLINE_SECONDS, NOON, HangingCalls
from tests.unit.service.pod import COMPANY, OTHER, THIRD, Pod, online

MakePod = Callable[..., Pod]


def prepared(make_pod: MakePod, **changes: Any) -> Pod:
    """Return a pod that was connected with COMPANY and OTHER when it was killed."""
    pod = make_pod(**changes)
    for company_id in (COMPANY, OTHER):
        pod.folders.save(company_id)
        pod.journal.states[company_id] = online(company_id, version=5)
    return pod


def await_finished(pod: Pod) -> RestoreProgress:
    pod.restore._thread.join(DEADLINE_SECONDS)
    assert not pod.restore._thread.is_alive()
    for connection in pod.manager.connections():
        pod.settle(connection.company_id)
    return pod.restore.progress


def connected(pod: Pod, *company_ids: str) -> RestoreProgress:
    for company_id in company_ids:
        pod.await_status(Status.CONNECTED, company_id)
    return await_finished(pod)


def progress(total: int, restored: int, failed: int = 0) -> RestoreProgress:
    return RestoreProgress(finished=True, total=total, restored=restored, failed=failed)


def test_everything_comes_back_and_is_counted(make_pod: MakePod) -> None:
    pod = prepared(make_pod).start()
    assert connected(pod, COMPANY, OTHER) == progress(2, 2)
    assert pod.fleet.prewarmed == [2]


def test_the_most_recent_comes_first(make_pod: MakePod) -> None:
    pod = prepared(make_pod)
    pod.fleet.answer_starts = False
    pod.journal.states[COMPANY] = online(COMPANY, version=5, last_connected_at=NOON)
    pod.journal.states[OTHER] = online(
        OTHER, version=5, last_connected_at=NOON + timedelta(hours=1)
    )
    pod.lease_store.claim(pod.owner_id, [COMPANY, OTHER], 60.0)
    order: list[str] = []
    post = pod.manager.post

    def noted(company_id: str, event: events.Event) -> None:
        if isinstance(event, events.StartupFound):
            order.append(company_id)
        post(company_id, event)

    pod.manager.post = noted  # type: ignore[method-assign]
    pod.start()
    await_finished(pod)
    assert order == [OTHER, COMPANY]


def test_one_unreadable_folder_holds_up_nobody(make_pod: MakePod) -> None:
    pod = prepared(make_pod)
    pod.folders.unreadable.add(THIRD)
    pod.start()
    connected(pod, COMPANY, OTHER)
    pod.await_connection(
        lambda item: item.reason is Reason.STORAGE_UNAVAILABLE, "the disk's refusal", THIRD
    )
    assert await_finished(pod) == progress(3, 2, 1)


def test_known_companies_do_not_wait_for_a_database_that_hangs(make_pod: MakePod) -> None:
    """A folder that the journal has never heard of makes start-up ask the database."""
    pod = prepared(make_pod)
    pod.folders.save(THIRD)
    hanging = HangingCalls("list")
    pod.store.before_call = hanging
    pod.start()
    pod.await_status(Status.CONNECTED, COMPANY)
    pod.await_status(Status.CONNECTED, OTHER)
    assert hanging.entered.wait(DEADLINE_SECONDS)
    assert not pod.restore.progress.finished
    assert pod.fleet.generations(THIRD) == []
    hanging.let_go.set()
    assert connected(pod, THIRD) == progress(3, 3)


def test_a_stop_that_only_the_row_knows_of_is_obeyed_and_start_up_ends(make_pod: MakePod) -> None:
    """The row arrives in the mailbox after start-up has looked: declined, and not waited for."""
    pod = make_pod()
    pod.folders.save(COMPANY)
    pod.store.database.rows[COMPANY] = online(
        version=5,
        desired_state=DesiredState.STOP,
        status=Status.DISCONNECTED,
        reason=Reason.STOPPED,
    )
    pod.start()
    assert await_finished(pod) == progress(0, 0)
    assert pod.fleet.orders == []
    assert pod.manager.status(COMPANY).reason is Reason.STOPPED


def test_what_must_not_run_is_not_started(make_pod: MakePod) -> None:
    pod = make_pod()
    states = {
        COMPANY: online(
            version=5,
            desired_state=DesiredState.STOP,
            status=Status.DISCONNECTED,
            reason=Reason.STOPPED,
        ),
        OTHER: online(OTHER, version=5, status=Status.LOGGED_OUT, reason=Reason.PHONE_UNLINKED),
        THIRD: online(THIRD, version=5, status=Status.BANNED, reason=Reason.TEMPORARY_BAN),
    }
    for company_id, state in states.items():
        pod.folders.save(company_id)
        pod.journal.states[company_id] = state
    pod.start()
    assert await_finished(pod) == progress(0, 0)
    assert pod.fleet.orders == []


def test_a_failed_start_is_counted_as_such_and_goes_on_by_itself(make_pod: MakePod) -> None:
    pod = prepared(make_pod)
    pod.fleet.answer_starts = False
    pod.start()
    pod.fleet.await_order("start", COMPANY, 1)
    pod.fleet.await_order("start", OTHER, 1)
    pod.fleet.connected(OTHER, 1)
    pod.fleet.emit(
        events.ClientEnded(company_id=COMPANY, generation=1, detail="no route", unreachable=True)
    )
    pod.await_status(Status.CONNECTED, OTHER)
    assert await_finished(pod) == progress(2, 1, 1)
    pod.fleet.answer_starts = True
    pod.clock.advance(5.0)
    pod.manager.sweep()
    pod.await_status(Status.CONNECTED, COMPANY)
    assert pod.restore.progress == progress(2, 1, 1)


def test_a_logout_that_was_cut_short_is_finished_and_not_counted(make_pod: MakePod) -> None:
    pod = make_pod()
    pod.folders.save(COMPANY)
    pod.journal.states[COMPANY] = online(
        version=5,
        intent=Intent.LOGOUT,
        desired_state=DesiredState.STOP,
        status=Status.DISCONNECTED,
        reason=Reason.LOGGING_OUT,
    )
    pod.start()
    pod.await_status(Status.LOGGED_OUT)
    assert await_finished(pod) == progress(0, 0)
    assert pod.folders.removed == [COMPANY]


def test_records_without_a_session_on_disk_are_corrected(make_pod: MakePod) -> None:
    pod = make_pod()
    pod.journal.states[COMPANY] = online(version=5)
    pod.start()
    assert await_finished(pod) == progress(0, 0)
    assert pod.settle().reason is Reason.CREDENTIALS_MISSING


def test_switched_off_it_starts_nothing_but_polls_do(make_pod: MakePod) -> None:
    pod = prepared(make_pod, plan=RestorePlan(enabled=False)).start()
    assert await_finished(pod) == progress(0, 0)
    assert pod.fleet.orders == []
    pod.manager.status(COMPANY)
    pod.await_status(Status.CONNECTED)


def test_a_stop_during_the_delay_starts_nothing(make_pod: MakePod) -> None:
    pod = prepared(make_pod, plan=RestorePlan(startup_delay_seconds=3600.0)).start()
    pod.restore.stop()
    pod.restore._thread.join(DEADLINE_SECONDS)
    assert not pod.restore._thread.is_alive()
    assert pod.fleet.orders == []


def test_a_stop_between_two_starts_ends_it(make_pod: MakePod) -> None:
    pod = prepared(make_pod, plan=RestorePlan(delay_between_seconds=3600.0)).start()
    pod.fleet.signal.wait_until(lambda: bool(pod.fleet.starts), "the first start")
    pod.restore.stop()
    pod.restore._thread.join(DEADLINE_SECONDS)
    assert len(pod.fleet.starts) == 1
    assert not pod.restore.progress.finished


def test_a_defect_does_not_keep_polls_from_restoring(make_pod: MakePod) -> None:
    pod = prepared(make_pod)
    pod.folders.refusing.add("list_companies")
    pod.start()
    assert await_finished(pod).finished
    pod.manager.status(COMPANY)
    pod.await_status(Status.CONNECTED)


def test_a_person_who_is_faster_than_start_up_is_not_disturbed(make_pod: MakePod) -> None:
    pod = prepared(make_pod, plan=RestorePlan(startup_delay_seconds=0.0))
    pod.leases.start()
    pod.manager.start()
    pod.write_behind.start()
    pod.manager.connect(COMPANY)
    pod.manager.disconnect(OTHER)
    pod.await_status(Status.CONNECTED)
    pod.restore.start()
    assert await_finished(pod) == progress(0, 0)
    assert pod.fleet.generations(COMPANY) == [1]
    assert pod.fleet.generations(OTHER) == []


def test_a_fresh_session_beside_a_lost_journal_takes_up_its_row(make_pod: MakePod) -> None:
    pod = make_pod()
    pod.folders.save(COMPANY)
    pod.store.database.rows[COMPANY] = online(version=10**17, user_id="ana")
    pod.start()
    connected(pod, COMPANY)
    assert pod.settle().user_id == "ana"
    pod.flush()
    row = pod.row()
    assert row is not None
    assert row.version == pod.settle().version > 10**17

"""The journal reaches the database in order, each transition once, and nothing blocks for ever."""

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest

from crm_whatsapp.domain.connection import Connection, DesiredState, Status
from crm_whatsapp.domain.errors import StorageError, StoreRejected, StoreUnavailable
from crm_whatsapp.domain.notices import Notice, NoticeKind
from crm_whatsapp.domain.transitions import FORGOTTEN, Transition
from crm_whatsapp.service.write_behind import WriteBehind
from tests.unit.service.fakes import (
    DEADLINE_SECONDS,
    NOON,
    FakeJournal,
    HangingCalls,
    MoodyStore,
    Signal,
)
from tests.unit.service.pod import COMPANY, OTHER, THIRD


class NoticeQueueInMemory:
    """Takes notices, each once; `refusal` is what it says instead."""

    def __init__(self, signal: Signal) -> None:
        self.taken: dict[str, Notice] = {}
        self.calls: list[int] = []
        self.refusal: Callable[[Notice], Exception | None] = lambda notice: None
        self._signal = signal

    def enqueue(self, notices: Sequence[Notice]) -> int:
        with self._signal:
            self.calls.append(len(notices))
            for notice in notices:
                error = self.refusal(notice)
                if error is not None:
                    raise error
            self.taken.update((notice.id, notice) for notice in notices)
        return len(notices)


class Bench:
    """A WriteBehind with its surroundings."""

    def __init__(self) -> None:
        self.journal = FakeJournal()
        self.store = MoodyStore()
        self.held = 0
        self.numbers = 0
        self.stale: list[tuple[int, int]] = []
        self.queue = NoticeQueueInMemory(self.store.signal)
        self.write_behind = WriteBehind(
            journal=self.journal,
            store=self.store,
            longest_wait_seconds=0.01,
            held_count=lambda: self.held,
            notices=self.queue,
        )
        self.write_behind.on_stale(
            lambda transition, receipt: self.stale.append(
                (transition.connection.version, receipt.row_version)
            )
        )

    def put(
        self, company_id: str = COMPANY, event: str = "Event", version: int | None = None
    ) -> Transition:
        self.numbers += 1
        transition = Transition(
            id=f"00000000-0000-4000-8000-{self.numbers:012d}",
            connection=Connection(
                company_id=company_id,
                status=Status.CONNECTING,
                desired_state=DesiredState.RUN,
                version=self.numbers if version is None else version,
            ),
            event=event,
            from_status=Status.DISCONNECTED,
            occurred_at=NOON,
        )
        self.journal.append(transition)
        return transition

    def tell(self, company_id: str | None = COMPANY) -> Notice:
        self.numbers += 1
        notice = Notice(
            id=f"00000000-0000-4000-8000-{self.numbers:012d}",
            kind=NoticeKind.MESSAGE,
            company_id=company_id,
            occurred_at=NOON,
            data={},
        )
        self.journal.append_notice(notice, keep=True)
        return notice

    def history(self) -> list[int]:
        return [item.connection.version for item in self.store.database.history.values()]


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.store.before_call = lambda name: None
    made.write_behind.stop(DEADLINE_SECONDS)


def flush(bench: Bench) -> bool:
    return bench.write_behind.flush(DEADLINE_SECONDS)


def test_what_an_earlier_process_left_is_sent_in_order(bench: Bench) -> None:
    for _ in range(450):
        bench.put()
    bench.write_behind.start()
    assert flush(bench)
    assert bench.history() == list(range(1, 451))
    assert bench.write_behind.sent == 450


def test_what_is_recorded_while_the_thread_looks_is_not_reported_as_sent(bench: Bench) -> None:
    """The journal was empty a moment ago: the flush that begins now must not believe that."""
    looked, go_on = threading.Event(), threading.Event()
    bench.write_behind.start()
    assert flush(bench)

    def pause() -> None:
        looked.set()
        assert go_on.wait(DEADLINE_SECONDS)

    bench.journal.after_pending = pause
    bench.write_behind.notify()
    assert looked.wait(DEADLINE_SECONDS)
    bench.journal.after_pending = lambda: None
    bench.put()
    go_on.set()
    assert flush(bench)
    assert bench.history() == [1]


def test_a_flush_says_no_while_changes_are_in_memory_only(bench: Bench) -> None:
    bench.write_behind.start()
    bench.held = 1
    assert not flush(bench)
    bench.held = 0
    assert flush(bench)


def test_an_outage_loses_and_repeats_nothing(bench: Bench) -> None:
    returned = threading.Event()
    bench.write_behind.on_return(returned.set)
    bench.store.database.reachable = False
    bench.put()
    bench.write_behind.start()
    bench.store.await_calls(2)
    assert not bench.write_behind.is_reachable
    bench.put()
    bench.store.database.reachable = True
    assert flush(bench)
    assert returned.wait(DEADLINE_SECONDS)
    assert bench.history() == [1, 2]
    assert bench.write_behind.is_reachable


def test_an_answer_that_is_lost_changes_nothing(bench: Bench) -> None:
    """Recorded there, not marked here: the next process sends it again."""
    transition = bench.put()
    bench.store.record_transitions([transition])
    bench.write_behind.start()
    assert flush(bench)
    assert bench.history() == [1]
    assert bench.journal.pending_count() == 0


def test_a_failing_listener_to_the_return_does_not_end_the_thread(bench: Bench) -> None:
    def fail() -> None:
        raise RuntimeError("a listener's own trouble")

    bench.write_behind.on_return(fail)
    bench.store.database.reachable = False
    bench.put()
    bench.write_behind.start()
    bench.store.await_calls(1)
    bench.store.database.reachable = True
    assert flush(bench)
    bench.put()
    assert flush(bench)
    assert bench.history() == [1, 2]


def test_one_poisonous_transition_does_not_block_the_other_companies(bench: Bench) -> None:
    bench.store.poisonous.add(OTHER)
    bench.put(COMPANY)
    bench.put(OTHER)
    bench.put(OTHER)
    bench.put(COMPANY)
    bench.put(THIRD)
    bench.write_behind.start()
    assert flush(bench)
    assert sorted(bench.history()) == [1, 4, 5]
    assert bench.write_behind.refused == 2
    assert bench.store.database.rows.keys() == {COMPANY, THIRD}


def test_poison_alone_is_known_by_what_was_accepted_before(bench: Bench) -> None:
    """Else a quiet service would not compare rows and runtime any more."""
    bench.put(COMPANY)
    bench.write_behind.start()
    assert flush(bench)
    bench.store.poisonous.add(OTHER)
    bench.put(OTHER)
    bench.put(OTHER)
    assert flush(bench)
    assert bench.history() == [1]
    assert (bench.write_behind.sent, bench.write_behind.refused) == (1, 2)


def test_a_permission_that_is_taken_away_loses_nothing(bench: Bench) -> None:
    bench.put(COMPANY)
    bench.write_behind.start()
    assert flush(bench)
    bench.store.denies = True
    for company_id in (COMPANY, OTHER, THIRD):
        bench.put(company_id)
    bench.write_behind.notify()
    bench.store.await_calls(30)
    bench.store.denies = False
    assert flush(bench)
    assert sorted(bench.history()) == [1, 2, 3, 4]
    assert bench.write_behind.refused == 0


def test_a_gateway_that_refuses_now_and_then_loses_nothing(bench: Bench) -> None:
    """While it is restarted, some of its processes know the key and some do not."""
    answers = random.Random(5)  # noqa: S311 - the same each time

    def gateway(name: str) -> None:
        if len(bench.store.calls) < 100 and answers.random() < 0.3:
            raise StoreRejected("401")

    bench.store.before_call = gateway
    for number in range(60):
        bench.put((COMPANY, OTHER, THIRD)[number % 3])
    bench.write_behind.start()
    assert flush(bench)
    assert sorted(bench.history()) == list(range(1, 61))
    assert bench.write_behind.refused == 0


def test_poison_alone_waits_until_something_else_is_accepted(bench: Bench) -> None:
    """Alone it cannot be told from a missing permission; it is kept, and said to be a problem."""
    bench.store.poisonous.add(OTHER)
    bench.put(OTHER)
    bench.write_behind.start()
    bench.store.await_calls(2)
    assert bench.write_behind.problem is not None
    assert bench.journal.pending_count() == 1
    bench.put(COMPANY)
    assert flush(bench)
    assert bench.history() == [2]
    assert bench.write_behind.problem is None


def test_poison_alone_holds_up_nobody_but_its_company(bench: Bench) -> None:
    bench.store.poisonous.add(OTHER)
    bench.put(OTHER)
    behind = bench.tell(OTHER)
    notices = [bench.tell(COMPANY), bench.tell(THIRD)]
    bench.put(COMPANY, FORGOTTEN)
    bench.write_behind.start()
    bench.store.signal.wait_until(lambda: len(bench.queue.taken) == 2, "the others' notices")
    bench.store.signal.wait_until(lambda: ["forget", COMPANY] in bench.store.calls, "the deletion")
    assert list(bench.queue.taken) == [notice.id for notice in notices]
    bench.put(THIRD)
    assert flush(bench)
    assert behind.id in bench.queue.taken
    assert bench.write_behind.refused == 1


def test_a_missing_permission_loses_nothing(bench: Bench) -> None:
    bench.store.denies = True
    for company_id in (COMPANY, OTHER, THIRD) * 5:
        bench.put(company_id)
    bench.write_behind.start()
    bench.store.await_calls(8)
    assert bench.journal.pending_count() == 15
    bench.store.denies = False
    assert flush(bench)
    assert sorted(bench.history()) == list(range(1, 16))
    assert bench.write_behind.refused == 0


def test_receipts_that_are_missing_are_waited_for_without_a_hot_loop(bench: Bench) -> None:
    first, second = bench.put(), bench.put()
    bench.store.unanswered = {first.id, second.id}
    bench.write_behind.start()
    bench.store.await_calls(2)
    assert bench.write_behind.problem is not None
    assert bench.journal.pending_count() == 2
    bench.store.unanswered = {first.id}
    bench.store.await_calls(len(bench.store.calls) + 2)
    assert [item.id for item in bench.journal.backlog] == [first.id]
    bench.store.unanswered = set()
    assert flush(bench)


def test_an_invalid_transition_is_given_up_and_counted(bench: Bench) -> None:
    bad = bench.put()
    bench.journal.backlog[0] = replace(bad, connection=replace(bad.connection, restore_attempts=-1))
    bench.put(OTHER)
    bench.write_behind.start()
    assert flush(bench)
    assert (bench.write_behind.refused, bench.write_behind.sent) == (1, 1)


def test_a_newer_row_is_told_with_its_version(bench: Bench) -> None:
    bench.store.database.rows[COMPANY] = Connection(company_id=COMPANY, version=900)
    bench.put(version=5)
    bench.write_behind.start()
    assert flush(bench)
    assert bench.stale == [(5, 900)]


def test_a_company_is_forgotten_between_its_two_lives(bench: Bench) -> None:
    bench.put(COMPANY)
    bench.put(OTHER)
    bench.put(COMPANY, FORGOTTEN)
    bench.put(COMPANY)
    bench.write_behind.start()
    assert flush(bench)
    assert bench.store.calls == [[COMPANY, OTHER], ["forget", COMPANY], [COMPANY]]
    assert bench.store.database.rows[COMPANY].version == 4
    assert bench.journal.states[COMPANY].version == 4, "the journal keeps the new life"


def test_a_company_that_comes_back_while_it_is_being_forgotten_keeps_its_records(
    bench: Bench,
) -> None:
    bench.put(COMPANY, FORGOTTEN)

    def connect_anew(name: str) -> None:
        if name == "forget":
            bench.store.before_call = lambda name: None
            bench.put(COMPANY)

    bench.store.before_call = connect_anew
    bench.write_behind.start()
    assert flush(bench)
    assert bench.history() == [2]
    assert bench.journal.states[COMPANY].version == 2


def test_stop_does_not_wait_for_the_pause_between_attempts() -> None:
    bench = Bench()
    bench.write_behind = WriteBehind(
        journal=bench.journal,
        store=bench.store,
        longest_wait_seconds=3600.0,
        held_count=lambda: 0,
    )
    bench.store.database.reachable = False
    bench.put()
    bench.write_behind.start()
    bench.store.await_calls(1)
    assert not bench.write_behind.stop(DEADLINE_SECONDS)
    assert not any(item.name == "write-behind" for item in threading.enumerate())


def test_stop_gives_up_on_a_frozen_database_in_time(bench: Bench) -> None:
    hanging = HangingCalls("record")
    bench.store.before_call = hanging
    bench.put()
    bench.write_behind.start()
    assert hanging.entered.wait(DEADLINE_SECONDS)
    assert not bench.write_behind.stop(0.05)
    hanging.let_go.set()


def test_with_nothing_left_stop_says_so_although_the_database_is_away(bench: Bench) -> None:
    bench.write_behind.problem = "away"
    assert bench.write_behind.stop(0.05)


def test_a_journal_that_cannot_be_read_is_the_problem_that_is_told(bench: Bench) -> None:
    problems: list[str | None] = []
    tried_again = threading.Event()

    def fail() -> None:
        problems.append(bench.write_behind.problem)
        if len(problems) == 2:
            tried_again.set()
        raise StorageError("The state journal cannot be used.")

    bench.journal.before_pending = fail
    bench.write_behind.start()
    assert tried_again.wait(DEADLINE_SECONDS)
    assert problems[1] == "The state journal cannot be used."
    bench.journal.before_pending = lambda: None
    assert flush(bench)


def test_a_flush_ends_although_changes_keep_coming(bench: Bench) -> None:
    """A storm must not put off the comparison of rows and runtime for ever."""

    def storm(name: str) -> None:
        bench.put()

    bench.store.before_call = storm
    bench.write_behind.start()
    bench.put()
    assert flush(bench)
    bench.store.before_call = lambda name: None
    assert flush(bench)


def test_a_change_after_a_lost_answer_is_told_once_more_with_the_version_of_the_row(
    bench: Bench,
) -> None:
    """The answer that the row was newer got lost; the repetition must not hide it."""
    bench.store.database.rows[COMPANY] = Connection(company_id=COMPANY, version=900)
    bench.store.record_transitions([bench.put(version=5)])
    bench.write_behind.start()
    assert flush(bench)
    assert bench.stale == [(5, 900)]


def test_fewer_at_once_are_tried_when_many_take_too_long(bench: Bench) -> None:
    def too_slow(name: str) -> None:
        if len(bench.store.calls[-1]) > 20:
            raise StoreUnavailable("The database did not answer in time.")

    bench.store.before_call = too_slow
    for _ in range(300):
        bench.put()
    bench.write_behind.start()
    assert flush(bench)
    assert bench.history() == list(range(1, 301))


def test_probes_keep_the_order_of_a_company(bench: Bench) -> None:
    """A later change must not reach the history, and the webhooks, before an earlier one."""
    bench.store.poisonous.add(OTHER)
    bench.put(OTHER)
    for _ in range(20):
        bench.put(COMPANY)
    bench.put(OTHER)
    bench.write_behind.start()
    assert flush(bench)
    assert bench.history() == list(range(2, 22))
    assert bench.write_behind.refused == 2


def test_poison_that_fills_a_whole_batch_does_not_hide_the_others(bench: Bench) -> None:
    bench.store.poisonous.add(OTHER)
    for _ in range(250):
        bench.put(OTHER)
    bench.put(COMPANY)
    bench.write_behind.start()
    bench.store.signal.wait_until(lambda: bench.history() == [251], "the other company's change")
    bench.put(THIRD)
    assert flush(bench)
    assert bench.history() == [251, 252]
    assert bench.write_behind.refused == 250


# --- notices ---------------------------------------------------------------------------------


def test_notices_and_changes_share_calls_as_far_as_the_order_of_a_company_allows(
    bench: Bench,
) -> None:
    bench.put(COMPANY)
    first = bench.tell(COMPANY)
    bench.put(OTHER)
    second = bench.tell(OTHER)
    bench.put(COMPANY)
    third = bench.tell(None)
    bench.write_behind.start()
    assert flush(bench)
    assert bench.store.calls == [[COMPANY, OTHER], [COMPANY]]
    assert bench.queue.calls == [3]
    assert list(bench.queue.taken) == [first.id, second.id, third.id]
    assert (bench.write_behind.sent, bench.write_behind.sent_notices) == (3, 3)
    assert bench.journal.pending_count() == 0


@pytest.mark.parametrize("error", [StoreRejected("no such table"), StoreUnavailable("too slow")])
def test_notices_that_are_not_taken_hold_up_no_row(bench: Bench, error: Exception) -> None:
    bench.queue.refusal = lambda notice: error
    notices = [bench.tell(COMPANY), bench.tell(OTHER)]
    bench.put(COMPANY)
    bench.write_behind.start()
    assert flush(bench)
    assert bench.history() == [3]
    assert bench.write_behind.is_reachable
    assert bench.write_behind.notice_problem is not None
    assert bench.journal.pending_count() == 2
    bench.queue.refusal = lambda notice: None
    bench.store.signal.wait_until(lambda: len(bench.queue.taken) == 2, "the notices, by themselves")
    bench.journal.await_empty()
    assert list(bench.queue.taken) == [notice.id for notice in notices]
    assert flush(bench)
    assert bench.write_behind.notice_problem is None
    assert bench.write_behind.refused == 0


def test_one_notice_that_is_refused_does_not_hold_up_the_others(bench: Bench) -> None:
    bad = bench.tell(OTHER)
    bench.queue.refusal = lambda item: StoreRejected("no") if item.id == bad.id else None
    good = [bench.tell(COMPANY), bench.tell(OTHER), bench.tell(THIRD)]
    bench.write_behind.start()
    bench.journal.await_empty()
    assert sorted(bench.queue.taken) == [notice.id for notice in good]
    assert bench.write_behind.refused == 1


def test_a_lost_answer_to_notices_doubles_none(bench: Bench) -> None:
    notice = bench.tell()
    bench.queue.enqueue([notice])
    bench.write_behind.start()
    assert flush(bench)
    assert list(bench.queue.taken) == [notice.id]
    assert bench.journal.pending_count() == 0


def test_after_an_outage_nothing_of_a_company_has_overtaken_the_rest(bench: Bench) -> None:
    order: list[str] = []
    bench.store.before_call = order.append
    bench.store.database.reachable = False

    def away(notice: Notice) -> Exception | None:
        order.append("notice")
        return None if bench.store.database.reachable else StoreUnavailable("away")

    bench.queue.refusal = away
    bench.tell(COMPANY)
    bench.put(COMPANY)
    bench.tell(COMPANY)
    bench.write_behind.start()
    bench.store.signal.wait_until(lambda: order.count("notice") >= 5, "five attempts")
    assert set(order) == {"notice"}, "the transition waits for the notice before it"
    assert not bench.write_behind.is_reachable
    with bench.store.signal:
        order.clear()
        bench.store.database.reachable = True
    assert flush(bench)
    assert order[-3:] == ["notice", "record", "notice"]
    assert bench.journal.pending_count() == 0


def test_notices_that_are_put_off_are_tried_as_soon_as_the_database_is_back(bench: Bench) -> None:
    bench.write_behind = WriteBehind(
        journal=bench.journal,
        store=bench.store,
        longest_wait_seconds=3600.0,
        held_count=lambda: 0,
        notices=bench.queue,
    )
    bench.write_behind._notice_failures = 20  # an hour's pause, if nothing ended it
    bench.queue.refusal = lambda notice: StoreRejected("no such function")
    bench.store.database.reachable = False
    bench.tell()
    bench.put()
    bench.write_behind.start()
    bench.store.await_calls(1)
    bench.queue.refusal = lambda notice: None
    bench.store.database.reachable = True
    bench.store.signal.wait_until(lambda: bool(bench.queue.taken), "the notice")


def test_whoever_waits_for_deliveries_hears_of_each_batch(bench: Bench) -> None:
    heard: list[int] = []
    bench.write_behind.on_sent(lambda: heard.append(len(bench.queue.taken)))
    bench.put(COMPANY)
    bench.tell(COMPANY)
    bench.write_behind.start()
    assert flush(bench)
    assert heard == [1]
    assert flush(bench)
    assert heard == [1], "nothing was sent, nothing is told"


def test_without_a_queue_notices_are_given_up(bench: Bench) -> None:
    bench.write_behind = WriteBehind(
        journal=bench.journal,
        store=bench.store,
        longest_wait_seconds=0.01,
        held_count=lambda: 0,
    )
    bench.tell()
    bench.put()
    bench.write_behind.start()
    assert flush(bench)
    assert bench.journal.pending_count() == 0
    assert bench.write_behind.sent_notices == 0

"""WebhookStore: one suite for the fake and for real PostgREST, and what only the real one does."""

import logging
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from crm_whatsapp.domain.connection import Connection, Reason, Status, UserAction
from crm_whatsapp.domain.errors import StoreUnavailable
from crm_whatsapp.domain.notices import Notice, NoticeKind
from crm_whatsapp.domain.transitions import Transition
from crm_whatsapp.domain.webhooks import (
    Attempt,
    Claim,
    Delivery,
    DeliveryState,
    SealedSecret,
    Webhook,
    WebhookOrigin,
    WebhookStore,
)
from crm_whatsapp.service.status_notices import status_notice
from crm_whatsapp.stores.connection_store import SupabaseConnectionStore
from crm_whatsapp.stores.supabase_client import SupabaseClient, close_client, make_client
from crm_whatsapp.stores.webhook_store import SupabaseWebhookStore
from local_supabase import LocalSupabase
from tests.contract.webhook_fakes import FakeWebhookStore

pytestmark = pytest.mark.contract

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOLD_SECONDS = 600.0
SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"


@dataclass
class Subject:
    """A store under test, and the hands to disturb it.

    advance: let the database clock go on by seconds.
    """

    store: WebhookStore
    advance: Callable[[float], None]
    outage: Callable[[], None]
    recovery: Callable[[], None]

    def webhook(self, **changes: Any) -> Webhook:
        """Save one that wants everything."""
        saved = webhook(**changes)
        self.store.save_webhook(saved)
        return saved

    def claim(self, **changes: Any) -> list[Delivery]:
        return [*self.whole_claim(**changes).deliveries]

    def whole_claim(self, **changes: Any) -> Claim:
        usual = {"lanes": 100, "per_lane": 100, "hold_seconds": HOLD_SECONDS}
        return self.store.claim(new_id(), **(usual | changes))


@pytest.fixture
def client(stack: LocalSupabase) -> Iterator[SupabaseClient]:
    made = make_client(stack.url, stack.service_key, 10.0)
    yield made
    close_client(made)


@pytest.fixture
def emptied(database: psycopg.Connection[Any]) -> Iterator[psycopg.Connection[Any]]:
    """The database without webhooks: one that hears of everything would hear of other tests."""
    empty = (
        "truncate public.whatsapp_webhooks, public.whatsapp_webhook_lanes, "
        "public.whatsapp_webhook_deliveries"
    )
    database.execute(empty)
    yield database
    database.execute(empty)


@pytest.fixture
def real(stack: LocalSupabase, client: SupabaseClient, emptied: psycopg.Connection[Any]) -> Subject:
    def advance(seconds: float) -> None:
        with emptied.transaction():
            emptied.execute(
                "update public.whatsapp_webhook_lanes "
                "set due_at = due_at - make_interval(secs => %s)",
                (seconds,),
            )
            emptied.execute(
                "update public.whatsapp_webhook_deliveries "
                "set next_attempt_at = next_attempt_at - make_interval(secs => %s)",
                (seconds,),
            )

    return Subject(
        store=SupabaseWebhookStore(client),
        advance=advance,
        outage=stack.stop_postgrest,
        recovery=stack.start_postgrest,
    )


def fake_subject() -> Subject:
    ahead = [0.0]
    store = FakeWebhookStore(now=lambda: datetime.now(UTC) + timedelta(seconds=ahead[0]))

    def advance(seconds: float) -> None:
        ahead[0] += seconds

    return Subject(
        store=store,
        advance=advance,
        outage=lambda: setattr(store, "reachable", False),
        recovery=lambda: setattr(store, "reachable", True),
    )


@pytest.fixture(params=["fake", "postgrest"])
def subject(request: pytest.FixtureRequest) -> Subject:
    if request.param == "fake":
        return fake_subject()
    real: Subject = request.getfixturevalue("real")
    return real


def new_id() -> str:
    return str(uuid.uuid4())


def webhook(**changes: Any) -> Webhook:
    usual = Webhook(
        id=new_id(),
        company_id=None,
        url="https://crm.example.com/hooks",
        kinds=frozenset(),
        secret=SealedSecret(key_id=None, value=SECRET),
        enabled=True,
        origin=WebhookOrigin.API,
        created_at=NOON,
        updated_at=NOON,
    )
    return replace(usual, **changes)


def notice(company_id: str | None, **changes: Any) -> Notice:
    usual = Notice(
        id=new_id(),
        kind=NoticeKind.MESSAGE,
        company_id=company_id,
        occurred_at=NOON,
        data={"text": "hello"},
    )
    return replace(usual, **changes)


def notices(company_id: str | None, count: int) -> list[Notice]:
    return [notice(company_id, data={"number": number}) for number in range(count)]


def delivered(delivery: Delivery) -> Attempt:
    return Attempt(
        delivery_id=delivery.id,
        token=delivery.token,
        state=DeliveryState.DELIVERED,
        status_code=204,
    )


def parked(delivery: Delivery) -> Attempt:
    return Attempt(
        delivery_id=delivery.id,
        token=delivery.token,
        state=DeliveryState.PARKED,
        status_code=410,
        error="HTTP 410",
    )


def failed(delivery: Delivery, retry_in_seconds: float) -> Attempt:
    return Attempt(
        delivery_id=delivery.id,
        token=delivery.token,
        state=DeliveryState.PENDING,
        retry_in_seconds=retry_in_seconds,
        status_code=500,
        error="HTTP 500",
    )


def untried(delivery: Delivery, retry_in_seconds: float = 0.0) -> Attempt:
    return Attempt(
        delivery_id=delivery.id,
        token=delivery.token,
        state=DeliveryState.PENDING,
        retry_in_seconds=retry_in_seconds,
    )


def sent(deliveries: list[Delivery]) -> list[Notice]:
    return [delivery.notice for delivery in deliveries]


class TestWebhooks:
    def test_come_back_as_they_were_saved_oldest_first(self, subject: Subject) -> None:
        later = webhook(
            company_id=new_id(),
            kinds=frozenset({NoticeKind.STATUS, NoticeKind.ALERT}),
            secret=SealedSecret(key_id="k1", value="c2VhbGVk"),
            enabled=False,
            origin=WebhookOrigin.ENVIRONMENT,
            created_at=NOON + timedelta(microseconds=1),
        )
        earlier = webhook()
        for one in (later, earlier):
            subject.store.save_webhook(one)

        assert subject.store.list_webhooks() == [earlier, later]

    def test_saving_replaces_the_one_with_the_same_id(self, subject: Subject) -> None:
        saved = subject.webhook()
        changed = replace(
            saved, url="https://other.example.com/", enabled=False, updated_at=NOON.replace(hour=13)
        )

        subject.store.save_webhook(changed)

        assert subject.store.list_webhooks() == [changed]

    def test_removing_takes_the_deliveries_along(self, subject: Subject, company_id: str) -> None:
        gone, stays = subject.webhook(), subject.webhook()
        subject.store.enqueue(notices(company_id, 2))
        held = [it for it in subject.claim() if it.webhook_id == gone.id]

        assert subject.store.remove_webhook(gone.id)

        assert subject.store.list_webhooks() == [stays]
        assert subject.store.counts() == {(stays.id, DeliveryState.PENDING): 2}
        assert subject.store.settle([delivered(it) for it in held]) == 0
        assert not subject.store.remove_webhook(gone.id)


class TestEnqueue:
    def test_reaches_those_who_want_it(self, subject: Subject, company_id: str) -> None:
        everything = subject.webhook()
        own_messages = subject.webhook(
            company_id=company_id, kinds=frozenset({NoticeKind.MESSAGE, NoticeKind.RECEIPT})
        )
        subject.webhook(company_id=new_id())
        subject.webhook(kinds=frozenset({NoticeKind.ALERT}))
        subject.webhook(enabled=False)

        assert subject.store.enqueue([notice(company_id)]) == 2

        assert {it.webhook_id for it in subject.claim()} == {everything.id, own_messages.id}

    def test_what_concerns_the_service_reaches_no_company(self, subject: Subject) -> None:
        everything = subject.webhook()
        subject.webhook(company_id=new_id())
        alert = notice(None, kind=NoticeKind.ALERT)

        assert subject.store.enqueue([alert]) == 1

        [delivery] = subject.claim()
        assert (delivery.webhook_id, delivery.notice) == (everything.id, alert)

    def test_keeps_every_notice_whole_and_in_order(self, subject: Subject, company_id: str) -> None:
        subject.webhook()
        queued = [
            notice(
                company_id,
                kind=kind,
                occurred_at=NOON + timedelta(microseconds=number),
                data={"number": number, "text": "Olá ✓ 𝄞", "deep": {"list": [1, 2.5, None, True]}},
            )
            for number, kind in enumerate(NoticeKind)
        ]

        subject.store.enqueue(queued)

        claimed = subject.claim()
        assert sent(claimed) == queued
        assert [it.id for it in claimed] == sorted(it.id for it in claimed)
        assert len({it.lane for it in claimed}) == 1

    def test_once_whatever_happens(self, subject: Subject, company_id: str) -> None:
        subject.webhook()
        first, second = notices(company_id, 2)

        assert subject.store.enqueue([first, first]) == 1
        assert subject.store.enqueue([first, second]) == 1
        subject.store.settle([delivered(it) for it in subject.claim()])

        assert subject.store.enqueue([first, second]) == 0
        assert subject.whole_claim() == Claim(deliveries=[], next_due_seconds=None)

    def test_without_webhooks_keeps_nothing(self, subject: Subject, company_id: str) -> None:
        assert subject.store.enqueue([notice(company_id)]) == 0

        subject.webhook()

        assert subject.claim() == []

    def test_of_nothing_is_nothing(self, subject: Subject) -> None:
        assert subject.store.enqueue([]) == 0


class TestClaim:
    def test_gives_a_lane_to_one_at_a_time(self, subject: Subject, company_id: str) -> None:
        subject.webhook()
        first, second = notices(company_id, 2)
        subject.store.enqueue([first, second])

        assert sent(subject.claim(per_lane=1)) == [first]

        assert subject.claim() == []

    def test_goes_on_where_the_lane_was_left(self, subject: Subject, company_id: str) -> None:
        subject.webhook()
        queued = notices(company_id, 5)
        subject.store.enqueue(queued)

        heard = []
        for _ in range(3):
            claimed = subject.claim(per_lane=2)
            heard += sent(claimed)
            assert subject.store.settle([delivered(it) for it in claimed]) == len(claimed)

        assert heard == queued
        assert subject.whole_claim() == Claim(deliveries=[], next_due_seconds=None)

    def test_of_another_company_or_webhook_is_another_lane(
        self, subject: Subject, company_id: str
    ) -> None:
        one, two = subject.webhook(), subject.webhook()
        other = new_id()
        subject.store.enqueue([notice(company_id), notice(other), notice(None)])

        claimed = subject.claim(per_lane=1)

        assert {(it.webhook_id, it.notice.company_id) for it in claimed} == {
            (webhook_id, company)
            for webhook_id in (one.id, two.id)
            for company in (company_id, other, None)
        }
        assert len({it.lane for it in claimed}) == 6
        assert len({it.token for it in claimed}) == 1

    def test_takes_no_more_lanes_than_asked_webhooks_in_turns(self, subject: Subject) -> None:
        busy = subject.webhook()
        for _ in range(6):
            subject.store.enqueue([notice(new_id())])
        quiet = subject.webhook(company_id=new_id())
        subject.store.enqueue([notice(quiet.company_id)])

        first = subject.whole_claim(lanes=2)
        rest = subject.claim(lanes=100)

        assert {it.webhook_id for it in first.deliveries} == {busy.id, quiet.id}
        assert first.next_due_seconds == 0
        assert len(rest) == 6

    def test_leaves_out_webhooks_that_nobody_may_try(
        self, subject: Subject, company_id: str
    ) -> None:
        broken, fine = subject.webhook(), subject.webhook()
        subject.store.enqueue([notice(company_id)])

        without = subject.whole_claim(except_webhooks=[broken.id])

        assert [it.webhook_id for it in without.deliveries] == [fine.id]
        assert without.next_due_seconds == pytest.approx(HOLD_SECONDS, abs=30)
        assert [it.webhook_id for it in subject.claim()] == [broken.id]

    def test_waits_while_the_webhook_is_disabled(self, subject: Subject, company_id: str) -> None:
        saved = subject.webhook()
        subject.store.enqueue([notice(company_id)])
        subject.store.save_webhook(replace(saved, enabled=False))

        assert subject.whole_claim() == Claim(deliveries=[], next_due_seconds=None)
        assert subject.store.enqueue([notice(company_id)]) == 0

        subject.store.save_webhook(saved)
        assert len(subject.claim()) == 1

    def test_that_ended_is_claimable_again(self, subject: Subject, company_id: str) -> None:
        subject.webhook()
        queued = notices(company_id, 2)
        subject.store.enqueue(queued)
        lost = subject.claim()
        subject.advance(HOLD_SECONDS)

        again = subject.claim()

        assert sent(again) == queued
        assert {it.token for it in again}.isdisjoint(it.token for it in lost)
        assert [it.attempt for it in again] == [1, 1]
        assert {it.lane for it in again} == {it.lane for it in lost}

    def test_tells_when_to_ask_again(self, subject: Subject, company_id: str) -> None:
        subject.webhook()
        assert subject.whole_claim().next_due_seconds is None

        subject.store.enqueue([notice(company_id)])
        held = subject.whole_claim()
        assert held.next_due_seconds == pytest.approx(HOLD_SECONDS, abs=30)

        subject.store.settle([failed(held.deliveries[0], 3600)])
        assert subject.whole_claim().next_due_seconds == pytest.approx(3600, abs=30)


class TestSettle:
    def test_a_failure_holds_up_its_lane_alone(self, subject: Subject, company_id: str) -> None:
        subject.webhook()
        other = new_id()
        first, second = notices(company_id, 2)
        subject.store.enqueue([first, second, notice(other)])
        by_company = {it.notice.company_id: it for it in subject.claim(per_lane=1)}
        later = notice(other)
        subject.store.enqueue([later])

        assert (
            subject.store.settle([failed(by_company[company_id], 60), delivered(by_company[other])])
            == 2
        )

        assert sent(subject.claim(hold_seconds=1)) == [later]
        subject.advance(60)
        again = [it for it in subject.claim() if it.notice.company_id == company_id]
        assert [(it.notice, it.attempt) for it in again] == [(first, 2), (second, 1)]

    def test_those_behind_a_failure_need_no_word(self, subject: Subject, company_id: str) -> None:
        subject.webhook()
        queued = notices(company_id, 4)
        subject.store.enqueue(queued)
        claimed = subject.claim()

        assert subject.store.settle([delivered(claimed[0]), failed(claimed[1], 5)]) == 2

        assert subject.claim() == []
        subject.advance(5)
        again = subject.claim()
        assert [(it.notice, it.attempt) for it in again] == [
            (queued[1], 2),
            (queued[2], 1),
            (queued[3], 1),
        ]

    def test_a_lane_is_held_until_all_that_was_claimed_is_settled(
        self, subject: Subject, company_id: str
    ) -> None:
        subject.webhook()
        queued = notices(company_id, 3)
        subject.store.enqueue(queued)
        first, second = subject.claim(per_lane=2)

        subject.store.settle([delivered(first)])
        assert subject.claim() == []

        subject.store.settle([delivered(second)])
        assert sent(subject.claim()) == [queued[2]]

    def test_a_parked_delivery_lets_the_next_one_pass(
        self, subject: Subject, company_id: str
    ) -> None:
        saved = subject.webhook()
        first, second = notices(company_id, 2)
        subject.store.enqueue([first, second])

        subject.store.settle([parked(it) for it in subject.claim(per_lane=1)])

        assert sent(subject.claim()) == [second]
        [line] = subject.store.deliveries(saved.id, state=DeliveryState.PARKED)
        assert (line.notice_id, line.status_code, line.error) == (first.id, 410, "HTTP 410")
        assert (line.attempts, line.next_attempt_at) == (1, None)

    def test_what_is_given_back_untried_is_no_attempt(
        self, subject: Subject, company_id: str
    ) -> None:
        saved = subject.webhook()
        subject.store.enqueue([notice(company_id)])
        subject.store.settle([failed(it, 0) for it in subject.claim()])

        assert subject.store.settle([untried(it) for it in subject.claim()]) == 1

        [line] = subject.store.deliveries(saved.id)
        assert (line.attempts, line.status_code, line.error) == (1, 500, "HTTP 500")
        [again] = subject.claim()
        assert again.attempt == 2

        subject.store.settle([untried(again, 30)])
        assert subject.claim() == []
        subject.advance(30)
        assert [it.attempt for it in subject.claim()] == [2]

    def test_under_a_claim_that_somebody_took_over_changes_nothing(
        self, subject: Subject, company_id: str
    ) -> None:
        saved = subject.webhook()
        subject.store.enqueue([notice(company_id)])
        [late] = subject.claim()
        subject.advance(HOLD_SECONDS)
        [current] = subject.claim()

        assert subject.store.settle([delivered(late)]) == 0
        assert subject.store.settle([parked(late)]) == 0
        assert [it.state for it in subject.store.deliveries(saved.id)] == [DeliveryState.PENDING]
        assert subject.claim() == []

        assert subject.store.settle([delivered(current)]) == 1

    def test_under_a_claim_that_ended_and_that_nobody_took_holds(
        self, subject: Subject, company_id: str
    ) -> None:
        subject.webhook()
        subject.store.enqueue([notice(company_id)])
        [late] = subject.claim()
        subject.advance(HOLD_SECONDS)

        assert subject.store.settle([delivered(late)]) == 1

        assert subject.whole_claim() == Claim(deliveries=[], next_due_seconds=None)

    def test_once_more_is_known_and_counts_no_second_attempt(
        self, subject: Subject, company_id: str
    ) -> None:
        saved = subject.webhook()
        subject.store.enqueue(notices(company_id, 3))
        first, second, third = subject.claim()
        ends = [delivered(first), parked(second), failed(third, 60)]

        assert [subject.store.settle(ends) for _ in range(3)] == [3, 3, 3]

        assert [it.attempts for it in subject.store.deliveries(saved.id)] == [1, 1, 1]

    def test_of_one_that_was_not_claimed_changes_nothing(
        self, subject: Subject, company_id: str
    ) -> None:
        saved = subject.webhook()
        subject.store.enqueue(notices(company_id, 2))
        [head] = subject.claim(per_lane=1)
        [behind] = [it for it in subject.store.deliveries(saved.id) if it.id != head.id]

        ends = [replace(delivered(head), delivery_id=number) for number in (behind.id, 2**53)]

        assert subject.store.settle(ends) == 0
        assert subject.store.counts() == {(saved.id, DeliveryState.PENDING): 2}

    def test_of_nothing_is_nothing(self, subject: Subject) -> None:
        assert subject.store.settle([]) == 0


class TestRedelivery:
    def test_goes_to_the_end_of_the_lane_and_starts_anew(
        self, subject: Subject, company_id: str
    ) -> None:
        saved = subject.webhook()
        first, second, third = notices(company_id, 3)
        subject.store.enqueue([first, second, third])
        [head] = subject.claim(per_lane=1)
        subject.store.settle([parked(head)])
        before = subject.store.deliveries(saved.id, state=DeliveryState.PARKED)[0]

        assert subject.store.redeliver(saved.id, [head.id]) == 1

        after = next(it for it in subject.store.deliveries(saved.id) if it.id == head.id)
        assert (after.state, after.attempts) == (DeliveryState.PENDING, 0)
        assert after.queued_at > before.queued_at
        claimed = subject.claim()
        assert sent(claimed) == [second, third, first]
        assert [(it.id, it.attempt) for it in claimed][2] == (head.id, 1)

    def test_of_what_was_delivered_tells_it_again(self, subject: Subject, company_id: str) -> None:
        saved = subject.webhook()
        subject.store.enqueue([notice(company_id)])
        [done] = subject.claim()
        subject.store.settle([delivered(done)])

        assert subject.store.redeliver(saved.id, [done.id]) == 1

        [again] = subject.claim()
        assert (again.notice, again.attempt) == (done.notice, 1)

    def test_without_ids_takes_what_is_parked(self, subject: Subject, company_id: str) -> None:
        saved, other = subject.webhook(), subject.webhook()
        queued = notices(company_id, 4)
        subject.store.enqueue(queued)
        ends = {0: delivered, 1: parked, 2: parked}
        for webhook_id in (saved.id, other.id):
            mine = [it for it in subject.claim(hold_seconds=1) if it.webhook_id == webhook_id]
            subject.store.settle([ends[n](it) for n, it in enumerate(mine) if n in ends])
            subject.store.settle([untried(it) for it in mine[3:]])
            subject.advance(1)

        assert subject.store.redeliver(saved.id, None) == 2

        assert subject.store.counts() == {
            (saved.id, DeliveryState.PENDING): 3,
            (saved.id, DeliveryState.DELIVERED): 1,
            (other.id, DeliveryState.PENDING): 1,
            (other.id, DeliveryState.PARKED): 2,
            (other.id, DeliveryState.DELIVERED): 1,
        }
        heard = [it.notice for it in subject.claim() if it.webhook_id == saved.id]
        assert heard == [queued[3], queued[1], queued[2]]

    def test_leaves_what_is_pending_and_what_is_foreign(
        self, subject: Subject, company_id: str
    ) -> None:
        saved, other = subject.webhook(), subject.webhook()
        subject.store.enqueue([notice(company_id)])
        claimed = {it.webhook_id: it for it in subject.claim()}
        subject.store.settle([parked(claimed[other.id])])

        ids = [claimed[saved.id].id, claimed[other.id].id, 2**53]

        assert subject.store.redeliver(saved.id, ids) == 0
        assert subject.store.redeliver(new_id(), None) == 0
        assert subject.store.settle([delivered(claimed[saved.id])]) == 1

    def test_of_more_than_one_call_takes(self, subject: Subject) -> None:
        saved = subject.webhook()
        companies = [new_id() for _ in range(3)]
        subject.store.enqueue([notice(companies[number % 3]) for number in range(2300)])
        while claimed := subject.claim(per_lane=1000):
            subject.store.settle([parked(it) for it in claimed])

        assert subject.store.redeliver(saved.id, None) == 2300
        assert subject.store.redeliver(saved.id, None) == 0

        claimed = subject.claim(per_lane=1000)
        for company in companies:
            lane = [it.id for it in claimed if it.notice.company_id == company]
            assert lane == sorted(lane)
        assert len(claimed) == 2300


class TestLog:
    def test_is_newest_first_page_by_page(self, subject: Subject, company_id: str) -> None:
        saved = subject.webhook()
        queued = notices(company_id, 5)
        subject.store.enqueue(queued)
        subject.store.settle([delivered(it) for it in subject.claim(per_lane=2)])

        page = subject.store.deliveries(saved.id, limit=3)
        rest = subject.store.deliveries(saved.id, before=page[-1].id)

        assert [it.notice_id for it in (*page, *rest)] == [it.id for it in reversed(queued)]
        assert [it.state for it in rest] == [DeliveryState.DELIVERED] * 2
        done = subject.store.deliveries(saved.id, state=DeliveryState.DELIVERED, limit=1)
        assert [it.notice_id for it in done] == [queued[1].id]

    def test_says_how_each_delivery_fares(self, subject: Subject, company_id: str) -> None:
        saved = subject.webhook()
        queued = notice(company_id, kind=NoticeKind.RECEIPT)
        subject.store.enqueue([queued])

        [fresh] = subject.store.deliveries(saved.id)
        assert (fresh.notice_id, fresh.kind, fresh.company_id) == (
            queued.id,
            NoticeKind.RECEIPT,
            company_id,
        )
        assert (fresh.state, fresh.attempts, fresh.webhook_id) == (
            DeliveryState.PENDING,
            0,
            saved.id,
        )
        assert (fresh.last_attempt_at, fresh.settled_at) == (None, None)
        assert fresh.next_attempt_at == fresh.queued_at

        subject.store.settle([failed(it, 60) for it in subject.claim()])
        [waiting] = subject.store.deliveries(saved.id)
        assert (waiting.attempts, waiting.status_code, waiting.error) == (1, 500, "HTTP 500")
        assert waiting.last_attempt_at is not None
        assert waiting.next_attempt_at == waiting.last_attempt_at + timedelta(seconds=60)

        subject.advance(60)
        subject.store.settle([delivered(it) for it in subject.claim()])
        [done] = subject.store.deliveries(saved.id)
        assert (done.state, done.attempts, done.status_code, done.error) == (
            DeliveryState.DELIVERED,
            2,
            204,
            None,
        )
        assert done.settled_at == done.last_attempt_at
        assert done.next_attempt_at is None

    def test_gives_200_lines_at_most(self, subject: Subject, company_id: str) -> None:
        saved = subject.webhook()
        subject.store.enqueue(notices(company_id, 203))

        assert len(subject.store.deliveries(saved.id)) == 50
        assert len(subject.store.deliveries(saved.id, limit=1000)) == 200

    def test_of_nobody_is_empty(self, subject: Subject) -> None:
        assert subject.store.deliveries(new_id()) == []
        assert subject.store.counts() == {}


def test_an_outage_is_unavailable_and_passes(subject: Subject, company_id: str) -> None:
    saved = subject.webhook()
    subject.store.enqueue([notice(company_id)])
    [held] = subject.claim()
    calls: list[Callable[[], object]] = [
        subject.store.list_webhooks,
        lambda: subject.store.save_webhook(saved),
        lambda: subject.store.remove_webhook(saved.id),
        lambda: subject.store.enqueue([notice(company_id)]),
        lambda: subject.claim(),
        lambda: subject.store.settle([delivered(held)]),
        lambda: subject.store.deliveries(saved.id),
        lambda: subject.store.redeliver(saved.id, None),
        subject.store.counts,
    ]

    subject.outage()
    try:
        for call in calls:
            with pytest.raises(StoreUnavailable):
                call()
    finally:
        subject.recovery()

    assert subject.store.settle([delivered(held)]) == 1


class TestStatusNotices:
    """What the database makes of a transition is what Python makes of it."""

    @pytest.fixture
    def connections(self, client: SupabaseClient, owner_id: str) -> SupabaseConnectionStore:
        return SupabaseConnectionStore(client, owner_id=owner_id)

    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"status": Status.CONNECTED, "reason": Reason.ONLINE, "user_action": UserAction.NONE},
            {"phone_number": "+5511999999999", "push_name": 'Ana "Olá" ✓ 𝄞 \\ /'},
            {"last_connected_at": NOON, "retry_at": NOON, "qr_expires_at": NOON},
            {"retry_at": NOON.replace(microsecond=1)},
            {"retry_at": NOON.replace(microsecond=120_000)},
            {"retry_at": NOON.replace(microsecond=999_999)},
            {"retry_at": datetime(2262, 12, 31, 23, 59, 59, 5, tzinfo=UTC)},
            {"last_connected_at": datetime(1, 1, 1, tzinfo=UTC)},
            {"message": "", "push_name": ""},
        ],
        ids=lambda changes: ", ".join(changes) or "blank",
    )
    def test_are_the_same(
        self,
        real: Subject,
        connections: SupabaseConnectionStore,
        company_id: str,
        changes: dict[str, Any],
    ) -> None:
        real.webhook()
        transition = Transition(
            id=new_id(),
            connection=Connection(company_id=company_id, version=1, **changes),
            event="connected ✓",
            from_status=Status.CONNECTING,
            occurred_at=NOON.replace(microsecond=7),
        )

        connections.record_transitions([transition])

        [delivery] = real.claim()
        expected = status_notice(transition)
        assert delivery.notice == expected
        assert dict(delivery.notice.data) == dict(expected.data)

    def test_come_in_one_order_with_all_others(
        self, real: Subject, connections: SupabaseConnectionStore, company_id: str
    ) -> None:
        real.webhook()
        changes = [
            Transition(
                id=new_id(),
                connection=Connection(company_id=company_id, version=version, message=f"{version}"),
                event="test",
                from_status=Status.DISCONNECTED,
                occurred_at=NOON,
            )
            for version in (1, 2, 3)
        ]
        code, message = notices(company_id, 2)

        connections.record_transitions(changes[:1])
        real.store.enqueue([code])
        connections.record_transitions(changes[1:])
        real.store.enqueue([message])

        assert [it.notice.id for it in real.claim()] == [
            changes[0].id,
            code.id,
            changes[1].id,
            changes[2].id,
            message.id,
        ]


class TestForeignContent:
    """What only the real store has to cope with."""

    def test_what_is_no_json_is_left_out(
        self, real: Subject, company_id: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        real.webhook()
        endless: list[Any] = []
        endless.append(endless)
        good = notices(company_id, 2)
        bad = [
            notice(company_id, data={"secret": value})
            for value in (float("nan"), float("inf"), b"bytes", object(), {1, 2}, endless)
        ]

        with caplog.at_level(logging.ERROR):
            assert real.store.enqueue([good[0], *bad, good[1]]) == 2

        assert sent(real.claim()) == good
        assert len(caplog.records) == len(bad)
        assert "secret" not in caplog.text

    def test_what_postgres_refuses_in_texts_is_taken_out(
        self, real: Subject, company_id: str
    ) -> None:
        real.webhook()

        real.store.enqueue([notice(company_id, data={"te\x00xt": ["a\x00b", {"c": "\ud83d"}]})])

        [delivery] = real.claim()
        assert delivery.notice.data == {"text": ["ab", {"c": "?"}]}

    def test_long_errors_are_cut(self, real: Subject, company_id: str) -> None:
        saved = real.webhook()
        real.store.enqueue([notice(company_id)])
        [held] = real.claim()

        real.store.settle([replace(failed(held, 0), error="\x00" + "x" * 10_000)])

        [line] = real.store.deliveries(saved.id)
        assert line.error == "x" * 500

    def test_large_batches_are_parted(self, real: Subject, company_id: str) -> None:
        real.webhook()
        queued = [notice(company_id, data={"n": n, "text": "x" * 5000}) for n in range(1200)]

        assert real.store.enqueue(queued) == 1200

        heard: list[Notice] = []
        while claimed := real.claim(per_lane=400):
            heard += sent(claimed)
            real.store.settle([delivered(it) for it in claimed])
        assert heard == queued

    def test_rows_of_a_newer_release_are_left_out(
        self,
        real: Subject,
        emptied: psycopg.Connection[Any],
        widen: Callable[[str], None],
        company_id: str,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """A webhook for kinds that this release does not know must not seem to want all."""
        known, newer = real.webhook(), real.webhook()
        queued = notices(company_id, 3)
        other = notice(new_id())
        real.store.enqueue([*queued, other])
        for table in ("whatsapp_webhooks", "whatsapp_webhook_deliveries"):
            widen(table)
        emptied.execute(
            "update public.whatsapp_webhooks set kinds = '{session.danced}' where id = %s",
            (newer.id,),
        )
        emptied.execute(
            "update public.whatsapp_webhook_deliveries set kind = 'session.danced' "
            "where notice_id = %s",
            (queued[1].id,),
        )

        with caplog.at_level(logging.WARNING):
            assert real.store.list_webhooks() == [known]
            heard = [it.notice for it in real.claim() if it.webhook_id == known.id]
            lines = real.store.deliveries(known.id)

        assert heard == [queued[0], other]
        assert len(lines) == 3
        assert len(caplog.records) == 4


@pytest.fixture
def widen(emptied: psycopg.Connection[Any]) -> Iterator[Callable[[str], None]]:
    """Let a table take every kind, as that of a newer release; put right afterwards."""
    dropped: list[tuple[str, str, str]] = []

    def drop(table: str) -> None:
        for row in emptied.execute(
            "select conname, pg_get_constraintdef(oid) as definition from pg_constraint "
            "where conrelid = %s::regclass and contype = 'c' and conname ~ '_kinds?_check$'",
            (f"public.{table}",),
        ).fetchall():
            dropped.append((table, row["conname"], row["definition"]))
            emptied.execute(f"alter table public.{table} drop constraint {row['conname']}".encode())

    yield drop
    emptied.execute("delete from public.whatsapp_webhooks")
    for table, name, definition in dropped:
        emptied.execute(f"alter table public.{table} add constraint {name} {definition}".encode())
    assert len(dropped) == 2

"""From the queue to the targets: in order, at least once, and nobody waits for the dead."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from crm_whatsapp.domain.errors import StoreUnavailable
from crm_whatsapp.domain.webhooks import Answer, Attempt, Claim, DeliveryState
from crm_whatsapp.service.webhook_lanes import Share
from crm_whatsapp.service.webhook_verdict import Outcome
from tests.unit.service.fakes import DEADLINE_SECONDS, Signal
from tests.unit.service.webhook_world import ACME, BOLT, Request, WebhookWorld, answer

DELIVERED, PENDING, PARKED = DeliveryState.DELIVERED, DeliveryState.PENDING, DeliveryState.PARKED


@pytest.fixture
def make() -> Iterator[Callable[..., WebhookWorld]]:
    """Make worlds whose dispatchers end with the test."""
    made: list[WebhookWorld] = []
    gates: list[threading.Event] = []

    def world(**changes: object) -> WebhookWorld:
        made.append(WebhookWorld(**changes))  # type: ignore[arg-type]
        return made[-1]

    world.gates = gates  # type: ignore[attr-defined]
    yield world
    for gate in gates:
        gate.set()
    for item in made:
        item.dispatcher.stop(DEADLINE_SECONDS)


class Observed:
    """Tells of each call to the queue."""

    def __init__(self, world: WebhookWorld) -> None:
        self.signal = Signal()
        self.claims: list[Claim] = []
        self.settled: list[int] = []
        self.failures = 0
        store = world.database
        claim, settle = store.claim, store.settle

        def observed_claim(*args: Any, **kwargs: Any) -> Claim:
            with self._call():
                found = claim(*args, **kwargs)
            with self.signal:
                self.claims.append(found)
            return found

        def observed_settle(attempts: Sequence[Attempt]) -> int:
            with self._call():
                held = settle(attempts)
            with self.signal:
                self.settled.append(held)
            return held

        watched: Any = SimpleNamespace(claim=observed_claim, settle=observed_settle)
        world.dispatcher._store = watched

    @contextmanager
    def _call(self) -> Iterator[None]:
        try:
            yield
        except StoreUnavailable:
            with self.signal:
                self.failures += 1
            raise

    def await_idle(self, world: WebhookWorld, *, held_by_others: int = 0) -> None:
        """Wait until nothing is left to be done now."""

        def idle() -> bool:
            figures = world.dispatcher.figures()
            lanes = world.database.lanes.values()
            return (
                bool(self.claims)
                and not self.claims[-1].deliveries
                and figures.in_flight == figures.claimed == 0
                and sum(lane.token is not None for lane in lanes) == held_by_others
            )

        eventually(idle, "an empty queue")


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait for something that nobody tells of."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE_SECONDS} s: {what}"
        threading.Event().wait(0.005)


def begun(world: WebhookWorld) -> Observed:
    """Start it with what is in the database."""
    observed = Observed(world)
    world.registry.refresh()
    world.dispatcher.start()
    return observed


def numbers(requests: list[Request], company_id: str | None = None) -> list[int]:
    """Return the numbers of what came in, of one company."""
    return [
        item.event["data"]["number"]
        for item in requests
        if company_id is None or item.event["company_id"] == company_id
    ]


Make = Callable[..., WebhookWorld]


def test_everything_queued_arrives_in_order_and_is_settled(make: Make) -> None:
    world = make()
    webhook = world.register()
    world.queue(45, ACME)
    world.queue(30, BOLT)
    world.queue(1, None)
    observed = begun(world)
    observed.await_idle(world)
    assert numbers(world.targets.requests, ACME) == list(range(45))
    assert numbers(world.targets.requests, BOLT) == list(range(30))
    assert len(world.targets.requests) == 76
    assert set(world.states(webhook)) == {DELIVERED}
    assert world.dispatcher.figures().outcomes == {Outcome.DELIVERED: 76}
    assert sum(observed.settled) == 76
    assert len(observed.settled) < 40, "results are settled together"


def test_a_lane_has_one_request_under_way(make: Make) -> None:
    world = make()
    gate = threading.Event()
    make.gates.append(gate)  # type: ignore[attr-defined]
    world.register()
    world.targets.replies["https://crm.example.com/hooks"] = lambda _: (
        (gate.wait(DEADLINE_SECONDS) and answer()) or answer(500)
    )
    world.queue(5, ACME)
    world.queue(5, BOLT)
    observed = begun(world)
    world.targets.await_requests(2)
    world.dispatcher.wake()
    observed.signal.wait_until(lambda: len(observed.claims) >= 2, "another claim")
    assert len(world.targets.requests) == 2
    gate.set()
    observed.await_idle(world)
    assert numbers(world.targets.requests, ACME) == list(range(5))


def test_what_is_queued_behind_a_lane_under_way_follows_at_once(make: Make) -> None:
    world = make()
    gates = [threading.Event() for _ in range(30)]
    make.gates.extend(gates)  # type: ignore[attr-defined]
    webhook = world.register()
    left = list(gates)

    def reply(_: Request) -> Answer:
        left.pop(0).wait(DEADLINE_SECONDS)
        return answer()

    world.targets.replies[webhook.url] = reply
    world.queue(1)
    observed = begun(world)
    for number, gate in enumerate(gates, 1):
        world.targets.await_requests(number)
        world.queue(1)
        world.dispatcher.wake()  # finds the lane taken
        calls = len(observed.claims)
        observed.signal.wait_until(lambda calls=calls: len(observed.claims) > calls, "a claim")  # type: ignore[misc]
        gate.set()
    world.targets.await_requests(30)


def test_a_failure_holds_up_its_lane_alone_and_is_tried_again_when_due(make: Make) -> None:
    world = make()
    webhook = world.register()
    refusals = [answer(500)]

    def reply(request: Request) -> Answer:
        if request.event["company_id"] == ACME and refusals:
            return refusals.pop()
        return answer()

    world.targets.replies[webhook.url] = reply
    world.queue(3, ACME)
    world.queue(3, BOLT)
    observed = begun(world)
    observed.await_idle(world)
    assert world.states(webhook) == [PENDING] * 3 + [DELIVERED] * 3
    assert numbers(world.targets.requests, ACME) == [0]
    first = world.database.rows[1].record
    assert (first.attempts, first.status_code, first.error) == (1, 500, "answered 500")
    assert world.dispatcher.figures().last_problem in (None, "answered 500")

    world.clock.advance(10.0)
    world.dispatcher.wake()
    observed.signal.wait_until(lambda: set(world.states(webhook)) == {DELIVERED}, "a new attempt")
    assert numbers(world.targets.requests, ACME) == [0, 0, 1, 2]


def test_after_a_day_the_first_is_parked_and_the_next_gets_its_turn(make: Make) -> None:
    world = make()
    webhook = world.register()
    world.targets.replies[webhook.url] = lambda request: answer(
        500 if request.event["data"]["number"] == 0 else 204
    )
    world.queue(3, ACME)
    world.clock.advance(86_400.0)
    observed = begun(world)
    observed.await_idle(world)
    assert world.states(webhook) == [PARKED, DELIVERED, DELIVERED]
    assert world.dispatcher.figures().parked == 1


def test_gone_parks_one_disables_and_leaves_the_others_waiting(make: Make) -> None:
    world = make()
    webhook = world.register()
    world.targets.replies[webhook.url] = lambda _: answer(410)
    world.queue(3, ACME)
    observed = begun(world)
    observed.signal.wait_until(
        lambda: sum(observed.settled) == 2, "one parked, and the lane given back"
    )
    assert world.states(webhook) == [PARKED, PENDING, PENDING]
    assert len(world.targets.requests) == 1
    assert world.registry.target_ids == frozenset()


def test_a_hanging_target_slows_nobody(make: Make) -> None:
    world = make(share=Share(threads=8, per_target=4))
    gate = threading.Event()
    make.gates.append(gate)  # type: ignore[attr-defined]
    hanging = [world.register(url=f"https://hanging{n}.example.com/") for n in range(3)]
    healthy = world.register(url="https://healthy.example.com/")
    for webhook in hanging:
        world.targets.replies[webhook.url] = lambda _: (
            (gate.wait(DEADLINE_SECONDS) and answer(None)) or answer(None)
        )
    companies = [f"aaaaaaaa-0000-4000-8000-{number:012d}" for number in range(20)]
    for company_id in companies:
        world.queue(3, company_id)
    begun(world)
    world.targets.await_requests(60, healthy.url)
    assert max(world.targets.most_under_way[item.url] for item in hanging) <= 4
    gate.set()


def test_a_dead_target_is_left_alone_and_tried_again(make: Make) -> None:
    world = make(share=Share(threads=8, per_target=1))
    webhook = world.register()
    dead = [True]
    world.targets.replies[webhook.url] = lambda _: answer(None if dead[0] else 204)
    companies = [f"aaaaaaaa-0000-4000-8000-{number:012d}" for number in range(12)]
    for company_id in companies:
        world.queue(1, company_id)
    observed = begun(world)
    observed.signal.wait_until(lambda: sum(observed.settled) >= 12, "all settled or given back")
    assert len(world.targets.requests) == 5, "the failures that open the breaker"
    assert world.dispatcher.figures().open_breakers == 1
    untried = [row for row in world.database.rows.values() if row.record.attempts == 0]
    assert len(untried) == 7

    calls = len(observed.claims)
    world.dispatcher.wake()
    dead[0] = False
    world.clock.advance(61.0)
    world.dispatcher.wake()
    observed.signal.wait_until(
        lambda: world.states(webhook).count(DELIVERED) >= 12, "all after its return"
    )
    assert len(observed.claims) > calls
    assert world.dispatcher.figures().open_breakers == 0


def test_a_try_that_fails_sends_no_more(make: Make) -> None:
    world = make(share=Share(threads=8, per_target=4))
    webhook = world.register()
    world.targets.replies[webhook.url] = lambda _: answer(None)
    for number in range(12):
        world.queue(1, f"aaaaaaaa-0000-4000-8000-{number:012d}")
    world.breakers.asked_to_wait(webhook.id, 5.0)
    world.clock.advance(5.0)
    observed = begun(world)
    observed.signal.wait_until(lambda: sum(observed.settled) >= 12, "all given back")
    assert len(world.targets.requests) == 1


class TestDatabase:
    def test_nothing_is_claimed_before_the_list_is_known(self, make: Make) -> None:
        world = make()
        webhook = world.register()
        world.queue(1)
        observed = Observed(world)
        world.dispatcher.start()
        world.dispatcher.wake()
        world.registry.refresh()
        observed.await_idle(world)
        assert world.states(webhook) == [DELIVERED]

    def test_nothing_is_asked_without_targets(self, make: Make) -> None:
        world = make()
        world.register(enabled=False)
        observed = begun(world)
        world.dispatcher.wake()
        assert world.dispatcher.stop(DEADLINE_SECONDS)
        assert observed.claims == []

    def test_one_call_when_nothing_is_queued(self, make: Make) -> None:
        world = make()
        world.register()
        observed = begun(world)
        observed.await_idle(world)
        assert world.dispatcher.stop(DEADLINE_SECONDS)
        assert len(observed.claims) == 1
        assert observed.settled == []

    def test_nothing_is_asked_while_every_target_rests(self, make: Make) -> None:
        world = make()
        webhook = world.register()
        world.queue(1)
        world.breakers.asked_to_wait(webhook.id, 50.0)
        observed = begun(world)
        world.dispatcher.wake()
        assert world.dispatcher.stop(DEADLINE_SECONDS)
        assert observed.claims == []

    def test_an_outage_is_waited_for(self, make: Make) -> None:
        world = make()
        webhook = world.register()
        world.queue(3)
        world.registry.refresh()
        world.database.reachable = False
        observed = Observed(world)
        world.dispatcher.start()
        observed.signal.wait_until(lambda: observed.failures > 0, "a failure")
        world.database.reachable = True
        world.clock.advance(60.0)
        world.dispatcher.wake()
        world.targets.await_requests(3)
        observed.await_idle(world)
        assert world.states(webhook) == [DELIVERED] * 3
        assert world.dispatcher.problem is None

    def test_results_outlast_an_outage(self, make: Make) -> None:
        world = make()
        gate = threading.Event()
        make.gates.append(gate)  # type: ignore[attr-defined]
        webhook = world.register()

        def reply(_: Request) -> Answer:
            gate.wait(DEADLINE_SECONDS)
            world.database.reachable = False
            return answer()

        world.targets.replies[webhook.url] = reply
        world.queue(1)
        observed = begun(world)
        world.targets.await_requests(1)
        gate.set()
        observed.signal.wait_until(lambda: observed.failures > 0, "a failure")
        world.database.reachable = True
        world.clock.advance(1.0)
        world.dispatcher.wake()
        observed.signal.wait_until(lambda: observed.settled == [1], "the result")
        assert world.states(webhook) == [DELIVERED]
        assert len(world.targets.requests) == 1


class TestStop:
    def test_what_is_claimed_is_given_back_and_what_is_under_way_is_settled(
        self, make: Make
    ) -> None:
        world = make(share=Share(threads=1, per_target=1))
        gate = threading.Event()
        make.gates.append(gate)  # type: ignore[attr-defined]
        webhook = world.register()
        world.targets.replies[webhook.url] = lambda _: (
            (gate.wait(DEADLINE_SECONDS) and answer()) or answer()
        )
        world.queue(2, ACME)
        world.queue(2, BOLT)
        begun(world)
        world.targets.await_requests(1)
        stopping = threading.Thread(target=world.dispatcher.stop, args=(DEADLINE_SECONDS,))
        stopping.start()
        eventually(lambda: world.dispatcher._stopping, "the stop")
        gate.set()
        stopping.join()
        assert world.states(webhook).count(DELIVERED) == 1
        assert len(world.targets.requests) == 1
        following = make(clock=world.clock, store=world.store, targets=world.targets)
        observed = begun(following)
        observed.await_idle(following)  # at once: nothing is held by the one before
        assert set(following.states(webhook)) == {DELIVERED}
        assert numbers(world.targets.requests, ACME) == [0, 1]

    def test_a_request_that_hangs_is_not_waited_for(self, make: Make) -> None:
        world = make()
        gate = threading.Event()
        make.gates.append(gate)  # type: ignore[attr-defined]
        webhook = world.register()
        world.targets.replies[webhook.url] = lambda _: (
            (gate.wait(DEADLINE_SECONDS) and answer()) or answer()
        )
        world.queue(1)
        begun(world)
        world.targets.await_requests(1)
        assert world.dispatcher.stop(0.05) is False
        gate.set()

    def test_a_killed_process_repeats_what_it_had_not_settled(self, make: Make) -> None:
        world = make()
        gate = threading.Event()
        make.gates.append(gate)  # type: ignore[attr-defined]
        webhook = world.register()
        world.targets.replies[webhook.url] = lambda _: (
            (gate.wait(DEADLINE_SECONDS) and answer()) or answer()
        )
        world.queue(3)
        begun(world)
        world.targets.await_requests(1)
        world.dispatcher._stopping = True  # as good as dead: it settles nothing more
        following = make(clock=world.clock, store=world.store)
        observed = begun(following)
        observed.await_idle(following, held_by_others=1)
        assert following.targets.requests == [], "the claim of the dead one still holds"
        world.clock.advance(61.0)
        following.dispatcher.wake()
        following.targets.await_requests(3)
        assert numbers(following.targets.requests) == [0, 1, 2]
        assert set(world.states(webhook)) <= {DELIVERED, PENDING}

    def test_one_that_never_started_stops(self, make: Make) -> None:
        assert make().dispatcher.stop(0.1) is True

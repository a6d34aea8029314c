"""Brings queued deliveries to their targets, at least once and in order.

One thread asks the database: it settles what has been sent and claims what is due. Sending
threads work on one lane each. Nothing is kept here that the database does not know: whatever
ends this process, its claims end by themselves and what was not settled is sent again.
"""

import threading
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import structlog
from tenacity import RetryCallState, wait_exponential_jitter

from crm_whatsapp.domain.errors import CrmWhatsappError, StoreRejected
from crm_whatsapp.domain.ports import Clock
from crm_whatsapp.domain.webhooks import Attempt, DeliveryState, WebhookStore
from crm_whatsapp.service.webhook_breaker import WebhookBreakers
from crm_whatsapp.service.webhook_courier import WebhookCourier
from crm_whatsapp.service.webhook_lanes import Lane, Share, WebhookLanes, lanes_of
from crm_whatsapp.service.webhook_registry import WebhookRegistry
from crm_whatsapp.service.webhook_verdict import Outcome, untried

log = structlog.get_logger(__name__)

_LINGER_SECONDS = 0.02  # results that come in meanwhile are settled by the same call
_MOST_SETTLED = 500
_MOST_LANES = 1000
_SHORTEST_WAIT_SECONDS = 0.25
_NEVER = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchTerms:
    """How the queue is worked off.

    Attributes:
        lanes, per_lane: how much one claim takes.
        hold_seconds: how long a claim lasts: what a process that was killed had claimed waits as
            long.
        request_seconds: the longest that one request can take.
        idle_seconds: the database is asked this often when nobody says that there is something.
        longest_wait_seconds: between attempts while the database is away.
    """

    share: Share
    lanes: int = 50
    per_lane: int = 20
    hold_seconds: float
    request_seconds: float
    idle_seconds: float
    longest_wait_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchFigures:
    """What metrics tell of the dispatcher.

    Attributes:
        outcomes: requests by what came of them, since the start.
        parked: deliveries given up since the start.
        in_flight: requests under way.
        claimed: lanes that are claimed and wait for a thread.
        open_breakers: targets that are left alone, or only tried.
        last_problem: why the last request failed; None when it did not.
    """

    outcomes: Mapping[Outcome, int]
    parked: int
    in_flight: int
    claimed: int
    open_breakers: int
    last_problem: str | None


class WebhookDispatcher:
    """Claims what is due, sends it and settles it, until it is stopped."""

    def __init__(
        self,
        *,
        store: WebhookStore,
        registry: WebhookRegistry,
        courier: WebhookCourier,
        breakers: WebhookBreakers,
        clock: Clock,
        owner_id: str,
        terms: DispatchTerms,
    ) -> None:
        self._store = store
        self._registry = registry
        self._courier = courier
        self._breakers = breakers
        self._clock = clock
        self._owner_id = owner_id
        self._terms = terms
        self._changed = threading.Condition()
        self._lanes = WebhookLanes(terms.share, breakers.allowance)
        self._results: list[Attempt] = []
        self._lanes_ended = False  # since the last claim for this reason
        self._claim_at = 0.0  # on the monotonic clock, as the times below
        self._not_before = 0.0
        self._stopping = False
        self._outcomes: Counter[Outcome] = Counter()
        self._parked = 0
        self._last_problem: str | None = None
        self._failures = 0
        self._wait = wait_exponential_jitter(
            multiplier=0.5, max=terms.longest_wait_seconds, jitter=0.5
        )
        self._senders = ThreadPoolExecutor(terms.share.threads, thread_name_prefix="webhook-sender")
        self._thread = threading.Thread(target=self._loop, name="webhook-dispatch", daemon=True)
        self.problem: str | None = None
        """Why the database cannot be asked, for people; None when it can."""

    def start(self) -> None:
        """Start; what is due is claimed as soon as the list of webhooks is known."""
        self._thread.start()

    def wake(self) -> None:
        """Say that deliveries may have been queued; returns at once."""
        with self._changed:
            self._claim_at = 0.0
            self._changed.notify_all()

    def figures(self) -> DispatchFigures:
        """Return what happened so far and what is going on."""
        open_breakers = len(self._breakers.troubled_ids())
        with self._changed:
            return DispatchFigures(
                outcomes=dict(self._outcomes),
                parked=self._parked,
                in_flight=self._lanes.running,
                claimed=self._lanes.waiting,
                open_breakers=open_breakers,
                last_problem=self._last_problem,
            )

    def stop(self, timeout_seconds: float) -> bool:
        """Begin no more requests, and give back what is claimed; False when time ran out.

        Args:
            timeout_seconds: for requests under way and the last call to the database. What is
                not settled by then is sent again once its claim has ended.
        """
        with self._changed:
            self._stopping = True
            for lane in self._lanes.withdraw_all():
                self._results.append(untried(lane.deliveries[0]))
            self._changed.notify_all()
        self._senders.shutdown(wait=False)
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)
        with self._changed:
            return not self._results and self._lanes.running == 0

    # --- the thread that asks the database ---

    def _loop(self) -> None:
        while not self._is_finished():
            with self._changed:
                self._changed.wait_for(self._has_work, self._seconds_to_wait())
                if self._results and not self._stopping:
                    self._changed.wait_for(lambda: self._stopping, _LINGER_SECONDS)
            try:
                self._settle()
                self._claim_if_due()
                self._failures, self.problem = 0, None
            except CrmWhatsappError as error:
                self._failed(error.message)
            except Exception as error:
                log.exception("the webhook queue could not be worked on")
                self._failed(repr(error))

    def _is_finished(self) -> bool:
        with self._changed:
            if not self._stopping:
                return False
            return self.problem is not None or (not self._results and self._lanes.running == 0)

    def _has_work(self) -> bool:
        now = self._clock.monotonic()
        if now < self._not_before and not self._stopping:
            return False
        return (
            bool(self._results)
            or self._lanes_ended
            or self._is_claim_due(now)
            or self._is_finished_now()
        )

    def _is_finished_now(self) -> bool:
        return self._stopping and (self._lanes.running == 0 or self.problem is not None)

    def _is_claim_due(self, now: float) -> bool:
        if self._stopping or now < self._claim_at or self._lanes.waiting >= _MOST_LANES:
            return False
        targets = self._registry.target_ids
        return targets is not None and not targets <= self._apart()

    def _apart(self) -> set[str]:
        """Return the webhooks that nothing is to be claimed for now."""
        return {*self._lanes.saturated_ids(), *self._breakers.open_ids()}

    def _seconds_to_wait(self) -> float:
        """Return until when nothing can become due by itself."""
        now = self._clock.monotonic()
        if now < self._not_before:
            return self._not_before - now
        waits = [self._terms.idle_seconds, self._breakers.next_try_seconds()]
        if self._claim_at > now:
            waits.append(self._claim_at - now)
        return min(item for item in waits if item is not None)

    def _settle(self) -> None:
        """Write down one batch of results; a claim follows once lanes were let go by them."""
        with self._changed:
            batch = self._results[:_MOST_SETTLED]
            ended = self._lanes_ended and len(batch) == len(self._results)
            if ended:
                self._lanes_ended = False
        try:
            if batch:
                self._store.settle(batch)
        except StoreRejected as error:
            # Kept, they would stand in the way of all others for good.
            log.error("how deliveries ended was refused", detail=error.message)
        except Exception:
            self._lanes_ended = True
            raise
        with self._changed:
            del self._results[: len(batch)]
            if ended:  # more may have been queued behind what was held
                self._claim_at = 0.0

    def _claim_if_due(self) -> None:
        with self._changed:
            begun = self._clock.monotonic()
            if not self._is_claim_due(begun):
                return
            self._claim_at = _NEVER  # until the answer says better, or somebody wakes us
            apart = self._apart()
        terms = self._terms
        try:
            claim = self._store.claim(
                self._owner_id,
                lanes=terms.lanes,
                per_lane=terms.per_lane,
                hold_seconds=terms.hold_seconds,
                except_webhooks=sorted(apart),
            )
        except Exception:
            self.wake()
            raise
        until = begun + max(0.0, terms.hold_seconds - 1.2 * terms.request_seconds)
        waits = [terms.idle_seconds, claim.next_due_seconds, self._breakers.next_try_seconds()]
        wait_seconds = min(item for item in waits if item is not None)
        if not claim.deliveries:
            wait_seconds = max(wait_seconds, _SHORTEST_WAIT_SECONDS)
        with self._changed:
            self._claim_at = min(self._claim_at, self._clock.monotonic() + wait_seconds)
            self._lanes.add(lanes_of(claim.deliveries, until))
            self._start_lanes()

    def _failed(self, problem: str) -> None:
        if self.problem is None:
            log.warning("the webhook queue cannot be reached and waits", detail=problem)
        self.problem = problem
        self._failures += 1
        state = RetryCallState(retry_object=None, fn=None, args=(), kwargs={})  # type: ignore[arg-type]
        state.attempt_number = self._failures
        with self._changed:
            self._not_before = self._clock.monotonic() + self._wait(state)

    # --- the threads that send ---

    def _start_lanes(self) -> None:
        """Hand out what may be sent; called with the lock."""
        while not self._stopping and (lane := self._lanes.start_next()) is not None:
            self._senders.submit(self._run, lane)

    def _run(self, lane: Lane) -> None:
        try:
            while lane.deliveries and self._goes_on(lane) and self._send(lane):
                pass
        except Exception:
            log.exception("a webhook lane failed", webhook_id=lane.webhook_id)
        with self._changed:
            if lane.deliveries:
                self._results.append(untried(lane.deliveries[0]))
            self._lanes.finish(lane)
            self._lanes_ended = True
            if self._breakers.allowance(lane.webhook_id) == 0:
                for waiting in self._lanes.withdraw(lane.webhook_id):
                    self._results.append(untried(waiting.deliveries[0]))
            self._start_lanes()
            self._changed.notify_all()

    def _goes_on(self, lane: Lane) -> bool:
        return (
            not self._stopping
            and self._clock.monotonic() < lane.until
            and self._breakers.allowance(lane.webhook_id) != 0
        )

    def _send(self, lane: Lane) -> bool:
        """Make one attempt; True when the next of the lane may follow."""
        errand = self._courier.deliver(lane.deliveries[0])
        if errand.attempt.state is DeliveryState.PENDING:
            lane.deliveries.clear()  # those behind it wait with it
        else:
            lane.deliveries.popleft()
        with self._changed:
            self._results.append(errand.attempt)
            if errand.outcome is not None:
                self._outcomes[errand.outcome] += 1
                self._last_problem = errand.attempt.error
            if errand.attempt.state is DeliveryState.PARKED:
                self._parked += 1
            self._start_lanes()  # a breaker may have closed
            self._changed.notify_all()
        return errand.outcome is not Outcome.GONE

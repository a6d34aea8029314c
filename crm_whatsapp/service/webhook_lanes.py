"""The lanes that are claimed: which of them may be sent now, and which have to wait."""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from crm_whatsapp.domain.webhooks import Delivery


@dataclass(slots=True)
class Lane:
    """Claimed deliveries of one webhook and company, to be sent one after another.

    Attributes:
        until: on the monotonic clock: no request may begin later, or the claim could end and
            somebody else send the same.
    """

    webhook_id: str
    deliveries: deque[Delivery]
    until: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """How the sending threads are shared out.

    Attributes:
        threads: requests under way at the same time, in all.
        per_target: of one webhook.
        waiting_per_target: lanes of one webhook that may wait here before no more are claimed.
    """

    threads: int
    per_target: int
    waiting_per_target: int = 25

    @property
    def reserved(self) -> int:
        """How many threads only those may use who have no request under way: a quarter.

        A few targets that take their time would otherwise hold every thread, however small the
        share of each.
        """
        return self.threads // 4


class WebhookLanes:
    """Decides who goes next: the target with the fewest requests under way. Not thread-safe."""

    def __init__(self, share: Share, allowance: Callable[[str], int | None]) -> None:
        """Wire it.

        Args:
            allowance: how many requests the breaker lets a webhook have under way.
        """
        self._share = share
        self._allowance = allowance
        self._waiting: dict[str, deque[Lane]] = {}
        self._running: Counter[str] = Counter()

    @property
    def running(self) -> int:
        """How many lanes are being sent."""
        return self._running.total()

    @property
    def waiting(self) -> int:
        """How many lanes are claimed and not begun."""
        return sum(len(lanes) for lanes in self._waiting.values())

    def add(self, lanes: Iterable[Lane]) -> None:
        """Take over claimed lanes."""
        for lane in lanes:
            self._waiting.setdefault(lane.webhook_id, deque()).append(lane)

    def start_next(self) -> Lane | None:
        """Return a lane to be sent now, None when none may be."""
        free = self._share.threads - self.running
        if free <= 0:
            return None
        for webhook_id in sorted(self._waiting, key=lambda key: self._running[key]):
            if self._may_start(webhook_id, free):
                lane = self._waiting[webhook_id].popleft()
                if not self._waiting[webhook_id]:
                    del self._waiting[webhook_id]
                self._running[webhook_id] += 1
                return lane
        return None

    def finish(self, lane: Lane) -> None:
        """Note that a lane that was started is not being sent any more."""
        self._running[lane.webhook_id] -= 1
        self._running += Counter()  # drops the zeros

    def withdraw(self, webhook_id: str) -> list[Lane]:
        """Take back the lanes of a webhook that have not begun."""
        return list(self._waiting.pop(webhook_id, ()))

    def withdraw_all(self) -> list[Lane]:
        """Take back every lane that has not begun."""
        lanes = [lane for waiting in self._waiting.values() for lane in waiting]
        self._waiting.clear()
        return lanes

    def saturated_ids(self) -> list[str]:
        """Return the webhooks of which enough lanes wait here."""
        most = self._share.waiting_per_target
        return [key for key, lanes in self._waiting.items() if len(lanes) >= most]

    def _may_start(self, webhook_id: str, free: int) -> bool:
        running = self._running[webhook_id]
        allowance = self._allowance(webhook_id)
        if allowance is not None and running >= allowance:
            return False
        return running == 0 or (running < self._share.per_target and free > self._share.reserved)


def lanes_of(deliveries: Sequence[Delivery], until: float) -> list[Lane]:
    """Return claimed deliveries by lane, in the order of the claim."""
    lanes: dict[str, Lane] = {}
    for delivery in deliveries:
        lane = lanes.get(delivery.lane)
        if lane is None:
            lane = lanes[delivery.lane] = Lane(delivery.webhook_id, deque(), until)
        lane.deliveries.append(delivery)
    return list(lanes.values())

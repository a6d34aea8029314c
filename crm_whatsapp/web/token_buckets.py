"""How much is left of many quotas at once, in bounded memory.

A bucket is one number: when it is full again (GCRA, ITU-T I.371, the virtual scheduling form). It
fills evenly, so who asks too often is let in at the allowed rate, not shut out until a window ends.
Times are whole nanoseconds: after exactly the wait that was told, a call is let in.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

_SECOND_NS = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """So much in so many seconds, all of it at once if need be.

    name: as callers are told; 1 <= amount <= 1,000,000.
    """

    name: str
    amount: int
    seconds: int = 60

    @property
    def cost_ns(self) -> int:
        """How long one takes to come back."""
        return self.seconds * _SECOND_NS // self.amount


Wish = tuple[Hashable, Quota]
"""One out of the bucket with this key."""


class Taken(NamedTuple):
    """What became of a wish, told of the quota that is nearest its end.

    left: so many more at once.
    wait_seconds: 0 when it was granted; else after so long it will be, if nobody takes more.
    full_seconds: then all of the quota is there again.
    """

    quota: Quota
    left: int
    wait_seconds: int
    full_seconds: int


class TokenBuckets:
    """Buckets by key, made when first asked for. Thread-safe."""

    def __init__(self, *, most: int, now_ns: Callable[[], int] = time.monotonic_ns) -> None:
        """Make none yet.

        Args:
            most: of more buckets the one that was longest not asked for is forgotten, and is full
                when it is asked for again.
        """
        self._most = most
        self._now_ns = now_ns
        self._lock = threading.Lock()
        self._full_at_ns: OrderedDict[Hashable, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._full_at_ns)

    def take(self, wishes: Sequence[Wish]) -> Taken:
        """Take one out of each bucket, or nothing at all unless each has one."""
        with self._lock:
            now = self._now_ns()
            outcomes = [self._look(key, quota, now) for key, quota in wishes]
            worst = max(outcomes, key=_shortage)
            granted = worst.wait_seconds == 0
            for key, quota in wishes:
                if granted:
                    self._full_at_ns[key] = self._full_at(key, now) + quota.cost_ns
                if key in self._full_at_ns:
                    self._full_at_ns.move_to_end(key)
            while len(self._full_at_ns) > self._most:
                self._full_at_ns.popitem(last=False)
        return worst

    def put_back(self, wishes: Sequence[Wish]) -> None:
        """Undo a take: what it was taken for did not happen."""
        with self._lock:
            for key, quota in wishes:
                if key in self._full_at_ns:
                    self._full_at_ns[key] -= quota.cost_ns

    def _look(self, key: Hashable, quota: Quota, now: int) -> Taken:
        """Tell what would become of one more."""
        cost = quota.cost_ns
        debt = self._full_at(key, now) - now + cost
        over = debt - quota.amount * cost
        if over > 0:
            return Taken(quota, 0, _seconds(over), _seconds(debt - cost))
        return Taken(quota, -over // cost, 0, _seconds(debt))

    def _full_at(self, key: Hashable, now: int) -> int:
        return max(self._full_at_ns.get(key, now), now)


def _shortage(taken: Taken) -> tuple[int, float]:
    return taken.wait_seconds, -taken.left / taken.quota.amount


def _seconds(nanoseconds: int) -> int:
    """Round up."""
    return -(-nanoseconds // _SECOND_NS)

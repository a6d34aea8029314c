"""How often a company may begin a pairing. WhatsApp suspends numbers that link again and again."""

import math
import threading
from collections import OrderedDict, deque
from datetime import timedelta

from crm_whatsapp.domain.errors import RateLimited
from crm_whatsapp.domain.ports import Clock

_HOUR_SECONDS = 3600.0
_MOST_COMPANIES = 10_000


class PairingAllowance:
    """Remembers the pairings of the last hour, in this process. Thread-safe."""

    def __init__(self, clock: Clock, per_hour: int) -> None:
        """Make it; per_hour 0 allows everything."""
        self._clock = clock
        self._per_hour = per_hour
        self._lock = threading.Lock()
        self._begun: OrderedDict[str, deque[float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._begun)

    def take(self, company_id: str) -> None:
        """Note that a pairing begins.

        Raises:
            RateLimited: it may not yet; next_at says when.
        """
        if not self._per_hour:
            return
        now = self._clock.monotonic()
        with self._lock:
            begun = self._begun.setdefault(company_id, deque(maxlen=self._per_hour))
            self._begun.move_to_end(company_id)
            while len(self._begun) > _MOST_COMPANIES:
                self._begun.popitem(last=False)
            if len(begun) == self._per_hour and (left := begun[0] + _HOUR_SECONDS - now) > 0:
                raise self._refusal(math.ceil(left))
            begun.append(now)

    def _refusal(self, wait_seconds: int) -> RateLimited:
        minutes = math.ceil(wait_seconds / 60)
        return RateLimited(
            f"Connecting to WhatsApp was begun {self._per_hour} times within an hour; WhatsApp "
            "suspends numbers that try more often. The next try is possible in "
            f"{minutes} minute{'' if minutes == 1 else 's'}.",
            limit="pairings",
            retry_after_seconds=wait_seconds,
            next_at=self._clock.now() + timedelta(seconds=wait_seconds),
        )

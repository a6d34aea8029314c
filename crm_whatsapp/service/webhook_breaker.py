"""A circuit breaker for each webhook: a target that does not answer is left alone for a while."""

import threading
from collections.abc import Collection
from dataclasses import dataclass

from crm_whatsapp.domain.ports import Clock


@dataclass(slots=True)
class _Target:
    """failures: in a row. open_until: on the monotonic clock; None while it never opened."""

    failures: int = 0
    open_until: float | None = None


class WebhookBreakers:
    """Opens after failures in a row; after a while one request is let through to try.

    Only what says that the target is in trouble counts as a failure: no answer, 5xx, 429. A
    target that refuses what it is sent is alive.
    """

    def __init__(self, clock: Clock, *, failures: int, open_seconds: float) -> None:
        self._clock = clock
        self._most = failures
        self._open_seconds = open_seconds
        self._lock = threading.Lock()
        self._targets: dict[str, _Target] = {}

    def allowance(self, webhook_id: str) -> int | None:
        """Return how many requests may be under way: 0 open, 1 trying again, None any number."""
        with self._lock:
            target = self._targets.get(webhook_id)
            if target is None or target.open_until is None:
                return None
            return 0 if self._clock.monotonic() < target.open_until else 1

    def failed(self, webhook_id: str) -> bool:
        """Count a failure; True when that opened the breaker."""
        with self._lock:
            target = self._targets.setdefault(webhook_id, _Target())
            target.failures += 1
            if target.failures < self._most:
                return False
            return self._open(target, self._open_seconds)

    def asked_to_wait(self, webhook_id: str, seconds: float) -> bool:
        """Open the breaker because the target said Retry-After; True when it was not open."""
        with self._lock:
            target = self._targets.setdefault(webhook_id, _Target())
            target.failures = max(target.failures, self._most)
            return self._open(target, seconds)

    def answered(self, webhook_id: str) -> bool:
        """Close the breaker: the target is alive; True when it was open."""
        with self._lock:
            target = self._targets.pop(webhook_id, None)
            return target is not None and target.open_until is not None

    def open_ids(self) -> list[str]:
        """Return the webhooks that nothing may be sent to now."""
        with self._lock:
            now = self._clock.monotonic()
            return [
                key
                for key, target in self._targets.items()
                if target.open_until is not None and now < target.open_until
            ]

    def troubled_ids(self) -> list[str]:
        """Return the webhooks whose breaker is open or has not been proved closed yet."""
        with self._lock:
            return [key for key, item in self._targets.items() if item.open_until is not None]

    def next_try_seconds(self) -> float | None:
        """Return when the first open breaker lets a request through; None when none is open."""
        with self._lock:
            now = self._clock.monotonic()
            waits = [
                target.open_until - now
                for target in self._targets.values()
                if target.open_until is not None and now < target.open_until
            ]
        return min(waits, default=None)

    def keep_only(self, webhook_ids: Collection[str]) -> None:
        """Forget webhooks that are no more."""
        with self._lock:
            for key in set(self._targets) - set(webhook_ids):
                del self._targets[key]

    def _open(self, target: _Target, seconds: float) -> bool:
        now = self._clock.monotonic()
        was_open = target.open_until is not None and now < target.open_until
        if not was_open:
            target.open_until = now + seconds
        return not was_open

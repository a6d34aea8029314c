"""Brings queued deliveries to their targets."""

import threading


class WebhookDispatcher:
    """Claims what is due, sends it and settles it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._asked = 0

    def wake(self) -> None:
        """Say that deliveries may have been queued; returns at once."""
        with self._changed:
            self._asked += 1
            self._changed.notify_all()

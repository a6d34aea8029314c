"""How many bytes an engine uploads at once: each takes three to four times its size in memory."""

import threading


class UploadBudget:
    """Shared by the uploads of an engine. A large one waits for others, small ones hardly do."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._changed = threading.Condition()
        self._taken = 0

    def take(self, size_bytes: int, timeout_seconds: float) -> int:
        """Return what was taken, to be given back; more than there is takes all of it.

        Raises:
            TimeoutError: it was not free in time.
        """
        wanted = min(size_bytes, self._most_bytes)
        with self._changed:
            if not self._changed.wait_for(
                lambda: self._taken + wanted <= self._most_bytes, timeout_seconds
            ):
                raise TimeoutError("other uploads took too long")
            self._taken += wanted
        return wanted

    def give_back(self, taken: int) -> None:
        """Let others go on."""
        with self._changed:
            self._taken -= taken
            self._changed.notify_all()

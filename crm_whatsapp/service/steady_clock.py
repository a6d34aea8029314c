"""The clock of this process."""

import time
from datetime import UTC, datetime, timedelta


class SteadyClock:
    """Wall time that advances with the monotonic clock.

    Deadlines and retry times neither fire early nor hang when somebody sets the machine's clock;
    the wall time is that of the moment the service started.
    """

    def __init__(self) -> None:
        self._wall_at_start = datetime.now(UTC)
        self._monotonic_at_start = time.monotonic()

    def now(self) -> datetime:
        """Return the time, aware, UTC."""
        return self._wall_at_start + timedelta(seconds=time.monotonic() - self._monotonic_at_start)

    def monotonic(self) -> float:
        """Return seconds that never run backwards."""
        return time.monotonic()

"""What is known about the end of an engine, and how often one place has seen it."""

import random
import re
import signal
from collections import deque

_CAUSE = re.compile(r"fatal error: .|panic: .|SIG[A-Z]+: .|runtime: .|\w*(Error|Exception): .")
_MAX_TRACE_LINES = 40


class LastWords:
    """What a process printed about its end: the first line that names a cause, and what follows.

    Go prints the cause first and then every goroutine, so the end of the output is of no use.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []

    def hear(self, line: str) -> None:
        """Take one line of output; cheap, for it gets all of them."""
        if len(self.lines) < _MAX_TRACE_LINES and (self.lines or _CAUSE.match(line)):
            self.lines.append(line)

    @property
    def cause(self) -> str | None:
        return self.lines[0][:200] if self.lines else None


def describe_death(return_code: int | None, cause: str | None) -> str:
    """Return one line for people: how the process ended and what it said of it."""
    if return_code is None:
        how = "the engine was lost"
    elif return_code < 0:
        try:
            how = f"the engine was ended by {signal.Signals(-return_code).name}"
        except ValueError:
            how = f"the engine was ended by signal {-return_code}"
    else:
        how = f"the engine ended with exit code {return_code}"
    return f"{how}: {cause}" if cause else how


class DeathRecord:
    """The deaths of one place in the fleet.

    Args:
        careful_window_seconds: two deaths without a suspect within it call for a careful restart.
    """

    def __init__(
        self,
        *,
        careful_window_seconds: float,
        backoff_max_seconds: float,
        reset_seconds: float,
        rng: random.Random,
    ) -> None:
        self._careful_window_seconds = careful_window_seconds
        self._backoff_max_seconds = backoff_max_seconds
        self._reset_seconds = reset_seconds
        self._rng = rng
        self._unexplained: deque[float] = deque(maxlen=2)
        self._in_a_row = 0
        self.total = 0

    def add(self, now: float, *, lived_seconds: float, had_suspect: bool) -> float:
        """Count a death; return the seconds to wait before the next spawn, 0 after the first."""
        self.total += 1
        if lived_seconds >= self._reset_seconds:
            self._in_a_row = 0
        self._in_a_row += 1
        if not had_suspect:
            self._unexplained.append(now)
        if self._in_a_row == 1:
            return 0.0
        ceiling = min(self._backoff_max_seconds, float(2 ** min(self._in_a_row - 2, 16)))
        return ceiling * self._rng.uniform(0.5, 1.0)

    def calls_for_care(self, now: float) -> bool:
        """Say whether the last two unexplained deaths fall into the window."""
        return (
            len(self._unexplained) == 2
            and now - self._unexplained[0] <= self._careful_window_seconds
        )

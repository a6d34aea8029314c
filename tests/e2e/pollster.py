"""Somebody who keeps asking for the status of companies and writes down every answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType

from service_process import API, ServiceProcess


@dataclass(frozen=True, slots=True)
class Poll:
    """One answer. at: seconds since the epoch, when it was asked."""

    company_id: str
    at: float
    took_seconds: float
    http_status: int
    status: str
    reason: str


@dataclass(slots=True)
class Pollster:
    """Polls the companies in turn on a thread, from entering to leaving the context.

    per_second: how often, all companies together.
    """

    service: ServiceProcess
    companies: Sequence[str]
    per_second: float = 20.0
    polls: list[Poll] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Pollster:
        self._thread = threading.Thread(target=self._run, name="pollster")
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        assert self._thread is not None
        self._thread.join()

    def _run(self) -> None:
        turn = 0
        while not self._over.wait(1 / self.per_second):
            company_id = self.companies[turn % len(self.companies)]
            turn += 1
            at, begun = time.time(), time.monotonic()
            try:
                path = f"{API}/status?company_id={company_id}"
                answer = self.service.request("GET", path, timeout_seconds=10)
                body = answer.json()
            except (OSError, ValueError) as error:
                self.unanswered.append(repr(error))
                continue
            self.polls.append(
                Poll(
                    company_id=company_id,
                    at=at,
                    took_seconds=time.monotonic() - begun,
                    http_status=answer.status,
                    status=body.get("status", ""),
                    reason=body.get("reason", ""),
                )
            )

    def slowest_seconds(self) -> float:
        """Return how long the slowest answer took."""
        return max(poll.took_seconds for poll in self.polls)

    def assert_all_answered(self) -> None:
        """Fail unless there were polls and each was answered with 200."""
        assert self.polls, "nothing was polled"
        assert not self.unanswered, self.unanswered[:3]
        refused = [poll for poll in self.polls if poll.http_status != 200]
        assert not refused, refused[:3]

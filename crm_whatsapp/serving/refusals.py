"""What is answered to bytes that never become a request of the app."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from gunicorn.http import errors  # type: ignore[import-untyped]

_LOG_INTERVAL_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An answer in the form of the contract, with its HTTP number."""

    status: int
    reason: str
    code: str
    message: str

    def answer(self) -> bytes:
        """Return the bytes of the answer, after which the connection ends."""
        body = json.dumps({"error": {"code": self.code, "message": self.message}}).encode()
        head = (
            f"HTTP/1.1 {self.status} {self.reason}\r\n"
            "Connection: close\r\n"
            "Content-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n"
            "Cache-Control: no-store\r\n"
            "X-Content-Type-Options: nosniff\r\n"
            "\r\n"
        )
        return head.encode() + body


def _bad_request(message: str) -> Refusal:
    return Refusal(status=400, reason="Bad Request", code="bad-request", message=message)


HEAD_TOO_SLOW = Refusal(
    status=408,
    reason="Request Timeout",
    code="request-timeout",
    message="The request did not arrive in time.",
)
INTERNAL_ERROR = Refusal(
    status=500,
    reason="Internal Server Error",
    code="internal-error",
    message="Something went wrong here. It has been logged.",
)
# In this order: some are subclasses of others. Nothing of what was sent is repeated.
_REFUSALS: tuple[tuple[type[Exception], Refusal], ...] = (
    (
        errors.LimitRequestLine,
        Refusal(
            status=414,
            reason="URI Too Long",
            code="address-too-long",
            message="The address of the request is too long.",
        ),
    ),
    (
        errors.LimitRequestHeaders,
        Refusal(
            status=431,
            reason="Request Header Fields Too Large",
            code="headers-too-large",
            message="The headers of the request are too many or too long.",
        ),
    ),
    (
        errors.ExpectationFailed,
        Refusal(
            status=417,
            reason="Expectation Failed",
            code="expectation-failed",
            message="Expect may only be 100-continue.",
        ),
    ),
    (errors.InvalidRequestLine, _bad_request("The request line is malformed.")),
    (errors.InvalidRequestMethod, _bad_request("The method is malformed.")),
    (errors.InvalidHTTPVersion, _bad_request("Speak HTTP/1.1 or HTTP/1.0.")),
    (
        errors.UnsupportedTransferCoding,
        _bad_request("Transfer-Encoding may only be chunked."),
    ),
    (errors.ObsoleteFolding, _bad_request("A header may not go on in a second line.")),
)
_OTHERWISE = _bad_request("The headers of the request are malformed or contradict each other.")
_OWN_FAULTS = (errors.InvalidResponseHeader, errors.InvalidResponseHeaderName)


def refusal_of(error: Exception) -> Refusal | None:
    """Return the answer to a request that gunicorn could not read; None: the error is ours."""
    if isinstance(error, _OWN_FAULTS) or not isinstance(error, errors.ParseException):
        return None
    return next((refusal for kind, refusal in _REFUSALS if isinstance(error, kind)), _OTHERWISE)


class RefusalLog:
    """Says how many were refused, in one line a minute: strangers must not fill the log."""

    def __init__(
        self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write = write
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._next_at = clock()

    def note(self, code: str) -> None:
        """Count one; any thread may call this."""
        with self._lock:
            self._counts[code] += 1
            now = self._clock()
            if now < self._next_at:
                return
            self._next_at = now + _LOG_INTERVAL_SECONDS
            counts = ", ".join(f"{code} {count}" for code, count in sorted(self._counts.items()))
            self._counts.clear()
        self._write(f"requests refused before the app saw them: {counts}")

"""The head of a request, gathered before a thread is given to it."""

from enum import StrEnum

MOST_HEAD_BYTES = 32 * 1024
"""Request line and headers together. What is longer is refused."""

_READ_BYTES = 16 * 1024


class HeadState(StrEnum):
    """What has arrived of a head."""

    INCOMPLETE = "incomplete"
    READY = "ready"  # all of it, or enough to see that it is none
    GONE = "gone"  # the client has left


class RequestHead:
    """Bytes of a connection up to the end of a head, and what came with them."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._searched = 0

    def __bool__(self) -> bool:
        return bool(self._bytes)

    def room(self) -> int:
        """Return how many bytes may be added now: one more than a head may have in all."""
        return min(_READ_BYTES, MOST_HEAD_BYTES + 1 - len(self._bytes))

    def add(self, data: bytes) -> HeadState:
        """Add what has arrived; an empty piece is the end."""
        if not data:
            return HeadState.GONE
        self._bytes += data
        return self._look()

    def take(self) -> bytes:
        """Return everything, and begin anew."""
        taken = bytes(self._bytes)
        self._bytes.clear()
        self._searched = 0
        return taken

    def _look(self) -> HeadState:
        """Look at what is new, and only at that: a head may come byte by byte."""
        if self._bytes.find(b"\r\n\r\n", max(0, self._searched - 3)) >= 0:
            return HeadState.READY
        # The \r of a line's end may have come earlier.
        came_earlier = self._searched > 0 and self._bytes[self._searched - 1] == ord("\r")
        begin = self._searched - came_earlier
        has_bare_lf = self._bytes.count(b"\n", begin) != self._bytes.count(b"\r\n", begin)
        self._searched = len(self._bytes)
        if has_bare_lf or len(self._bytes) > MOST_HEAD_BYTES:
            return HeadState.READY
        return HeadState.INCOMPLETE

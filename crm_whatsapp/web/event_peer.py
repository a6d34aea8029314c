"""The client at the other end of an event stream, as far as its socket tells."""

import errno
import select
import socket
import time
from typing import Any, Protocol

SEND_BUFFER_BYTES = 64 * 1024
MOST_WRITTEN_BYTES = 16 * 1024
"""At most this at once: it fits into the send buffer whenever the kernel calls it writable."""

_LEFT = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR | select.POLLNVAL


class Signal(Protocol):
    """What else is waited for."""

    def fileno(self) -> int:
        """Return a descriptor that is readable once there is something to do."""

    def has_ended(self) -> bool:
        """Tell whether the stream is to be ended now, and reset the signal."""


class Peer:
    """Waits for the client and for the stream at the same time, on one thread.

    The thread never hangs in a write: it writes when the socket takes it, so a client that has
    left, or reads nothing, is noticed at once or after a while, and the end of the stream always.
    Without a socket, as under a test client, everybody is there and takes everything.
    """

    def __init__(
        self, connection: socket.socket | None, signal: Signal, *, patience_seconds: float
    ) -> None:
        """Prepare the socket.

        Args:
            patience_seconds: how long the client may take nothing, or acknowledge nothing.
        """
        self._connection = connection
        self._signal = signal
        self._patience_seconds = patience_seconds
        self._poll = select.poll()
        self._poll.register(signal, select.POLLIN)
        if connection is None:
            return
        self._poll.register(connection, _LEFT)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        if hasattr(socket, "TCP_USER_TIMEOUT") and connection.family != socket.AF_UNIX:
            patience_ms = int(patience_seconds * 1000)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, patience_ms)

    def wait(self, timeout_seconds: float) -> bool:
        """Wait for the signal, or for as long as said; False when the client has left."""
        return not self._has_left(self._poll.poll(max(0.0, timeout_seconds) * 1000))

    def is_writable(self) -> bool:
        """Wait until the client takes more; False when it will not.

        A stream that is to be ended waits for nobody: what fits at once is still written.
        """
        if self._connection is None:
            return True
        give_up_at = time.monotonic() + self._patience_seconds
        self._poll.modify(self._connection, _LEFT | select.POLLOUT)
        try:
            while (left := give_up_at - time.monotonic()) > 0:
                has_ended = self._signal.has_ended()
                found = self._poll.poll(0 if has_ended else left * 1000)
                if self._has_left(found):
                    return False
                if any(event & select.POLLOUT for _, event in found):
                    return True
                if has_ended:
                    return False
            return False
        finally:
            self._poll.modify(self._connection, _LEFT)

    def hang_up(self) -> None:
        """Close the connection in both directions: what is written from now on fails quietly."""
        if self._connection is None:
            return
        try:
            # An error that waits in the socket would be raised, and logged, by the next write.
            self._connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            self._connection.shutdown(socket.SHUT_RDWR)
        except OSError as error:
            if error.errno not in (errno.ENOTCONN, errno.EBADF, errno.EINVAL):
                raise

    def _has_left(self, found: list[tuple[int, int]]) -> bool:
        return any(
            event & _LEFT for descriptor, event in found if descriptor != self._signal.fileno()
        )


def socket_of(environ: dict[str, Any]) -> socket.socket | None:
    """Return the socket of a request, where the server lends it."""
    lent = environ.get("gunicorn.socket") or environ.get("werkzeug.socket")
    return lent if isinstance(lent, socket.socket) else None

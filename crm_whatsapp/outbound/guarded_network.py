"""Connections that an AddressGuard has looked at, each within the time of its request.

httpcore hands a connection attempt to its network backend with the host name still unresolved.
That is the place for the check: what was judged is what is connected to, so there is no moment at
which a name could change its mind. TLS goes on knowing the host by its name.
"""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager

import httpcore
import structlog

from crm_whatsapp.outbound.address_guard import AddressGuard, parse_address

log = structlog.get_logger(__name__)

_MOST_LOOKUPS = 64

Lookup = Callable[[str, int], list[str]]


class AddressRefused(Exception):
    """The host resolves to an address that may not be spoken to."""


class NameUnknown(Exception):
    """The host name does not resolve. The message says why, for people."""


def system_lookup(host: str, port: int) -> list[str]:
    """Return the addresses of a host as the system resolves it; raises OSError, UnicodeError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Resolver:
    """Resolves names within a time limit.

    getaddrinfo cannot be interrupted, so each lookup has a thread of its own; all who wait for
    the same name wait for the same one.
    """

    def __init__(self, lookup: Lookup = system_lookup) -> None:
        self._lookup = lookup
        self._lock = threading.Lock()
        self._running: dict[tuple[str, int], Future[list[str]]] = {}

    def resolve(self, host: str, port: int, timeout_seconds: float) -> list[str]:
        """Return the addresses.

        Raises:
            NameUnknown: there are none, or not in time.
        """
        with self._lock:
            future = self._running.get((host, port))
            if future is None:
                if len(self._running) >= _MOST_LOOKUPS:
                    raise NameUnknown("too many names are being looked up")
                future = self._running[(host, port)] = Future()
                threading.Thread(
                    target=self._run, args=(host, port, future), name="name-lookup", daemon=True
                ).start()
        try:
            addresses = future.result(timeout_seconds)
        except FutureTimeout:
            raise NameUnknown("the host name was not resolved in time") from None
        except (OSError, UnicodeError) as exc:
            reason = exc.strerror if isinstance(exc, socket.gaierror) else str(exc)
            raise NameUnknown(f"the host name cannot be resolved: {reason}") from exc
        if not addresses:
            raise NameUnknown("the host name has no address")
        return addresses

    def _run(self, host: str, port: int, future: Future[list[str]]) -> None:
        try:
            result, error = self._lookup(host, port), None
        except Exception as exc:  # noqa: BLE001 - handed to whoever waits
            result, error = [], exc
        with self._lock:
            del self._running[(host, port)]
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)


class RequestTime(threading.local):
    """The end of the request that this thread is making, on the monotonic clock, in seconds."""

    deadline = float("inf")

    def left(self, timeout: float | None, late: type[Exception]) -> float:
        """Return how long the next step may take; raise `late` when the time is up."""
        seconds = self.deadline - time.monotonic()
        if seconds <= 0:
            raise late("the time of the request is up")
        return seconds if timeout is None else min(seconds, timeout)


class GuardedBackend(httpcore.NetworkBackend):
    """The network of a connection pool. One request a thread at a time, inside `request`."""

    def __init__(self, guard: AddressGuard, resolver: Resolver | None = None) -> None:
        self._guard = guard
        self._resolver = resolver or Resolver()
        self._time = RequestTime()
        self._plain = threading.local()
        self._network = httpcore.SyncBackend()

    @contextmanager
    def request(self, *, deadline: float, is_plain: bool) -> Iterator[None]:
        """Bound all that this thread does in here.

        Args:
            deadline: on the monotonic clock, for everything from the lookup to the last byte.
            is_plain: the request is made without TLS.
        """
        self._time.deadline = deadline
        self._plain.value = is_plain
        try:
            yield
        finally:
            self._time.deadline = float("inf")

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Resolve, judge every address, and connect to the first that answers."""
        until = time.monotonic() + self._time.left(timeout, httpcore.ConnectTimeout)
        addresses = self._resolver.resolve(host, port, until - time.monotonic())
        for text in addresses:
            if not self._guard.permits(parse_address(text), is_plain=self._plain.value):
                log.warning("an address is refused", host=host, address=text)
                raise AddressRefused()
        problem: Exception = httpcore.ConnectTimeout("no address was tried in time")
        for number, address in enumerate(addresses):
            share = (until - time.monotonic()) / (len(addresses) - number)
            if share <= 0:
                break
            try:
                stream = self._network.connect_tcp(
                    address, port, share, local_address, socket_options
                )
                return _TimedStream(stream, self._time)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as exc:
                problem = exc
        raise problem


class _TimedStream(httpcore.NetworkStream):
    """A connection on which nothing outlasts the request under way, byte by byte or not."""

    def __init__(self, stream: httpcore.NetworkStream, request_time: RequestTime) -> None:
        self._stream = stream
        self._time = request_time

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._time.left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        # httpcore's own loop would grant the whole timeout to every few bytes that go out.
        sock: socket.socket = self._stream.get_extra_info("socket")
        rest = memoryview(buffer)
        try:
            while rest:
                sock.settimeout(self._time.left(timeout, httpcore.WriteTimeout))
                rest = rest[sock.send(rest) :]
        except TimeoutError as exc:
            raise httpcore.WriteTimeout(str(exc)) from exc
        except OSError as exc:
            raise httpcore.WriteError(str(exc)) from exc

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        left = self._time.left(timeout, httpcore.ConnectTimeout)
        return _TimedStream(self._stream.start_tls(ssl_context, server_hostname, left), self._time)

    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)

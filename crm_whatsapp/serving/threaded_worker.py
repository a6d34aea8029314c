"""gunicorn's threaded worker, in which a thread is given to whole requests only.

Source: gunicorn 27, workers/gthread.py. There a connection takes a thread before its first byte,
the thread waits in `recv` and `sendall` without end, and the one thread that accepts waits up to
2 s for each client that does not close. Any 140 connections that are slow, or 10 that
are wrong and stay, end the service for everybody. Here the accepting thread gathers heads and lets
go of connections without ever waiting, and it drops the oldest when there are too many.
"""

import contextlib
import errno
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, ClassVar

from gunicorn.workers.gthread import (  # type: ignore[import-untyped]
    STOP_KEEPALIVE_LINGER,
    TConn,
    ThreadWorker,
)

from crm_whatsapp.serving.client_request import ClientParser
from crm_whatsapp.serving.client_socket import ClientSocket, ClientTerms, WaitingRoom
from crm_whatsapp.serving.refusals import (
    HEAD_TOO_SLOW,
    INTERNAL_ERROR,
    RefusalLog,
    refusal_of,
)
from crm_whatsapp.serving.request_head import HeadState, RequestHead

_LEAVING_SECONDS = 10.0
_HEADS_COME_WITHIN_SECONDS = 1.0
_MOST_DISCARDED_BYTES = 64 * 1024 * 1024
_DISCARD_BYTES = 64 * 1024
_RESET_ON_CLOSE = b"\x01\x00\x00\x00\x00\x00\x00\x00"
"""SO_LINGER, on, for 0 s: what the client has not taken is forgotten."""

_OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_LISTENER_IS_BROKEN = (errno.EBADF, errno.EINVAL, errno.ENOTSOCK)


class Connection(TConn):  # type: ignore[misc]
    """A connection, and where it waits when no thread has it."""

    def __init__(self, cfg: Any, client: ClientSocket, address: Any, server: Any) -> None:
        super().__init__(cfg, client, address, server)
        self.parser = ClientParser(cfg, client, address)
        self.initialized = True
        self.head = RequestHead()
        self.discarded_bytes = 0
        self.waits_since = 0.0
        self.waits_in: deque[Connection] | None = None

    def read_head(self) -> HeadState:
        """Take what has arrived of the next head."""
        try:
            return self.head.add(self.sock.recv(self.head.room()))
        except BlockingIOError:
            return HeadState.INCOMPLETE
        except OSError:
            return HeadState.GONE

    def resume_head(self) -> HeadState:
        """Look at what came together with the request before."""
        left = self.parser.unreader.take_buffered()
        return self.head.add(left) if left else HeadState.INCOMPLETE


class ClientWorker(ThreadWorker):  # type: ignore[misc]
    """Accepts, gathers heads, hands requests to threads. See `worker_class`."""

    terms: ClassVar[ClientTerms]

    def init_process(self) -> None:
        """Prepare the worker, and run it; called by gunicorn in the new process."""
        self._room = WaitingRoom(self.terms.most_waited_for)
        self._leaving: deque[Connection] = deque()
        self._refused = RefusalLog(self.log.warning)
        super().init_process()

    # --- in the accepting thread: nothing here waits ---

    def accept(self, listener: socket.socket) -> None:
        """Accept a connection and look at what it has sent already."""
        try:
            accepted, address = listener.accept()
        except OSError as error:
            if error.errno in _LISTENER_IS_BROKEN:
                raise
            if error.errno in _OUT_OF_RESOURCES and not self._make_room():
                self.worker_connections = max(1, self.nr_conns)
                self.log.error(
                    "no more than %d connections: %s", self.worker_connections, error.strerror
                )
            return
        if self.nr_conns + 1 >= self.worker_connections:
            self._make_room()
        self.nr_conns += 1
        client = ClientSocket(accepted, self.terms, self._room)
        conn = Connection(self.cfg, client, address, listener.getsockname())
        self._guarded(conn, self._go_on, conn.read_head)

    def finish_request(self, conn: Connection, fs: "Future[Any]") -> None:
        """Take a connection back from a thread."""

        def go_on(conn: Connection) -> None:
            if fs.cancelled() or not fs.result():
                self._let_leave(conn)
            elif (state := conn.resume_head()) is HeadState.INCOMPLETE and not conn.head:
                self._wait_in(self.keepalived_conns, conn, self.cfg.keepalive)
            else:
                self._go_on(conn, lambda: state)

        self._guarded(conn, go_on)

    def murder_keepalived(self, force: bool = False) -> None:
        """End connections that were idle for too long, or all idle ones."""
        now = time.monotonic()
        while self.keepalived_conns and (force or self.keepalived_conns[0].timeout <= now):
            self._end(self.keepalived_conns[0])

    def murder_pending(self) -> None:
        """End what does not get on: heads without an end, clients that do not leave."""
        now = time.monotonic()
        while self.pending_conns and self.pending_conns[0].timeout <= now:
            self._guarded(self.pending_conns[0], self._refuse_slow_head)
        while self._leaving and self._leaving[0].timeout <= now:
            self._end(self._leaving[0])

    def _cap_keepalive(self, deadline: float) -> None:
        """Let nobody who waits hold up the end of the worker; called when it begins."""
        for queue in (self.keepalived_conns, self.pending_conns, self._leaving):
            for conn in queue:
                conn.timeout = min(conn.timeout, deadline)

    def _go_on(self, conn: Connection, look: Callable[[], HeadState]) -> None:
        """Give the connection a thread if its head is there; wait for it otherwise."""
        state = look()
        if state is HeadState.INCOMPLETE:
            if conn.waits_in is None or (conn.waits_in is self.keepalived_conns and conn.head):
                self._take_out(conn)
                self._wait_in(self.pending_conns, conn, self.terms.head_seconds)
            return
        self._take_out(conn)
        if state is HeadState.GONE:
            self._end(conn)
            return
        conn.parser.unreader.unread(conn.head.take())
        self.enqueue_req(conn)

    def _refuse_slow_head(self, conn: Connection) -> None:
        self._take_out(conn)
        if not conn.head:  # a connection kept ready: nothing was asked
            self._end(conn)
            return
        self._refused.note(HEAD_TOO_SLOW.code)
        with contextlib.suppress(OSError):
            conn.sock.sendall(HEAD_TOO_SLOW.answer())
        self._let_leave(conn)

    def _let_leave(self, conn: Connection) -> None:
        """Say that no more comes, and read on for a while what the client still sends.

        A socket closed with unread bytes is reset, and the reset overtakes the answer
        (RFC 9112, 9.6).
        """
        if conn.sock.is_given_up:
            conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self._end(conn)
            return
        try:
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._end(conn)
            return
        self._wait_in(self._leaving, conn, _LEAVING_SECONDS)

    def _discard(self, conn: Connection) -> None:
        try:
            data = conn.sock.recv(_DISCARD_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        conn.discarded_bytes += len(data)
        if not data or conn.discarded_bytes > _MOST_DISCARDED_BYTES:
            self._end(conn)

    def _make_room(self) -> bool:
        """Drop the connection that is missed least; False when threads have them all."""
        late_since = time.monotonic() - _HEADS_COME_WITHIN_SECONDS
        first = self.pending_conns[0] if self.pending_conns else None
        late = [first] if first is not None and first.waits_since <= late_since else []
        for queue in (self._leaving, late, self.keepalived_conns, self.pending_conns):
            if queue:
                self._refused.note("dropped-for-others")
                self._end(queue[0])
                return True
        return False

    def _wait_in(self, queue: "deque[Connection]", conn: Connection, seconds: float) -> None:
        if not self.alive:
            seconds = min(seconds, STOP_KEEPALIVE_LINGER)
        conn.waits_since = time.monotonic()
        conn.timeout = conn.waits_since + seconds
        queue.append(conn)
        conn.waits_in = queue
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._on_readable, conn))

    def _on_readable(self, conn: Connection, _client: Any) -> None:
        if conn.waits_in is self._leaving:
            self._guarded(conn, self._discard)
        else:
            self._guarded(conn, self._go_on, conn.read_head)

    def _take_out(self, conn: Connection) -> None:
        if conn.waits_in is not None:
            conn.waits_in.remove(conn)
            conn.waits_in = None
            with contextlib.suppress(KeyError, ValueError, OSError):  # as gunicorn does
                self.poller.unregister(conn.sock)

    def _end(self, conn: Connection) -> None:
        self._take_out(conn)
        self.nr_conns -= 1
        conn.close()

    def _guarded(self, conn: Connection, step: Callable[..., None], *arguments: Any) -> None:
        """Take a step; one connection must never end the worker, and every session with it."""
        try:
            step(conn, *arguments)
        except Exception:
            self.log.exception("a connection is dropped")
            with contextlib.suppress(Exception):
                self._end(conn)

    # --- in the threads of requests ---

    def handle_request(self, req: Any, conn: Connection) -> Any:
        """Serve a request; from here on its client is waited for."""
        conn.sock.begin_request()
        try:
            return super().handle_request(req, conn)
        finally:
            conn.sock.end_request()

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Exception) -> None:
        """Answer what could not be read as a request, or not be served by the app."""
        refusal = refusal_of(exc)
        if refusal is None:
            self.log.exception("Error handling request")
            refusal = INTERNAL_ERROR
        else:
            self._refused.note(refusal.code)
        with contextlib.suppress(OSError):
            client.sendall(refusal.answer())


def worker_class(client_terms: ClientTerms) -> type[ClientWorker]:
    """Return the class for gunicorn's `worker_class`."""

    class Worker(ClientWorker):
        terms = client_terms

    return Worker

"""Targets on loopback that answer byte by byte as a test says."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

Script = Callable[[socket.socket, "Target"], None]


class Target:
    """Accepts connections and has each served by the script, in a thread of its own."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._threads: list[threading.Thread] = []
        self._open: list[socket.socket] = []
        self._accepting = threading.Thread(target=self._accept)
        self.requests: list[bytes] = []
        self.connections = 0
        self.ended = threading.Event()
        self.asked = threading.Event()

    def read_request(self, connection: socket.socket) -> bytes:
        """Return one request, head and body; empty when the other side hung up."""
        data = b""
        while b"\r\n\r\n" not in data:
            chunk = connection.recv(65_536)
            if not chunk:
                return b""
            data += chunk
        head, _, body = data.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
        while len(body) < length:
            body += connection.recv(65_536)
        request = head + b"\r\n\r\n" + body
        self.requests.append(request)
        self.asked.set()
        return request

    @contextmanager
    def running(self) -> Iterator["Target"]:
        self._accepting.start()
        try:
            yield self
        finally:
            self.ended.set()
            self._listener.shutdown(socket.SHUT_RDWR)
            self._accepting.join()
            self._listener.close()
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            for thread in self._threads:
                thread.join(20)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(20)
            try:
                self._script(connection, self)
            except OSError:
                return


def answering(*answers: bytes) -> Script:
    """Give these answers, one a request, and the last one for ever; on one connection each."""

    def script(connection: socket.socket, target: Target) -> None:
        while target.read_request(connection):
            number = min(len(target.requests), len(answers)) - 1
            connection.sendall(answers[number])

    return script


NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"

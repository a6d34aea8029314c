"""The engine's end of the pipe to its supervisor."""

import os
import queue
import threading
from multiprocessing.connection import Connection
from typing import NoReturn

from crm_whatsapp.engine.frames import MAX_FRAME_BYTES, Frame, Report, decode, encode


class FrameChannel:
    """Sends frames in order from any thread, receives them on one.

    Without its supervisor an engine has no reason to live: either direction ends the process at
    once when the pipe is closed.
    """

    def __init__(self, connection: "Connection[object, object]") -> None:
        self._connection = connection
        self._outgoing: queue.SimpleQueue[tuple[Frame, threading.Event | None]] = (
            queue.SimpleQueue()
        )
        threading.Thread(target=self._write, name="frame-writer", daemon=True).start()

    def send(self, frame: Frame) -> None:
        """Queue one frame; never blocks, so that callbacks from Go may use it."""
        self._outgoing.put((frame, None))

    def send_and_wait(self, frame: Frame) -> None:
        """Return when the frame, and all before it, is in the pipe."""
        written = threading.Event()
        self._outgoing.put((frame, written))
        written.wait()

    def receive(self) -> Frame:
        """Wait for the next frame."""
        try:
            return decode(self._connection.recv_bytes(MAX_FRAME_BYTES))
        except (EOFError, OSError):
            _leave()

    def _write(self) -> None:
        while True:
            frame, written = self._outgoing.get()
            data = encode(frame)
            if len(data) > MAX_FRAME_BYTES:
                # The supervisor would take it for the end of the engine.
                data = encode(_too_large(frame, len(data)))
            try:
                self._connection.send_bytes(data)
            except OSError:
                _leave()
            if written is not None:
                written.set()


def _too_large(frame: Frame, size_bytes: int) -> Frame:
    message = f"a {frame['type']} frame of {size_bytes} bytes was dropped"
    return {"type": Report.LOG, "level": "error", "logger": __name__, "message": message}


def _leave() -> NoReturn:
    os._exit(0)

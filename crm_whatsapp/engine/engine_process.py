"""One engine process as its supervisor holds it: pipe, log, end."""

import queue
import subprocess
import threading
from collections.abc import Callable, Mapping
from multiprocessing.connection import Pipe

import structlog

from crm_whatsapp.engine.death_record import LastWords
from crm_whatsapp.engine.engine_environment import engine_command
from crm_whatsapp.engine.frames import (
    MAX_FRAME_BYTES,
    Frame,
    FrameError,
    Report,
    decode,
    encode,
)

_log = structlog.get_logger(__name__)

_KNOWN_NOISE = ("Press Ctrl+C to exit", "Login event:")


class EngineProcess:
    """Spawns the process at once; frames and the end are told on threads of its own.

    Must be made on a thread that lives as long as the process may: the kernel ends an engine
    with the thread that spawned it (PR_SET_PDEATHSIG).

    Args:
        on_frame: gets each frame in order.
        on_end: called once, after the last frame, with the return code.
    """

    def __init__(
        self,
        *,
        name: str,
        environment: Mapping[str, str],
        on_frame: Callable[[Frame], None],
        on_end: Callable[[int], None],
    ) -> None:
        self.name = name
        self.last_words = LastWords()
        self._on_frame = on_frame
        self._on_end = on_end
        self._outgoing: queue.SimpleQueue[Frame | None] = queue.SimpleQueue()
        ours, theirs = Pipe(duplex=True)
        self._connection = ours
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                engine_command(theirs.fileno()),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                close_fds=True,
                pass_fds=(theirs.fileno(),),
                env=dict(environment),
                cwd="/",
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self.pid = self._process.pid
        self._log_reader = self._thread(self._read_log, "log")
        self._writer = self._thread(self._write, "writer")
        self._thread(self._read, "reader")

    def send(self, frame: Frame) -> None:
        """Queue one frame; a frame to a dead engine is dropped."""
        self._outgoing.put(frame)

    def kill(self) -> None:
        """End the process now; `on_end` follows."""
        self._process.kill()

    def wait(self, timeout_seconds: float) -> bool:
        """Say whether the process has ended within the time."""
        try:
            self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _thread(self, target: Callable[[], None], what: str) -> threading.Thread:
        thread = threading.Thread(target=target, name=f"{self.name}-{what}", daemon=True)
        thread.start()
        return thread

    def _write(self) -> None:
        while (frame := self._outgoing.get()) is not None:
            try:
                self._connection.send_bytes(encode(frame))
            except OSError:
                return  # the reader sees the end

    def _read(self) -> None:
        while True:
            try:
                frame = decode(self._connection.recv_bytes(MAX_FRAME_BYTES))
            except (EOFError, OSError):
                break
            except FrameError as exc:
                _log.error("engine_frame_unreadable", engine=self.name, error=str(exc))
                continue
            if frame["type"] == Report.LOG:
                self._log_frame(frame)
            else:
                self._on_frame(frame)
        # Without its pipe an engine is of no use, whatever it still does.
        self._process.kill()
        return_code = self._process.wait()
        self._log_reader.join(timeout=1.0)
        self._outgoing.put(None)
        self._writer.join(timeout=1.0)
        self._connection.close()
        self._on_end(return_code)

    def _read_log(self) -> None:
        stream = self._process.stdout
        if stream is None:
            return
        with stream:
            for raw in stream:
                line = raw.decode("utf-8", "replace").rstrip()
                if not line:
                    continue
                self.last_words.hear(line)
                if not line.startswith(_KNOWN_NOISE):
                    _log.debug("engine_output", engine=self.name, line=line[:500])

    def _log_frame(self, frame: Frame) -> None:
        level = {"critical": "error", "warning": "warning", "error": "error", "info": "info"}.get(
            str(frame.get("level")), "debug"
        )
        getattr(_log, level)(
            "engine_log",
            engine=self.name,
            logger_name=str(frame.get("logger")),
            line=str(frame.get("message")),
        )

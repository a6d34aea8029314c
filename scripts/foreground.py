"""Programs in the foreground: they end on Ctrl+C, on SIGTERM and with their parent, whole.

Run as a program, it is the guard of a process: `foreground.py PID` ends that process and all
below it as soon as its standard input closes, which the death of whoever started it does.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import psutil

END_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
CHECK_SECONDS = 0.5
GRACE_SECONDS = 20.0


class AskedToEnd(Exception):
    """A signal asks this program to end, or its parent is gone."""


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Raise AskedToEnd inside the block at the first signal; later ones are ignored.

    They are ignored by a handler rather than by SIG_IGN, which programs started meanwhile
    would inherit.
    """

    def first(number: int, frame: FrameType | None) -> None:
        for each in END_SIGNALS:
            signal.signal(each, _ignore)
        raise AskedToEnd(signal.Signals(number).name)

    before = {number: signal.signal(number, first) for number in END_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def wait_while(is_running: Callable[[], bool], parent: int) -> None:
    """Return when something has ended by itself.

    Args:
        parent: the parent process at the start of this program.
    Raises:
        AskedToEnd: the parent is gone, or a signal came.
    """
    pause = threading.Event()
    while is_running():
        if os.getppid() != parent:
            raise AskedToEnd("the parent process has ended")
        pause.wait(CHECK_SECONDS)


class GuardedProcess:
    """A child process that ends with this one, even when this one dies by kill -9."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._guard = subprocess.Popen(
            [sys.executable, __file__, str(process.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def end(self) -> None:
        """End the process and all below it, by force after a while, and the guard."""
        if self._process.poll() is None:
            end_tree(psutil.Process(self._process.pid))
        self._process.wait()
        self._guard.kill()
        self._guard.communicate()


def free_port(preferred: int) -> int:
    """Return the preferred port of 127.0.0.1 when nobody listens on it, otherwise a free one."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError("127.0.0.1 has no free port")


def end_tree(process: psutil.Process) -> None:
    """Ask a process to end; kill it and all below it when it does not in time."""
    try:
        below = process.children(recursive=True)
        process.terminate()
    except psutil.NoSuchProcess:
        return
    _, alive = psutil.wait_procs([process, *below], GRACE_SECONDS)
    for remaining in alive:
        try:
            remaining.kill()
        except psutil.NoSuchProcess:
            continue


def _ignore(number: int, frame: FrameType | None) -> None:
    return


def _guard(pid: int) -> None:
    try:
        watched = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return
    sys.stdin.buffer.read()
    end_tree(watched)


if __name__ == "__main__":
    _guard(int(sys.argv[1]))

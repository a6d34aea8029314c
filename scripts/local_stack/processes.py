"""The processes of one stack, found by what they were started with.

Nothing is written down about a process, so nothing can be stale: each component carries a path
inside the data directory in its arguments, and the process table is asked for it.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

POLL_SECONDS = 0.02


class StackError(Exception):
    """The local stack could not be brought into the wanted state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One long-running program of the stack.

    Attributes:
        marker: an absolute path among its arguments that no other program is started with.
        stop_signal: what asks it to end in an orderly way.
    """

    name: str
    marker: str
    log_path: Path
    stop_signal: signal.Signals = signal.SIGTERM


def find_process(component: Component) -> psutil.Process | None:
    """Return the running process of a component, whoever started it."""
    for process in psutil.process_iter(["cmdline", "status"]):
        arguments = process.info["cmdline"] or []
        if component.marker in arguments and process.info["status"] != psutil.STATUS_ZOMBIE:
            return process
    return None


def spawn(
    component: Component,
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    user: int | None = None,
    group: int | None = None,
) -> subprocess.Popen[bytes]:
    """Start a component in a session of its own, its output appended to its log."""
    component.log_path.parent.mkdir(parents=True, exist_ok=True)
    with component.log_path.open("ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            user=user,
            group=group,
            extra_groups=None if group is None else [],
            cwd="/",
            start_new_session=True,
        )


def end(
    component: Component,
    child: subprocess.Popen[bytes] | None = None,
    *,
    stop_signal: signal.Signals | None = None,
    grace_seconds: float = 10,
) -> bool:
    """End a component and wait until it is gone; say whether it was running.

    Args:
        child: the handle when this process started it, so that it is reaped.
        grace_seconds: how long it may take before it is killed.
    """
    process = find_process(component)
    if process is not None:
        _signal(process, stop_signal or component.stop_signal)
        if not _is_gone_within(process, grace_seconds):
            _signal(process, signal.SIGKILL)
            if not _is_gone_within(process, grace_seconds):
                raise StackError(f"{component.name} (pid {process.pid}) cannot be ended.")
    if child is not None:
        child.wait(timeout=grace_seconds)
    return process is not None


def wait_until(
    ready: Callable[[], bool],
    component: Component,
    child: subprocess.Popen[bytes],
    *,
    deadline_seconds: float = 30,
) -> None:
    """Wait until a component that was just started answers.

    Raises:
        StackError: it ended or did not answer in time; the message holds the end of its log.
    """
    deadline = time.monotonic() + deadline_seconds
    while not ready():
        if child.poll() is not None:
            raise StackError(f"{component.name} ended while starting.\n{_log_tail(component)}")
        if time.monotonic() > deadline:
            raise StackError(
                f"{component.name} was not ready within {deadline_seconds:g} s.\n"
                f"{_log_tail(component)}"
            )
        time.sleep(POLL_SECONDS)


def is_alive(process: psutil.Process) -> bool:
    """Say whether a process still runs; one that only waits to be reaped does not."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
        # A frozen process acts on a signal only once it runs again.
        process.send_signal(signal.SIGCONT)
    except psutil.NoSuchProcess:
        return


def _is_gone_within(process: psutil.Process, seconds: float) -> bool:
    """Wait for the end of a process; one that only waits to be reaped has ended."""
    deadline = time.monotonic() + seconds
    while is_alive(process):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _log_tail(component: Component, lines: int = 15) -> str:
    if not component.log_path.exists():
        return f"It wrote no log to {component.log_path}."
    tail = component.log_path.read_text(errors="replace").splitlines()[-lines:]
    return "\n".join([f"The end of {component.log_path}:", *tail])

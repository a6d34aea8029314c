"""The demo as a person starts it: it keeps its promise, and it leaves nothing behind."""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from service_process import REPOSITORY, wait_for

pytestmark = pytest.mark.e2e

DEMO = [sys.executable, str(REPOSITORY / "scripts" / "demo.py")]


@dataclass(slots=True)
class StartedDemo:
    """A demo below a shell, as below make."""

    shell: subprocess.Popen[bytes]
    output_path: Path
    everything: list[psutil.Process]

    @property
    def demo(self) -> psutil.Process:
        """The demo's own process."""
        return next(item for item in self.everything if item.ppid() == self.shell.pid)

    def output(self) -> str:
        """What it has printed."""
        return self.output_path.read_text()


@pytest.fixture
def start_demo(tmp_path: Path) -> Iterator[Callable[[], StartedDemo]]:
    """Start a demo and wait until it invites to open it; whatever is left is killed."""
    started: list[StartedDemo] = []

    def start() -> StartedDemo:
        output_path = tmp_path / "output"
        command = shlex.join([*DEMO, "--folder", str(tmp_path / "demo")])
        with output_path.open("wb") as output:
            shell = subprocess.Popen(
                ["/bin/bash", "-c", f"{command}; exit $?"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        made = StartedDemo(shell=shell, output_path=output_path, everything=[])
        started.append(made)
        assert wait_for(lambda: "and sign in with" in made.output() or shell.poll() is not None, 90)
        assert shell.poll() is None, made.output()
        made.everything = psutil.Process(shell.pid).children(recursive=True)
        return made

    yield start
    for made in started:
        for process in made.everything:
            if process.is_running():
                process.kill()
        if made.shell.poll() is None:
            made.shell.kill()
        made.shell.wait(10)


def test_a_company_linked_in_the_demo_is_connected_after_its_restart_without_a_scan() -> None:
    done = subprocess.run(
        [*DEMO, "--self-test"], capture_output=True, text=True, timeout=180, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "came back without a scan" in done.stdout


@pytest.mark.parametrize("cause", ["ctrl-c", "sigterm", "kill-9", "parent-killed"])
def test_whatever_ends_the_demo_ends_all_of_it(
    start_demo: Callable[[], StartedDemo], cause: str
) -> None:
    started = start_demo()
    names = " ".join(" ".join(process.cmdline()) for process in started.everything)
    for part in ("gunicorn", "postgrest", "server.mjs"):
        assert part in names

    match cause:
        case "ctrl-c":
            os.killpg(started.shell.pid, signal.SIGINT)
        case "sigterm":
            started.demo.terminate()
        case "kill-9":
            started.demo.kill()
        case "parent-killed":
            started.shell.kill()

    assert wait_for(lambda: not left(started.everything), 40), (
        f"still there: {left(started.everything)}\n{started.output()}"
    )
    if cause == "sigterm":
        assert started.shell.wait(10) == 0


def left(processes: list[psutil.Process]) -> list[str]:
    """Return which of them still run; one that only waits to be reaped does not."""
    found = []
    for process in processes:
        try:
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline())[:120])
        except psutil.NoSuchProcess:
            continue
    return found

"""A real engine process, without a network."""

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Pipe
from pathlib import Path
from typing import Any

import pytest

import crm_whatsapp
from crm_whatsapp.engine.child_settings import ChildSettings
from crm_whatsapp.engine.engine_environment import engine_command, engine_environment
from crm_whatsapp.engine.engine_process import EngineProcess
from crm_whatsapp.engine.frames import Frame, Order, Report, decode, encode
from service_process import wait_for

WAIT_SECONDS = 30.0
ROOT = Path(crm_whatsapp.__file__).resolve().parents[1]
SETTINGS = ChildSettings(
    device_name="Test",
    log_level="INFO",
    careful=False,
    start_gate_max_seconds=0.05,
    call_entry_max_seconds=0.01,
    dials_at_once=25,
    lock_wait_seconds=1,
    slow_stop_seconds=7,
    calls_per_client=8,
    calls_per_engine=100,
    uploads_per_client=4,
    uploads_per_engine=16,
    upload_bytes_at_once=1000,
    heartbeat_seconds=0.1,
    memory_check_seconds=0.1,
)


class Child:
    """One engine process and what it said."""

    def __init__(self, **environment: str) -> None:
        self.frames: queue.Queue[Frame] = queue.Queue()
        self.ends: queue.Queue[int] = queue.Queue()
        self.process = EngineProcess(
            name="test",
            environment={
                **engine_environment(os.environ, package_root=ROOT, extra={}),
                **environment,
            },
            on_frame=self.frames.put,
            on_end=self.ends.put,
        )
        self.process.send(SETTINGS.frame())

    def await_report(self, report: Report) -> Frame:
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            frame = self.frames.get(timeout=deadline - time.monotonic())
            if frame["type"] == report:
                return frame


@pytest.fixture
def child() -> Iterator[Child]:
    made = Child()
    yield made
    made.process.kill()
    assert made.process.wait(WAIT_SECONDS)


def test_hello_heartbeat_shutdown(child: Child) -> None:
    hello = child.await_report(Report.HELLO)
    assert hello["pid"] == child.process.pid
    assert hello["neonize"]
    unwanted = {"flask", "supabase", "pydantic", "postgrest", "structlog", "apscheduler"}
    assert unwanted.isdisjoint(hello["modules"])
    beat = child.await_report(Report.HEARTBEAT)
    assert beat["rss_bytes"] > 10_000_000
    assert beat["open_descriptors"] > 3
    assert beat["abandoned"] == []
    child.process.send({"type": Order.SHUTDOWN, "timeout_seconds": 5})
    assert child.ends.get(timeout=WAIT_SECONDS) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_of_a_deploy_do_not_end_it(child: Child, number: signal.Signals) -> None:
    child.await_report(Report.HELLO)
    os.kill(child.process.pid, number)
    while not child.frames.empty():
        child.frames.get_nowait()
    child.await_report(Report.HEARTBEAT)
    child.await_report(Report.HEARTBEAT)
    assert child.ends.empty()


def test_it_ends_with_its_pipe() -> None:
    ours, theirs = Pipe()
    environment = engine_environment(os.environ, package_root=ROOT, extra={})
    with subprocess.Popen(
        engine_command(theirs.fileno()), pass_fds=(theirs.fileno(),), env=environment
    ) as process:
        theirs.close()
        ours.send_bytes(encode(SETTINGS.frame()))
        assert decode(ours.recv_bytes())["type"] == Report.HELLO
        ours.close()
        assert process.wait(WAIT_SECONDS) == 0


def test_it_ends_with_its_supervisor() -> None:
    supervisor = subprocess.Popen(
        [sys.executable, "-c", _SUPERVISOR], stdout=subprocess.PIPE, cwd=ROOT
    )
    assert supervisor.stdout is not None
    with supervisor, supervisor.stdout:
        pid = int(supervisor.stdout.readline())
        supervisor.kill()
    assert wait_for(lambda: not is_running(pid), WAIT_SECONDS), "the engine outlives its supervisor"


def is_running(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


_SUPERVISOR = """
import os, signal, threading
from pathlib import Path
from crm_whatsapp.engine.engine_environment import engine_command, engine_environment
from crm_whatsapp.engine.engine_process import EngineProcess
environment = engine_environment(os.environ, package_root=Path.cwd(), extra={})
process = EngineProcess(name="e", environment=environment, on_frame=print, on_end=print)
print(process.pid, flush=True)
signal.pause()
"""


def test_a_killed_engine_is_told_with_its_signal(child: Child) -> None:
    child.await_report(Report.HELLO)
    os.kill(child.process.pid, signal.SIGKILL)
    assert child.ends.get(timeout=WAIT_SECONDS) == -signal.SIGKILL


def test_nothing_is_left_behind() -> None:
    def left() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    before = left()
    for _ in range(3):
        made = Child()
        made.await_report(Report.HELLO)
        made.process.kill()
        made.ends.get(timeout=WAIT_SECONDS)
    assert wait_for(lambda: left() <= before, WAIT_SECONDS), f"{before} -> {left()}"


def test_an_order_that_is_none_ends_it_and_says_why(child: Child) -> None:
    child.await_report(Report.HELLO)
    child.process.send({"type": "nonsense"})
    assert child.ends.get(timeout=WAIT_SECONDS) == 1
    assert child.process.last_words.cause == "KeyError: 'nonsense'"


def test_without_a_library_it_says_so_and_downloads_nothing(tmp_path: Path) -> None:
    package = tmp_path / "neonize"
    package.mkdir()
    (package / "__init__.py").write_text("raise AssertionError('must not be imported')")
    made = Child(PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]))
    try:
        unusable: dict[str, Any] = made.await_report(Report.UNUSABLE)
        assert "has no library for" in unusable["detail"]
        assert made.ends.get(timeout=WAIT_SECONDS) == 3
    finally:
        made.process.kill()
        assert made.process.wait(WAIT_SECONDS)


def test_the_supervisor_loads_no_neonize() -> None:
    code = "import sys, crm_whatsapp.engine.supervisor; sys.exit('neonize' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)

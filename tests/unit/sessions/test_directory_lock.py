"""The lock on SESSIONS_DIR between processes that live, die and leave orphans."""

import json
import os
import socket
from pathlib import Path

import pytest

from crm_whatsapp.domain.errors import ConfigurationError, StorageError
from crm_whatsapp.sessions.directory_lock import DirectoryLock
from tests.unit.sessions.processes import lines, running

HOLDER = """
import sys
from pathlib import Path
from crm_whatsapp.sessions.directory_lock import DirectoryLock
lock = DirectoryLock.acquire(Path(sys.argv[1]), 0)
print("held", flush=True)
sys.stdin.read()
"""

# A master that is killed, and its forked worker that lives until stdin closes.
ORPHANING_HOLDER = """
import os, signal, sys
from pathlib import Path
from crm_whatsapp.sessions.directory_lock import DirectoryLock
lock = DirectoryLock.acquire(Path(sys.argv[1]), 0)
master = os.getpid()
if os.fork() == 0:
    os.kill(master, signal.SIGKILL)
    print(os.getpid(), flush=True)
    sys.stdin.read()
    os._exit(0)
sys.stdin.read()
"""

# The engine is started by exec: it must not keep the lock.
HOLDER_WITH_ENGINE = """
import subprocess, sys
from pathlib import Path
from crm_whatsapp.sessions.directory_lock import DirectoryLock
lock = DirectoryLock.acquire(Path(sys.argv[1]), 0)
engine = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"])
print("held", flush=True)
"""


class Pacer:
    """Counts the pauses of a waiting caller, and can do something at one of them."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.actions: dict[int, object] = {}
        self.pauses = 0

    def sleep(self, seconds: float) -> None:
        self.pauses += 1
        self.seconds += seconds
        action = self.actions.get(self.pauses)
        if callable(action):
            action()

    def monotonic(self) -> float:
        return self.seconds


def test_it_is_taken_and_names_its_holder(tmp_path: Path) -> None:
    lock = DirectoryLock.acquire(tmp_path / "new" / "root", 0)
    holder = json.loads(lock.path.read_text())
    assert (holder["pid"], holder["host"]) == (os.getpid(), socket.gethostname())
    assert lock.path == tmp_path / "new" / "root" / ".locks" / "service.lock"
    lock.release()
    lock.release()
    DirectoryLock.acquire(tmp_path / "new" / "root", 0).release()


def test_a_living_service_is_named_at_once(tmp_path: Path) -> None:
    pacer = Pacer()
    with running(HOLDER, tmp_path) as process:
        assert lines(process, 1) == ["held"]
        with pytest.raises(ConfigurationError) as caught:
            DirectoryLock.acquire(tmp_path, 60, sleep=pacer.sleep, monotonic=pacer.monotonic)
    assert str(process.pid) in caught.value.message
    assert str(tmp_path) in caught.value.message
    assert pacer.pauses == 0


def test_a_killed_service_leaves_it_free(tmp_path: Path) -> None:
    with running(HOLDER, tmp_path) as process:
        assert lines(process, 1) == ["held"]
        process.kill()
        process.wait(timeout=30)
        DirectoryLock.acquire(tmp_path, 0).release()


def test_an_engine_does_not_inherit_it(tmp_path: Path) -> None:
    with running(HOLDER_WITH_ENGINE, tmp_path) as process:
        assert lines(process, 1) == ["held"]
        process.wait(timeout=30)
        DirectoryLock.acquire(tmp_path, 0).release()


def test_an_orphaned_worker_is_waited_for(tmp_path: Path) -> None:
    pacer = Pacer()
    with running(ORPHANING_HOLDER, tmp_path) as process:
        lines(process, 1)
        process.wait(timeout=30)

        def end_worker() -> None:
            assert process.stdin is not None
            process.stdin.close()

        pacer.actions[3] = end_worker
        lock = DirectoryLock.acquire(tmp_path, 1e6, sleep=pacer.sleep, monotonic=pacer.monotonic)
        assert pacer.pauses >= 3
        lock.release()
        process.stdin = None


def test_a_killed_master_that_nobody_has_reaped_counts_as_dead(tmp_path: Path) -> None:
    pacer = Pacer()
    with running(ORPHANING_HOLDER, tmp_path) as process:
        lines(process, 1)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(ConfigurationError, match="still locked after 2 s"):
            DirectoryLock.acquire(tmp_path, 2, sleep=pacer.sleep, monotonic=pacer.monotonic)


def test_an_orphan_that_stays_is_given_up_on(tmp_path: Path) -> None:
    pacer = Pacer()
    with running(ORPHANING_HOLDER, tmp_path) as process:
        lines(process, 1)
        process.wait(timeout=30)
        with pytest.raises(ConfigurationError, match="still locked after 2 s") as caught:
            DirectoryLock.acquire(tmp_path, 2, sleep=pacer.sleep, monotonic=pacer.monotonic)
        assert str(process.pid) in caught.value.message
    assert 2 <= pacer.seconds < 2.5


def test_another_hosts_holder_is_waited_for_too(tmp_path: Path) -> None:
    pacer = Pacer()
    with running(HOLDER, tmp_path) as process:
        assert lines(process, 1) == ["held"]
        path = tmp_path / ".locks" / "service.lock"
        path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started_at": 0}))
        with pytest.raises(ConfigurationError, match="process 1 on elsewhere"):
            DirectoryLock.acquire(tmp_path, 1, sleep=pacer.sleep, monotonic=pacer.monotonic)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[]", b'{"pid": 1}', b"[" * 4000])
def test_an_unreadable_holder_is_no_crash(tmp_path: Path, content: bytes) -> None:
    pacer = Pacer()
    with running(HOLDER, tmp_path) as process:
        assert lines(process, 1) == ["held"]
        (tmp_path / ".locks" / "service.lock").write_bytes(content)
        with pytest.raises(ConfigurationError, match="unknown process"):
            DirectoryLock.acquire(tmp_path, 1, sleep=pacer.sleep, monotonic=pacer.monotonic)


def test_a_disk_that_refuses_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "root").touch()
    with pytest.raises(StorageError):
        DirectoryLock.acquire(tmp_path / "root", 0)


def test_two_in_one_process_exclude_each_other(tmp_path: Path) -> None:
    lock = DirectoryLock.acquire(tmp_path, 0)
    with pytest.raises(ConfigurationError):
        DirectoryLock.acquire(tmp_path, 0)
    lock.release()

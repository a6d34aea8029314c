"""The deployed process, run and driven from outside: for the demo, the benchmarks and the tests."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from local_stack.ports import find_free_port

REPOSITORY = Path(__file__).resolve().parent.parent
API = "/api/whatsapp"
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1
UNLIMITED = {
    "LIMIT_READS_PER_MINUTE": "100000",
    "LIMIT_SENDS_PER_MINUTE": "100000",
    "LIMIT_MANAGE_PER_MINUTE": "100000",
    "LIMIT_FAILED_LOGINS_PER_MINUTE": "100000",
    "PAIRING_ATTEMPTS_PER_HOUR": "1000",
}
"""Settings for tools and tests that ask more often than any caller does."""
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Opens loopback addresses without asking the proxy that the sandbox puts into the environment."""


class ServiceDidNotStart(RuntimeError):
    """gunicorn ended, or did not answer in time. The message carries the end of its log."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    def json(self) -> Any:
        """Return the body, parsed."""
        return json.loads(self.content)


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on, and that no outgoing connection gets."""
    return find_free_port()


@dataclass(slots=True)
class ServiceProcess:
    """`gunicorn -c gunicorn.conf.py app:app` with an environment of its own.

    environment: SESSIONS_DIR, SUPABASE_URL and SUPABASE_SERVICE_ROLE_KEY at least.
    log_path: where its output goes, appended.
    ends_with_parent: SIGTERM it when the thread that spawned it ends, whatever ends that.
    readied: notified, with a higher ready_count, whenever wait_ready has seen it up.
    """

    environment: dict[str, str]
    log_path: Path
    api_key: str = "e2e-service-key-0123456789"
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    ends_with_parent: bool = False
    readied: threading.Condition = field(default_factory=threading.Condition)
    ready_count: int = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def spawn(self) -> None:
        """Start gunicorn; returns at once."""
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": os.environ.get("HOME", "/"),
            "LANG": "C.UTF-8",
            "NO_PROXY": "127.0.0.1,localhost",
            "WHATSAPP_API_KEY": self.api_key,
            "HOST": "127.0.0.1",
            "LOG_FORMAT": "json",
            **self.environment,
            "PORT": str(self.port),
        }
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "app:app"],
                cwd=REPOSITORY,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=end_with_parent if self.ends_with_parent else None,
            )

    def start(self, timeout_seconds: float = 30.0) -> ServiceProcess:
        """Start gunicorn and wait until it answers requests."""
        self.spawn()
        self.wait_ready(timeout_seconds)
        return self

    def wait_ready(self, timeout_seconds: float = 30.0) -> None:
        """Wait until /readyz says that the service is up."""

        def up() -> bool:
            if self.process is not None and self.process.poll() is not None:
                raise ServiceDidNotStart(
                    f"gunicorn ended with {self.process.returncode}:\n{self.log_tail()}"
                )
            try:
                return self.request("GET", "/readyz").status == 200
            except OSError:
                return False

        if not wait_for(up, timeout_seconds):
            raise ServiceDidNotStart(f"no answer in {timeout_seconds} s:\n{self.log_tail()}")
        with self.readied:
            self.ready_count += 1
            self.readied.notify_all()

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float = 30.0,
    ) -> Answer:
        """Make one request with the service key; refusals are answers, not errors."""
        sent = {"X-API-Key": self.api_key if key is None else key, **(headers or {})}
        data = None
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        request = urllib.request.Request(  # noqa: S310 - loopback only
            self.url + path, data=data, headers=sent, method=method
        )
        try:
            with DIRECT.open(request, timeout=timeout_seconds) as response:
                return Answer(response.status, dict(response.headers), response.read())
        except urllib.error.HTTPError as refusal:
            with refusal:
                return Answer(refusal.code, dict(refusal.headers), refusal.read())

    def status(self, company_id: str) -> dict[str, Any]:
        """Poll the status, as the CRM does on page refresh."""
        answer = self.request("GET", f"{API}/status?company_id={company_id}")
        body: dict[str, Any] = answer.json()
        return body

    def post(self, call: str, **body: Any) -> Answer:
        """POST to a call of the API, such as `connect`."""
        return self.request("POST", f"{API}/{call}", body)

    def readiness(self) -> dict[str, Any]:
        """Return /readyz."""
        body: dict[str, Any] = self.request("GET", "/readyz").json()
        return body

    def processes(self) -> list[int]:
        """Return the pids of the whole tree, the master first."""
        if self.process is None:
            return []
        return [self.process.pid, *descendants(self.process.pid)]

    def worker_pid(self) -> int:
        """Return the pid of the web worker."""
        assert self.process is not None  # noqa: S101
        return children(self.process.pid)[0]

    def engine_pids(self) -> list[int]:
        """Return the pids of the engines."""
        return [pid for pid in self.processes() if is_engine(pid)]

    def terminate(self, timeout_seconds: float = 30.0) -> float:
        """Send SIGTERM and wait for the end; return how many seconds it took."""
        assert self.process is not None  # noqa: S101
        tree = self.processes()
        begun = time.monotonic()
        self.process.terminate()
        try:
            self.process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            kill_all(tree)
            raise
        took = time.monotonic() - begun
        wait_for(lambda: not any(map(is_alive, tree)), 5.0)
        return took

    def kill(self) -> None:
        """kill -9 of the whole tree, all at once, and of what its death left behind."""
        if self.process is None:
            return
        tree = self.processes()
        kill_all(tree)
        self.process.wait(10)
        wait_for(lambda: not any(map(is_alive, tree)), 10.0)
        kill_all(self.survivors())

    def survivors(self) -> list[int]:
        """Return what runs of the service, even when the master is gone: all of its session."""
        if self.process is None:
            return []
        numbers = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        return [pid for pid in numbers if _session_of(pid) == self.process.pid and is_alive(pid)]

    def log_tail(self, lines: int = 60) -> str:
        """Return the end of the log."""
        text = self.log_path.read_text(errors="replace") if self.log_path.exists() else ""
        return "\n".join(text.splitlines()[-lines:])


def wait_for(
    condition: Callable[[], object], timeout_seconds: float, pause_seconds: float = 0.05
) -> bool:
    """Ask again and again until the condition holds; False when it does not in time."""
    deadline = time.monotonic() + timeout_seconds
    pause = threading.Event()
    while not condition():
        if time.monotonic() >= deadline:
            return False
        pause.wait(pause_seconds)
    return True


def children(pid: int) -> list[int]:
    """Return the direct children of a process."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found.extend(int(item) for item in task.read_text().split())
        except OSError:
            continue
    return found


def descendants(pid: int) -> list[int]:
    """Return all processes below this one."""
    below: list[int] = []
    for child in children(pid):
        below.append(child)
        below.extend(descendants(child))
    return below


def is_engine(pid: int) -> bool:
    """Tell whether the process is an engine."""
    try:
        return b"crm_whatsapp.engine" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def end_with_parent() -> None:
    """Have the kernel send SIGTERM when the spawning thread ends. Source: prctl(2)."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def is_alive(pid: int) -> bool:
    """Tell whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def kill_all(pids: list[int]) -> None:
    """kill -9 each."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def tree_pss_mb(pids: list[int]) -> float:
    """Return the proportional set size of these processes together, in MB (smaps_rollup)."""
    total_kb = 0
    for pid in pids:
        try:
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total_kb += int(line.split()[1])
        except OSError:
            continue
    return total_kb / 1024

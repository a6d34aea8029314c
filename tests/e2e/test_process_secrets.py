"""What other programs on the machine can see of the service: no secret, no core file, no file."""

from __future__ import annotations

import os
import signal
import stat
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from deployment import Deployment

from service_process import ServiceProcess, wait_for

pytestmark = pytest.mark.e2e

SNAPSHOT_KEY = "a2V5LW9mLXRoZS1wcm9jZXNzLXRlc3QtMDEyMzQ1Njc="
SECRETS = {
    "SNAPSHOT_ENCRYPTION_KEYS": f"proc1:{SNAPSHOT_KEY}",
    "METRICS_TOKEN": "metrics-token-8c41d0aa-process",
    "API_KEY_PEPPER": "cGVwcGVyLW9mLXRoZS1wcm9jZXNzLXRlc3QtMDEyMzQ=",
    "SUPABASE_JWT_SECRET": "jwt-secret-of-the-process-test-0123456789",
    "WEBHOOK_SECRET": "whsec_c2VjcmV0LW9mLXRoZS1wcm9jZXNzLXRlc3Qt",
    "ALERT_URLS": "json://operator:alert-password-42e1-process@127.0.0.1:9/",
}
PROXY_PASSWORD = "proxy-password-19ce-process"


@dataclass(slots=True)
class Seen:
    """What every process of a service has shown, by pid."""

    commands: dict[int, bytes] = field(default_factory=dict)
    environments: dict[int, bytes] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    core_limits: dict[int, str] = field(default_factory=dict)

    def look(self, pids: list[int]) -> None:
        """Read what these show now; a process may end meanwhile."""
        for pid in pids:
            root = Path(f"/proc/{pid}")
            with suppress(OSError, StopIteration):
                command = (root / "cmdline").read_bytes()
                self.commands[pid] = self.commands.get(pid, b"") + b"|" + command
                if b"gunicorn" not in command:  # else it is yet to become what it is started as
                    self.environments[pid] = (root / "environ").read_bytes()
                self.names[pid] = (root / "comm").read_text()
                limits = (root / "limits").read_text().splitlines()
                self.core_limits[pid] = next(x for x in limits if x.startswith("Max core"))


@contextmanager
def watched(service: ServiceProcess) -> Iterator[Seen]:
    """Look at all processes of the service again and again, also at those that live shortly."""
    seen, over = Seen(), threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            seen.look(service.processes())

    thread = threading.Thread(target=watch, name="watch")
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def test_processes_and_files_keep_secrets(deployment: Deployment) -> None:
    service = deployment.new_service(
        **SECRETS,
        WEBHOOK_URL="http://127.0.0.1:9/hook-token-77d2-process",
        WEBHOOK_ALLOWED_NETWORKS="127.0.0.0/8",
        ALERT_CHECK_SECONDS="0.3",
        ALERT_GROUP_SECONDS="0.1",
        ALERT_QUIET_START_SECONDS="0.1",
        ALERT_ENGINE_DEATHS="1",
    )
    (saved,) = deployment.seed(1)
    service.spawn()
    with watched(service) as seen:
        service.wait_ready()
        live(deployment, saved)
        main = {service.process.pid if service.process else 0, service.worker_pid()}
        engines = set(service.engine_pids())
        page = (
            service.request("GET", "/metrics").content + service.request("GET", "/readyz").content
        )
        assert wait_for(
            lambda: any(b"apprise_process" in line for line in seen.commands.values()), 60
        ), "no alert was sent"
    service.terminate()

    secrets = {
        "the API key": service.api_key,
        "the database key": deployment.stack.service_key,
        "the proxy's password": PROXY_PASSWORD,
        "the webhook's address": "hook-token-77d2-process",
        "the snapshot key": SNAPSHOT_KEY,
        "the alert channel's password": "alert-password-42e1-process",
        **{name: value for name, value in SECRETS.items() if name != "ALERT_URLS"},
    }
    assert engines and engines <= seen.environments.keys()
    assert len(seen.commands) > len(main | engines), "no process that lives shortly was seen"
    for what, secret in secrets.items():
        text = secret.encode()
        assert not [pid for pid, line in seen.commands.items() if text in line], what
        assert not [pid for pid, name in seen.names.items() if secret[:12] in name], what
        for pid, environment in seen.environments.items():
            assert text not in environment, (what, seen.commands[pid])
        assert text not in page, what
    for pid in engines | main:
        assert seen.core_limits[pid].split()[4:6] == ["0", "0"], seen.commands[pid]
    assert not main & seen.environments.keys()
    assert open_to_others(deployment.sessions_dir) == []


def live(deployment: Deployment, saved: str) -> None:
    """Have sessions restored, paired, copied, sent from, given a proxy; have an engine die."""
    service = deployment.service
    deployment.await_status(saved, "connected", 60.0)
    paired = str(uuid.uuid4())
    deployment.pair(paired)
    service.post(
        "connect",
        company_id=str(uuid.uuid4()),
        method="qr",
        proxy=f"http://someone:{PROXY_PASSWORD}@127.0.0.1:9",
    )
    assert wait_for(lambda: service.post("backup-session", company_id=paired).status == 200, 30), (
        "no snapshot"
    )
    made = service.post("keys", name="process test", company_id=paired, scopes=["read"])
    assert made.status == 201, made.content
    assert service.post("webhooks", url="http://127.0.0.1:9/").status in (201, 400)
    deaths = len(deployment.engine_deaths())
    victim = service.engine_pids()[0]
    os.kill(victim, signal.SIGKILL)
    assert wait_for(lambda: len(deployment.engine_deaths()) > deaths, 30)
    assert wait_for(lambda: bool(service.engine_pids()), 30)
    deployment.await_status(paired, "connected", 60.0)


def open_to_others(root: Path) -> list[str]:
    """Return what under SESSIONS_DIR somebody else could open: files 0600, folders 0700."""
    found = []
    for path in [root, *root.rglob("*")]:
        mode = path.lstat().st_mode
        if stat.S_IMODE(mode) & 0o077 and not stat.S_ISLNK(mode):
            found.append(f"{stat.filemode(mode)} {path.relative_to(root)}")
    return found

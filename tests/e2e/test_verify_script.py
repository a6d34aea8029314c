"""scripts/verify_whatsapp.py against a started deployment, healthy and not."""

import json
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from deployment import Deployment

from service_process import REPOSITORY, free_port, wait_for

pytestmark = pytest.mark.e2e

SCRIPT = REPOSITORY / "scripts" / "verify_whatsapp.py"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run of the script printed, and how it ended."""

    exit_code: int
    text: str
    errors: str

    @property
    def report(self) -> dict[str, Any]:
        """The JSON report."""
        report: dict[str, Any] = json.loads(self.text)
        return report

    def finding(self, name: str) -> dict[str, Any]:
        """The check or session of this name."""
        findings = [*self.report["checks"], *self.report["sessions"]]
        found: dict[str, Any] = next(item for item in findings if item["name"] == name)
        return found


def verify(*arguments: str, key: str | None = None) -> Outcome:
    """Run the script as CI does: isolated from this project's packages."""
    environment = {"PATH": os.environ["PATH"]}
    if key is not None:
        environment["WHATSAPP_API_KEY"] = key
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(SCRIPT), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def away(deployment: Deployment) -> Iterator[None]:
    """The database is away for the length of the test."""
    deployment.stack.stop_postgrest()
    yield
    deployment.stack.start_postgrest()


@pytest.fixture
def key_for_copies(deployment: Deployment) -> None:
    """Snapshots are on."""
    deployment.settings["SNAPSHOT_ENCRYPTION_KEYS"] = deployment.stack.snapshot_encryption_keys


def await_copies(deployment: Deployment, *company_ids: str) -> None:
    """Wait until each of these companies has a snapshot."""

    def written() -> bool:
        rows = deployment.rows("select distinct company_id from whatsapp_session_snapshots")
        return {str(row["company_id"]) for row in rows} >= set(company_ids)

    assert wait_for(written, 20), deployment.log_tail()


@pytest.mark.usefixtures("key_for_copies")
def test_a_healthy_deployment_passes(deployment: Deployment) -> None:
    seeded = deployment.seed(2)
    service = deployment.start()
    await_copies(deployment, *seeded)

    outcome = verify("--url", service.url, "--json", key=service.api_key)

    assert outcome.exit_code == 0, outcome.text + outcome.errors
    assert outcome.report["ok"] is True
    assert {item["name"] for item in outcome.report["sessions"]} == set(seeded)
    assert all(item["detail"].startswith("connected as +") for item in outcome.report["sessions"])
    assert "migrated to" in outcome.finding("database")["detail"]
    assert outcome.finding("sessions folder")["detail"] == str(deployment.sessions_dir)
    assert outcome.finding("snapshots")["result"] == "ok"
    assert all("persistence" not in item for item in outcome.report["checks"])
    for item in outcome.report["sessions"]:
        assert item["persistence"]["will_survive_restart"] is True
        assert item["persistence"]["will_survive_disk_loss"] is True
        assert item["persistence"]["why"]


@pytest.mark.usefixtures("key_for_copies")
def test_the_table_tells_people_the_same_and_never_the_key(
    deployment: Deployment, tmp_path: Path
) -> None:
    (company_id,) = deployment.seed(1)
    service = deployment.start()
    await_copies(deployment, company_id)
    key_file = tmp_path / "key"
    key_file.write_text(service.api_key + "\n")

    outcome = verify("--url", service.url, "--api-key-file", str(key_file))

    assert outcome.exit_code == 0, outcome.text + outcome.errors
    (line,) = [line for line in outcome.text.splitlines() if company_id in line]
    assert line.split()[1:4] == ["ok", "disk", "loss"]
    (title,) = [line for line in outcome.text.splitlines() if line.startswith("Sessions ")]
    assert title.index("survives") == line.index("disk loss")
    assert outcome.text.splitlines()[-1] == "All is well."
    assert service.api_key not in outcome.text + outcome.errors


def test_without_a_snapshot_key_it_warns_that_sessions_survive_a_restart_only(
    deployment: Deployment,
) -> None:
    (company_id,) = deployment.seed(1)
    service = deployment.start()

    outcome = verify("--url", service.url, "--json", key=service.api_key)
    table = verify("--url", service.url, key=service.api_key).text

    assert outcome.exit_code == 0
    assert outcome.finding("snapshots")["result"] == "warning"
    assert "new-key" in outcome.finding("snapshots")["advice"]
    assert outcome.finding(company_id)["result"] == "ok"
    assert outcome.finding(company_id)["persistence"]["will_survive_disk_loss"] is False
    (line,) = [line for line in table.splitlines() if company_id in line]
    assert line.split()[1:4] == ["ok", "restart", "only"]


def test_a_session_that_failed_is_named_with_its_reason_and_what_to_do(
    deployment: Deployment,
) -> None:
    good, bad = deployment.seed(2)
    credentials = deployment.folders.inspect(bad, deep=False).credentials
    assert credentials is not None
    deployment.phones.call("fail-logins", {"jid": credentials.jid, "reason": 406, "count": -1})
    service = deployment.start()

    outcome = verify("--url", service.url, "--json", key=service.api_key)

    assert outcome.exit_code == 1
    assert outcome.finding(good)["result"] == "ok"
    assert outcome.finding(bad)["result"] == "FAILED"
    assert "logged_out (logged-out-by-server)" in outcome.finding(bad)["detail"]
    assert "scan" in outcome.finding(bad)["advice"]


def test_a_session_that_does_not_settle_in_time_fails(deployment: Deployment) -> None:
    (company_id,) = deployment.seed(1)
    deployment.phones.call("network", {"refuse": True})
    service = deployment.start()

    outcome = verify("--url", service.url, "--json", "--wait", "3", key=service.api_key)

    deployment.phones.call("network", {"refuse": False})
    assert outcome.exit_code == 1
    assert "connecting (whatsapp-unreachable)" in outcome.finding(company_id)["detail"]


@pytest.mark.usefixtures("key_for_copies")
def test_a_company_that_waits_for_its_phone_is_no_failure(deployment: Deployment) -> None:
    service = deployment.start()
    company_id = str(uuid.uuid4())
    service.post("connect", company_id=company_id, method="qr")
    deployment.await_status(company_id, "awaiting_scan")

    outcome = verify("--url", service.url, "--json", key=service.api_key)

    assert outcome.exit_code == 0, outcome.text
    assert outcome.finding(company_id)["result"] == "warning"


def test_a_wrong_key_and_no_key_are_told_apart(deployment: Deployment) -> None:
    service = deployment.start()

    wrong = verify("--url", service.url, "--json", key="wrong-key-0123456789")
    missing = verify("--url", service.url, "--json")

    assert (wrong.exit_code, missing.exit_code) == (1, 1)
    assert "does not know this key" in wrong.finding("key")["detail"]
    assert "SESSIONS_DIR/api-key" in wrong.finding("key")["advice"]
    assert missing.finding("key")["detail"] == "no key was given"


def test_a_service_that_is_away_is_one_clear_line() -> None:
    url = f"http://127.0.0.1:{free_port()}"

    outcome = verify("--url", url, key="any-key-0123456789")

    assert outcome.exit_code == 1
    assert f"no answer from {url}/healthz" in outcome.text
    assert "Traceback" not in outcome.text + outcome.errors


@pytest.mark.usefixtures("away")
def test_a_database_that_is_away_fails_while_sessions_go_on(deployment: Deployment) -> None:
    (company_id,) = deployment.seed(1)
    service = deployment.start()
    deployment.await_status(company_id, "connected")
    database = {"ok": True}

    def noticed() -> bool:
        checks = service.readiness()["checks"]
        database.update(next(item for item in checks if item["name"] == "database"))
        return not database["ok"]

    assert wait_for(noticed, 20), database
    outcome = verify("--url", service.url, "--json", "--wait", "5", key=service.api_key)

    assert outcome.exit_code == 1
    assert outcome.finding("database")["result"] == "FAILED"
    assert "SUPABASE_URL" in outcome.finding("database")["advice"]
    assert outcome.finding(company_id)["result"] == "ok"


@pytest.mark.usefixtures("key_for_copies")
def test_restore_proves_one_stop_and_restore(deployment: Deployment) -> None:
    first, second = deployment.seed(2)
    service = deployment.start()
    deployment.await_status(first, "connected")

    outcome = verify("--url", service.url, "--json", "--restore", first, key=service.api_key)

    assert outcome.exit_code == 0, outcome.text
    assert f"{first} came back in" in outcome.finding("stop and restore")["detail"]
    counters = deployment.phones.call("state")["counters"]
    logins = {jid: item["logins"] for jid, item in counters.items()}
    report = deployment.folders.inspect(second, deep=False)
    assert report.credentials is not None
    assert logins[report.credentials.jid] == 1
    assert sorted(logins.values()) == [1, 2]


def test_restore_refuses_a_company_that_is_not_connected(deployment: Deployment) -> None:
    service = deployment.start()
    company_id = str(uuid.uuid4())

    outcome = verify("--url", service.url, "--json", "--restore", company_id, key=service.api_key)

    assert outcome.exit_code == 1
    assert "is not connected now" in outcome.finding("stop and restore")["detail"]


def test_a_redirect_is_reported_and_not_followed() -> None:
    asked: list[str] = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(302)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    with HTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        outcome = verify("--url", f"http://127.0.0.1:{server.server_port}", key="k" * 20)
        server.shutdown()
        thread.join()

    assert outcome.exit_code == 1
    assert "redirects to /elsewhere: use that." in outcome.text
    assert asked == ["/healthz"]

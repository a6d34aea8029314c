"""Keys on the deployed service: made, used, revoked, over restarts and without the database."""

import contextlib
import http.client
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
from deployment import Deployment

from access_matrix import TABLE_DECIDES, HttpDoor, Users, documented, markdown, walk_town
from crm_whatsapp.domain.api_keys import new_key_text
from membership_table import MembershipTable
from service_process import API, REPOSITORY, ServiceDidNotStart, wait_for

pytestmark = pytest.mark.e2e

ACME = str(uuid.uuid4())
BOLT = str(uuid.uuid4())


def command(deployment: Deployment, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run an operator's command with the settings of the service."""
    return subprocess.run(
        [sys.executable, "-m", "crm_whatsapp", "keys", *arguments],
        env={"PATH": os.environ.get("PATH", ""), **deployment.environment()},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def make_key(deployment: Deployment, **body: Any) -> dict[str, Any]:
    """Make a key by the API; return the answer's body."""
    answer = deployment.service.post("keys", **{"name": "a test", "scopes": ["read"], **body})
    assert answer.status == 201, answer.content
    made: dict[str, Any] = answer.json()
    return made


def poll(deployment: Deployment, key: str, company_id: str = ACME) -> int:
    """Poll the status with a key; return the HTTP status."""
    path = f"{API}/status?company_id={company_id}"
    return deployment.service.request("GET", path, key=key).status


def test_a_key_made_by_the_api_opens_its_company_until_it_is_revoked(
    deployment: Deployment,
) -> None:
    service = deployment.start()
    made = make_key(deployment, company_id=ACME)

    assert poll(deployment, made["key"]) == 200
    assert poll(deployment, made["key"], BOLT) == 403
    assert service.request("DELETE", f"{API}/keys/{made['id']}").status == 200
    assert poll(deployment, made["key"]) == 401
    assert made["key"] not in deployment.log()
    row = deployment.rows("select * from public.whatsapp_api_keys where id = %s", made["id"])[0]
    assert made["key"] not in str(row)
    assert row["revoked_at"] is not None


def test_a_key_made_by_the_command_line_is_taken_at_once(deployment: Deployment) -> None:
    service = deployment.start()

    made = command(deployment, "create", "--name", "crm", "--scopes", "read", "--company", ACME)

    assert made.returncode == 0, made.stderr
    key = made.stdout.strip()
    assert poll(deployment, key) == 200
    listed = command(deployment, "list")
    assert ACME in listed.stdout
    assert key not in listed.stdout + made.stderr
    key_id = listed.stdout.split("\t")[0]
    assert command(deployment, "revoke", key_id).returncode == 0
    assert service.request("GET", f"{API}/keys").json()["keys"][0]["revoked_at"] is not None
    assert command(deployment, "revoke", "aaaaaaaaaaaa").returncode == 1
    unknown = command(deployment, "create", "--name", "crm", "--scopes", "read,dream")
    assert (unknown.returncode, unknown.stdout) == (1, "")


def test_keys_stay_valid_over_a_restart_without_the_database(deployment: Deployment) -> None:
    deployment.start()
    made = make_key(deployment, company_id=ACME)
    deployment.service.terminate()

    deployment.start(SUPABASE_URL="http://127.0.0.1:9")

    assert poll(deployment, made["key"]) == 200
    assert poll(deployment, deployment.service.api_key) == 200
    assert poll(deployment, made["key"][:-1] + "~") == 401


def test_the_command_line_revokes_in_a_running_service_with_its_next_sync(
    deployment: Deployment,
) -> None:
    deployment.start(SYNC_INTERVAL_SECONDS="1")
    made = make_key(deployment)

    assert command(deployment, "revoke", made["id"]).returncode == 0

    assert wait_for(lambda: poll(deployment, made["key"]) == 401, 20.0)


def test_the_access_matrix_in_the_docs_is_what_the_deployed_service_does(
    deployment: Deployment, tmp_path: Path
) -> None:
    secret = deployment.stack.jwt_secret
    deployment.settings |= {
        "WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8",
        "SEND_CONNECT_WAIT_SECONDS": "0.1",
        "SUPABASE_JWT_SECRET": secret,
        "API_KEY_PEPPER": "one pepper for both services of the matrix",
    }
    service = deployment.start()
    second = deployment.start(SESSIONS_DIR=str(tmp_path / "second"), **TABLE_DECIDES)

    with MembershipTable(deployment.stack.db_url) as crm:
        users = Users(
            secret=secret,
            member_door=HttpDoor(second.port),
            member_secret=secret,
            belong=crm.add,
        )
        rows = walk_town(HttpDoor(service.port), service.api_key, users)

    assert markdown(rows) == documented(), "run: make access-matrix ARGS=--write"
    assert "Traceback" not in deployment.log()


def test_pods_of_one_pepper_take_each_others_keys(deployment: Deployment, tmp_path: Path) -> None:
    pepper = "one pepper for every pod of the tests"
    first = deployment.start(SESSIONS_DIR=str(tmp_path / "first"), API_KEY_PEPPER=pepper)
    second = deployment.start(SESSIONS_DIR=str(tmp_path / "second"), API_KEY_PEPPER=pepper)
    made = first.post("keys", name="a test", scopes=["read"], company_id=ACME).json()
    path = f"{API}/status?company_id={ACME}"

    assert second.request("GET", path, key=made["key"]).status == 200
    assert first.request("DELETE", f"{API}/keys/{made['id']}").status == 200
    assert first.request("GET", path, key=made["key"]).status == 401

    kept = first.post("keys", name="a test", scopes=["read"], company_id=ACME).json()
    stranger = deployment.start(SESSIONS_DIR=str(tmp_path / "third"))
    assert stranger.request("GET", path, key=kept["key"]).status == 401

    def told() -> bool:
        checks = {check["name"]: check for check in stranger.readiness()["checks"]}
        return "API_KEY_PEPPER" in checks["api-keys"]["detail"]

    assert wait_for(told, 20.0)


def test_a_pepper_that_is_too_short_is_refused_at_the_start(deployment: Deployment) -> None:
    service = deployment.new_service(API_KEY_PEPPER="too short a pepper")
    with pytest.raises(ServiceDidNotStart, match="entry 1 of API_KEY_PEPPER has 18 characters"):
        service.start()
    assert "too short a pepper" not in deployment.log()


def test_the_stream_of_a_revoked_key_ends(deployment: Deployment) -> None:
    service = deployment.start(SSE_HEARTBEAT_SECONDS="0.3")
    made = make_key(deployment, company_id=ACME)
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
    try:
        connection.request("GET", f"{API}/events", headers={"X-API-Key": made["key"]})
        stream = connection.getresponse()
        assert stream.status == 200
        assert b"retry" in stream.readline()

        assert service.request("DELETE", f"{API}/keys/{made['id']}").status == 200

        # Without the last chunk: the service hangs up on a caller who may no longer listen.
        with contextlib.suppress(http.client.IncompleteRead):
            stream.read()
    finally:
        connection.close()
    assert poll(deployment, made["key"]) == 401


def test_a_flood_of_made_up_keys_reaches_neither_the_database_nor_a_good_key(
    deployment: Deployment,
) -> None:
    deployment.start(METRICS_TOKEN="a-token-of-the-tests-0123456789")
    made = make_key(deployment, company_id=ACME)
    before = synced(deployment)
    assert before >= 1

    for _ in range(300):
        assert poll(deployment, new_key_text()[1]) == 401

    assert synced(deployment) - before <= 4  # 0, 10, 30 and 70 s after the first, if it takes long
    assert poll(deployment, made["key"]) == 200


def synced(deployment: Deployment) -> float:
    """Return how often the keys were read from the database."""
    page = deployment.service.request("GET", "/metrics").content.decode()
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in page.splitlines()
        if line.startswith("whatsapp_database_calls_total") and "sync_api_keys" in line
    )

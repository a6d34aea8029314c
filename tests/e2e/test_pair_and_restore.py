"""Pair, refresh the page, kill: nobody scans again."""

import json
import stat
import uuid
from pathlib import Path
from typing import Any

import pytest
from deployment import Deployment

from service_process import wait_for

pytestmark = pytest.mark.e2e


def test_pairing_by_qr_writes_credentials_and_row_and_survives_a_page_refresh(
    deployment: Deployment,
) -> None:
    deployment.start()
    company_id = str(uuid.uuid4())
    before = deployment.service.status(company_id)
    assert (before["status"], before["user_action"]) == ("disconnected", "connect")

    jid = deployment.pair(company_id)

    assert_status_stays_connected_during_the_hand_over(deployment, company_id, jid)
    shown = deployment.service.status(company_id)
    assert shown["is_connected"] is True
    assert shown["phone_number"] == f"+{jid.split(':')[0]}"
    assert_saved(deployment, company_id, jid)
    row = deployment.await_row(company_id, status="connected", jid=jid)
    assert row["desired_state"] == "run"
    assert row["last_connected_at"] is not None
    assert deployment.phones.counters(jid)["pairings"] == 1


def test_pairing_by_code_writes_credentials_and_row(deployment: Deployment) -> None:
    deployment.start()
    company_id = str(uuid.uuid4())
    number = deployment.phones.call("phones", {})["number"]

    jid = deployment.pair_by_code(company_id, number)

    assert jid.split(":")[0] == number
    assert_status_stays_connected_during_the_hand_over(deployment, company_id, jid)
    assert_saved(deployment, company_id, jid)
    row = deployment.await_row(company_id, status="connected", jid=jid)
    assert (row["desired_state"], row["phone_number"]) == ("run", f"+{number}")
    assert deployment.phones.counters(jid)["pairings"] == 1


def test_a_killed_tree_restores_without_a_new_scan(deployment: Deployment) -> None:
    service = deployment.start()
    company_id = str(uuid.uuid4())
    jid = deployment.pair(company_id)
    assert wait_for(lambda: deployment.folders.has_credentials(company_id), 5)

    service.kill()
    service.spawn()

    assert deployment.first_poll(company_id)["status"] in ("connecting", "connected")
    deployment.await_status(company_id, "connected")
    counters = deployment.phones.counters(jid)
    assert counters["pairings"] == 1
    assert counters["max_simultaneous"] == 1


def assert_status_stays_connected_during_the_hand_over(
    deployment: Deployment, company_id: str, jid: str
) -> None:
    """Poll from the first `connected` until the shard engine has logged in and for a while on."""
    service = deployment.service
    polled: list[dict[str, Any]] = []

    def handed_over() -> bool:
        polled.append(service.status(company_id))
        return deployment.phones.counters(jid)["logins"] == 2 and engine_of(deployment) == "shard"

    assert wait_for(handed_over, 15), f"still with the {engine_of(deployment)} engine"
    polled += [service.status(company_id) for _ in range(10)]
    left = [answer for answer in polled if answer["status"] != "connected"]
    assert not left, f"left `connected` during the hand-over: {left[0]}"
    assert deployment.phones.counters(jid)["max_simultaneous"] == 1
    deployment.await_row(company_id, status="connected")
    words = [entry["to_status"] for entry in deployment.history(company_id)]
    assert set(words[words.index("connected") :]) == {"connected"}


def engine_of(deployment: Deployment) -> str:
    """Return the role of the only engine that has a session."""
    checks = {check["name"]: check for check in deployment.service.readiness()["checks"]}
    roles = [item["role"] for item in checks["engines"]["engines"] if item["sessions"]]
    return "+".join(roles)


def assert_saved(deployment: Deployment, company_id: str, jid: str) -> None:
    """creds.json is complete, and nobody else on the machine can read the folder."""
    folder = deployment.folders.session_path(company_id)
    report = deployment.folders.inspect(company_id, deep=False)
    assert report.credentials is not None
    assert (report.credentials.company_id, report.credentials.jid) == (company_id, jid)
    assert mode_of(folder / "creds.json") == 0o600
    assert mode_of(folder) == 0o700
    assert mode_of(folder / "store.db") & 0o077 == 0
    assert json.loads((folder / "creds.json").read_text())["jid"] == jid


def mode_of(path: Path) -> int:
    """Return the permission bits."""
    return stat.S_IMODE(path.stat().st_mode)

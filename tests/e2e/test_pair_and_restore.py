"""Pair, refresh the page, restart in every way: nobody scans again."""

import uuid

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

    shown = deployment.service.status(company_id)
    assert shown["is_connected"] is True
    assert shown["phone_number"] == f"+{jid.split(':')[0]}"
    report = deployment.folders.inspect(company_id, deep=False)
    assert report.credentials is not None
    assert report.credentials.jid == jid
    row = deployment.await_row(company_id, status="connected", jid=jid)
    assert row["desired_state"] == "run"
    for _ in range(5):
        assert deployment.service.status(company_id)["status"] == "connected"
    assert deployment.phones.counters(jid)["pairings"] == 1


def test_a_killed_tree_restores_without_a_new_scan(deployment: Deployment) -> None:
    service = deployment.start()
    company_id = str(uuid.uuid4())
    jid = deployment.pair(company_id)
    assert wait_for(lambda: deployment.folders.has_credentials(company_id), 5)

    service.kill()
    service.start()

    assert service.status(company_id)["status"] in ("connecting", "connected")
    deployment.await_status(company_id, "connected")
    counters = deployment.phones.counters(jid)
    assert counters["pairings"] == 1
    assert counters["max_simultaneous"] == 1

"""What needs a person is told once, in one message, over restarts and channels that are away."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from alert_receiver import AlertReceiver
from deployment import Deployment

from service_process import REPOSITORY, wait_for

pytestmark = pytest.mark.e2e

QUICK = {
    "SNAPSHOT_ENCRYPTION_KEYS": "k1:" + "A" * 43 + "=",
    "ALERT_CHECK_SECONDS": "0.3",
    "ALERT_GROUP_SECONDS": "4",
    "ALERT_PAUSE_SECONDS": "1",
    "ALERT_CLEAR_SECONDS": "1",
    "ALERT_RETRY_MAX_SECONDS": "0.5",
}


@pytest.fixture
def receiver() -> Iterator[AlertReceiver]:
    with AlertReceiver() as made:
        yield made


@pytest.fixture
def crm() -> Iterator[AlertReceiver]:
    """A webhook target: it takes what is posted, as a channel does."""
    with AlertReceiver() as made:
        yield made.open()


def check(deployment: Deployment, name: str) -> dict[str, Any]:
    """Return one check of /readyz."""
    found: dict[str, Any] = next(
        item for item in deployment.service.readiness()["checks"] if item["name"] == name
    )
    return found


def await_looks(deployment: Deployment, count: int) -> None:
    """Wait until the service has looked so many more times at what needs a person."""

    def runs() -> int:
        return int(check(deployment, "jobs")["alert-check"]["runs"])

    def settled() -> bool:
        return bool(check(deployment, "restore")["finished"])

    assert wait_for(settled, 30), "the start-up restore did not end"
    begun = runs()
    assert wait_for(lambda: runs() >= begun + count, 60), f"{runs() - begun} looks in 60 s"


def test_twelve_logouts_are_one_message_and_so_is_their_end(
    deployment: Deployment, receiver: AlertReceiver, crm: AlertReceiver
) -> None:
    receiver.open()
    deployment.settings.update(
        QUICK,
        ALERT_URLS=receiver.url,
        WEBHOOK_URL=f"http://127.0.0.1:{crm.port}/",
        WEBHOOK_EVENTS="session.alert",
        WEBHOOK_ALLOW_HTTP="true",
        WEBHOOK_ALLOWED_NETWORKS="127.0.0.0/8",
    )
    sessions = deployment.seed(15)
    service = deployment.start()
    deployment.await_all_connected(list(sessions))
    lost = dict(list(sessions.items())[:12])

    for jid in lost.values():
        deployment.phones.call("unlink", {"jid": jid})

    message = receiver.await_message(1)
    assert message["title"] == "WhatsApp: 12 sessions were logged out"
    assert message["type"] == "warning"
    assert message["message"].count("\n- ") == 10
    assert "and 2 more" in message["message"]
    assert "Connect WhatsApp" in message["message"]
    named = set(re.findall(r"[0-9a-f]{8}-[0-9a-f-]{27}", message["message"]))
    assert named <= set(lost)
    assert not re.search(r"\d{8,}", re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "", message["message"]))

    # What was under way when the service stops is sent again by the next one.
    assert wait_for(lambda: "an alert was sent" in deployment.log(), 30)
    opened = {company_id: ["open"] for company_id in lost}
    assert wait_for(lambda: told_to_programs(crm) == opened, 30), told_to_programs(crm)

    service.terminate()
    service.start()
    await_looks(deployment, 10)
    service.kill()
    service.start()
    await_looks(deployment, 10)
    assert len(receiver.titles()) == 1, receiver.titles()
    assert check(deployment, "alerts")["open"] == {"session-logged-out": 12}
    assert told_to_programs(crm) == opened

    for company_id in lost:
        deployment.pair(company_id)
    message = receiver.await_message(2)
    assert message["title"].startswith("WhatsApp, resolved: 12 sessions are linked again")
    assert message["type"] == "success"
    await_looks(deployment, 20)
    assert len(receiver.titles()) == 2, receiver.titles()
    assert check(deployment, "alerts")["open"] == {}

    def both() -> bool:
        return told_to_programs(crm) == {key: ["open", "resolved"] for key in lost}

    assert wait_for(both, 30), told_to_programs(crm)


def told_to_programs(crm: AlertReceiver) -> dict[str, list[str]]:
    """Return the states that a webhook was told of, by company, in their order."""
    states: dict[str, list[str]] = {}
    for body in crm.bodies():
        assert (body["type"], body["data"]["kind"]) == ("session.alert", "session-logged-out")
        states.setdefault(body["company_id"], []).append(body["data"]["state"])
    return states


def test_a_channel_that_is_away_gets_its_message_later_and_the_log_no_secret(
    deployment: Deployment, receiver: AlertReceiver
) -> None:
    deployment.settings.update(QUICK, ALERT_URLS=receiver.url, LOG_LEVEL="DEBUG")
    ((company_id, jid),) = deployment.seed(1).items()
    service = deployment.start()
    deployment.await_status(company_id, "connected")
    deployment.phones.call("unlink", {"jid": jid})

    def failed() -> bool:
        (channel,) = check(deployment, "alerts")["channels"]
        return bool(channel["failed"] >= 2 and channel["waiting"] == 1)

    assert wait_for(failed, 40), check(deployment, "alerts")
    assert not check(deployment, "alerts")["ok"]
    service.kill()
    service.start()
    receiver.open()

    message = receiver.await_message(1)
    assert message["title"].endswith("was logged out")
    assert company_id in message["message"]
    await_looks(deployment, 10)
    assert len(receiver.titles()) == 1
    assert wait_for(lambda: check(deployment, "alerts")["ok"], 20), check(deployment, "alerts")
    (channel,) = check(deployment, "alerts")["channels"]
    assert (channel["name"], channel["sent"], channel["waiting"]) == ("json-1", 1, 0)
    log = deployment.log()
    assert "an alert was sent" in log
    record = (deployment.sessions_dir / "alerts.json").read_text()
    for secret in AlertReceiver.SECRETS:
        assert secret not in log + record


def test_a_database_that_is_away_is_told_and_that_it_is_back(
    deployment: Deployment, receiver: AlertReceiver
) -> None:
    receiver.open()
    deployment.settings.update(
        QUICK,
        ALERT_URLS=receiver.url,
        ALERT_DATABASE_AWAY_SECONDS="1",
        LEASE_RENEW_SECONDS="1",
        DATABASE_TIMEOUT_SECONDS="1",
    )
    ((company_id, _),) = deployment.seed(1).items()
    deployment.start()
    deployment.await_status(company_id, "connected")

    deployment.stack.stop_postgrest()
    try:
        message = receiver.await_message(1)
        assert message["title"] == "WhatsApp: The database cannot be used"
        assert message["type"] == "failure"
    finally:
        deployment.stack.start_postgrest()
    assert receiver.await_message(2)["title"] == "WhatsApp, resolved: The database answers again"
    assert deployment.service.status(company_id)["status"] == "connected"


def test_the_test_command_tries_each_channel_and_says_what_happened(
    deployment: Deployment, receiver: AlertReceiver
) -> None:
    receiver.open()
    nobody = "json://nobody:hunter22secret@127.0.0.1:9/T0kenInThePath"

    def run(urls: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": os.environ.get("HOME", "/"),
            **deployment.environment(ALERT_URLS=urls),
        }
        return subprocess.run(
            [sys.executable, "-m", "crm_whatsapp", "test-alert"],
            cwd=REPOSITORY,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    good = run(receiver.url)
    assert good.returncode == 0, good
    assert re.fullmatch(r"json-1: sent in \d+\.\d s\n", good.stdout)
    assert receiver.await_message(1)["title"] == "WhatsApp: this is a test"

    mixed = run(f"{receiver.url}, {nobody} {receiver.url}, foobar://x")
    assert mixed.returncode == 1
    assert mixed.stdout.count("sent in") == 2, "one that fails does not keep the others from it"
    assert "json-2: not sent" in mixed.stderr
    assert "foobar-1: not sent" in mixed.stderr
    for secret in AlertReceiver.SECRETS:
        assert secret not in good.stdout + good.stderr + mixed.stdout + mixed.stderr

    unset = run("")
    assert unset.returncode == 1
    assert "ALERT_URLS is not set" in unset.stderr

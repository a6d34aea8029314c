"""Targets that fail in every way, and come back: all events arrive, in order, and hurt nobody."""

import os
import re
import socket
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from deployment import Deployment
from test_key_rotation import rotate
from webhook_receiver import Received, WebhookReceiver

from crm_whatsapp.sessions.key_ring import generate_key_entry
from node_runtime import find_node
from service_process import API, REPOSITORY, Answer, free_port, wait_for

pytestmark = pytest.mark.e2e

LOOPBACK = {"WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8"}
QUICK = {
    **LOOPBACK,
    "WEBHOOK_CONNECT_TIMEOUT_SECONDS": "1",
    "WEBHOOK_TIMEOUT_SECONDS": "1.5",
    "WEBHOOK_RETRY_FIRST_SECONDS": "0.2",
    "WEBHOOK_RETRY_MAX_SECONDS": "1",
    "WEBHOOK_BREAKER_SECONDS": "0.5",
    "WEBHOOK_HOLD_SECONDS": "4",
    "SESSION_RECOVERY_RETRY_DELAY": "50",
}
"""Minutes become tenths of seconds; the shapes stay."""


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    """The CRM."""
    with WebhookReceiver().running() as running:
        yield running


def webhooks(deployment: Deployment, method: str, path: str = "", body: Any = None) -> Answer:
    """Call the API of webhooks."""
    return deployment.service.request(method, f"{API}/webhooks{path}", body)


def register(
    deployment: Deployment, receiver: WebhookReceiver, path: str, **more: Any
) -> dict[str, Any]:
    """Register a target of the receiver for status events; return it."""
    body = {"url": receiver.url(path), "events": ["session.status"], **more}
    answer = webhooks(deployment, "POST", body=body)
    assert answer.status == 201, answer.content
    created: dict[str, Any] = answer.json()
    receiver.secrets[path] = created["secret"]
    return created


def queued(deployment: Deployment, webhook: dict[str, Any]) -> dict[str, list[str]]:
    """Return company id -> ids of the events queued for a webhook, in order."""
    found: dict[str, list[str]] = defaultdict(list)
    for row in deployment.rows(
        "select company_id, notice_id from public.whatsapp_webhook_deliveries "
        "where webhook_id = %s order by place",
        webhook["id"],
    ):
        found[str(row["company_id"])].append(str(row["notice_id"]))
    return found


def states(deployment: Deployment, webhook: dict[str, Any]) -> dict[str, int]:
    """Return how many deliveries are in each state."""
    counts: dict[str, int] = webhooks(deployment, "GET", f"/{webhook['id']}").json()["deliveries"]
    return counts


def await_all_delivered(
    deployment: Deployment, webhook: dict[str, Any], timeout_seconds: float = 60.0
) -> None:
    """Wait until nothing waits for this webhook."""
    assert wait_for(
        lambda: not states(deployment, webhook)["pending"], timeout_seconds, pause_seconds=0.25
    ), f"{states(deployment, webhook)}\n{deployment.log_tail(20)}"


def first_arrivals(received: list[Received]) -> dict[str, list[str]]:
    """Return company id -> ids of what was taken, without repetitions."""
    found: dict[str, list[str]] = defaultdict(list)
    for item in received:
        if item.event["id"] not in found[item.event["company_id"]]:
            found[item.event["company_id"]].append(item.event["id"])
    return found


def assert_told_in_order(
    deployment: Deployment, receiver: WebhookReceiver, webhook: dict[str, Any], path: str
) -> int:
    """Hold what a target has taken to the queue and to the history; return how many."""
    expected = queued(deployment, webhook)
    received = receiver.received(path)
    assert all(item.verified for item in received), "a signature was not valid"
    assert all(item.webhook_id == item.event["id"] for item in received)
    assert first_arrivals([item for item in received if item.taken]) == expected
    for company_id, ids in expected.items():
        history = [
            str(row["id"])
            for row in deployment.history(company_id)
            if row["from_status"] != row["to_status"]
        ]
        told = set(ids)
        recorded = [item for item in history if item in told]
        assert recorded == [item for item in ids if item in set(history)]
    return sum(map(len, expected.values()))


def logins(deployment: Deployment, companies: dict[str, str]) -> list[int]:
    """Return how often each company's device has logged in."""
    return [deployment.phones.counters(jid)["logins"] for jid in companies.values()]


def storm(deployment: Deployment, companies: dict[str, str], rounds: int) -> None:
    """Cut every connection so many times: each cut is a loss and a return of each company."""
    for _ in range(rounds):
        before = logins(deployment, companies)
        cut_all(deployment, companies)

        def all_back(before: list[int] = before) -> bool:
            # A status may say "connected" still of the line that was cut.
            return all(map(int.__gt__, logins(deployment, companies), before))

        assert wait_for(all_back, 60.0), "not everybody came back"
        for company_id in companies:
            deployment.await_status(company_id, "connected", 60.0)


def test_a_thousand_events_reach_a_target_that_fails_in_every_way(
    deployment: Deployment, receiver: WebhookReceiver, record_property: Any
) -> None:
    companies = deployment.seed(10)
    service = deployment.start(**QUICK)
    deployment.await_all_connected(list(companies))
    troubled = register(deployment, receiver, "/troubled")
    healthy = register(deployment, receiver, "/healthy")
    only = next(iter(companies))
    one = register(deployment, receiver, "/one", company_id=only)

    met: list[str] = []
    for mode in ("fail", "hang", "die", "drip", "redirect", "busy", "slow"):
        receiver.modes["/troubled"] = mode
        seen = len(receiver.received("/troubled"))
        storm(deployment, companies, rounds=4)
        receiver.await_requests("/troubled", seen + 1)
        met.append(mode)
        if mode == "drip":
            killed_at = len(receiver.received("/healthy"))
            cut_all(deployment, companies)  # so that something is under way
            service.kill()
            service = deployment.start(**QUICK)
            deployment.await_all_connected(list(companies))
    receiver.modes["/troubled"] = "hang"
    while sum(map(len, queued(deployment, healthy).values())) < 1_000:
        storm(deployment, companies, rounds=2)
    await_all_delivered(deployment, healthy)
    await_all_delivered(deployment, one)
    left = states(deployment, troubled)["pending"]
    assert left > 0, "the healthy targets have everything while the troubled one has not"
    assert wait_for(lambda: is_resting(deployment, troubled), 20.0)
    assert service.request("GET", "/readyz").status == 200
    assert webhook_check(deployment)["ok"] is False

    receiver.modes["/troubled"] = "ok"
    await_all_delivered(deployment, troubled, 90.0)
    assert wait_for(lambda: webhook_check(deployment)["ok"], 20.0), webhook_check(deployment)

    assert assert_told_in_order(deployment, receiver, healthy, "/healthy") >= 1_000
    assert assert_told_in_order(deployment, receiver, troubled, "/troubled") >= 1_000
    assert assert_told_in_order(deployment, receiver, one, "/one") >= 100
    assert {item.event["company_id"] for item in receiver.received("/one")} == {only}
    assert receiver.received("/redirected") == []
    assert killed_at > 0
    lags = sorted(item.lag_seconds for item in receiver.received("/healthy"))
    attempts = len(receiver.received("/troubled"))
    record_property("healthy_lag_p50_ms", round(1000 * lags[len(lags) // 2]))
    record_property("healthy_lag_p90_ms", round(1000 * lags[len(lags) * 9 // 10]))
    record_property("events", sum(map(len, queued(deployment, troubled).values())))
    record_property("requests_to_the_troubled", attempts)


@pytest.mark.alone
def test_dead_and_slow_targets_slow_no_other(
    deployment: Deployment, receiver: WebhookReceiver, record_property: Any
) -> None:
    companies = deployment.seed(10)
    deployment.start(**{**QUICK, "WEBHOOK_THREADS": "16", "WEBHOOK_THREADS_PER_TARGET": "8"})
    deployment.await_all_connected(list(companies))
    healthy = register(deployment, receiver, "/healthy")
    storm(deployment, companies, rounds=5)
    await_all_delivered(deployment, healthy)
    alone = median_lag(receiver.received("/healthy"))

    for number, mode in enumerate(("hang", "hang", "drip", "slow")):
        receiver.modes[f"/bad{number}"] = mode
        register(deployment, receiver, f"/bad{number}")
    before = len(receiver.received("/healthy"))
    storm(deployment, companies, rounds=5)
    await_all_delivered(deployment, healthy)
    among_them = median_lag(receiver.received("/healthy")[before:])
    record_property("healthy_lag_alone_ms", round(1000 * alone))
    record_property("healthy_lag_among_the_dead_ms", round(1000 * among_them))
    assert among_them < alone + 1.0, f"{alone:.2f} s alone, {among_them:.2f} s among the dead"
    assert_told_in_order(deployment, receiver, healthy, "/healthy")


def test_what_is_given_up_is_parked_and_sent_again_by_hand(
    deployment: Deployment, receiver: WebhookReceiver
) -> None:
    companies = deployment.seed(2)
    deployment.start(**{**QUICK, "WEBHOOK_RETRY_FOR_SECONDS": "1", "SYNC_INTERVAL_SECONDS": "1"})
    deployment.await_all_connected(list(companies))
    receiver.modes.update({"/dead": "fail", "/gone": "gone"})
    dead = register(deployment, receiver, "/dead")
    gone = register(deployment, receiver, "/gone")
    storm(deployment, companies, rounds=2)
    assert wait_for(lambda: not states(deployment, dead)["pending"], 30.0)
    parked = states(deployment, dead)["parked"]
    assert parked >= 4

    def disabled() -> bool:
        shown = webhooks(deployment, "GET", f"/{gone['id']}").json()
        return shown["enabled"] is False and shown["deliveries"]["parked"] >= 1

    assert wait_for(disabled, 20.0)
    assert wait_for(lambda: webhook_check(deployment)["data"]["parked"] >= parked, 20.0)
    log = webhooks(deployment, "GET", f"/{dead['id']}/deliveries?state=parked&limit=2").json()
    assert {row["error"] for row in log["deliveries"]} == {"answered 500"}
    assert log["next_before"] == log["deliveries"][-1]["id"]

    receiver.modes.update({"/dead": "ok", "/gone": "ok"})
    again = webhooks(deployment, "POST", f"/{dead['id']}/redeliver", {"all_parked": True})
    assert (again.status, again.json()) == (202, {"queued": parked})
    await_all_delivered(deployment, dead)
    assert_told_in_order(deployment, receiver, dead, "/dead")

    webhooks(deployment, "PATCH", f"/{gone['id']}", {"enabled": True})
    ids = [
        row["id"]
        for row in webhooks(deployment, "GET", f"/{gone['id']}/deliveries").json()["deliveries"]
    ]
    webhooks(deployment, "POST", f"/{gone['id']}/redeliver", {"delivery_ids": ids})
    await_all_delivered(deployment, gone)
    assert states(deployment, gone)["parked"] == 0
    assert wait_for(lambda: webhook_check(deployment)["ok"], 20.0)


def test_addresses_that_only_this_machine_can_reach_are_not_spoken_to(
    deployment: Deployment,
) -> None:
    companies = deployment.seed(1)
    deployment.start(**{**QUICK, "WEBHOOK_ALLOWED_NETWORKS": ""})
    deployment.await_all_connected(list(companies))
    for url in (
        "http://127.0.0.1:9/",
        "https://127.0.0.1:9/",
        "https://[::ffff:127.0.0.1]/",
        "https://169.254.169.254/latest/meta-data/",
        "https://localhost/",
        "https://2130706433/",
        "https://user:password@crm.example.com/",
    ):
        answer = webhooks(deployment, "POST", body={"url": url})
        assert answer.status == 400, url
        assert answer.json()["error"]["field"] == "url"

    name = name_of_this_machine()
    with knocked_at() as (port, knocks):
        created = webhooks(deployment, "POST", body={"url": f"https://{name}:{port}/"})
        assert created.status == 201, "a name is judged when it is connected to"
        path = f"/{created.json()['id']}"
        test = webhooks(deployment, "POST", f"{path}/test")
        assert test.status == 422
        assert "not allowed" in test.json()["error"]["message"]
        deployment.phones.call("cut", {"jid": companies[next(iter(companies))]})

        def refused() -> list[str]:
            rows = webhooks(deployment, "GET", f"{path}/deliveries").json()["deliveries"]
            return [row["error"] for row in rows if row["error"]]

        assert wait_for(refused, 20.0)
        assert all("not allowed" in error for error in refused())
        assert knocks == []


def test_the_target_of_the_environment_and_its_secret(
    deployment: Deployment, receiver: WebhookReceiver
) -> None:
    companies = deployment.seed(1)
    company_id, jid = next(iter(companies.items()))
    url = {"WEBHOOK_URL": receiver.url("/env"), "WEBHOOK_EVENTS": "session.status"}
    key = {"SNAPSHOT_ENCRYPTION_KEYS": f"k1:{'A' * 43}="}
    service = deployment.start(**QUICK, **url, **key)
    deployment.await_all_connected([company_id])
    file = deployment.sessions_dir / "webhook-secret"
    assert wait_for(file.exists, 20.0)
    assert file.stat().st_mode & 0o777 == 0o600
    secret = receiver.secrets["/env"] = file.read_text().strip()
    assert wait_for(lambda: str(file) in deployment.log(), 20.0)
    assert secret not in deployment.log()
    [webhook] = webhooks(deployment, "GET").json()["webhooks"]
    assert (webhook["origin"], webhook["company_id"]) == ("environment", None)
    assert webhooks(deployment, "DELETE", f"/{webhook['id']}").status == 422
    deployment.phones.call("cut", {"jid": jid})
    receiver.await_requests("/env", 2)
    [row] = deployment.rows("select secret_key_id, secret_value from public.whatsapp_webhooks")
    assert row["secret_key_id"] == "k1"
    assert secret.removeprefix("whsec_")[:20] not in row["secret_value"]
    await_all_delivered(deployment, webhook)
    service.terminate()

    service = deployment.start(**QUICK, **key)
    deployment.await_all_connected([company_id])
    assert wait_for(
        lambda: webhooks(deployment, "GET").json()["webhooks"][0]["enabled"] is False, 20.0
    )
    service.terminate()

    deployment.start(**QUICK, **url, **key)
    deployment.await_all_connected([company_id])
    seen = len(receiver.received("/env"))
    assert wait_for(lambda: webhooks(deployment, "GET").json()["webhooks"][0]["enabled"], 20.0)
    deployment.phones.call("cut", {"jid": jid})
    receiver.await_requests("/env", seen + 2)
    assert all(item.verified for item in receiver.received("/env")[seen:])


def test_the_end_of_a_company_is_told_last_and_its_next_life_after_it(
    deployment: Deployment, receiver: WebhookReceiver
) -> None:
    ((company_id, _),) = deployment.seed(1).items()
    service = deployment.start(**QUICK)
    deployment.await_all_connected([company_id])
    webhook = register(deployment, receiver, "/end")

    assert service.request("DELETE", f"{API}/sessions/{company_id}").status < 300
    receiver.await_requests("/end", 2)
    assert service.post("connect", company_id=company_id, method="qr").status == 202
    deployment.await_status(company_id, "awaiting_scan")
    await_all_delivered(deployment, webhook)

    heard = [item.event["data"] for item in receiver.received("/end")]
    place = [item["event"] for item in heard].index("forgotten")
    assert place > 0, heard
    assert heard[place]["reason"] == "never-connected"
    assert [item["status"] for item in heard[place + 1 :]][:2] == ["connecting", "awaiting_scan"]
    assert [item["event"] for item in heard].count("forgotten") == 1


def test_a_secret_is_replaced_without_a_delivery_that_does_not_verify(
    deployment: Deployment, receiver: WebhookReceiver
) -> None:
    companies = deployment.seed(1)
    deployment.start(**QUICK)
    deployment.await_all_connected(list(companies))
    created = register(deployment, receiver, "/a")
    rotated = webhooks(deployment, "PATCH", f"/{created['id']}", {"rotate_secret": True}).json()
    assert rotated["secret"] != created["secret"]
    assert webhooks(deployment, "POST", f"/{created['id']}/test").status == 200
    receiver.secrets["/a"] = rotated["secret"]
    assert webhooks(deployment, "POST", f"/{created['id']}/test").status == 200
    assert [(item.verified, item.signatures) for item in receiver.received("/a")] == [(True, 2)] * 2
    assert created["secret"] not in deployment.log()
    assert rotated["secret"] not in deployment.log()


def test_secrets_follow_a_rotation_of_keys(
    deployment: Deployment, receiver: WebhookReceiver
) -> None:
    old, new = generate_key_entry("old"), generate_key_entry("new")

    def key_ids() -> set[str | None]:
        rows = deployment.rows("select secret_key_id from public.whatsapp_webhooks")
        return {row["secret_key_id"] for row in rows}

    service = deployment.start(**QUICK)
    unsealed = register(deployment, receiver, "/unsealed")
    service.terminate()
    service = deployment.start(**QUICK, SNAPSHOT_ENCRYPTION_KEYS=old)
    sealed = register(deployment, receiver, "/sealed")
    assert key_ids() == {None, "old"}
    done = rotate(deployment, f"{new},{old}")
    assert done.returncode == 0, done.stderr
    assert "2 secrets of webhooks sealed anew" in done.stdout
    assert key_ids() == {"new"}
    service.terminate()

    deployment.start(**QUICK, SNAPSHOT_ENCRYPTION_KEYS=new)
    for webhook in (unsealed, sealed):
        assert webhooks(deployment, "POST", f"/{webhook['id']}/test").status == 200
    assert all(item.verified for item in receiver.received())


@pytest.mark.parametrize("language", ["python", "js"])
def test_the_receivers_of_the_guide_as_they_are_printed(
    deployment: Deployment, tmp_path: Path, language: str
) -> None:
    guide = (REPOSITORY / "docs" / "integration.md").read_text()
    blocks = re.findall(rf"```{language}\n(.*?)```", guide, re.DOTALL)
    [source] = [block for block in blocks if "WEBHOOK_SECRET" in block]
    file = tmp_path / ("receiver.py" if language == "python" else "receiver.mjs")
    file.write_text(source)
    program = [sys.executable if language == "python" else find_node(), str(file)]
    deployment.start(**QUICK)
    port = free_port()
    url = f"http://127.0.0.1:{port}/hooks"
    created = webhooks(deployment, "POST", body={"url": url}).json()
    environment = {
        "PATH": os.environ["PATH"],
        "WEBHOOK_SECRET": created["secret"],
        "PORT": str(port),
    }
    with (
        subprocess.Popen(program, env=environment, stdout=subprocess.PIPE, text=True) as process,
        ended(process),
    ):
        path = f"/{created['id']}"
        test = f"{path}/test"
        assert wait_for(lambda: webhooks(deployment, "POST", test).status == 200, 30.0)
        assert process.stdout is not None
        told = process.stdout.readline().split()
        assert told[0] == "session.alert"
        webhooks(deployment, "PATCH", path, {"rotate_secret": True})
        assert webhooks(deployment, "POST", test).status == 200, "both secrets sign"
        other = webhooks(deployment, "POST", body={"url": url}).json()
        refused = webhooks(deployment, "POST", f"/{other['id']}/test")
        assert refused.json()["error"]["status_code"] == 401


@contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[None]:
    """End a program with this block."""
    try:
        yield
    finally:
        process.kill()


def cut_all(deployment: Deployment, companies: dict[str, str]) -> None:
    """Cut every connection once, and wait for nothing."""
    for jid in companies.values():
        deployment.phones.call("cut", {"jid": jid})


def is_resting(deployment: Deployment, webhook: dict[str, Any]) -> bool:
    """Tell whether the service leaves this target alone."""
    return webhooks(deployment, "GET", f"/{webhook['id']}").json()["is_resting"] is True


def webhook_check(deployment: Deployment) -> dict[str, Any]:
    """Return what /readyz says of webhooks; its figures under `data`."""
    checks = {check["name"]: check for check in deployment.service.readiness()["checks"]}
    return {**checks["webhooks"], "data": checks["webhooks"]}


def median_lag(received: list[Received]) -> float:
    """Return how long after its event the median request came in, in seconds."""
    lags = sorted(item.lag_seconds for item in received)
    return lags[len(lags) // 2]


def name_of_this_machine() -> str:
    """Return a name, not localhost, that resolves to an address of this machine's loopback."""
    for line in Path("/etc/hosts").read_text().splitlines():
        address, *names = line.partition("#")[0].split() or [""]
        if address.startswith("127."):
            for name in names:
                if "localhost" not in name and socket.gethostbyname(name).startswith("127."):
                    return name
    pytest.skip("no name in /etc/hosts but localhost resolves to loopback")


@contextmanager
def knocked_at() -> Iterator[tuple[int, list[Any]]]:
    """Listen on loopback; yield the port and a list of who connected."""
    knocks: list[Any] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                connection, peer = listener.accept()
            except OSError:
                return
            knocks.append(peer)
            connection.close()

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield int(listener.getsockname()[1]), knocks
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()

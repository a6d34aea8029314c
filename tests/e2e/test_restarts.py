"""Whatever part of the service is killed, every session comes back by itself, once."""

import os
import signal
import subprocess
import uuid
from collections.abc import Iterable

import pytest
from deployment import Deployment

from service_process import children, is_alive, kill_all, wait_for

pytestmark = pytest.mark.e2e


def test_a_killed_worker_is_replaced_and_its_sessions_come_back(deployment: Deployment) -> None:
    service = deployment.start()
    company_id = str(uuid.uuid4())
    jid = deployment.pair(company_id)
    seeded = add_seeded(deployment, 2)
    companies = {company_id: jid, **seeded}
    deployment.await_all_connected(list(companies))
    old_worker, old_engines = service.worker_pid(), service.engine_pids()

    os.kill(old_worker, signal.SIGKILL)

    assert wait_for(lambda: not any(map(is_alive, [old_worker, *old_engines])), 10)
    assert deployment.first_poll(company_id)["status"] in ("connecting", "connected")
    deployment.await_all_connected(list(companies))
    assert service.worker_pid() != old_worker
    assert_no_second_link(deployment, companies.values())
    assert deployment.phones.counters(jid)["pairings"] == 1


def test_a_new_service_waits_for_the_worker_of_a_killed_master(deployment: Deployment) -> None:
    companies = deployment.seed(3)
    first = deployment.start()
    deployment.await_all_connected(list(companies))
    orphans = first.processes()[1:]
    assert first.process is not None

    first.process.kill()
    second = deployment.new_service()
    second.spawn()
    try:
        second.wait_ready()
        assert not any(map(is_alive, orphans)), "the second service did not wait"
        for company_id in companies:
            assert deployment.first_poll(company_id)["status"] in ("connecting", "connected")
        deployment.await_all_connected(list(companies))
    finally:
        kill_all(orphans)
    assert_no_second_link(deployment, companies.values())


def test_a_second_service_on_the_same_folder_refuses_and_disturbs_nobody(
    deployment: Deployment,
) -> None:
    companies = deployment.seed(2)
    first = deployment.start()
    deployment.await_all_connected(list(companies))
    logins = [deployment.phones.counters(jid)["logins"] for jid in companies.values()]
    tree = first.processes()
    logged = len(deployment.log())

    second = deployment.new_service()
    second.spawn()
    assert second.process is not None
    try:
        code = second.process.wait(15)
    except subprocess.TimeoutExpired:
        pytest.fail("the second service did not end")

    said = deployment.log()[logged:]
    assert code != 0
    assert "Traceback" not in said
    naming = [line for line in said.splitlines() if "SESSIONS_DIR" in line]
    assert len(naming) == 1, said
    assert str(deployment.sessions_dir) in naming[0]
    deployment.services.remove(second)
    assert first.processes() == tree
    for company_id in companies:
        assert first.status(company_id)["status"] == "connected"
    now = [deployment.phones.counters(jid)["logins"] for jid in companies.values()]
    assert now == logins
    assert_no_second_link(deployment, companies.values())


def test_a_kill_between_pairing_and_credentials_loses_nothing(deployment: Deployment) -> None:
    """The phone has agreed, the first login is still under way, creds.json is not there yet."""
    service = deployment.start()
    company_id = str(uuid.uuid4())
    deployment.phones.call("network", {"slow_login_ms": 60_000})
    service.post("connect", company_id=company_id, method="qr")
    jid = deployment.phones.scan(deployment.qr(company_id))
    deployment.await_status(company_id, "connecting", reason="finishing-pairing")
    service.kill()
    folder = deployment.folders.session_path(company_id)
    assert not (folder / "creds.json").exists()
    deployment.phones.call("network", {"slow_login_ms": 0})

    service.spawn()

    assert deployment.first_poll(company_id)["status"] in ("connecting", "connected")
    deployment.await_status(company_id, "connected")
    report = deployment.folders.inspect(company_id, deep=False)
    assert report.credentials is not None
    assert report.credentials.jid == jid
    deployment.await_row(company_id, status="connected", jid=jid)
    assert deployment.phones.counters(jid)["pairings"] == 1
    assert_no_second_link(deployment, [jid])


def test_stores_without_credentials_file_are_adopted_by_polls_too(deployment: Deployment) -> None:
    companies = deployment.seed(2, creds=False)
    deployment.start(SESSION_RECOVERY_ENABLED="false")
    assert deployment.connected_count() == 0

    for company_id in companies:
        assert deployment.service.status(company_id)["status"] in ("connecting", "connected")

    for company_id, jid in companies.items():
        deployment.await_status(company_id, "connected")
        report = deployment.folders.inspect(company_id, deep=False)
        assert report.credentials is not None
        assert report.credentials.jid == jid
    assert_no_second_link(deployment, companies.values())


def test_reloads_bring_every_session_back_without_a_scan(deployment: Deployment) -> None:
    companies = deployment.seed(3)
    service = deployment.start()
    deployment.await_all_connected(list(companies))
    old = service.processes()[1:]
    assert service.process is not None

    service.process.send_signal(signal.SIGHUP)
    assert wait_for(lambda: deployment.log().count("Booting worker") == 2, 20)
    service.process.send_signal(signal.SIGHUP)  # an impatient second one

    assert wait_for(lambda: deployment.log().count("Booting worker") == 3, 20)
    assert wait_for(lambda: not any(map(is_alive, old)), 20), "the old worker stays"
    assert wait_for(lambda: len(children(service.process.pid)) == 1, 20), "a worker stays"
    for company_id in companies:
        assert deployment.first_poll(company_id)["status"] in ("connecting", "connected")
    deployment.await_all_connected(list(companies))
    assert_no_second_link(deployment, companies.values())
    for company_id in companies:
        deployment.await_row(company_id, status="connected")


def add_seeded(deployment: Deployment, count: int) -> dict[str, str]:
    """Lay saved sessions beside a running service and have polls restore them."""
    seeded = deployment.seed(count)
    for company_id in seeded:
        deployment.await_status(company_id, "connected")
    return seeded


def assert_no_second_link(deployment: Deployment, jids: Iterable[str]) -> None:
    """No device was ever connected twice at once, and none was linked anew."""
    for jid in jids:
        counters = deployment.phones.counters(jid)
        assert counters["max_simultaneous"] == 1, (jid, counters)
        assert counters["replaced"] == 0, (jid, counters)
    phones = deployment.phones.call("state")["phones"]
    assert all(len(phone["devices"]) == 1 for phone in phones), phones

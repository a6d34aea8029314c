"""What people decide stays decided: disconnect, logout, delete, pair anew."""

import uuid
from pathlib import Path
from typing import Any

import pytest
from deployment import Deployment

from service_process import API, Answer, wait_for

pytestmark = pytest.mark.e2e


def test_a_disconnected_company_stays_so_until_somebody_connects_it(
    deployment: Deployment,
) -> None:
    (company_id, jid), (other, _) = deployment.seed(2).items()
    service = deployment.start()
    deployment.await_all_connected([company_id, other])

    answer = service.post("disconnect", company_id=company_id)
    assert (answer.status, answer.json()["status"]) == (200, "disconnected")
    assert wait_for(lambda: deployment.phones.open_connections() == 1, 10)
    for _ in range(20):
        shown = service.status(company_id)
        assert (shown["status"], shown["reason"]) == ("disconnected", "stopped")
    assert deployment.folders.has_credentials(company_id)
    deployment.await_row(company_id, status="disconnected", desired_state="stop")
    logins = deployment.phones.counters(jid)["logins"]

    service.terminate()
    service.start()
    deployment.await_status(other, "connected")
    for _ in range(20):
        shown = service.status(company_id)
        assert (shown["status"], shown["reason"]) == ("disconnected", "stopped")
    assert deployment.phones.counters(jid)["logins"] == logins

    answer = service.post("connect", company_id=company_id, method="qr")
    assert (answer.status, answer.json()["status"]) == (202, "connecting")
    deployment.await_status(company_id, "connected")
    counters = deployment.phones.counters(jid)
    assert (counters["logins"], counters["max_simultaneous"]) == (logins + 1, 1)
    deployment.await_row(company_id, status="connected", desired_state="run")


def test_logout_unlinks_the_device_and_removes_the_files(deployment: Deployment) -> None:
    service = deployment.start()
    company_id = str(uuid.uuid4())
    jid = deployment.pair(company_id)
    assert deployment.phones.is_linked(jid)

    assert service.post("logout", company_id=company_id).status == 200
    shown = deployment.await_status(company_id, "logged_out")

    assert (shown["reason"], shown["user_action"]) == ("logged-out-by-user", "connect")
    assert "still be listed" not in shown["message"]
    assert not deployment.phones.is_linked(jid)
    assert_nothing_saved(deployment, company_id)
    deployment.await_row(company_id, status="logged_out", desired_state="stop")
    service.terminate()
    service.start()
    assert service.status(company_id)["status"] == "logged_out"
    answer = service.post("restore", company_id=company_id)
    assert_refused(answer, 422, "nothing-saved")

    again = deployment.pair(company_id)
    assert again != jid
    deployment.await_row(company_id, status="connected", jid=again, desired_state="run")


def test_logout_of_a_disconnected_company_unlinks_it_too(deployment: Deployment) -> None:
    ((company_id, jid),) = deployment.seed(1).items()
    service = deployment.start()
    deployment.await_status(company_id, "connected")
    service.post("disconnect", company_id=company_id)
    assert wait_for(lambda: deployment.phones.open_connections() == 0, 10)

    assert service.post("logout", company_id=company_id).status == 200
    deployment.await_status(company_id, "logged_out")

    assert not deployment.phones.is_linked(jid)
    assert_nothing_saved(deployment, company_id)
    deployment.await_row(company_id, status="logged_out", desired_state="stop")


def test_logout_without_whatsapp_removes_the_files_and_says_what_it_could_not_do(
    deployment: Deployment,
) -> None:
    ((company_id, jid),) = deployment.seed(1).items()
    service = deployment.start(SESSION_LOGOUT_TIMEOUT_SECONDS="2")
    deployment.await_status(company_id, "connected")
    deployment.phones.call("network", {"refuse": True})
    deployment.phones.call("cut", {"jid": jid})
    deployment.await_status(company_id, "connecting")

    assert service.post("logout", company_id=company_id).status == 200
    shown = deployment.await_status(company_id, "logged_out")

    assert "may still be listed on the phone" in shown["message"]
    assert deployment.phones.is_linked(jid)
    assert_nothing_saved(deployment, company_id)


def test_logout_of_a_company_that_never_connected_changes_nothing(deployment: Deployment) -> None:
    service = deployment.start()
    company_id = str(uuid.uuid4())
    answer = service.post("logout", company_id=company_id)
    assert (answer.status, answer.json()["reason"]) == (200, "never-connected")
    assert service.status(company_id)["reason"] == "never-connected"
    assert_refused(service.post("restore", company_id=company_id), 422, "nothing-saved")
    assert deployment.row(company_id) is None


def test_delete_forgets_the_company_everywhere(deployment: Deployment) -> None:
    ((company_id, jid),) = deployment.seed(1).items()
    service = deployment.start()
    deployment.await_status(company_id, "connected")
    deployment.await_row(company_id, status="connected")

    assert service.request("DELETE", f"{API}/sessions/{company_id}").status == 200

    assert wait_for(lambda: deployment.row(company_id) is None, 10), deployment.row(company_id)
    assert wait_for(lambda: not deployment.phones.is_linked(jid), 10)
    assert_nothing_saved(deployment, company_id)
    assert service.status(company_id)["reason"] == "never-connected"
    reasons = [entry["reason"] for entry in deployment.history(company_id)]
    assert reasons[-1] == "logged-out-by-user", "the history outlives the row"
    service.terminate()
    service.start()
    assert service.status(company_id)["reason"] == "never-connected"
    assert deployment.row(company_id) is None


def test_fresh_pairs_anew_and_sets_the_old_session_aside(deployment: Deployment) -> None:
    ((company_id, old_jid),) = deployment.seed(1).items()
    service = deployment.start()
    deployment.await_status(company_id, "connected")

    answer = service.post("connect", company_id=company_id, method="qr", fresh=True)
    assert answer.status == 202
    new_jid = deployment.phones.scan(deployment.qr(company_id))
    deployment.await_status(company_id, "connected")

    assert new_jid != old_jid
    report = deployment.folders.inspect(company_id, deep=False)
    assert report.credentials is not None
    assert report.credentials.jid == new_jid
    aside = quarantined(deployment, company_id)
    assert len(aside) == 1
    assert {"creds.json", "store.db"} <= {path.name for path in aside[0].iterdir()}
    deployment.await_row(company_id, status="connected", jid=new_jid)
    service.kill()
    service.spawn()
    deployment.first_poll(company_id)
    deployment.await_status(company_id, "connected")
    deployment.await_row(company_id, status="connected", jid=new_jid)
    counters = deployment.phones.counters(new_jid)
    assert (counters["pairings"], counters["max_simultaneous"]) == (1, 1)


def test_one_pairing_at_a_time(deployment: Deployment) -> None:
    service = deployment.start()
    company_id = str(uuid.uuid4())
    number = deployment.phones.call("phones", {})["number"]
    seen = deployment.phones.last_event()
    assert service.post("connect", company_id=company_id, method="qr").status == 202
    qr = deployment.qr(company_id)

    again = service.post("connect", company_id=company_id, method="qr")
    assert (again.status, again.json()["status"]) == (202, "awaiting_scan")
    assert deployment.qr(company_id) == qr
    assert qr_dialogues(deployment, seen) == 1
    by_code: dict[str, Any] = {"method": "pairing_code", "phone_number": f"+{number}"}
    other = service.post("connect", company_id=company_id, **by_code)
    assert_refused(other, 409, "pairing-conflict")
    assert deployment.qr(company_id) == qr
    code = service.request("GET", f"{API}/pairing-code?company_id={company_id}")
    assert_refused(code, 422, "nothing-to-scan")

    stopped = service.post("disconnect", company_id=company_id)
    assert (stopped.status, stopped.json()["status"]) == (200, "disconnected")
    shown = service.request("GET", f"{API}/qr?company_id={company_id}&format=raw")
    assert_refused(shown, 422, "nothing-to-scan")
    assert wait_for(lambda: open_links(deployment) == 0, 10)
    for _ in range(10):
        assert service.status(company_id)["status"] == "disconnected"
    deployment.await_row(company_id, status="disconnected", desired_state="stop")

    jid = deployment.pair_by_code(company_id, number)
    connected = service.post("connect", company_id=company_id, method="qr")
    assert (connected.status, connected.json()["status"]) == (200, "connected")
    connected = service.post("connect", company_id=company_id, **by_code)
    assert (connected.status, connected.json()["status"]) == (200, "connected")
    assert deployment.phones.counters(jid)["pairings"] == 1
    deployment.await_row(company_id, status="connected", jid=jid, desired_state="run")


def test_a_pairing_can_be_stopped_and_begun_again_at_once(deployment: Deployment) -> None:
    service = deployment.start()
    company_id = str(uuid.uuid4())
    service.post("connect", company_id=company_id, method="qr")
    first = deployment.qr(company_id)
    assert service.post("disconnect", company_id=company_id).status == 200
    assert service.post("connect", company_id=company_id, method="qr").status == 202

    second = deployment.qr(company_id)
    assert second != first
    jid = deployment.phones.scan(second)
    deployment.await_status(company_id, "connected")
    deployment.await_row(company_id, status="connected", jid=jid, desired_state="run")


def test_a_decision_during_the_hand_over_holds(deployment: Deployment) -> None:
    """As soon as a pairing says `connected`, the session moves on to a shard engine."""
    service = deployment.start()
    stopped, left, deleted = (str(uuid.uuid4()) for _ in range(3))
    jids = {}
    for company_id, call in ((stopped, "disconnect"), (left, "logout"), (deleted, "delete")):
        jids[company_id] = deployment.pair(company_id)
        if call == "delete":
            answer = service.request("DELETE", f"{API}/sessions/{company_id}")
        else:
            answer = service.post(call, company_id=company_id)
        assert answer.status == 200, answer.content

    deployment.await_status(left, "logged_out")
    assert wait_for(lambda: not deployment.phones.is_linked(jids[deleted]), 20)
    assert wait_for(lambda: open_links(deployment) == 0, 20)
    for _ in range(10):
        assert service.status(stopped)["reason"] == "stopped"
    assert deployment.phones.is_linked(jids[stopped])
    assert deployment.folders.has_credentials(stopped)
    assert not deployment.phones.is_linked(jids[left])
    for company_id in (left, deleted):
        assert_nothing_saved(deployment, company_id)
    deployment.await_row(stopped, status="disconnected", desired_state="stop")
    assert wait_for(lambda: deployment.row(deleted) is None, 10), deployment.row(deleted)
    for jid in jids.values():
        assert deployment.phones.counters(jid)["max_simultaneous"] == 1

    service.post("connect", company_id=stopped, method="qr")
    deployment.await_status(stopped, "connected")
    assert deployment.phones.counters(jids[stopped])["pairings"] == 1


def test_a_logout_cut_short_by_a_kill_is_finished_by_the_next_start(
    deployment: Deployment,
) -> None:
    ((company_id, jid),) = deployment.seed(1).items()
    service = deployment.start()
    deployment.await_status(company_id, "connected")
    service.post("disconnect", company_id=company_id)
    assert wait_for(lambda: deployment.phones.open_connections() == 0, 10)
    deployment.phones.call("black-hole", {"jid": jid, "mode": "login"})
    assert service.post("logout", company_id=company_id).status == 200
    assert service.status(company_id)["reason"] == "logging-out"
    service.kill()
    deployment.phones.call("black-hole", {"jid": jid, "mode": "off"})
    assert deployment.phones.is_linked(jid)

    service.start()

    deployment.await_status(company_id, "logged_out")
    assert not deployment.phones.is_linked(jid)
    assert_nothing_saved(deployment, company_id)
    deployment.await_row(company_id, status="logged_out", desired_state="stop")


def test_deleting_ends_a_pairing(deployment: Deployment) -> None:
    service = deployment.start()
    company_id = str(uuid.uuid4())
    service.post("connect", company_id=company_id, method="qr")
    deployment.qr(company_id)

    assert service.request("DELETE", f"{API}/sessions/{company_id}").status == 200

    assert wait_for(lambda: open_links(deployment) == 0, 10)
    assert wait_for(lambda: deployment.row(company_id) is None, 10), deployment.row(company_id)
    assert_nothing_saved(deployment, company_id)
    assert service.status(company_id)["reason"] == "never-connected"


def test_a_lost_journal_forgets_no_decision(deployment: Deployment) -> None:
    """state.db is gone, the rows still know what people wanted."""
    (stopped, jid), (kept, _), (ended, _) = deployment.seed(3).items()
    service = deployment.start()
    deployment.await_all_connected([stopped, kept, ended])
    service.post("disconnect", company_id=stopped)
    service.post("logout", company_id=ended)
    deployment.await_status(ended, "logged_out")
    deployment.await_row(stopped, status="disconnected", desired_state="stop")
    deployment.await_row(ended, status="logged_out", desired_state="stop")
    logins = deployment.phones.counters(jid)["logins"]
    service.kill()
    for path in deployment.sessions_dir.glob("state.db*"):
        path.unlink()

    service.start()

    deployment.await_status(kept, "connected")
    assert service.status(stopped)["reason"] == "stopped"
    deployment.await_status(ended, "logged_out")
    assert deployment.phones.counters(jid)["logins"] == logins


def assert_refused(answer: Answer, status: int, code: str) -> None:
    """The answer is this refusal, in the contract's form."""
    assert (answer.status, answer.json()["error"]["code"]) == (status, code), answer.content


def assert_nothing_saved(deployment: Deployment, company_id: str) -> None:
    """The folder is gone and nothing of it lies about."""
    gone = deployment.folders.session_path(company_id)
    assert wait_for(lambda: not gone.exists(), 5), sorted(gone.iterdir())
    trash = deployment.sessions_dir / ".trash"
    assert not trash.exists() or not list(trash.glob(f"{company_id}*"))
    assert not quarantined(deployment, company_id)


def quarantined(deployment: Deployment, company_id: str) -> list[Path]:
    """Return the company's folders that were set aside."""
    return sorted((deployment.sessions_dir / "quarantine").glob(f"{company_id}-*"))


def open_links(deployment: Deployment) -> int:
    """Return how many connections the sandbox has, of devices and of pairings."""
    return int(deployment.phones.call("state")["totals"]["open_connections"])


def qr_dialogues(deployment: Deployment, after: int) -> int:
    """Return how many pairing dialogues the sandbox has opened since."""
    events = deployment.phones.call(f"events?after={after}&timeout=0")
    return sum(event["type"] == "qr" for event in events)

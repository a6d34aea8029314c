"""Every answer WhatsApp can give: status, reason, action, row and credentials."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from deployment import Deployment, SandboxAdmin, empty_database

from local_supabase import LocalSupabase
from sandbox import Sandbox
from service_process import wait_for

pytestmark = pytest.mark.e2e

REPLACED_RETRY_SECONDS = 1.5
SHOWN = ("status", "reason", "message", "user_action", "phone_number", "push_name")


@dataclass(frozen=True, slots=True)
class Ending:
    """What is to be seen after an answer."""

    status: str
    reason: str
    user_action: str
    keeps_credentials: bool
    attempts: int


OUT = Ending("logged_out", "logged-out-by-server", "connect", False, 1)
OUTDATED = Ending("failed", "client-outdated", "upgrade", True, 1)
REFUSED = Ending("failed", "connect-failure", "retry", True, 3)


@pytest.fixture(scope="module")
def deployment(
    stack: LocalSupabase, sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """One service for the module; each test brings a session of its own into it."""
    empty_database(stack.db_url)
    phones = SandboxAdmin(sandbox.admin_url)
    phones.reset()
    folder = tmp_path_factory.mktemp("answers")
    world = Deployment(stack=stack, sandbox=sandbox, phones=phones, folder=folder)
    try:
        world.start(
            SESSION_RECOVERY_MAX_RETRIES="2",
            SESSION_RECOVERY_RETRY_DELAY="50",
            SESSION_RECOVERY_TIMEOUT="8000",
            SESSION_REPLACED_RETRY_SECONDS=str(REPLACED_RETRY_SECONDS),
        )
        yield world
    finally:
        world.end()


@dataclass(frozen=True, slots=True)
class Session:
    """A company with a saved session in the running service."""

    deployment: Deployment
    company_id: str
    jid: str

    def refuse(self, reason: int, count: int = -1, **more: int) -> None:
        self.deployment.phones.fail_logins(self.jid, reason, count=count, **more)

    def poll(self) -> dict[str, Any]:
        return self.deployment.service.status(self.company_id)

    def connect(self) -> None:
        self.poll()
        self.deployment.await_row(self.company_id, 20, status="connected")

    def counted(self, name: str) -> int:
        return self.deployment.phones.counters(self.jid).get(name, 0)

    def transitions(self) -> list[tuple[str, str]]:
        return [
            (item["to_status"], item["reason"]) for item in self.deployment.history(self.company_id)
        ]

    def assert_ending(self, ending: Ending) -> dict[str, Any]:
        """HTTP and row say the same, and it is right; the credentials are as they should be."""
        row = self.deployment.await_row(
            self.company_id, 20, status=ending.status, reason=ending.reason
        )
        shown = self.deployment.await_status(self.company_id, ending.status, reason=ending.reason)
        assert {name: row[name] for name in SHOWN} == {name: shown[name] for name in SHOWN}
        assert shown["user_action"] == ending.user_action
        assert shown["is_connected"] is False
        assert row["desired_state"] == "run"
        folders = self.deployment.folders
        if ending.keeps_credentials:
            report = folders.inspect(self.company_id, deep=False)
            assert report.credentials is not None
            assert report.credentials.jid == self.jid
        else:
            assert wait_for(lambda: not folders.session_path(self.company_id).exists(), 10)
        return shown


@pytest.fixture
def session(deployment: Deployment) -> Iterator[Session]:
    ((company_id, jid),) = deployment.seed(1).items()
    made = Session(deployment, company_id, jid)
    yield made
    made.refuse(500, count=0)
    deployment.service.post("disconnect", company_id=company_id)


def time_of(text: str | None) -> datetime:
    assert text is not None
    return datetime.fromisoformat(text)


@pytest.mark.parametrize(
    ("reason", "ending"),
    [
        (400, REFUSED),
        (401, OUT),
        (403, OUT),
        (405, OUTDATED),
        (406, OUT),
        (409, REFUSED),
        (415, REFUSED),
        (418, REFUSED),
        (499, REFUSED),
        (501, REFUSED),
        (599, REFUSED),
    ],
)
def test_a_refused_login_ends_as_it_should(session: Session, reason: int, ending: Ending) -> None:
    session.refuse(reason)
    assert session.poll()["status"] == "connecting"

    shown = session.assert_ending(ending)

    assert shown["retry_at"] is None
    for _ in range(5):
        assert session.poll() == shown
    assert session.counted("failures") == ending.attempts
    assert session.counted("logins") == 0


@pytest.mark.parametrize("reason", [400, 415, 501])
def test_a_refusal_that_passes_is_retried_until_it_works(session: Session, reason: int) -> None:
    session.refuse(reason, count=2)
    session.connect()
    assert (session.counted("failures"), session.counted("logins")) == (2, 1)
    assert ("failed", "connect-failure") not in session.transitions()


@pytest.mark.parametrize("reason", [400, 405, 415])
def test_connecting_again_after_a_failure_is_one_click(session: Session, reason: int) -> None:
    session.refuse(reason)
    session.poll()
    session.deployment.await_row(session.company_id, 20, status="failed")
    session.refuse(reason, count=0)
    answer = session.deployment.service.post("connect", company_id=session.company_id, method="qr")
    assert (answer.status, answer.json()["status"]) == (202, "connecting")
    session.deployment.await_status(session.company_id, "connected")
    assert session.counted("pairings") == 0


@pytest.mark.parametrize("reason", [500, 503])
def test_a_server_in_trouble_is_reconnected_to(session: Session, reason: int) -> None:
    session.refuse(reason, count=1)
    session.connect()
    assert (session.counted("failures"), session.counted("logins")) == (1, 1)
    assert {status for status, _ in session.transitions()} == {"connecting", "connected"}


def test_a_server_in_lasting_trouble_is_waited_for(session: Session) -> None:
    session.refuse(503)
    session.poll()
    waiting = session.deployment.await_row(
        session.company_id, 30, status="connecting", reason="whatsapp-unreachable"
    )
    assert waiting["user_action"] == "wait"
    assert waiting["retry_at"] is not None
    assert session.deployment.folders.has_credentials(session.company_id)
    session.refuse(503, count=0)
    session.deployment.await_row(session.company_id, 30, status="connected")


@pytest.mark.parametrize(("expire", "seconds"), [(3600, 3600), (604_800, 604_800), (0, 86_400)])
def test_a_ban_is_waited_for_and_no_login_is_tried(
    session: Session, expire: int, seconds: int
) -> None:
    session.refuse(402, code=101, expire=expire)
    asked_at = datetime.now(UTC)
    session.poll()

    shown = session.assert_ending(Ending("banned", "temporary-ban", "wait", True, 1))

    ends_at = time_of(shown["retry_at"])
    row = session.deployment.row(session.company_id)
    assert row is not None
    assert row["retry_at"] == ends_at
    earliest = asked_at + timedelta(seconds=seconds)
    assert earliest <= ends_at <= earliest + timedelta(seconds=20)
    service = session.deployment.service
    for call, more in (("connect", {"method": "qr"}), ("restore", {})):
        answer = service.post(call, company_id=session.company_id, **more)
        assert (answer.status, answer.json()["status"]) == (202, "banned"), call
    assert session.poll()["retry_at"] == shown["retry_at"]
    assert session.counted("failures") == 1


def test_a_short_ban_ends_by_itself(session: Session, record_property: Any) -> None:
    session.refuse(402, count=1, code=102, expire=3)
    session.poll()
    banned = session.deployment.await_row(session.company_id, 20, status="banned")
    back = session.deployment.await_row(session.company_id, 30, status="connected")
    waited = (back["last_connected_at"] - banned["last_event_at"]).total_seconds()
    record_property("ban_of_3_seconds_ended_after", waited)
    assert waited >= 3
    assert back["retry_at"] is None
    assert (session.counted("failures"), session.counted("logins")) == (1, 1)


def test_a_phone_that_removes_the_device_logs_it_out(session: Session) -> None:
    session.connect()
    session.deployment.phones.call("unlink", {"jid": session.jid})

    session.assert_ending(Ending("logged_out", "phone-unlinked", "connect", False, 1))

    for _ in range(5):
        session.poll()
    assert (session.counted("logins"), session.counted("failures")) == (1, 0)
    answer = session.deployment.service.post("restore", company_id=session.company_id)
    assert answer.status == 422
    assert answer.json()["error"]["code"] == "nothing-saved"


def test_a_device_removed_while_we_were_away_is_logged_out(session: Session) -> None:
    session.connect()
    service = session.deployment.service
    service.post("disconnect", company_id=session.company_id)
    jid = session.jid
    gone = session.deployment.phones
    assert wait_for(lambda: not any_connected(gone, jid), 20)
    gone.call("unlink", {"jid": jid})
    service.post("connect", company_id=session.company_id, method="qr")
    session.assert_ending(OUT)


def any_connected(phones: SandboxAdmin, jid: str) -> bool:
    return any(
        device["connected"]
        for phone in phones.call("state")["phones"]
        for device in phone["devices"]
        if device["jid"] == jid
    )


@pytest.mark.parametrize("code", [503, 500, 516, 515, "cut"])
def test_a_broken_stream_comes_back_by_itself(session: Session, code: int | str) -> None:
    session.connect()
    if code == "cut":
        session.deployment.phones.call("cut", {"jid": session.jid})
    else:
        session.deployment.phones.call("stream-error", {"jid": session.jid, "code": code})

    assert wait_for(lambda: session.counted("logins") == 2, 30), session.transitions()
    shown = session.deployment.await_status(session.company_id, "connected")
    row = session.deployment.await_row(session.company_id, status="connected")
    assert (shown["reason"], shown["user_action"]) == ("online", "none")
    assert (row["reason"], row["user_action"], row["degraded"]) == ("online", "none", False)
    passed = session.transitions()[2:]  # after restoring and online
    back = ("connected", "online")
    # whatsmeow reports no loss for 515: it reconnects inside, and only says that it is back
    expected = [back] if code == 515 else [("connecting", "network-lost"), back]
    assert passed == expected
    assert session.deployment.folders.has_credentials(session.company_id)
    assert session.counted("max_simultaneous") == 1


def test_a_replaced_stream_yields_retries_once_then_waits_for_a_person(session: Session) -> None:
    session.connect()
    phones = session.deployment.phones
    replaced_at = datetime.now(UTC)
    phones.call("replace", {"jid": session.jid})

    row = session.deployment.await_row(
        session.company_id, 20, status="disconnected", reason="stream-replaced"
    )
    assert row["user_action"] == "wait"
    assert row["retry_at"] >= replaced_at + timedelta(seconds=REPLACED_RETRY_SECONDS)
    shown = session.poll()
    assert (shown["status"], shown["reason"]) == ("disconnected", "stream-replaced")
    assert session.counted("logins") == 1
    session.deployment.await_row(session.company_id, 20, status="connected")
    assert session.counted("logins") == 2

    phones.call("replace", {"jid": session.jid})
    ending = Ending("disconnected", "stream-replaced", "retry", True, 2)
    final = session.assert_ending(ending)
    assert final["retry_at"] is None
    for _ in range(10):
        assert session.poll() == final
    assert session.counted("logins") == 2

    session.deployment.service.post("restore", company_id=session.company_id)
    session.deployment.await_status(session.company_id, "connected")
    assert session.counted("max_simultaneous") == 1


def test_a_second_login_elsewhere_is_a_replacement(session: Session) -> None:
    """Every status that follows is the truth: nobody fights for the device."""
    session.connect()
    session.deployment.phones.call("replace", {"jid": session.jid})
    answer = session.deployment.service.post(
        "messages/send",
        company_id=session.company_id,
        to="+5511987654321",
        type="text",
        text="hello",
    )
    assert answer.status in (422, 503), answer.content
    if answer.status == 422:
        error = answer.json()["error"]
        assert error["code"] == "session-not-connected"
        assert error["expected"] == ["connected"]
        assert error["status"] == "disconnected"

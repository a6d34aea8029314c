"""From neonize's messages to the domain's events."""

from types import SimpleNamespace
from typing import Any

import pytest

from crm_whatsapp.domain import events
from crm_whatsapp.engine.event_translation import (
    SUBSCRIBED_CODES,
    device_fields,
    domain_event,
    ended_fields,
    event_frame,
    jid_text,
    translate,
    translate_login_status,
)
from crm_whatsapp.engine.frames import Frame, FrameError, decode, encode


def jid(user: str = "5511900000001", server: str = "s.whatsapp.net", device: int = 7) -> Any:
    return SimpleNamespace(User=user, Server=server, Device=device, IsEmpty=not user)


DEVICE = device_fields(
    SimpleNamespace(
        JID=jid(), LID=jid("77", "lid", 7), PushName="", Platform="android", Initialized=True
    )
)


def through_the_pipe(name: str, fields: dict[str, Any]) -> events.EngineEvent:
    return domain_event(decode(encode(event_frame("c-1", 3, name, fields))))


def translated(code: int, **message: Any) -> events.EngineEvent:
    return through_the_pipe(*translate(code, SimpleNamespace(**message), DEVICE))


def test_jids_are_written_as_whatsmeow_does() -> None:
    assert jid_text(jid()) == "5511900000001:7@s.whatsapp.net"
    assert jid_text(jid(device=0)) == "5511900000001@s.whatsapp.net"
    assert jid_text(jid(user="")) is None


def test_connected_carries_the_device() -> None:
    assert translated(3) == events.ClientConnected(
        company_id="c-1",
        generation=3,
        jid="5511900000001:7@s.whatsapp.net",
        lid="77:7@lid",
        push_name=None,
    )


def test_connected_without_a_device_event() -> None:
    event = through_the_pipe(*translate(3, SimpleNamespace(), {}))
    assert event == events.ClientConnected(company_id="c-1", generation=3)


@pytest.mark.parametrize(
    ("on_connect", "reason", "code"),
    [(True, 2, 401), (True, 4, 403), (True, 5, 406), (False, 2, 0)],
)
def test_logged_out_codes(on_connect: bool, reason: int, code: int) -> None:
    event = translated(6, OnConnect=on_connect, Reason=reason)
    assert event == events.LoggedOut(
        company_id="c-1", generation=3, on_connect=on_connect, code=code
    )


@pytest.mark.parametrize(("expire", "seconds"), [(3600, 3600.0), (0, None)])
def test_temporary_ban(expire: int, seconds: float | None) -> None:
    event = translated(8, Code=5, Expire=expire)
    assert event == events.TemporarilyBanned(
        company_id="c-1", generation=3, code=106, expires_in_seconds=seconds
    )


def test_connect_failure() -> None:
    event = translated(9, Reason=7, Message="bad user agent")
    assert event == events.ConnectFailed(
        company_id="c-1", generation=3, code=409, detail="bad user agent"
    )


def test_pairing_succeeded_and_failed() -> None:
    succeeded = translated(2, Status=2, ID=jid(), Platform="iphone", Error="")
    assert succeeded == events.PairingSucceeded(
        company_id="c-1",
        generation=3,
        jid="5511900000001:7@s.whatsapp.net",
        lid="77:7@lid",
        platform="iphone",
    )
    failed = translated(2, Status=1, ID=jid(), Platform="", Error="invalid signature")
    assert failed == events.PairingFailed(
        company_id="c-1", generation=3, detail="invalid signature"
    )


@pytest.mark.parametrize(
    ("code", "message", "kind"),
    [
        (4, {"ErrorCount": 2}, events.KeepAliveTimedOut),
        (5, {}, events.KeepAliveRestored),
        (7, {}, events.StreamReplaced),
        (10, {}, events.ClientOutdated),
        (11, {"Code": "516"}, events.StreamErrored),
        (12, {}, events.ClientDisconnected),
    ],
)
def test_the_others(code: int, message: dict[str, Any], kind: type[events.EngineEvent]) -> None:
    assert isinstance(translated(code, **message), kind)


def test_every_subscribed_code_is_translated() -> None:
    assert SUBSCRIBED_CODES == (2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 17, 18)


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("timeout", events.PairingExpired),
        ("error", events.PairingFailed),
        ("err-client-outdated", events.ClientOutdated),
        ("err-unexpected-state", events.PairingFailed),
        ("passkey-request", events.PairingFailed),
        ("something new", events.PairingFailed),
    ],
)
def test_login_status(word: str, kind: type[events.EngineEvent]) -> None:
    translation = translate_login_status(word)
    assert translation is not None
    assert isinstance(through_the_pipe(*translation), kind)


def test_success_needs_no_word() -> None:
    assert translate_login_status("success") is None


@pytest.mark.parametrize(
    ("error", "unreachable", "corrupt"),
    [
        ("failed to dial whatsapp web websocket: dial tcp: lookup web.whatsapp.com", True, False),
        ('failed to WebSocket dial: Get "https://web.whatsapp.com": EOF', True, False),
        ("proxyconnect tcp: dial tcp 127.0.0.1:9: connect: connection refused", True, False),
        ("context deadline exceeded", True, False),
        ("noise handshake failed: websocket closed", False, False),
        ("failed to upgrade database: file is not a database", False, True),
        ("database disk image is malformed", False, True),
        ("proto: required field neonize.ConnectFailure.Reason not set", False, False),
        ("", False, False),
    ],
)
def test_the_end_of_a_client_is_classified(error: str, unreachable: bool, corrupt: bool) -> None:
    event = through_the_pipe("ClientEnded", ended_fields(error))
    assert isinstance(event, events.ClientEnded)
    assert (event.unreachable, event.store_corrupt, event.locked) == (unreachable, corrupt, False)
    assert event.detail


def test_an_unknown_failure_code_is_said_to_be_one() -> None:
    fields = ended_fields("proto: required field neonize.ConnectFailure.Reason not set")
    assert "failure code" in fields["detail"]


def test_a_receipt_of_an_unknown_type_ends_the_client_and_is_nobodys_fault() -> None:
    fields = ended_fields("proto: required field neonize.Receipt.Type not set")
    assert fields["gave_up"] is True
    assert "does not know" in fields["detail"]
    assert (
        ended_fields("proto: required field neonize.ConnectFailure.Reason not set")["gave_up"]
        is False
    )


def test_a_locked_session() -> None:
    assert ended_fields("", locked=True)["locked"] is True


def frame(**changes: Any) -> Frame:
    return {
        **event_frame("c-1", 3, "QrIssued", {"value": "x", "expires_in_seconds": 60}),
        **changes,
    }


def test_whole_numbers_pass_for_durations() -> None:
    event = domain_event(frame())
    assert event == events.QrIssued(
        company_id="c-1", generation=3, value="x", expires_in_seconds=60
    )


@pytest.mark.parametrize(
    "bad",
    [
        frame(event="PollArrived"),
        frame(event="os.system"),
        frame(fields=None),
        frame(fields={"value": "x"}),
        frame(fields={"value": ["x"], "expires_in_seconds": 60}),
        frame(fields={"value": "x", "expires_in_seconds": True}),
        frame(fields={"value": "x", "expires_in_seconds": 60, "generation": 99, "extra": 1}),
        frame(company_id=1),
        frame(generation="3"),
    ],
)
def test_what_is_no_event_is_refused(bad: Frame) -> None:
    with pytest.raises(FrameError):
        domain_event(bad)


def test_fields_cannot_change_whose_event_it_is() -> None:
    fields = {"value": "x", "expires_in_seconds": 60, "company_id": "other", "generation": 99}
    event = domain_event(frame(fields=fields))
    assert (event.company_id, event.generation) == ("c-1", 3)

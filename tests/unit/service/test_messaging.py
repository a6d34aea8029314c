"""Sends: they wait a moment for a session, never for ever, and leave no place taken."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from crm_whatsapp.domain import events
from crm_whatsapp.domain.connection import ClientPhase, Reason, Status
from crm_whatsapp.domain.engines import SentMessage
from crm_whatsapp.domain.errors import (
    EngineUnavailable,
    InvalidInput,
    SendRejected,
    SendUnconfirmed,
    ServiceBusy,
    SessionNotConnected,
)
from crm_whatsapp.service.messaging import Messaging, SendLimits
from tests.unit.service.fakes import DEADLINE_SECONDS
from tests.unit.service.pod import COMPANY, OTHER, Pod

TO = "+5511999999999"
SENT = SentMessage(whatsapp_id="3EB0", server_timestamp_seconds=1)


def messaging(pod: Pod, **limits: float) -> Messaging:
    values: dict[str, float] = {"connect_wait_seconds": DEADLINE_SECONDS} | limits
    return Messaging(manager=pod.manager, fleet=pod.fleet, limits=SendLimits(**values))  # type: ignore[arg-type]


def send(service: Messaging, company_id: str = COMPANY) -> SentMessage:
    return service.send_text(company_id, to=TO, text="hello")


def free_places(service: Messaging) -> tuple[int, int]:
    return service._places._value, len(service._per_company)


def test_a_send_returns_what_whatsapp_acknowledged(pod: Pod) -> None:
    pod.connect_saved()
    pod.fleet.send_results = [SENT]
    assert send(messaging(pod)) == SENT


def test_a_waiting_send_wakes_when_the_session_connects(pod: Pod) -> None:
    pod.folders.save(COMPANY)
    pod.fleet.answer_starts = False
    pod.fleet.send_results = [SENT]
    service = messaging(pod)
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(send, service)
        pod.fleet.await_order("start", COMPANY, 1)
        pod.fleet.connected(COMPANY, 1)
        assert sending.result(DEADLINE_SECONDS) == SENT


def test_a_session_in_a_wrong_state_is_told_at_once_with_everything_a_crm_needs(pod: Pod) -> None:
    pod.connect_saved()
    pod.manager.disconnect(COMPANY)
    pod.settle()
    with pytest.raises(SessionNotConnected) as caught:
        send(messaging(pod))
    assert "Please reconnect the session." in caught.value.message
    assert caught.value.details == {
        "status": "disconnected",
        "reason": "stopped",
        "expected": ["connected"],
        "user_action": "connect",
    }


def test_a_session_that_changes_its_engine_is_not_called_disconnected(pod: Pod) -> None:
    pod.connect_saved()
    pod.fleet.answer_stops = False
    pod.fleet.emit(events.HandoverRequested(company_id=COMPANY, generation=1))
    assert pod.settle().client is ClientPhase.HANDOVER
    with pytest.raises(ServiceBusy, match="another engine"):
        send(messaging(pod, connect_wait_seconds=0.01))


def test_a_session_that_does_not_come_back_in_time(pod: Pod) -> None:
    pod.folders.save(COMPANY)
    pod.fleet.answer_starts = False
    service = messaging(pod, connect_wait_seconds=0.01)
    with pytest.raises(SessionNotConnected) as caught:
        send(service)
    assert caught.value.details["status"] == "connecting"
    assert free_places(service) == (8, 0)


@pytest.mark.parametrize(
    "error",
    [
        SendRejected("WhatsApp refused the message: user not found"),
        SendRejected("WhatsApp refused the message: the group is closed"),
        SendUnconfirmed("websocket closed before the answer"),
        EngineUnavailable(),
    ],
)
def test_an_answer_of_whatsapp_is_no_sign_of_a_dead_session(pod: Pod, error: Exception) -> None:
    """A wrong number must not cost the company its connection."""
    pod.connect_saved()
    pod.fleet.send_results = [error]
    service = messaging(pod)
    with pytest.raises(type(error)):
        send(service)
    told = pod.settle()
    assert told.is_connected
    assert told.generation == 1
    assert free_places(service) == (8, 0)


def test_a_client_that_is_gone_in_its_engine_is_rebuilt(pod: Pod) -> None:
    pod.connect_saved()
    pod.fleet.answer_stops = False
    pod.fleet.send_results = [SessionNotConnected()]
    with pytest.raises(SessionNotConnected) as caught:
        send(messaging(pod))
    assert caught.value.details["expected"] == ["connected"]
    told = pod.settle()
    assert (told.status, told.reason) == (Status.CONNECTING, Reason.NETWORK_LOST)
    pod.fleet.stopped(COMPANY, 1)
    assert pod.await_status(Status.CONNECTED).generation == 2


def test_a_bad_recipient_takes_no_place(pod: Pod) -> None:
    service = messaging(pod)
    with pytest.raises(InvalidInput):
        service.send_text(COMPANY, to="nobody", text="hello")
    assert free_places(service) == (8, 0)


def test_an_unknown_company_leaves_no_trace(pod: Pod) -> None:
    with pytest.raises(SessionNotConnected):
        send(messaging(pod))
    assert pod.manager.connections() == []


def test_one_company_cannot_take_all_places(pod: Pod) -> None:
    pod.connect_saved()
    pod.connect_saved(OTHER)
    service = messaging(pod, ack_wait_seconds=DEADLINE_SECONDS)
    acks = hold_acks(pod)
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(send, service) for _ in range(4)]
        pod.fleet.signal.wait_until(lambda: len(acks) == 4, "four sends under way")
        with pytest.raises(ServiceBusy, match="of this company"):
            send(service)
        other = pool.submit(send, service, OTHER)
        pod.fleet.signal.wait_until(lambda: len(acks) == 5, "the other company's send")
        for ack in acks:
            ack.set_result(SENT)
        assert [item.result(DEADLINE_SECONDS) for item in [*waiting, other]] == [SENT] * 5
    assert free_places(service) == (8, 0)


def hold_acks(pod: Pod) -> list[Future[SentMessage]]:
    """Have sends wait until their future is completed by the test."""
    acks: list[Future[SentMessage]] = []
    original: Callable[..., Future[SentMessage]] = pod.fleet.send_text

    def held(*args: object, **kwargs: object) -> Future[SentMessage]:
        future = original(*args, **kwargs)
        with pod.fleet.signal:
            acks.append(future)
        return future

    pod.fleet.send_text = held  # type: ignore[method-assign]
    return acks

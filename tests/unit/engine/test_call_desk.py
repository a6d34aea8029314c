"""Calls with deadlines and limits."""

import queue
import threading
from typing import Any

import pytest

from crm_whatsapp.engine.alarm import Alarm
from crm_whatsapp.engine.call_desk import CallDesk, CallTimedOut, TooManyCalls
from crm_whatsapp.engine.call_results import logout_fields, probe_fields, send_fields
from crm_whatsapp.engine.start_gate import StartGate
from crm_whatsapp.engine.whatsapp_client import CallFailed, SendReceipt

WAIT_SECONDS = 5.0


@pytest.fixture
def gate() -> StartGate:
    return StartGate(alarm=Alarm("gate"), start_max_seconds=0.05, entry_max_seconds=0.01, dials=25)


@pytest.fixture
def desk(gate: StartGate) -> CallDesk:
    return CallDesk(gate=gate, alarm=Alarm("desk"), per_client=2, per_engine=3)


@pytest.fixture
def results() -> "queue.Queue[Any]":
    return queue.Queue()


def test_an_answer(desk: CallDesk, results: "queue.Queue[Any]") -> None:
    desk.call("c-1", lambda: 42, timeout_seconds=WAIT_SECONDS, done=results.put)
    assert results.get(timeout=WAIT_SECONDS) == 42


def test_an_error(desk: CallDesk, results: "queue.Queue[Any]") -> None:
    def fail() -> None:
        raise CallFailed("no")

    desk.call("c-1", fail, timeout_seconds=WAIT_SECONDS, done=results.put)
    assert isinstance(results.get(timeout=WAIT_SECONDS), CallFailed)


def test_a_hung_call_ends_in_time_holds_no_gate_and_is_counted(
    desk: CallDesk, gate: StartGate, results: "queue.Queue[Any]"
) -> None:
    hung = threading.Event()
    for _ in range(2):
        desk.call("c-1", hung.wait, timeout_seconds=0.05, done=results.put)
    for _ in range(2):
        assert isinstance(results.get(timeout=WAIT_SECONDS), CallTimedOut)
    gate.enter_write().release()
    desk.call("c-1", lambda: 1, timeout_seconds=1, done=results.put)
    assert isinstance(results.get(timeout=WAIT_SECONDS), TooManyCalls)
    desk.call("c-2", lambda: 2, timeout_seconds=WAIT_SECONDS, done=results.put)
    assert results.get(timeout=WAIT_SECONDS) == 2
    assert desk.hanging == 2
    hung.set()
    while desk._open.total() or desk.hanging:
        threading.Event().wait(0.005)
    desk.call("c-1", lambda: 3, timeout_seconds=WAIT_SECONDS, done=results.put)
    assert results.get(timeout=WAIT_SECONDS) == 3
    assert results.empty(), "late answers are dropped"


@pytest.mark.parametrize(
    ("result", "answered"),
    [
        (None, True),
        (CallFailed("info query returned status 404: item-not-found"), True),
        (CallFailed("websocket not connected"), False),
        (CallFailed("info query timed out"), False),
        (CallFailed("websocket disconnected before info query returned response"), False),
        (CallTimedOut("No answer in 10 s."), False),
    ],
)
def test_any_answer_of_the_server_proves_the_link(result: Any, answered: bool) -> None:
    assert probe_fields(result)["answered"] is answered


@pytest.mark.parametrize(
    ("result", "outcome", "dead"),
    [
        (CallFailed("server returned error 463"), "rejected", False),
        (CallFailed("timed out waiting for message send response"), "unconfirmed", False),
        (
            CallFailed("websocket disconnected before message send returned response"),
            "unconfirmed",
            False,
        ),
        (CallFailed("websocket not connected"), "not-connected", True),
        (CallFailed("the store doesn't contain a device JID"), "not-connected", True),
        (ConnectionError("The client is not connected."), "not-connected", False),
        (CallTimedOut("No answer in 10 s."), "unconfirmed", False),
        (ValueError("odd"), "unconfirmed", False),
    ],
)
def test_what_became_of_a_send(result: Any, outcome: str, dead: bool) -> None:
    fields = send_fields(result)
    assert (fields["outcome"], fields["dead"]) == (outcome, dead)


def test_a_sent_message() -> None:
    assert send_fields(SendReceipt(message_id="3EB0", server_timestamp_seconds=7)) == {
        "outcome": "sent",
        "whatsapp_id": "3EB0",
        "server_timestamp_seconds": 7,
    }


def test_logout() -> None:
    assert logout_fields(None)["succeeded"] is True
    assert logout_fields(CallFailed("websocket not connected"))["succeeded"] is False

"""How long a client is waited for, and by how many threads."""

import socket
import threading
from collections.abc import Iterator

import pytest

from crm_whatsapp.serving.client_socket import (
    Allowance,
    ClientSocket,
    ClientTerms,
    ClientTooSlow,
    WaitingRoom,
)

FOR_EVER = ClientTerms(patience_seconds=600)
NOT_AT_ALL = ClientTerms(patience_seconds=0.01)


def pair(terms: ClientTerms, room: WaitingRoom | None = None) -> tuple[ClientSocket, socket.socket]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(30)
    return ClientSocket(ours, terms, room or WaitingRoom(terms.most_waited_for)), theirs


@pytest.fixture(autouse=True)
def closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every socket of a test is closed after it."""
    opened: list[socket.socket] = []
    real = socket.socketpair

    def remembered() -> tuple[socket.socket, socket.socket]:
        both = real()
        opened.extend(both)
        return both

    monkeypatch.setattr(socket, "socketpair", remembered)
    yield
    for each in opened:
        each.close()


def test_patience_is_used_up_by_waiting_and_filled_up_by_bytes() -> None:
    allowance = Allowance(ClientTerms(patience_seconds=10, bytes_per_second=100))

    allowance.spend(9)
    assert allowance.left_seconds == 1
    allowance.earn(300)
    assert allowance.left_seconds == 4
    allowance.earn(1_000_000)
    assert allowance.left_seconds == 10


def test_nothing_is_waited_for_between_requests() -> None:
    ours, theirs = pair(FOR_EVER)
    with ours:
        with pytest.raises(BlockingIOError):
            ours.recv(10)
        theirs.sendall(b"hello")
        assert ours.recv(10) == b"hello"
        ours.begin_request()
        with ours.without_waiting(), pytest.raises(BlockingIOError):
            ours.recv(10)
        theirs.sendall(b"hello")
        with ours.without_receiving(), pytest.raises(BlockingIOError):
            ours.recv(10)
        assert ours.recv(10) == b"hello"
        ours.end_request()
        with pytest.raises(BlockingIOError):
            ours.recv(10)


def test_a_client_that_sends_nothing_is_too_slow() -> None:
    ours, _theirs = pair(NOT_AT_ALL)
    with ours:
        ours.begin_request()
        with pytest.raises(ClientTooSlow):
            ours.recv(10)
        assert not ours.is_given_up, "it may still be told so"


def test_a_client_that_takes_nothing_is_given_up() -> None:
    ours, _theirs = pair(NOT_AT_ALL)
    with ours:
        ours.begin_request()
        with pytest.raises(ClientTooSlow):
            ours.sendall(b"x" * 10_000_000)
        assert ours.is_given_up


def test_everything_is_sent_to_a_client_that_takes_it() -> None:
    ours, theirs = pair(FOR_EVER)
    received = bytearray()

    def take() -> None:
        while piece := theirs.recv(1000):
            received.extend(piece)

    taker = threading.Thread(target=take)
    taker.start()
    with ours:
        ours.begin_request()
        ours.sendall(b"x" * 3_000_000)
        assert ours.send(b"end") == 3
    taker.join(30)
    assert bytes(received) == b"x" * 3_000_000 + b"end"


def test_who_is_nearest_to_the_end_of_his_patience_goes_first() -> None:
    room = WaitingRoom(capacity=2)
    ends: dict[str, threading.Event] = {}
    waiting: list[ClientSocket] = []
    threads: list[threading.Thread] = []

    def wait_for(name: str, seconds: float) -> None:
        ours, _theirs = pair(ClientTerms(patience_seconds=seconds), room)
        ours.begin_request()
        waiting.append(ours)
        ends[name] = threading.Event()

        def receive() -> None:
            with pytest.raises(ClientTooSlow):
                ours.recv(1)
            ends[name].set()

        threads.append(threading.Thread(target=receive))
        threads[-1].start()

    wait_for("patient", 600)
    wait_for("short of patience", 300)
    wait_for("newcomer", 500)

    assert ends["short of patience"].wait(30)
    assert not ends["patient"].is_set()
    assert not ends["newcomer"].is_set()
    for ours in waiting:
        ours.give_up()
    for thread, ours in zip(threads, waiting, strict=True):
        thread.join(30)
        ours.close()
    assert all(end.is_set() for end in ends.values())

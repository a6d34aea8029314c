"""How much may be on its way, and when nothing comes any more."""

import threading
import time
from collections.abc import Callable

from crm_whatsapp.engine.inbound_flow import InboundFlow

WAIT_SECONDS = 10.0


def in_background(work: Callable[[], object]) -> threading.Event:
    done = threading.Event()

    def run() -> None:
        work()
        done.set()

    threading.Thread(target=run, daemon=True).start()
    return done


def is_held_back(done: threading.Event) -> bool:
    return not done.wait(0.05)


def test_so_many_may_be_on_their_way() -> None:
    flow = InboundFlow(most_events=2, most_characters=1000)
    flow.admit(1)
    flow.admit(1)
    third = in_background(lambda: flow.admit(1))
    assert is_held_back(third)
    flow.taken(1)
    assert third.wait(WAIT_SECONDS)


def test_so_much_text_may_be_on_its_way() -> None:
    flow = InboundFlow(most_events=100, most_characters=10)
    flow.admit(8)
    second = in_background(lambda: flow.admit(3))
    assert is_held_back(second)
    flow.taken(1)
    assert second.wait(WAIT_SECONDS)


def test_one_event_always_may() -> None:
    flow = InboundFlow(most_events=1, most_characters=10)
    flow.admit(1_000_000)
    second = in_background(lambda: flow.admit(1_000_000))
    assert is_held_back(second)
    flow.taken(1)
    assert second.wait(WAIT_SECONDS)
    flow.taken(7)  # more than there are
    flow.admit(5)


def test_nothing_is_held_back_from_a_client_that_stops() -> None:
    flow = InboundFlow(most_events=1)
    flow.admit(1)
    second = in_background(lambda: flow.admit(1))
    assert is_held_back(second)
    flow.open()
    assert second.wait(WAIT_SECONDS)
    flow.admit(1)


def test_quiet_is_when_nothing_has_been_heard_for_a_while() -> None:
    flow = InboundFlow()
    begun = time.monotonic()
    assert flow.wait_quiet(0.05, WAIT_SECONDS)
    assert time.monotonic() - begun >= 0.05


def test_it_is_not_quiet_while_an_event_is_handled() -> None:
    flow = InboundFlow()
    handled = threading.Event()

    def handle() -> None:
        with flow.hearing():
            handled.wait(WAIT_SECONDS)

    handling = in_background(handle)
    quiet = in_background(lambda: flow.wait_quiet(0.01, WAIT_SECONDS))
    assert is_held_back(quiet)
    handled.set()
    assert handling.wait(WAIT_SECONDS)
    assert quiet.wait(WAIT_SECONDS)


def test_a_client_that_is_never_quiet_is_not_waited_for() -> None:
    flow = InboundFlow()
    with flow.hearing():
        assert flow.wait_quiet(0.01, 0.05) is False

"""The thread on which the fleet is decided."""

import queue

from crm_whatsapp.engine.control_loop import ControlLoop

WAIT_SECONDS = 5.0


def test_calls_run_in_order_and_a_failing_one_harms_nobody() -> None:
    loop = ControlLoop("test-loop")
    done: queue.Queue[int] = queue.Queue()
    loop.post(lambda: done.put(1))
    loop.post(lambda: 1 // 0)
    loop.post(lambda: done.put(2))
    assert [done.get(timeout=WAIT_SECONDS) for _ in range(2)] == [1, 2]
    loop.end(WAIT_SECONDS)


def test_timers_ring_in_the_order_of_their_time_unless_cancelled() -> None:
    loop = ControlLoop("test-loop")
    done: queue.Queue[str] = queue.Queue()
    loop.call_in(0.06, lambda: done.put("late"))
    loop.call_in(0.02, lambda: done.put("cancelled")).cancel()
    loop.call_in(0.03, lambda: done.put("early"))
    assert [done.get(timeout=WAIT_SECONDS) for _ in range(2)] == ["early", "late"]
    assert done.empty()
    loop.end(WAIT_SECONDS)


def test_what_was_posted_before_the_end_is_done() -> None:
    loop = ControlLoop("test-loop")
    done: queue.Queue[int] = queue.Queue()
    for number in range(100):
        loop.post(lambda number=number: done.put(number))  # type: ignore[misc]
    loop.end(WAIT_SECONDS)
    assert done.qsize() == 100

"""The lock, the turns, the slots."""

import threading

import pytest

from crm_whatsapp.engine.alarm import Alarm
from crm_whatsapp.engine.start_gate import DialSlots, ReadersWriterLock, StartGate
from service_process import wait_for

WAIT_SECONDS = 5.0


def in_thread(function: object) -> threading.Event:
    """Run on a thread; the event tells that it is through."""
    through = threading.Event()

    def run() -> None:
        function()  # type: ignore[operator]
        through.set()

    threading.Thread(target=run, daemon=True).start()
    return through


def waiting(lock: ReadersWriterLock, *, readers: int = 0, writers: int = 0) -> None:
    wanted = (readers, writers)
    assert wait_for(
        lambda: (lock._readers_waiting, lock._writers_waiting) == wanted,
        WAIT_SECONDS,
        pause_seconds=0.001,
    ), "nobody waits"


def test_readers_share() -> None:
    lock = ReadersWriterLock()
    lock.acquire_read()
    assert in_thread(lock.acquire_read).wait(WAIT_SECONDS)


def test_a_writer_waits_for_readers_and_is_alone() -> None:
    lock = ReadersWriterLock()
    lock.acquire_read()
    writer = in_thread(lock.acquire_write)
    waiting(lock, writers=1)
    assert not writer.is_set()
    lock.release_read()
    assert writer.wait(WAIT_SECONDS)
    second = in_thread(lock.acquire_write)
    reader = in_thread(lock.acquire_read)
    waiting(lock, readers=1, writers=1)
    assert not second.is_set()
    assert not reader.is_set()


def test_a_waiting_writer_goes_before_new_readers() -> None:
    lock = ReadersWriterLock()
    lock.acquire_read()
    writer = in_thread(lock.acquire_write)
    waiting(lock, writers=1)
    reader = in_thread(lock.acquire_read)
    waiting(lock, readers=1, writers=1)
    lock.release_read()
    assert writer.wait(WAIT_SECONDS)
    assert not reader.is_set()
    lock.release_write()
    assert reader.wait(WAIT_SECONDS)


def test_readers_that_waited_go_before_the_next_writer() -> None:
    lock = ReadersWriterLock()
    lock.acquire_write()
    readers = [in_thread(lock.acquire_read) for _ in range(3)]
    waiting(lock, readers=3)
    writer = in_thread(lock.acquire_write)
    waiting(lock, readers=3, writers=1)
    lock.release_write()
    assert all(reader.wait(WAIT_SECONDS) for reader in readers)
    assert not writer.is_set()
    for _ in readers:
        lock.release_read()
    assert writer.wait(WAIT_SECONDS)


def test_a_storm_keeps_writers_alone_and_starves_nobody() -> None:
    lock = ReadersWriterLock()
    inside = {"readers": 0, "writers": 0}
    guard = threading.Lock()
    faults: list[str] = []
    done = {"reads": 0, "writes": 0}

    def enter(kind: str, change: int) -> None:
        with guard:
            inside[kind] += change
            if inside["writers"] > 1 or (inside["writers"] and inside["readers"]):
                faults.append(str(inside))

    def read() -> None:
        for _ in range(300):
            lock.acquire_read()
            enter("readers", 1)
            enter("readers", -1)
            lock.release_read()
        done["reads"] += 1

    def write() -> None:
        for _ in range(300):
            lock.acquire_write()
            enter("writers", 1)
            enter("writers", -1)
            lock.release_write()
        done["writes"] += 1

    through = [in_thread(read) for _ in range(4)] + [in_thread(write) for _ in range(3)]
    assert all(event.wait(30) for event in through), done
    assert faults == []


@pytest.fixture
def alarm() -> Alarm:
    return Alarm("test-alarm")


def make_gate(alarm: Alarm, start_max_seconds: float = 60, entry: float = 60) -> StartGate:
    return StartGate(
        alarm=alarm, start_max_seconds=start_max_seconds, entry_max_seconds=entry, dials=25
    )


def test_a_turn_is_released_once_by_whoever_is_first(alarm: Alarm) -> None:
    gate = make_gate(alarm)
    turn = gate.enter_write()
    turn.release()
    other = gate.enter_write()
    turn.release()  # late: must not give away the other's turn
    third = in_thread(gate.enter_write)
    waiting(gate._lock, writers=1)
    assert not third.is_set()
    other.release()
    assert third.wait(WAIT_SECONDS)


def test_a_start_loses_the_write_side_in_time(alarm: Alarm) -> None:
    gate = make_gate(alarm, start_max_seconds=0.02)
    gate.enter_write().begin()
    assert in_thread(gate.enter_write).wait(WAIT_SECONDS)


def test_the_clock_of_a_turn_starts_with_begin(alarm: Alarm) -> None:
    gate = make_gate(alarm, start_max_seconds=0.0)
    turn = gate.enter_write()
    follower = in_thread(gate.enter_read)
    assert not follower.wait(0.05)
    turn.begin()
    assert follower.wait(WAIT_SECONDS)


def test_a_call_loses_the_read_side_in_time(alarm: Alarm) -> None:
    gate = make_gate(alarm, entry=0.02)
    gate.enter_read().begin()
    assert in_thread(gate.enter_write).wait(WAIT_SECONDS)


def test_slots_are_limited_and_the_limit_can_change() -> None:
    slots = DialSlots(1)
    first = slots.acquire()
    second = in_thread(slots.acquire)
    assert not second.wait(0.05)
    slots.set_limit(2)
    assert second.wait(WAIT_SECONDS)
    third = in_thread(slots.acquire)
    assert not third.wait(0.05)
    first.release()
    first.release()  # twice is once
    assert third.wait(WAIT_SECONDS)
    assert not in_thread(slots.acquire).wait(0.05)

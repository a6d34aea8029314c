"""What a client hears, on its way: written down, few at a time, and passed on after a kill."""

import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crm_whatsapp.engine.inbound_flow import InboundFlow
from crm_whatsapp.engine.inbound_spool import FILE_NAME, InboundSpool

WAIT_SECONDS = 10.0


class Road:
    """A flow, and what came out of it."""

    def __init__(self, folder: Path, **bounds: int) -> None:
        self.path = folder / FILE_NAME
        self.sent: list[Any] = []
        self.flow = InboundFlow(
            InboundSpool(self.path), lambda name, fields: self.sent.append(fields["n"]), **bounds
        )

    def put(self, *numbers: Any) -> None:
        for number in numbers:
            self.flow.put("MessageArrived", {"n": number})


def in_background(work: Callable[[], object]) -> threading.Event:
    done = threading.Event()

    def run() -> None:
        work()
        done.set()

    threading.Thread(target=run, daemon=True).start()
    return done


def is_held_back(done: threading.Event) -> bool:
    return not done.wait(0.05)


def test_so_many_are_on_their_way_and_nobody_waits(tmp_path: Path) -> None:
    road = Road(tmp_path, most_events=2)
    road.put(1, 2, 3, 4, 5)
    assert road.sent == [1, 2]
    road.flow.taken(1)
    assert road.sent == [1, 2, 3]
    road.flow.taken(2)
    assert road.sent == [1, 2, 3, 4, 5]
    road.flow.taken(2)
    road.put(6)
    assert road.sent == [1, 2, 3, 4, 5, 6]
    road.flow.taken(9)  # more than there are


def test_so_much_is_on_its_way_and_one_always_may(tmp_path: Path) -> None:
    road = Road(tmp_path, most_bytes=100)
    road.put("a" * 300, "b" * 60, "c" * 60)
    assert [text[0] for text in road.sent] == ["a"]
    road.flow.taken(1)
    assert [text[0] for text in road.sent] == ["a", "b"]
    road.flow.taken(1)
    assert [text[0] for text in road.sent] == ["a", "b", "c"]


def test_there_is_a_file_while_something_is_to_be_told(tmp_path: Path) -> None:
    road = Road(tmp_path)
    assert not road.path.exists()
    road.put("öffnen \ud800\x00")
    assert stat.S_IMODE(road.path.stat().st_mode) == 0o600
    descriptors = len(os.listdir("/proc/self/fd"))
    road.flow.taken(1)
    assert not road.path.exists()
    assert len(os.listdir("/proc/self/fd")) == descriptors - 1
    road.put(2)
    assert road.path.exists()


def test_what_was_not_told_before_a_kill_is_passed_on_after_it(tmp_path: Path) -> None:
    killed = Road(tmp_path, most_events=3)
    killed.put(*range(10))
    killed.flow.taken(2)
    next_one = Road(tmp_path, most_events=4)
    next_one.flow.recover()
    assert next_one.sent == [2, 3, 4, 5]
    next_one.put("new")
    next_one.flow.taken(4)
    next_one.flow.taken(4)
    assert next_one.sent == [*range(2, 10), "new"]
    next_one.flow.taken(1)
    assert not next_one.path.exists()


def test_after_many_told_and_a_clean_end_nothing_is_left(tmp_path: Path) -> None:
    road = Road(tmp_path)
    road.put(*range(1000))
    for _ in range(1000):
        road.flow.taken(1)
    assert road.sent == list(range(1000))
    road.flow.close()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_record_that_a_kill_cut_off_is_left_out(tmp_path: Path, cut: int) -> None:
    Road(tmp_path, most_events=1).put("one", "two", "three")
    with (tmp_path / FILE_NAME).open("r+b") as file:
        file.truncate(file.seek(0, 2) - cut)
    road = Road(tmp_path)
    road.flow.recover()
    road.put("four")
    assert road.sent in (["one", "two", "four"], ["one", "four"])


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"garbage", b"x" * 100, b"%020d\n" % 21, b"\x00" * 21]
)
def test_a_file_without_records_is_removed(tmp_path: Path, content: bytes) -> None:
    road = Road(tmp_path)
    road.path.write_bytes(content)
    road.flow.recover()
    assert road.sent == []
    assert not road.path.exists()
    road.put(1)
    assert road.sent == [1]


def test_a_record_that_cannot_be_read_holds_up_none_behind_it(tmp_path: Path) -> None:
    Road(tmp_path, most_events=1).put(1, 2, 3)
    path = tmp_path / FILE_NAME
    path.write_bytes(path.read_bytes().replace(b'{"n":2}', b"n=2 {{{"))
    road = Road(tmp_path, most_events=1)
    road.flow.recover()
    road.flow.taken(1)
    assert road.sent == [1, 3]
    road.flow.taken(1)
    assert not path.exists()


def test_a_large_record_of_an_earlier_process(tmp_path: Path) -> None:
    Road(tmp_path).put("x" * 3_000_000, "after")
    road = Road(tmp_path)
    road.flow.recover()
    road.flow.taken(1)
    assert [len(text) for text in road.sent] == [3_000_000, 5]


def test_a_full_file_holds_back(tmp_path: Path) -> None:
    road = Road(tmp_path, most_events=1, most_spooled_bytes=200)
    road.put("a" * 60, "b" * 20)
    third = in_background(lambda: road.put("c" * 60))
    assert is_held_back(third)
    road.flow.taken(1)
    assert is_held_back(third)
    road.flow.taken(1)
    assert third.wait(WAIT_SECONDS)
    assert [text[0] for text in road.sent] == ["a", "b", "c"]


def test_a_full_file_holds_nothing_back_from_a_client_that_ends(tmp_path: Path) -> None:
    road = Road(tmp_path, most_events=1, most_spooled_bytes=200)
    road.put("a" * 60, "b" * 20)
    third = in_background(lambda: road.put("c" * 60))
    assert is_held_back(third)
    road.flow.open()
    assert third.wait(WAIT_SECONDS)
    assert [text[0] for text in road.sent] == ["a", "b", "c"]


def test_without_a_disk_one_event_is_held_back(tmp_path: Path) -> None:
    road = Road(tmp_path / "no such folder", most_events=2)
    road.put(1, 2)
    third = in_background(lambda: road.put(3))
    assert is_held_back(third)
    road.flow.taken(1)
    assert third.wait(WAIT_SECONDS)
    assert road.sent == [1, 2, 3]
    (tmp_path / "no such folder").mkdir()
    road.put(4)
    assert road.path.exists()
    road.flow.taken(2)
    assert road.sent == [1, 2, 3, 4]
    road.flow.taken(1)
    assert not road.path.exists()


def test_a_link_in_the_place_of_the_file_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine")
    road = Road(tmp_path)
    road.path.symlink_to(elsewhere)
    road.flow.recover()
    road.put(1)
    assert road.sent == [1]
    assert elsewhere.read_text() == "mine"


def test_it_is_drained_when_nothing_comes_and_all_is_told(tmp_path: Path) -> None:
    road = Road(tmp_path, most_events=1)
    road.put(1, 2, 3)
    drained = in_background(lambda: road.flow.drain(0.05, WAIT_SECONDS))
    assert is_held_back(drained)
    assert road.sent == [1, 2, 3]
    road.flow.taken(2)
    assert is_held_back(drained)
    road.flow.taken(1)
    assert drained.wait(WAIT_SECONDS)


def test_quiet_is_when_nothing_has_been_heard_for_a_while(tmp_path: Path) -> None:
    begun = time.monotonic()
    assert Road(tmp_path).flow.drain(0.05, WAIT_SECONDS)
    assert time.monotonic() - begun >= 0.05


def test_it_is_not_quiet_while_an_event_is_handled(tmp_path: Path) -> None:
    flow = Road(tmp_path).flow
    handled = threading.Event()

    def handle() -> None:
        with flow.hearing():
            handled.wait(WAIT_SECONDS)

    handling = in_background(handle)
    drained = in_background(lambda: flow.drain(0.01, WAIT_SECONDS))
    assert is_held_back(drained)
    handled.set()
    assert handling.wait(WAIT_SECONDS)
    assert drained.wait(WAIT_SECONDS)


def test_what_is_not_told_in_time_is_left_for_the_next_client(tmp_path: Path) -> None:
    road = Road(tmp_path)
    road.put(1)
    assert road.flow.drain(0.01, 0.05) is False
    road.flow.close()
    road.flow.taken(1)
    road.flow.close()
    next_one = Road(tmp_path)
    next_one.flow.recover()
    assert next_one.sent == [1]


def test_a_client_that_ended_before_it_began_opens_nothing(tmp_path: Path) -> None:
    Road(tmp_path).put(1)
    road = Road(tmp_path)
    road.flow.close()
    road.flow.recover()
    assert road.sent == []

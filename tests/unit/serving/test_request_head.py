"""When a request's head is there, whatever pieces it comes in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crm_whatsapp.serving.request_head import MOST_HEAD_BYTES, HeadState, RequestHead

HEAD = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def states(*pieces: bytes) -> list[HeadState]:
    head = RequestHead()
    return [head.add(piece) for piece in pieces]


def test_a_head_is_ready_with_its_last_byte() -> None:
    *before, last = states(*(bytes([byte]) for byte in HEAD))

    assert set(before) == {HeadState.INCOMPLETE}
    assert last is HeadState.READY


def test_what_came_with_it_is_kept() -> None:
    head = RequestHead()

    assert head.add(HEAD + b"body") is HeadState.READY
    assert head.take() == HEAD + b"body"
    assert not head
    assert head.add(HEAD[:5]) is HeadState.INCOMPLETE


@pytest.mark.parametrize("sent", [b"G\n", b"GET / HTTP/1.1\n", b"GET / HTTP/1.1\r\nA: b\n", b"\n"])
def test_a_bare_line_feed_ends_it(sent: bytes) -> None:
    assert states(sent) == [HeadState.READY]
    assert states(*(bytes([byte]) for byte in sent))[-1] is HeadState.READY


def test_it_does_not_grow_without_end() -> None:
    head = RequestHead()
    taken = 0
    while (room := head.room()) and head.add(b"x" * room) is HeadState.INCOMPLETE:
        taken += room

    assert taken + room == MOST_HEAD_BYTES + 1
    assert head.add(b"x") is HeadState.READY


def test_the_end_of_the_connection_is_the_end() -> None:
    assert states(HEAD[:7], b"")[-1] is HeadState.GONE


@given(
    sent=st.text(alphabet="a\r\n", max_size=30).map(str.encode),
    cuts=st.lists(st.integers(0, 30), max_size=10),
)
def test_the_pieces_do_not_matter(sent: bytes, cuts: list[int]) -> None:
    """It is ready after the first byte at which the whole, looked at at once, is."""
    head, after = RequestHead(), 0
    for begin, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(sent)], strict=True):
        piece = sent[begin:end]
        if piece and head.add(piece) is HeadState.READY:
            after = end
            break
    ends = [end for end in range(1, len(sent) + 1) if looks_ready(sent[:end])]

    assert bool(after) == bool(ends)
    assert not after or after >= ends[0]


def looks_ready(sent: bytes) -> bool:
    return b"\r\n\r\n" in sent or sent.count(b"\n") != sent.count(b"\r\n")

"""Which shard engine takes a session."""

import pytest

from crm_whatsapp.engine.placement import SlotLoad, choose_slot, engines_needed


def load(index: int, sessions: int, *, is_open: bool = True, waits: bool = False) -> SlotLoad:
    return SlotLoad(index=index, sessions=sessions, is_open=is_open, waits=waits)


@pytest.mark.parametrize(
    ("loads", "preferred", "chosen"),
    [
        ([], None, 0),
        ([load(0, 10), load(1, 9)], None, 1),
        ([load(0, 10), load(1, 10)], None, 0),
        ([load(0, 50), load(1, 50)], None, 2),
        ([load(0, 50), load(1, 0, is_open=False)], None, 1),
        ([load(0, 0, is_open=False), load(1, 50)], None, 0),
        ([load(0, 3), load(1, 40)], 1, 1),
        ([load(0, 3), load(1, 50)], 1, 0),
        ([load(0, 20), load(1, 0, waits=True)], None, 0),
        ([load(0, 50), load(1, 0, waits=True)], None, 1),
    ],
)
def test_choice(loads: list[SlotLoad], preferred: int | None, chosen: int) -> None:
    assert choose_slot(loads, capacity=50, preferred=preferred) == chosen


@pytest.mark.parametrize(("sessions", "engines"), [(0, 0), (1, 1), (50, 1), (51, 2), (300, 6)])
def test_engines_needed(sessions: int, engines: int) -> None:
    assert engines_needed(sessions, capacity=50) == engines

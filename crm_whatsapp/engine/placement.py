"""Which shard engine takes a session."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotLoad:
    """One place for a shard engine; is_open: an engine is there or is about to be."""

    index: int
    sessions: int
    is_open: bool
    waits: bool = False  # its engine died and is not back yet


def choose_slot(loads: Iterable[SlotLoad], *, capacity: int, preferred: int | None = None) -> int:
    """Return the slot for one more session; it may be one that has to be opened.

    The preferred one if it is open and has room, else the least loaded open one, those that
    wait for their engine last; else the lowest index without an engine.
    """
    slots = list(loads)
    open_slots = [slot for slot in slots if slot.is_open and slot.sessions < capacity]
    for slot in open_slots:
        if slot.index == preferred:
            return slot.index
    if open_slots:
        return min(open_slots, key=lambda slot: (slot.waits, slot.sessions, slot.index)).index
    taken = {slot.index for slot in slots if slot.is_open}
    return next(index for index in range(len(taken) + 1) if index not in taken)


def engines_needed(sessions: int, *, capacity: int) -> int:
    """Return how many shard engines so many sessions fill."""
    return -(-sessions // capacity)

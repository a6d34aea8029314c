"""What goes when too much waits in the backlog of the state journal."""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

_DROP_PASSING = """
delete from backlog where seq in (
    select entry.seq from backlog as entry
    where entry.notice = 0 and entry.keep = 0
      and exists (
          select 1 from backlog as later
          where later.company_id = entry.company_id
            and later.notice = 0 and later.seq > entry.seq
      )
    order by entry.seq limit ?)
"""

_SHARE = 50
"""A fiftieth of the limit goes at once: whoever records waits for it, and not long."""


@dataclass(frozen=True, slots=True)
class WaitingNotice:
    """What is remembered of a notice in the backlog."""

    characters: int
    keep: bool


def below(limit: int) -> int:
    """Return how much is left of what has reached its limit."""
    return limit - max(1, limit // _SHARE)


def drop_passing_transitions(db: sqlite3.Connection, limit: int) -> tuple[int, int]:
    """Bring the transitions a fiftieth below the limit, as far as only passing ones go.

    Each company's newest transition stays, whatever notice came after it, and every kept one.

    Returns:
        How many there were, and how many went.
    """
    count = int(db.execute("select count(*) from backlog where notice = 0").fetchone()[0])
    surplus = count - below(limit)
    return count, db.execute(_DROP_PASSING, (surplus,)).rowcount if surplus > 0 else 0


def choose_notices(
    notices: Mapping[str, WaitingNotice], limit: int, characters_limit: int
) -> list[str]:
    """Return which are to go, to be a fiftieth below both limits: passing ones, then the oldest.

    Args:
        notices: by id, oldest first.
    """
    count = len(notices)
    characters = sum(item.characters for item in notices.values())
    chosen: list[str] = []
    for entry_id, item in sorted(notices.items(), key=lambda entry: entry[1].keep):
        if count <= below(limit) and characters <= below(characters_limit):
            break
        chosen.append(entry_id)
        count -= 1
        characters -= item.characters
    return chosen

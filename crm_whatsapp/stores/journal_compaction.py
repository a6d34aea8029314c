"""What goes when too much waits in the backlog of the state journal."""

import sqlite3
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
_NOTICES = """
select seq, id, keep, length(record) from backlog where notice = 1 order by keep, seq
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticesThinned:
    """What became of the notices. left: id -> characters of those that stay."""

    dropped_passing: int
    dropped_kept: int
    left: dict[str, int]


def drop_passing_transitions(db: sqlite3.Connection, limit: int) -> tuple[int, int]:
    """Bring the transitions a tenth below the limit, as far as only passing ones go.

    Each company's newest transition stays, whatever notice came after it, and every kept one.

    Returns:
        How many there were, and how many went.
    """
    count = int(db.execute("select count(*) from backlog where notice = 0").fetchone()[0])
    surplus = count - limit * 9 // 10
    return count, db.execute(_DROP_PASSING, (surplus,)).rowcount if surplus > 0 else 0


def drop_notices(db: sqlite3.Connection, limit: int, bytes_limit: int) -> NoticesThinned:
    """Bring the notices a tenth below both limits: passing ones go first, then the oldest."""
    rows = db.execute(_NOTICES).fetchall()
    count, size = len(rows), sum(row[3] for row in rows)
    going: list[tuple[int]] = []
    kept = 0
    for seq, _, keep, length in rows:
        if count <= limit * 9 // 10 and size <= bytes_limit * 9 // 10:
            break
        going.append((seq,))
        kept += bool(keep)
        count -= 1
        size -= length
    db.executemany("delete from backlog where seq = ?", going)
    return NoticesThinned(
        dropped_passing=len(going) - kept,
        dropped_kept=kept,
        left={str(entry_id): length for _, entry_id, _, length in rows[len(going) :]},
    )

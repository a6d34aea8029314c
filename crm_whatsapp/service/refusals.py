"""Tells a content that the database refuses from a database that refuses everything for a while."""

from collections import Counter
from collections.abc import Sequence

from crm_whatsapp.domain.ports import JournalEntry

_MOST_STRIKES = 4


class Refusals:
    """Remembers which entries were refused alone, and whether others were accepted since.

    Permissions and migrations refuse everything, and nothing may be lost by that: an entry is
    suspected only once another one of its kind was accepted after its refusal. Nor is the first
    refusal the last word: a gateway that is being restarted refuses some calls and accepts
    others, whatever their content. So it is given up at the fourth, each in a pass of its own.
    """

    def __init__(self) -> None:
        self._accepted: Counter[str] = Counter()
        self._first: dict[str, int] = {}
        self._strikes: Counter[str] = Counter()

    def now(self, kind: str) -> int:
        """Return a mark in time, for `note`."""
        return self._accepted[kind]

    def accept(self, kind: str, entry_ids: Sequence[str]) -> None:
        """Note that these were accepted together."""
        self._accepted[kind] += 1
        self.forget(entry_ids)

    def note(self, entry: JournalEntry, since: int) -> None:
        """Note that it was refused alone.

        Args:
            since: `now` from before it was first part of a call in this pass.
        """
        self._first.setdefault(entry.id, since)

    def is_suspect(self, kind: str, entry: JournalEntry) -> bool:
        """Tell whether others of its kind were accepted after it was refused."""
        first = self._first.get(entry.id)
        return first is not None and first < self._accepted[kind]

    def strike(self, kind: str, entry: JournalEntry, *, at_once: bool = False) -> bool:
        """Count a refusal that was noted; tell whether the entry is to be given up.

        Args:
            at_once: the first strike is enough.
        """
        if not self.is_suspect(kind, entry):
            return False
        self._strikes[entry.id] += 1
        return at_once or self._strikes[entry.id] >= _MOST_STRIKES

    def forget(self, entry_ids: Sequence[str]) -> None:
        """Forget entries that are settled."""
        for entry_id in entry_ids if self._first else ():
            self._first.pop(entry_id, None)
            self._strikes.pop(entry_id, None)

"""Which companies have a snapshot: known in memory, so that a status poll never asks a database."""

import threading

from crm_whatsapp.domain.ports import SnapshotStore

Position = tuple[int, int]
"""(epoch, seq): the order of a company's snapshots."""


class SnapshotCatalogue:
    """The newest snapshot of every company, as far as this pod has heard."""

    def __init__(self, store: SnapshotStore | None) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._newest: dict[str, Position] = {}
        self._hidden: set[str] = set()
        self._retired = 0

    def load(self) -> None:
        """Ask the database for all of them; without a store there are none.

        Raises:
            StoreUnavailable, StoreRejected: what was known stays known.
        """
        if self._store is None:
            return
        retired = -1
        found: dict[str, Position] = {}
        while retired != self._retired:  # an answer may be older than what was retired meanwhile
            retired = self._retired
            found = self._store.companies()
        for company_id, position in found.items():
            self.note(company_id, position)

    def note(self, company_id: str, position: Position) -> None:
        """Remember one that was written or heard of."""
        with self._lock:
            known = self._newest.get(company_id)
            if company_id not in self._hidden and (known is None or known < position):
                self._newest[company_id] = position

    def hide(self, company_id: str) -> None:
        """Take the company for one without snapshots, whatever the database says, until `show`."""
        with self._lock:
            self._hidden.add(company_id)
            self._newest.pop(company_id, None)

    def show(self, company_id: str) -> None:
        """Listen again to what is heard of the company: its old snapshots are out of use."""
        with self._lock:
            self._hidden.discard(company_id)
            self._retired += 1

    def forget(self, company_id: str) -> None:
        """Remember that the company has none any more."""
        with self._lock:
            self._newest.pop(company_id, None)

    def find(self, company_id: str) -> Position | None:
        """Return the newest position, None when no snapshot is known."""
        return self._newest.get(company_id)

    def companies(self) -> list[str]:
        """Return the companies with a snapshot."""
        with self._lock:
            return sorted(self._newest)

"""How many attachments are under way at once: each costs memory, a thread and bandwidth."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from crm_whatsapp.domain.errors import ServiceBusy


class MediaPlaces:
    """Places for sends of attachments. Nobody waits for one: the answer is to come again."""

    def __init__(self, *, most: int, most_per_company: int) -> None:
        self._most = most
        self._most_per_company = most_per_company
        self._lock = threading.Lock()
        self._taken: Counter[str] = Counter()

    @contextmanager
    def hold(self, company_id: str) -> Iterator[None]:
        """Hold a place.

        Raises:
            ServiceBusy: there is none now, or none for this company.
        """
        with self._lock:
            if self._taken[company_id] >= self._most_per_company:
                raise ServiceBusy("Attachments of this company are being sent; try again soon.")
            if self._taken.total() >= self._most:
                raise ServiceBusy("Too many attachments are being sent; try again soon.")
            self._taken[company_id] += 1
        try:
            yield
        finally:
            with self._lock:
                self._taken[company_id] -= 1
                if not self._taken[company_id]:
                    del self._taken[company_id]

"""Memberships in memory, with the promises of the database."""

import threading
from collections.abc import Callable

from crm_whatsapp.domain.memberships import MembershipAnswer, MembershipSource, MembershipStore


class FakeMembershipStore(MembershipStore):
    """A table of the CRM. Counts its calls; `failure` is raised by each until it is cleared.

    Attributes:
        rows: (user, company, role).
        before: called on the thread that asks, before anything is looked at.
    """

    def __init__(self) -> None:
        self.rows: set[tuple[str, str, str]] = set()
        self.source = MembershipSource.OWN
        self.failure: Exception | None = None
        self.calls = 0
        self.asked: list[str | None] = []
        self.before: Callable[[], None] = lambda: None
        self._lock = threading.Lock()

    def add(self, user_id: str, company_id: str, role: str | None = None) -> None:
        self.rows.add((user_id, company_id, role or ""))

    def remove(self, user_id: str, company_id: str) -> None:
        self.rows = {row for row in self.rows if row[:2] != (user_id, company_id)}

    def read(self, user_id: str | None) -> MembershipAnswer:
        with self._lock:
            self.calls += 1
            self.asked.append(user_id)
        self.before()
        if self.failure is not None:
            raise self.failure
        roles: dict[str, frozenset[str]] = {}
        if self.source.decides:
            for user, company_id, role in self.rows:
                if user == user_id:
                    roles[company_id] = roles.get(company_id, frozenset()) | {role}
        return MembershipAnswer(source=self.source, roles=roles)

"""Which companies users belong to, asked of the CRM's own table and kept for under a minute.

A fresh answer is given from memory. One that is about to grow old is renewed beside the request
that noticed; an old one is waited for, once for everybody who asks about the same user. While the
database does not answer, the last answer holds for a bounded time. Then nobody is let in, and
nobody is called a stranger: it cannot be told.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from crm_whatsapp.domain.errors import CrmWhatsappError, StoreUnavailable
from crm_whatsapp.domain.memberships import (
    MembershipSource,
    MembershipStore,
    MembershipUnknown,
    Roles,
)

log = structlog.get_logger(__name__)

FUNCTION = "public.whatsapp_companies_of_user_v1(uuid)"
_MOST_USERS = 4_096
_MOST_CALLS = 4  # at a time: half of the connections that everything else shares
_RENEWED_AFTER = 0.75  # of cache_seconds
_FAILING_FOR = 2  # times retry_seconds: whoever polls has tried again by then
_NEVER = float("-inf")
_PROBLEMS = {
    MembershipSource.SHIPPED: f"USER_COMPANY_SOURCE is membership, but {FUNCTION} is still the one "
    "that was shipped, which knows nobody: replace it, see docs/integration.md",
    MembershipSource.MISSING: f"USER_COMPANY_SOURCE is membership, but {FUNCTION} is missing: "
    "create it, see docs/integration.md",
    MembershipSource.OPEN: f"users of the database may call {FUNCTION} and ask about each other: "
    f"revoke all on function {FUNCTION} from public, anon, authenticated",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MembershipTerms:
    """How long what is known is trusted, counted from when it was asked.

    Attributes:
        cache_seconds: older answers are not given while the database answers.
        stale_seconds: while it does not, older ones are not given either; at least cache_seconds.
        retry_seconds: between two attempts while it does not.
        wait_seconds: longest wait for somebody else's call, or for a turn to make one.
    """

    cache_seconds: float
    stale_seconds: float
    retry_seconds: float
    wait_seconds: float


@dataclass(slots=True)
class _Entry:
    """What is known of a user. call: set while somebody asks; it is over when that is."""

    roles: Roles = field(default_factory=dict)
    read_at: float = _NEVER
    failed_at: float = _NEVER
    call: threading.Event | None = None


class Memberships:
    """The companies of users. Threads share it."""

    def __init__(
        self,
        store: MembershipStore,
        terms: MembershipTerms,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._terms = terms
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._turns = threading.BoundedSemaphore(_MOST_CALLS)
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._away_since: float | None = None  # when the last call failed; None: it answers
        self._probe: _Entry | None = None
        self._source: MembershipSource | None = None
        self._refusal: str | None = None

    @property
    def known_users(self) -> int:
        """How many users are remembered, those of no company included."""
        return len(self._entries)

    @property
    def problem(self) -> str | None:
        """Why users cannot be let in as they should; None when nothing is known against it."""
        if self._refusal is not None:
            return self._refusal
        if self._source is None:
            return "the database has not been asked yet"
        return _PROBLEMS.get(self._source)

    def roles_of(self, user_id: str) -> Roles:
        """Return the companies of a user, and the roles in each; empty when there are none.

        Raises:
            MembershipUnknown: it cannot be told now.
        """
        with self._lock:
            entry = self._entry(user_id)
            age = self._monotonic() - entry.read_at
        if age < self._terms.cache_seconds * _RENEWED_AFTER:
            return entry.roles
        if age < self._terms.cache_seconds or self._may_outlast(entry, age):
            self._renew(user_id, entry)
            return entry.roles
        if self._claim(entry):
            self._ask_in_turn(user_id, entry)
        elif (call := entry.call) is not None:
            call.wait(self._terms.wait_seconds)
        return self._answer(entry)

    def check(self) -> None:
        """Ask whose function decides; run by a job.

        Raises:
            StoreUnavailable: it cannot be asked now.
        """
        try:
            answer = self._store.read(None)
        except CrmWhatsappError as error:
            if not error.permanent:
                raise
            self._note_refusal(error.message)
            return
        self._note_source(answer.source)

    def _entry(self, user_id: str) -> _Entry:
        entry = self._entries.setdefault(user_id, _Entry())
        self._entries.move_to_end(user_id)
        while len(self._entries) > _MOST_USERS:
            self._entries.popitem(last=False)
        return entry

    def _may_outlast(self, entry: _Entry, age: float) -> bool:
        """Tell whether an old answer is given, because there is none to be had just now.

        A failure of long ago says nothing: then it has to be tried first.
        """
        away_since, probe = self._away_since, self._probe
        failed_at = max(entry.failed_at, _NEVER if away_since is None else away_since)
        is_failing = self._monotonic() - failed_at < _FAILING_FOR * self._terms.retry_seconds
        return age < self._terms.stale_seconds and (is_failing or probe is not None)

    def _answer(self, entry: _Entry) -> Roles:
        """Return what is known after it was asked for."""
        age = self._monotonic() - entry.read_at
        if age < self._terms.cache_seconds or self._may_outlast(entry, age):
            return entry.roles
        raise MembershipUnknown()

    def _claim(self, entry: _Entry) -> bool:
        """Tell whether the caller is the one who asks about this user now."""
        with self._lock:
            now, pause = self._monotonic(), self._terms.retry_seconds
            if entry.call is not None or now - entry.failed_at < pause:
                return False
            if self._away_since is not None:
                # One attempt at a time, whomever it is about, until somebody gets an answer.
                if self._probe is not None or now - self._away_since < pause:
                    return False
                self._probe = entry
            entry.call = threading.Event()
            return True

    def _renew(self, user_id: str, entry: _Entry) -> None:
        """Ask beside the request, if there is a turn."""
        if not self._claim(entry):
            return
        if not self._turns.acquire(blocking=False):
            self._end(entry)
            return
        thread = threading.Thread(
            target=self._ask, args=(user_id, entry), name="memberships", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:  # no more threads
            self._turns.release()
            self._end(entry)
            raise

    def _ask_in_turn(self, user_id: str, entry: _Entry) -> None:
        """Ask while the request waits."""
        if not self._turns.acquire(timeout=self._terms.wait_seconds):
            self._end(entry)
        elif self._away_since is not None and self._probe is not entry:
            self._turns.release()  # others found out meanwhile that nobody answers
            self._end(entry)
        else:
            self._ask(user_id, entry)

    def _ask(self, user_id: str, entry: _Entry) -> None:
        """Ask, having a turn; what went wrong is noted."""
        asked_at = self._monotonic()
        try:
            answer = self._store.read(user_id)
            self._note_source(answer.source)
            if answer.source.decides:
                self._note_answer(entry, answer.roles, asked_at)
            else:
                self._note_failure(entry, is_away=False)
        except CrmWhatsappError as error:
            self._note_failure(entry, is_away=isinstance(error, StoreUnavailable))
            log.warning("memberships_unreadable", user_id=user_id, why=error.message)
            if error.permanent:
                self._note_refusal(error.message)
        finally:
            self._turns.release()
            self._end(entry)

    def _note_answer(self, entry: _Entry, roles: Roles, asked_at: float) -> None:
        with self._lock:
            entry.roles, entry.read_at, entry.failed_at = roles, asked_at, _NEVER
            self._away_since = None

    def _note_failure(self, entry: _Entry, *, is_away: bool) -> None:
        with self._lock:
            entry.failed_at = self._monotonic()
            self._away_since = entry.failed_at if is_away else None

    def _end(self, entry: _Entry) -> None:
        """Let others ask about this user again, and those who waited look."""
        with self._lock:
            if self._probe is entry:
                self._probe = None
            call, entry.call = entry.call, None
        if call is not None:
            call.set()

    def _note_source(self, source: MembershipSource) -> None:
        before, self._source, self._refusal = self._source, source, None
        if source is not before and source in _PROBLEMS:
            log.warning("memberships_not_usable", why=_PROBLEMS[source])

    def _note_refusal(self, why: str) -> None:
        if why != self._refusal:
            log.warning("memberships_not_usable", why=why)
        self._refusal = why

"""Asked seldom, one call a user, believed no longer than said, and nobody a stranger by mistake."""

import threading
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crm_whatsapp.domain.errors import StoreRejected, StoreUnavailable
from crm_whatsapp.domain.memberships import MembershipSource, MembershipUnknown
from crm_whatsapp.service.memberships import Memberships, MembershipTerms
from tests.contract.membership_fakes import FakeMembershipStore

ANA = "7f0f0b61-0c3e-4c53-9a0c-0a7c2a1f1d11"
BIA = "7f0f0b61-0c3e-4c53-9a0c-0a7c2a1f1d12"
ACME = "3b1bee0c-cbee-4de1-88f1-d6e890f4c995"
BOLT = "9d6f2061-60e5-4e93-a0df-f55dd5c3d40c"
TERMS = MembershipTerms(
    cache_seconds=45.0, stale_seconds=300.0, retry_seconds=5.0, wait_seconds=30.0
)
DEADLINE_SECONDS = 30.0
FAILURES = {
    "away": StoreUnavailable(),
    "fail": StoreRejected("division by zero"),
    "back": None,
}
STEPS = [
    (step, seconds)
    for step in ("ask", "ask", "ask", "ask about another", "join", "leave", "away", "fail", "back")
    for seconds in (0.0, 1.0, 6.0, 36.0, 50.0, 290.0)
]


class Hands:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def hands() -> Hands:
    return Hands()


@pytest.fixture
def store() -> FakeMembershipStore:
    made = FakeMembershipStore()
    made.add(ANA, ACME, "admin")
    return made


@pytest.fixture
def known(store: FakeMembershipStore, hands: Hands) -> Memberships:
    return Memberships(store, TERMS, hands)


def await_renewals() -> None:
    """Wait until what is asked beside a request has been answered."""
    for thread in threading.enumerate():
        if thread.name == "memberships":
            thread.join(DEADLINE_SECONDS)


def test_what_is_fresh_is_answered_from_memory(
    known: Memberships, store: FakeMembershipStore, hands: Hands
) -> None:
    for _ in range(100):
        assert known.roles_of(ANA) == {ACME: {"admin"}}
        assert known.roles_of(BIA) == {}
        hands.seconds += 0.3
    assert store.calls == 2
    assert known.roles_of(ANA) is known.roles_of(ANA)


def test_who_is_removed_is_out_when_the_answer_is_old(
    known: Memberships, store: FakeMembershipStore, hands: Hands
) -> None:
    known.roles_of(ANA)
    store.remove(ANA, ACME)
    hands.seconds += 44.9
    known.roles_of(ANA)  # renewed beside
    await_renewals()
    assert known.roles_of(ANA) == {}

    store.add(ANA, ACME)
    hands.seconds += 3_600
    assert known.roles_of(ANA) == {ACME: {""}}  # waited for: an hour is no minute


def test_a_new_member_is_in_as_soon(
    known: Memberships, store: FakeMembershipStore, hands: Hands
) -> None:
    assert known.roles_of(BIA) == {}
    store.add(BIA, BOLT, "viewer")
    hands.seconds += 45
    assert known.roles_of(BIA) == {BOLT: {"viewer"}}


def test_an_answer_about_to_grow_old_is_renewed_beside_the_request(
    known: Memberships, store: FakeMembershipStore, hands: Hands
) -> None:
    known.roles_of(ANA)
    asked, go_on = threading.Event(), threading.Event()

    def slowly() -> None:
        asked.set()
        assert go_on.wait(DEADLINE_SECONDS)

    store.before = slowly
    hands.seconds += 40
    for _ in range(50):
        assert known.roles_of(ANA) == {ACME: {"admin"}}  # nobody waits
    assert asked.wait(DEADLINE_SECONDS)
    assert store.calls == 2
    go_on.set()
    await_renewals()
    hands.seconds += 30
    known.roles_of(ANA)
    assert store.calls == 2


def hold_renewals(go_on: threading.Event) -> None:
    """Have what is asked beside a request answered after it, never before."""
    if threading.current_thread().name == "memberships":
        assert go_on.wait(DEADLINE_SECONDS)


def together(count: int, ask: Callable[[], object]) -> list[object]:
    """Ask on so many threads; return what each got."""
    found: list[object] = []

    def run() -> None:
        try:
            found.append(ask())
        except MembershipUnknown as error:
            found.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
    return found


def test_one_call_a_user_however_many_ask(known: Memberships, store: FakeMembershipStore) -> None:
    all_asked = threading.Barrier(2, timeout=DEADLINE_SECONDS)
    store.before = all_asked.wait  # type: ignore[assignment]
    crowd = threading.Thread(target=lambda: found.extend(together(20, lambda: known.roles_of(ANA))))
    found: list[object] = []
    crowd.start()
    all_asked.wait()
    crowd.join(DEADLINE_SECONDS)

    assert found == [{ACME: {"admin"}}] * 20
    assert store.calls == 1


def test_few_calls_at_a_time_whatever_the_number_of_users(
    known: Memberships, store: FakeMembershipStore
) -> None:
    at_once, most, lock = [0], [0], threading.Lock()
    four = threading.Barrier(4, timeout=DEADLINE_SECONDS)

    def counted() -> None:
        with lock:
            at_once[0] += 1
            most[0] = max(most[0], at_once[0])
        four.wait()
        with lock:
            at_once[0] -= 1

    store.before = counted
    threads = [
        threading.Thread(target=known.roles_of, args=(f"user-{number}",)) for number in range(40)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
    assert store.calls == 40
    assert most[0] == 4


def test_what_is_remembered_is_bounded(known: Memberships, store: FakeMembershipStore) -> None:
    for number in range(6_000):
        known.roles_of(f"user-{number}")
    assert known.known_users == 4_096
    calls = store.calls
    known.roles_of("user-5999")
    assert store.calls == calls
    known.roles_of("user-0")
    assert store.calls == calls + 1


class TestWithoutTheDatabase:
    def test_the_last_answer_holds_for_a_bounded_time_and_then_it_cannot_be_told(
        self, known: Memberships, store: FakeMembershipStore, hands: Hands
    ) -> None:
        known.roles_of(ANA)
        known.roles_of(BIA)
        store.failure = StoreUnavailable()
        hands.seconds += 299
        assert known.roles_of(ANA) == {ACME: {"admin"}}
        assert known.roles_of(BIA) == {}
        hands.seconds += 1
        with pytest.raises(MembershipUnknown):
            known.roles_of(ANA)
        with pytest.raises(MembershipUnknown):  # nor is a stranger called one
            known.roles_of(BIA)

    def test_who_was_never_asked_about_is_not_called_a_stranger(
        self, known: Memberships, store: FakeMembershipStore
    ) -> None:
        store.failure = StoreUnavailable()
        with pytest.raises(MembershipUnknown):
            known.roles_of(ANA)

    def test_it_is_asked_seldom_and_nobody_waits_who_has_an_answer(
        self, known: Memberships, store: FakeMembershipStore, hands: Hands
    ) -> None:
        for number in range(50):
            known.roles_of(f"user-{number}")
        hands.seconds += 60
        store.failure = StoreUnavailable()
        known.roles_of("user-0")
        before = store.calls
        for _ in range(3):
            for number in range(50):
                assert known.roles_of(f"user-{number}") == {}
            with pytest.raises(MembershipUnknown):
                known.roles_of("somebody new")
        assert store.calls == before

        asked, go_on = threading.Event(), threading.Event()

        def hang() -> None:
            asked.set()
            assert go_on.wait(DEADLINE_SECONDS)

        store.before = hang
        hands.seconds += 5
        for number in range(50):
            assert known.roles_of(f"user-{number}") == {}
        assert asked.wait(DEADLINE_SECONDS)
        assert store.calls == before + 1
        go_on.set()
        await_renewals()

    def test_when_it_is_back_it_is_believed_at_once(
        self, known: Memberships, store: FakeMembershipStore, hands: Hands
    ) -> None:
        known.roles_of(ANA)
        known.roles_of(BIA)
        store.failure = StoreUnavailable()
        hands.seconds += 100
        known.roles_of(ANA)
        store.failure = None
        store.remove(ANA, ACME)
        hands.seconds += 5
        known.roles_of(ANA)
        await_renewals()
        assert known.roles_of(ANA) == {}
        store.add(BIA, BOLT)
        assert known.roles_of(BIA) == {BOLT: {""}}  # an old answer is not given any more

    def test_an_outage_of_long_ago_is_no_reason_to_let_somebody_in(
        self, known: Memberships, store: FakeMembershipStore, hands: Hands
    ) -> None:
        go_on = threading.Event()
        store.before = lambda: hold_renewals(go_on)
        known.roles_of(ANA)
        store.failure = StoreUnavailable()
        hands.seconds += 50
        assert known.roles_of(ANA) == {ACME: {"admin"}}
        store.failure = None  # back, and nobody asked until now
        store.remove(ANA, ACME)
        hands.seconds += 100
        try:
            assert known.roles_of(ANA) == {}
        finally:
            go_on.set()

    def test_a_call_that_was_made_before_a_removal_does_not_prolong_it(
        self, known: Memberships, store: FakeMembershipStore, hands: Hands
    ) -> None:
        def slowly() -> None:
            hands.seconds += 40

        store.before = slowly  # the answer is 40 s old when it arrives
        known.roles_of(ANA)
        store.before = lambda: None
        store.remove(ANA, ACME)
        hands.seconds += 5
        assert known.roles_of(ANA) == {}


class Model:
    """A user who comes and goes, and what may be believed of that."""

    def __init__(self) -> None:
        self.hands, self.store = Hands(), FakeMembershipStore()
        self.known = Memberships(self.store, TERMS, self.hands)
        self.history = [(self.hands.seconds, False)]  # since when they belong, or do not
        self.failed_at = float("-inf")
        self.store.before = lambda: hold_renewals(self.go_on)
        self.go_on = threading.Event()

    def do(self, step: str) -> None:
        if step.startswith("ask"):
            self.ask(BIA if step == "ask about another" else ANA)
        elif step in ("join", "leave"):
            change = self.store.add if step == "join" else self.store.remove
            change(ANA, ACME)
            self.history.append((self.hands.seconds, step == "join"))
        else:
            self.store.failure = FAILURES[step]

    def ask(self, user_id: str) -> None:
        calls = self.store.calls
        try:
            answer = bool(self.known.roles_of(user_id))
        except MembershipUnknown:
            answer = None
        self.go_on.set()
        await_renewals()
        self.go_on.clear()
        if self.store.failure is not None and self.store.calls > calls:
            self.failed_at = self.hands.seconds
        if user_id == ANA:
            self.judge(answer)

    def judge(self, answer: bool | None) -> None:
        now = self.hands.seconds
        is_failing = now - self.failed_at < 2 * TERMS.retry_seconds
        if answer is None:
            assert is_failing, "a healthy database was not asked"
        else:
            longest = TERMS.stale_seconds if is_failing else TERMS.cache_seconds
            assert answer in true_since(self.history, now - longest)


@settings(max_examples=300, deadline=None)
@given(steps=st.lists(st.sampled_from(STEPS), max_size=60))
def test_whatever_happens_nothing_older_is_believed(steps: list[tuple[str, float]]) -> None:
    model = Model()
    for step, seconds in steps:
        model.hands.seconds += seconds
        model.do(step)


def true_since(history: list[tuple[float, bool]], earliest: float) -> set[bool]:
    """Return what was true at some time since then."""
    before = [belongs for at, belongs in history if at <= earliest][-1:]
    return {*before, *(belongs for at, belongs in history if at > earliest)}


class TestAFunctionThatFails:
    def test_one_users_failure_is_not_everybodys(
        self, known: Memberships, store: FakeMembershipStore, hands: Hands
    ) -> None:
        store.failure = StoreRejected("division by zero")
        with pytest.raises(MembershipUnknown):
            known.roles_of(BIA)
        assert known.problem == "division by zero"
        with pytest.raises(MembershipUnknown):
            known.roles_of(BIA)
        assert store.calls == 1  # it is left alone for a while
        store.failure = None
        assert known.roles_of(ANA) == {ACME: {"admin"}}
        assert known.problem is None
        hands.seconds += 5
        assert known.roles_of(BIA) == {}

    def test_what_was_known_outlasts_it_no_longer_than_an_outage(
        self, known: Memberships, store: FakeMembershipStore, hands: Hands
    ) -> None:
        known.roles_of(ANA)
        store.failure = StoreRejected("column crm.members.user_id does not exist")
        hands.seconds += 200
        assert known.roles_of(ANA) == {ACME: {"admin"}}
        hands.seconds += 100
        with pytest.raises(MembershipUnknown):
            known.roles_of(ANA)

    @pytest.mark.parametrize(
        ("source", "words"),
        [
            (MembershipSource.SHIPPED, "replace it"),
            (MembershipSource.MISSING, "create it"),
        ],
    )
    def test_one_that_says_nothing_about_users_makes_nobody_a_stranger(
        self, known: Memberships, store: FakeMembershipStore, source: MembershipSource, words: str
    ) -> None:
        store.source = source
        with pytest.raises(MembershipUnknown):
            known.roles_of(ANA)
        assert words in (known.problem or "")

    def test_one_that_users_may_call_decides_and_is_told(
        self, known: Memberships, store: FakeMembershipStore
    ) -> None:
        store.source = MembershipSource.OPEN
        assert known.roles_of(ANA) == {ACME: {"admin"}}
        assert "revoke" in (known.problem or "")


class TestCheck:
    def test_before_it_was_asked_it_is_not_well(self, known: Memberships) -> None:
        assert known.problem == "the database has not been asked yet"
        known.check()
        assert known.problem is None

    def test_a_replaced_function_heals(
        self, known: Memberships, store: FakeMembershipStore
    ) -> None:
        store.source = MembershipSource.SHIPPED
        known.check()
        assert "still the one that was shipped" in (known.problem or "")
        store.source = MembershipSource.OWN
        known.check()
        assert known.problem is None

    def test_a_database_without_the_migration_is_told(
        self, known: Memberships, store: FakeMembershipStore
    ) -> None:
        store.failure = StoreRejected("Run: python -m crm_whatsapp migrate")
        known.check()
        assert "migrate" in (known.problem or "")

    def test_a_database_that_is_away_is_tried_again_by_the_clock(
        self, known: Memberships, store: FakeMembershipStore
    ) -> None:
        known.check()
        store.failure = StoreUnavailable()
        with pytest.raises(StoreUnavailable):
            known.check()
        assert known.problem is None

"""Buckets fill evenly, tell the truth about the wait, and never take more memory than they may."""

import threading
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crm_whatsapp.web.token_buckets import Quota, TokenBuckets

SECOND = 1_000_000_000
SIX = Quota(name="six", amount=6)
TWO = Quota(name="two", amount=2)


class Watch:
    """Nanoseconds that a test moves."""

    def __init__(self) -> None:
        self.ns = 5 * SECOND

    def __call__(self) -> int:
        return self.ns

    def advance(self, seconds: float) -> None:
        self.ns += round(seconds * SECOND)


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def buckets(watch: Watch) -> TokenBuckets:
    return TokenBuckets(most=100, now_ns=watch)


def test_all_of_a_quota_is_there_at_once_and_then_nothing(buckets: TokenBuckets) -> None:
    taken = [buckets.take([("a", SIX)]) for _ in range(7)]

    assert [it.left for it in taken] == [5, 4, 3, 2, 1, 0, 0]
    assert [it.wait_seconds for it in taken] == [0] * 6 + [10]
    assert taken[0].full_seconds == 10
    assert taken[6].full_seconds == 60


def test_one_comes_back_at_a_time(buckets: TokenBuckets, watch: Watch) -> None:
    for _ in range(6):
        buckets.take([("a", SIX)])
    watch.advance(10)

    assert buckets.take([("a", SIX)]).wait_seconds == 0
    assert buckets.take([("a", SIX)]).wait_seconds == 10


def test_asking_while_it_is_empty_costs_nothing(buckets: TokenBuckets, watch: Watch) -> None:
    for _ in range(1_000):
        buckets.take([("a", SIX)])
    watch.advance(60)

    assert buckets.take([("a", SIX)]).left == 5


def test_keys_do_not_disturb_each_other(buckets: TokenBuckets) -> None:
    for _ in range(7):
        buckets.take([("a", SIX)])

    assert buckets.take([("b", SIX)]).wait_seconds == 0


def test_of_several_the_scarcest_is_told(buckets: TokenBuckets) -> None:
    assert buckets.take([("a", SIX), ("b", TWO)]).quota is TWO
    assert buckets.take([("b", TWO), ("a", SIX)]).left == 0
    refused = buckets.take([("a", SIX), ("b", TWO)])

    assert refused.quota is TWO
    assert refused.wait_seconds == 30


def test_a_refusal_by_one_takes_nothing_out_of_the_others(buckets: TokenBuckets) -> None:
    for _ in range(2):
        buckets.take([("b", TWO)])
    for _ in range(100):
        assert buckets.take([("a", SIX), ("b", TWO)]).wait_seconds == 30

    assert buckets.take([("a", SIX)]).left == 5


def test_what_is_put_back_is_there_again(buckets: TokenBuckets) -> None:
    for _ in range(6):
        buckets.take([("a", SIX)])
    buckets.put_back([("a", SIX), ("never seen", SIX)])

    assert buckets.take([("a", SIX)]).wait_seconds == 0
    assert buckets.take([("a", SIX)]).wait_seconds == 10


@given(
    amount=st.integers(1, 1_000_000),
    seconds=st.sampled_from([1, 60, 3_600]),
    pauses=st.lists(st.integers(0, 90 * SECOND), max_size=30),
)
def test_after_exactly_the_wait_that_was_told_a_call_is_let_in(
    amount: int, seconds: int, pauses: list[int]
) -> None:
    watch = Watch()
    quota = Quota(name="any", amount=amount, seconds=seconds)
    buckets = TokenBuckets(most=10, now_ns=watch)
    for pause in pauses:
        watch.ns += pause
        taken = buckets.take([("a", quota)])
        if taken.wait_seconds:
            assert taken.left == 0
            watch.ns += taken.wait_seconds * SECOND
            assert buckets.take([("a", quota)]).wait_seconds == 0


@given(amount=st.integers(1, 50), pauses=st.lists(st.integers(0, 3 * SECOND), max_size=200))
def test_no_minute_lets_more_in_than_twice_the_quota(amount: int, pauses: list[int]) -> None:
    watch = Watch()
    buckets = TokenBuckets(most=10, now_ns=watch)
    quota = Quota(name="any", amount=amount)
    granted = []
    for pause in pauses:
        watch.ns += pause
        if buckets.take([("a", quota)]).wait_seconds == 0:
            granted.append(watch.ns)
    for begun in granted:
        assert sum(begun <= at < begun + 60 * SECOND for at in granted) <= 2 * amount


def test_the_bucket_that_was_longest_not_asked_for_is_forgotten(watch: Watch) -> None:
    buckets = TokenBuckets(most=3, now_ns=watch)
    for key in ("a", "b", "c"):
        buckets.take([(key, TWO)])
    for _ in range(5):
        buckets.take([("a", TWO)])  # refused in the end, and still in use
    buckets.take([("d", TWO)])

    assert len(buckets) == 3
    assert buckets.take([("a", TWO)]).wait_seconds == 30
    assert buckets.take([("b", TWO)]).left == 1


def test_strangers_without_end_take_no_more_memory_than_the_first_thousands(watch: Watch) -> None:
    buckets = TokenBuckets(most=2_000, now_ns=watch)
    for number in range(3_000):
        buckets.take([(("failed-logins", f"2001:db8::{number:x}"), SIX)])
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(20_000):
            buckets.take([(("failed-logins", f"2001:db9::{number:x}"), SIX)])
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()

    assert len(buckets) == 2_000
    assert grown < 2_000 * 500


def test_threads_together_get_exactly_the_quota() -> None:
    buckets = TokenBuckets(most=10, now_ns=lambda: 0)
    quota = Quota(name="many", amount=500)
    granted = []

    def ask() -> None:
        granted.extend(
            number for number in range(200) if buckets.take([("a", quota)]).wait_seconds == 0
        )

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(granted) == 500

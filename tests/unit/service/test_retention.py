"""What is old goes, in batches, and whatever one kind does, the others are tried."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from crm_whatsapp.domain import events
from crm_whatsapp.domain.connection import ClientPhase, Connection, DesiredState, Reason, Status
from crm_whatsapp.domain.errors import StoreRejected, StoreUnavailable
from crm_whatsapp.domain.retention import RetentionStore, RetentionTerms
from crm_whatsapp.domain.webhooks import DeliveryState
from crm_whatsapp.service.retention import Retention
from tests.unit.service.pod import COMPANY, OTHER, THIRD, Pod

DAY = 86_400.0
ALL = RetentionTerms(
    status_events_seconds=90 * DAY,
    delivered_seconds=7 * DAY,
    parked_seconds=30 * DAY,
    logged_out_seconds=10 * DAY,
)


class OldRows(RetentionStore):
    """So many rows of each kind are old; `failing` kinds raise instead."""

    def __init__(self, **old: int) -> None:
        self.old = old
        self.calls: list[tuple[str, float, int]] = []
        self.failing: dict[str, Exception] = {}
        self.on_call: Callable[[], None] = lambda: None

    def trim_status_events(self, older_than_seconds: float, limit: int) -> int:
        return self._trim("events", older_than_seconds, limit)

    def trim_deliveries(self, state: DeliveryState, older_than_seconds: float, limit: int) -> int:
        return self._trim(state.value, older_than_seconds, limit)

    def _trim(self, kind: str, seconds: float, limit: int) -> int:
        self.calls.append((kind, seconds, limit))
        self.on_call()
        if kind in self.failing:
            raise self.failing[kind]
        gone = min(limit, self.old.get(kind, 0))
        self.old[kind] = self.old.get(kind, 0) - gone
        return gone


def retention(pod: Pod, store: OldRows, terms: RetentionTerms = ALL) -> Retention:
    return Retention(store=store, manager=pod.manager, clock=pod.clock, terms=terms)


def logged_out(pod: Pod, company_id: str, *, days: float, **changes: object) -> None:
    """Have the company known as logged out so long ago."""
    connection = Connection(
        company_id=company_id,
        desired_state=DesiredState.RUN,
        status=Status.LOGGED_OUT,
        reason=Reason.PHONE_UNLINKED,
        last_disconnected_at=pod.clock.now() - timedelta(days=days),
        version=5,
    )
    made = replace(connection, **changes)  # type: ignore[arg-type]
    pod.manager.runtime(company_id).set_connection(made)


def test_everything_old_goes_in_bounded_batches(pod: Pod) -> None:
    store = OldRows(events=2500, delivered=1000, parked=3)
    job = retention(pod, store)
    job.run()
    assert store.old == {"events": 0, "delivered": 0, "parked": 0}
    assert {limit for _, _, limit in store.calls} == {1000}
    assert [(kind, seconds) for kind, seconds, _ in store.calls] == [
        *[("events", 90 * DAY)] * 3,
        *[("delivered", 7 * DAY)] * 2,
        ("parked", 30 * DAY),
    ]
    assert job.removed["status_events"] == 2500
    assert job.removed["delivered"] == 1000


def test_what_is_kept_for_ever_is_not_asked_about(pod: Pod) -> None:
    logged_out(pod, COMPANY, days=4000)
    store = OldRows(events=10)
    terms = RetentionTerms(
        status_events_seconds=None,
        delivered_seconds=None,
        parked_seconds=None,
        logged_out_seconds=None,
    )
    retention(pod, store, terms).run()
    assert store.calls == []
    assert pod.manager.find(COMPANY) is not None


@pytest.mark.parametrize("error", [StoreUnavailable("away"), StoreRejected("not migrated")])
def test_one_kind_that_fails_is_told_and_the_others_are_removed(pod: Pod, error: Exception) -> None:
    logged_out(pod, COMPANY, days=11)
    store = OldRows(events=5, parked=5)
    store.failing["events"] = error
    with pytest.raises(type(error)):
        retention(pod, store).run()
    assert store.old["parked"] == 0
    assert pod.manager.find(COMPANY) is None


def test_a_stop_ends_it_after_the_batch(pod: Pod) -> None:
    store = OldRows(events=100_000)
    job = retention(pod, store)
    store.on_call = job.stop
    job.run()
    assert len(store.calls) == 1


def test_only_companies_logged_out_long_ago_are_forgotten_and_as_a_deletion_does(pod: Pod) -> None:
    logged_out(pod, COMPANY, days=11)
    logged_out(pod, OTHER, days=9)
    logged_out(pod, THIRD, days=11, status=Status.BANNED)
    pod.proxies.put(COMPANY, "http://proxy")
    pod.store.database.rows[COMPANY] = Connection(company_id=COMPANY, version=5)
    job = retention(pod, OldRows())
    job.run()
    pod.flush()
    assert pod.manager.find(COMPANY) is None
    assert pod.row() is None
    assert COMPANY not in pod.proxies.urls
    assert pod.manager.find(OTHER) is not None
    assert pod.manager.find(THIRD) is not None
    assert job.removed["logged_out_companies"] == 1


def test_a_company_of_which_nobody_knows_since_when_is_kept(pod: Pod) -> None:
    logged_out(pod, COMPANY, days=0, last_disconnected_at=None)
    retention(pod, OldRows()).run()
    assert pod.manager.find(COMPANY) is not None


def test_a_company_that_is_paired_again_in_that_moment_is_kept(pod: Pod) -> None:
    """It was due when it was looked at, and in its mailbox a pairing was before the clean-up."""
    logged_out(pod, COMPANY, days=11)
    job = retention(pod, OldRows())
    ask = pod.manager.ask

    def pair_first(*args: object) -> Connection:
        pod.manager.ask = ask  # type: ignore[method-assign]
        pod.manager.connect(COMPANY)
        return ask(*args)  # type: ignore[arg-type]

    pod.manager.ask = pair_first  # type: ignore[method-assign, assignment]
    job.run()
    assert pod.settle().client is ClientPhase.PAIRING
    assert job.removed["logged_out_companies"] == 0


def test_a_logout_that_just_happened_is_not_old(pod: Pod) -> None:
    pod.connect_saved()
    pod.fleet.emit(events.LoggedOut(company_id=COMPANY, generation=1, on_connect=False, code=0))
    pod.await_status(Status.LOGGED_OUT)
    pod.settle()
    job = retention(pod, OldRows())
    job.run()
    assert pod.manager.find(COMPANY) is not None
    pod.clock.advance(10 * DAY + 1)
    job.run()
    assert pod.manager.find(COMPANY) is None

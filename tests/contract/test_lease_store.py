"""LeaseStore: one suite for the fake and for real PostgREST."""

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

import psycopg
import pytest

from crm_whatsapp.domain.errors import StoreRejected, StoreUnavailable
from crm_whatsapp.domain.leases import InstanceReport, Lease, LeaseClaim
from crm_whatsapp.domain.ports import ConnectionStore, LeaseStore
from crm_whatsapp.stores.connection_store import SupabaseConnectionStore
from crm_whatsapp.stores.lease_store import SupabaseLeaseStore
from crm_whatsapp.stores.supabase_client import close_client, make_client
from local_supabase import LocalSupabase
from tests.contract.fakes import FakeConnectionStore, FakeDatabase, FakeLeaseStore

pytestmark = pytest.mark.contract

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@dataclass
class Subject:
    """A store under test. expire: let the terms of a company run out, on the database's clock."""

    store: LeaseStore
    connections: ConnectionStore
    expire: Callable[[str], None]
    outage: Callable[[], None]
    recovery: Callable[[], None]
    report_of: Callable[[str], tuple[int, int, bool] | None]


@pytest.fixture(params=["fake", "postgrest"])
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    if request.param == "fake":
        yield fake_subject()
        return
    stack: LocalSupabase = request.getfixturevalue("stack")
    client = make_client(stack.url, stack.service_key, 5.0)
    with psycopg.connect(stack.db_url, autocommit=True) as sql:

        def expire(company_id: str) -> None:
            sql.execute(
                "update whatsapp_leases set expires_at = clock_timestamp() where company_id = %s",
                (company_id,),
            )

        def report_of(instance_id: str) -> tuple[int, int, bool] | None:
            return sql.execute(
                "select capacity, session_count, draining from whatsapp_instances "
                "where instance_id = %s",
                (instance_id,),
            ).fetchone()  # type: ignore[return-value]

        yield Subject(
            store=SupabaseLeaseStore(client),
            connections=SupabaseConnectionStore(client, owner_id=str(uuid.uuid4())),
            expire=expire,
            outage=stack.stop_postgrest,
            recovery=stack.start_postgrest,
            report_of=report_of,
        )
    close_client(client)


def fake_subject() -> Subject:
    database = FakeDatabase()

    def expire(company_id: str) -> None:
        database.leases[company_id].expires_at = database.clock()

    def report_of(instance_id: str) -> tuple[int, int, bool] | None:
        report = database.instances.get(instance_id)
        return (report.capacity, report.session_count, report.draining) if report else None

    return Subject(
        store=FakeLeaseStore(database),
        connections=FakeConnectionStore(database),
        expire=expire,
        outage=lambda: setattr(database, "reachable", False),
        recovery=lambda: setattr(database, "reachable", True),
        report_of=report_of,
    )


def new_id() -> str:
    return str(uuid.uuid4())


def report(owner_id: str, *, session_count: int = 1, draining: bool = False) -> InstanceReport:
    return InstanceReport(
        instance_id=owner_id,
        started_at=NOON,
        capacity=50,
        session_count=session_count,
        draining=draining,
    )


def lease(claim: LeaseClaim) -> Lease:
    return Lease(
        company_id=claim.company_id,
        owner_id=claim.owner_id,
        epoch=claim.epoch,
        trusted_until_monotonic=time.monotonic() + claim.expires_in_seconds,
    )


def test_a_free_company_is_granted(subject: Subject) -> None:
    owner, company = new_id(), new_id()
    [claim] = subject.store.claim(owner, [company], 60)
    assert (claim.company_id, claim.owner_id, claim.granted) == (company, owner, True)
    assert claim.epoch >= 1
    assert 59 < claim.expires_in_seconds <= 60


def test_a_foreign_living_lease_is_refused_and_told(subject: Subject) -> None:
    first, second, company = new_id(), new_id(), new_id()
    [held] = subject.store.claim(first, [company], 60)
    [claim] = subject.store.claim(second, [company], 60)
    assert (claim.granted, claim.owner_id, claim.epoch) == (False, first, held.epoch)
    assert 50 < claim.expires_in_seconds <= 60


def test_an_expired_lease_changes_hands_under_a_higher_epoch(subject: Subject) -> None:
    first, second, company = new_id(), new_id(), new_id()
    [held] = subject.store.claim(first, [company], 60)
    subject.expire(company)
    [claim] = subject.store.claim(second, [company], 60)
    assert (claim.granted, claim.owner_id) == (True, second)
    assert claim.epoch > held.epoch


def test_an_own_lease_is_claimed_again_under_a_higher_epoch(subject: Subject) -> None:
    owner, company = new_id(), new_id()
    [former] = subject.store.claim(owner, [company], 60)
    [claim] = subject.store.claim(owner, [company], 60)
    assert claim.granted
    assert claim.epoch > former.epoch
    assert subject.store.tick(report(owner), [lease(former)], 60) == []


def test_one_call_answers_for_every_company(subject: Subject) -> None:
    first, second = new_id(), new_id()
    companies = sorted(new_id() for _ in range(5))
    subject.store.claim(first, companies[:2], 60)
    claims = subject.store.claim(second, companies, 60)
    assert [c.company_id for c in claims] == companies
    assert [c.granted for c in claims] == [False, False, True, True, True]


def test_a_tick_renews_exactly_the_terms_it_names(subject: Subject) -> None:
    owner, kept, lost = new_id(), new_id(), new_id()
    claims = subject.store.claim(owner, [kept, lost], 5)
    subject.expire(lost)
    renewed = subject.store.tick(report(owner), [lease(claim) for claim in claims], 60)
    assert [(claim.company_id, claim.granted) for claim in renewed] == [(kept, True)]
    assert renewed[0].owner_id == owner
    assert renewed[0].epoch == next(c.epoch for c in claims if c.company_id == kept)
    assert 59 < renewed[0].expires_in_seconds <= 60


def test_a_tick_may_be_repeated(subject: Subject) -> None:
    owner, company = new_id(), new_id()
    [claim] = subject.store.claim(owner, [company], 60)
    once = subject.store.tick(report(owner), [lease(claim)], 60)
    again = subject.store.tick(report(owner), [lease(claim)], 60)
    assert [c.epoch for c in once] == [c.epoch for c in again] == [claim.epoch]


def test_a_tick_tells_about_the_instance(subject: Subject) -> None:
    owner = new_id()
    assert subject.store.tick(report(owner, session_count=3), [], 60) == []
    assert subject.report_of(owner) == (50, 3, False)
    subject.store.tick(report(owner, session_count=2, draining=True), [], 60)
    assert subject.report_of(owner) == (50, 2, True)


def test_a_released_lease_is_free_at_once(subject: Subject) -> None:
    first, second, company = new_id(), new_id(), new_id()
    [claim] = subject.store.claim(first, [company], 60)
    subject.store.release(first, [lease(claim)])
    assert subject.store.tick(report(first), [lease(claim)], 60) == []
    assert subject.store.claim(second, [company], 60)[0].granted


def test_a_late_release_does_not_end_the_next_owners_term(subject: Subject) -> None:
    first, second, company = new_id(), new_id(), new_id()
    [late] = subject.store.claim(first, [company], 60)
    subject.expire(company)
    [claim] = subject.store.claim(second, [company], 60)
    subject.store.release(first, [lease(late)])
    assert subject.store.tick(report(second), [lease(claim)], 60) != []


def test_forgetting_a_company_fences_its_owner_off(subject: Subject) -> None:
    owner, company = new_id(), new_id()
    [claim] = subject.store.claim(owner, [company], 60)
    subject.connections.forget_company(company, 4)
    assert subject.store.tick(report(owner), [lease(claim)], 60) == []
    [anew] = subject.store.claim(owner, [company], 60)
    assert anew.epoch > claim.epoch


@pytest.mark.parametrize("ttl_seconds", [0.0, -1.0, 300.5])
def test_a_term_out_of_range_is_refused(subject: Subject, ttl_seconds: float) -> None:
    with pytest.raises(StoreRejected):
        subject.store.claim(new_id(), [new_id()], ttl_seconds)
    with pytest.raises(StoreRejected):
        subject.store.tick(report(new_id()), [], ttl_seconds)


def test_nothing_to_claim_or_release_is_no_call(subject: Subject) -> None:
    subject.outage()
    try:
        assert subject.store.claim(new_id(), [], 60) == []
        subject.store.release(new_id(), [])
    finally:
        subject.recovery()


def test_an_outage_is_unavailable_and_leases_outlive_it(subject: Subject) -> None:
    owner, company = new_id(), new_id()
    [claim] = subject.store.claim(owner, [company], 60)
    subject.outage()
    try:
        with pytest.raises(StoreUnavailable):
            subject.store.claim(owner, [company], 60)
        with pytest.raises(StoreUnavailable):
            subject.store.tick(report(owner), [lease(claim)], 60)
        with pytest.raises(StoreUnavailable):
            subject.store.release(owner, [lease(claim)])
    finally:
        subject.recovery()
    assert subject.store.tick(report(owner), [lease(claim)], 60) != []


# --- real PostgREST alone --------------------------------------------------------------------


def test_simultaneous_claimers_never_share_a_company(stack: LocalSupabase) -> None:
    clients = [make_client(stack.url, stack.service_key, 20.0) for _ in range(4)]
    owners = [new_id() for _ in clients]
    companies = [new_id() for _ in range(20)]
    together = threading.Barrier(len(clients))

    def claim(position: int) -> list[LeaseClaim]:
        order = companies if position % 2 else companies[::-1]
        together.wait(timeout=20)
        return SupabaseLeaseStore(clients[position]).claim(owners[position], order, 60)

    with ThreadPoolExecutor(len(clients)) as pool:
        answers = list(pool.map(claim, range(len(clients))))
    for client in clients:
        close_client(client)
    granted = [c.company_id for answer in answers for c in answer if c.granted]
    assert sorted(granted) == sorted(companies)


def test_a_claim_is_made_once_even_when_its_answer_is_lost(stack: LocalSupabase) -> None:
    """The claim reaches PostgREST, which is frozen, and is carried out when it thaws."""
    owner, company = new_id(), new_id()
    hasty = make_client(stack.url, stack.service_key, 0.5)
    patient = make_client(stack.url, stack.service_key, 20.0)
    [before] = SupabaseLeaseStore(patient).claim(owner, [company], 60)
    stack.freeze_postgrest()
    try:
        with pytest.raises(StoreUnavailable):
            SupabaseLeaseStore(hasty).claim(owner, [company], 60)
    finally:
        stack.thaw_postgrest()
    [after] = SupabaseLeaseStore(patient).claim(owner, [company], 60)
    assert after.epoch - before.epoch <= 2
    close_client(hasty)
    close_client(patient)

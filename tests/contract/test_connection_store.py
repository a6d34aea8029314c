"""ConnectionStore: one suite for the fake and real PostgREST, then what the real one alone has."""

import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from crm_whatsapp.domain.connection import Connection, DesiredState, Reason, Status, UserAction
from crm_whatsapp.domain.errors import StoreRejected, StoreUnavailable
from crm_whatsapp.domain.ports import ConnectionStore
from crm_whatsapp.domain.transitions import Transition, TransitionOutcome
from crm_whatsapp.stores.connection_store import SupabaseConnectionStore
from crm_whatsapp.stores.supabase_client import close_client, make_client
from local_supabase import LocalSupabase
from tests.contract.fakes import FakeConnectionStore, FakeDatabase

pytestmark = pytest.mark.contract

OWNER = "6f8f6a52-1c1e-4f59-8a4c-8f4a4d6f0b11"
NOON = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)


@dataclass
class Subject:
    """A store under test; outage and recovery take its database away and bring it back."""

    store: ConnectionStore
    outage: Callable[[], None]
    recovery: Callable[[], None]
    set_desired_state: Callable[[str, str], None]
    history: Callable[[str], list[str]]


@pytest.fixture(params=["fake", "postgrest"])
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    if request.param == "fake":
        yield fake_subject()
        return
    stack: LocalSupabase = request.getfixturevalue("stack")
    client = make_client(stack.url, stack.service_key, 5.0)
    with psycopg.connect(stack.db_url, autocommit=True) as sql:
        yield Subject(
            store=SupabaseConnectionStore(client, owner_id=OWNER),
            outage=stack.stop_postgrest,
            recovery=stack.start_postgrest,
            set_desired_state=lambda company_id, word: (
                sql.execute(
                    "update whatsapp_connections set desired_state = %s where company_id = %s",
                    (word, company_id),
                )
                and None
            ),
            history=lambda company_id: [
                str(row[0])
                for row in sql.execute(
                    "select id from whatsapp_status_events where company_id = %s order by version",
                    (company_id,),
                )
            ],
        )
    close_client(client)


def fake_subject() -> Subject:
    database = FakeDatabase()

    def set_desired_state(company_id: str, word: str) -> None:
        row = database.rows[company_id]
        database.rows[company_id] = replace(row, desired_state=DesiredState(word))

    return Subject(
        store=FakeConnectionStore(database),
        outage=lambda: setattr(database, "reachable", False),
        recovery=lambda: setattr(database, "reachable", True),
        set_desired_state=set_desired_state,
        history=lambda company_id: [
            transition.id
            for transition in database.history.values()
            if transition.connection.company_id == company_id
        ],
    )


def full_connection(company_id: str, version: int = 1) -> Connection:
    return Connection(
        company_id=company_id,
        user_id="user-7",
        desired_state=DesiredState.RUN,
        status=Status.CONNECTED,
        reason=Reason.ONLINE,
        message="WhatsApp is connected.",
        user_action=UserAction.NONE,
        degraded=True,
        jid="5511999990001:3@s.whatsapp.net",
        lid="123456789012345:3@lid",
        phone_number="+5511999990001",
        push_name='Ação "1", 🤝',
        platform="android",
        last_connected_at=NOON,
        last_disconnected_at=NOON - timedelta(hours=1),
        last_event_at=NOON + timedelta(microseconds=1),
        retry_at=NOON + timedelta(seconds=5),
        qr_expires_at=NOON + timedelta(seconds=6),
        status_deadline_at=NOON + timedelta(seconds=7),
        restore_attempts=2,
        version=version,
    )


def transition(connection: Connection, *, sets_desired_state: bool = False) -> Transition:
    return Transition(
        id=str(uuid.uuid4()),
        connection=connection,
        event="ClientConnected",
        from_status=Status.CONNECTING,
        occurred_at=NOON,
        sets_desired_state=sets_desired_state,
    )


def company() -> str:
    return str(uuid.uuid4())


def row_of(store: ConnectionStore, company_id: str) -> Connection | None:
    rows = [row for row in store.list_connections() if row.company_id == company_id]
    assert len(rows) <= 1
    return rows[0] if rows else None


def test_a_recorded_connection_reads_back_unchanged(subject: Subject) -> None:
    connection = full_connection(company())
    receipts = subject.store.record_transitions([transition(connection, sets_desired_state=True)])
    assert [(r.outcome, r.row_version) for r in receipts] == [(TransitionOutcome.APPLIED, 1)]
    assert row_of(subject.store, connection.company_id) == connection


def test_a_repeated_batch_is_recorded_once(subject: Subject) -> None:
    first = full_connection(company())
    batch = [transition(first), transition(replace(first, version=2, status=Status.CONNECTING))]
    subject.store.record_transitions(batch)
    receipts = subject.store.record_transitions(batch)
    assert [r.id for r in receipts] == [t.id for t in batch]
    assert {r.outcome for r in receipts} == {TransitionOutcome.DUPLICATE}
    assert subject.history(first.company_id) == [t.id for t in batch]
    assert row_of(subject.store, first.company_id) == batch[1].connection


def test_an_older_version_goes_to_the_history_alone(subject: Subject) -> None:
    newer = full_connection(company(), version=5)
    late = transition(replace(newer, version=4, status=Status.FAILED))
    subject.store.record_transitions([transition(newer)])
    receipt = subject.store.record_transitions([late])[0]
    assert (receipt.outcome, receipt.row_version) == (TransitionOutcome.STALE, 5)
    assert row_of(subject.store, newer.company_id) == newer
    assert late.id in subject.history(newer.company_id)


def test_one_bad_transition_does_not_hold_up_the_others(subject: Subject) -> None:
    good, bad = full_connection(company()), replace(full_connection(company()), restore_attempts=-1)
    receipts = subject.store.record_transitions([transition(bad), transition(good)])
    assert [r.outcome for r in receipts] == [TransitionOutcome.INVALID, TransitionOutcome.APPLIED]
    assert receipts[0].error
    assert row_of(subject.store, bad.company_id) is None


def test_what_the_crm_wrote_into_desired_state_stays(subject: Subject) -> None:
    running = full_connection(company())
    subject.store.record_transitions([transition(running, sets_desired_state=True)])
    subject.set_desired_state(running.company_id, "stop")
    subject.store.record_transitions([transition(replace(running, version=2))])
    row = row_of(subject.store, running.company_id)
    assert row is not None
    assert (row.desired_state, row.version) == (DesiredState.STOP, 2)
    wanted = transition(replace(running, version=3), sets_desired_state=True)
    subject.store.record_transitions([wanted])
    row = row_of(subject.store, running.company_id)
    assert row is not None
    assert row.desired_state is DesiredState.RUN


def test_a_forgotten_company_is_not_brought_back_by_late_writes(subject: Subject) -> None:
    connection = full_connection(company(), version=7)
    subject.store.record_transitions([transition(connection)])
    subject.store.forget_company(connection.company_id, 8)
    subject.store.forget_company(connection.company_id, 8)
    receipt = subject.store.record_transitions([transition(replace(connection, version=8))])[0]
    assert (receipt.outcome, receipt.row_version) == (TransitionOutcome.STALE, 8)
    assert row_of(subject.store, connection.company_id) is None
    anew = replace(connection, version=9)
    assert subject.store.record_transitions([transition(anew)])[0].outcome == "applied"
    assert row_of(subject.store, connection.company_id) == anew


def test_a_company_connected_anew_is_not_forgotten_by_a_late_call(subject: Subject) -> None:
    connection = full_connection(company(), version=9)
    subject.store.record_transitions([transition(connection)])
    subject.store.forget_company(connection.company_id, 8)
    assert row_of(subject.store, connection.company_id) == connection


def test_an_empty_batch_is_no_call(subject: Subject) -> None:
    subject.outage()
    try:
        assert subject.store.record_transitions([]) == []
    finally:
        subject.recovery()


def test_an_outage_is_unavailable_and_ends(subject: Subject) -> None:
    connection = full_connection(company())
    subject.outage()
    try:
        with pytest.raises(StoreUnavailable):
            subject.store.record_transitions([transition(connection)])
        with pytest.raises(StoreUnavailable):
            subject.store.list_connections()
        with pytest.raises(StoreUnavailable):
            subject.store.forget_company(connection.company_id, 1)
        with pytest.raises(StoreUnavailable):
            subject.store.schema_version()
    finally:
        subject.recovery()
    assert subject.store.record_transitions([transition(connection)])[0].outcome == "applied"


def test_the_schema_version_is_known(subject: Subject) -> None:
    assert subject.store.schema_version() >= 3


# --- real PostgREST alone --------------------------------------------------------------------


@pytest.fixture
def store(stack: LocalSupabase) -> Iterator[SupabaseConnectionStore]:
    client = make_client(stack.url, stack.service_key, 5.0)
    yield SupabaseConnectionStore(client, owner_id=OWNER, page_size=7)
    close_client(client)


def test_pages_are_joined_and_large_batches_are_cut(store: SupabaseConnectionStore) -> None:
    wanted = {company() for _ in range(1010)}
    receipts = store.record_transitions(
        [transition(full_connection(company_id)) for company_id in sorted(wanted)]
    )
    assert {r.outcome for r in receipts} == {TransitionOutcome.APPLIED}
    rows = store.list_connections()
    assert wanted <= {row.company_id for row in rows}
    assert len(rows) == len({row.company_id for row in rows})


def test_text_that_postgres_refuses_is_cleaned(store: SupabaseConnectionStore) -> None:
    connection = replace(full_connection(company()), push_name="a\x00b\ud800c", message="x\x00")
    assert store.record_transitions([transition(connection)])[0].outcome == "applied"
    row = row_of(store, connection.company_id)
    assert row is not None
    assert (row.push_name, row.message) == ("ab?c", "x")


def test_unknown_words_in_a_row_do_not_hide_the_others(
    store: SupabaseConnectionStore, stack: LocalSupabase
) -> None:
    odd, usual = full_connection(company()), full_connection(company())
    store.record_transitions([transition(odd), transition(usual)])
    with psycopg.connect(stack.db_url, autocommit=True) as sql:
        sql.execute(
            "update whatsapp_connections set reason = 'from-the-future', user_action = 'dance', "
            "retry_at = 'infinity' where company_id = %s",
            (odd.company_id,),
        )
    row = row_of(store, odd.company_id)
    assert row is not None
    assert (row.status, row.reason, row.retry_at) == (Status.CONNECTED, Reason.ONLINE, None)
    assert row_of(store, usual.company_id) == usual
    mine = [text for text in store.row_problems if odd.company_id in text]
    assert len(mine) == 3


def test_both_kinds_of_service_key_work(stack: LocalSupabase) -> None:
    for key in (stack.service_key, stack.secret_key):
        client = make_client(stack.url, key, 5.0)
        assert SupabaseConnectionStore(client, owner_id=OWNER).schema_version() >= 3
        close_client(client)


def test_a_wrong_key_is_named(stack: LocalSupabase) -> None:
    for key in (stack.anon_key, stack.publishable_key, "sb_secret_wrong", "nonsense"):
        client = make_client(stack.url, key, 5.0)
        with pytest.raises(StoreRejected, match="SUPABASE_SERVICE_ROLE_KEY"):
            SupabaseConnectionStore(client, owner_id=OWNER).list_connections()
        close_client(client)


def test_a_database_without_migrations_is_named(
    store: SupabaseConnectionStore, stack: LocalSupabase
) -> None:
    """The functions are renamed away and back; PostgREST is told to look again both times."""
    names = ("whatsapp_schema_version_v1", "whatsapp_record_transitions_v1")

    def rename(suffix_from: str, suffix_to: str) -> None:
        with psycopg.connect(stack.db_url, autocommit=True) as sql:
            for name in names:
                found = sql.execute(
                    "select oid::regprocedure::text from pg_proc where proname = %s",
                    (name + suffix_from,),
                ).fetchone()
                assert found is not None
                sql.execute(f"alter function {found[0]} rename to {name}{suffix_to}")
        stack.stop_postgrest()
        stack.start_postgrest()

    rename("", "_away")
    try:
        assert store.schema_version() == 0
        with pytest.raises(StoreRejected, match="python -m crm_whatsapp migrate"):
            store.record_transitions([transition(full_connection(company()))])
    finally:
        rename("_away", "")
    assert store.schema_version() >= 3


def test_a_frozen_database_is_unavailable_in_time(stack: LocalSupabase) -> None:
    client = make_client(stack.url, stack.service_key, 0.5)
    store = SupabaseConnectionStore(client, owner_id=OWNER)
    stack.freeze_postgrest()
    started = datetime.now(UTC)
    try:
        with pytest.raises(StoreUnavailable, match="in time"):
            store.record_transitions([transition(full_connection(company()))])
    finally:
        stack.thaw_postgrest()
    assert datetime.now(UTC) - started < timedelta(seconds=2)
    close_client(client)


def test_nobody_listening_is_unavailable() -> None:
    client = make_client("http://127.0.0.1:9", "sb_secret_x", 1.0)
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        SupabaseConnectionStore(client, owner_id=OWNER).list_connections()
    close_client(client)


def test_threads_share_one_client(store: SupabaseConnectionStore) -> None:
    failures: list[BaseException] = []
    companies = [company() for _ in range(8)]

    def work(company_id: str) -> None:
        try:
            for version in range(1, 21):
                change = transition(full_connection(company_id, version))
                assert store.record_transitions([change])[0].outcome == "applied"
        except BaseException as exc:  # noqa: BLE001 - shown by the test's own assertion
            failures.append(exc)

    threads = [threading.Thread(target=work, args=(company_id,)) for company_id in companies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert failures == []
    versions = {row.company_id: row.version for row in store.list_connections()}
    assert {versions[company_id] for company_id in companies} == {20}

"""SnapshotStore: one suite for the fake, for real PostgREST, and for PostgREST with S3."""

import hashlib
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from random import Random

import psycopg
import pytest

from crm_whatsapp.domain.errors import CrmWhatsappError, StoreRejected, StoreUnavailable
from crm_whatsapp.domain.ports import LeaseStore, SnapshotStore
from crm_whatsapp.domain.snapshots import LeaseFenced, SealedSnapshot, SnapshotDamaged, SnapshotMeta
from crm_whatsapp.stores.lease_store import SupabaseLeaseStore
from crm_whatsapp.stores.s3_bucket import BucketSettings, S3Bucket
from crm_whatsapp.stores.s3_snapshot_store import S3SnapshotStore
from crm_whatsapp.stores.snapshot_store import SupabaseSnapshotStore
from crm_whatsapp.stores.supabase_client import close_client, make_client
from local_supabase import LocalSupabase
from tests.contract.fakes import (
    TOMBSTONE_SECONDS,
    FakeDatabase,
    FakeLeaseStore,
    FakeSnapshotStore,
)
from tests.contract.object_storage import ObjectStorage

pytestmark = pytest.mark.contract

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
PREFIX = "whatsapp/snapshots"
MIB = 1024 * 1024


@dataclass
class Subject:
    """A store under test, and the hands to disturb it.

    expire: let the lease of a company run out. damage: flip a bit of a kept payload.
    age_tombstones: make tombstones older, by seconds. kept: rows, tombstoned ones included.
    """

    store: SnapshotStore
    leases: LeaseStore
    expire: Callable[[str], None]
    outage: Callable[[], None]
    recovery: Callable[[], None]
    damage: Callable[[SnapshotMeta], None]
    age_tombstones: Callable[[str, float], None]
    kept: Callable[[str], int]


@pytest.fixture(scope="module")
def storage() -> Iterator[ObjectStorage]:
    """The S3 server of all tests here: use buckets or companies of your own."""
    with ObjectStorage() as running:
        yield running


@pytest.fixture
def bucket_name(storage: ObjectStorage) -> str:
    return storage.make_bucket(f"bucket-{uuid.uuid4()}")


@pytest.fixture
def make_bucket(storage: ObjectStorage, bucket_name: str) -> Iterator[Callable[..., S3Bucket]]:
    """Give clients of the bucket, with other settings where told."""
    made: list[S3Bucket] = []
    usual = BucketSettings(
        bucket=bucket_name,
        endpoint_url=storage.url,
        access_key_id=storage.access_key_id,
        secret_access_key=storage.secret_access_key,
    )

    def make(**changes: object) -> S3Bucket:
        made.append(S3Bucket(replace(usual, **changes)))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for bucket in made:
        bucket.close()


@pytest.fixture(params=["fake", "postgrest", "s3"])
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    if request.param == "fake":
        yield fake_subject()
        return
    stack: LocalSupabase = request.getfixturevalue("stack")
    client = make_client(stack.url, stack.service_key, 10.0)
    with psycopg.connect(stack.db_url, autocommit=True) as sql:
        subject = real_subject(stack, sql, SupabaseSnapshotStore(client))
        subject.leases = SupabaseLeaseStore(client)
        if request.param == "s3":
            bucket: S3Bucket = request.getfixturevalue("make_bucket")()
            subject.store = S3SnapshotStore(client, bucket, prefix=PREFIX)

            def damage(meta: SnapshotMeta) -> None:
                assert meta.object_key is not None
                content = bucket.find(meta.object_key, meta.size_bytes)
                assert content is not None
                bucket.put(meta.object_key, flipped(content))

            subject.damage = damage
        yield subject
    close_client(client)


def real_subject(
    stack: LocalSupabase, sql: psycopg.Connection, store: SupabaseSnapshotStore
) -> Subject:
    def expire(company: str) -> None:
        sql.execute(
            "update whatsapp_leases set expires_at = clock_timestamp() where company_id = %s",
            (company,),
        )

    def damage(meta: SnapshotMeta) -> None:
        sql.execute(
            "update whatsapp_session_snapshots set payload = set_bit(payload, 77, "
            "1 - get_bit(payload, 77)) where company_id = %s and epoch = %s and seq = %s",
            (meta.company_id, meta.epoch, meta.seq),
        )

    def age_tombstones(company: str, seconds: float) -> None:
        sql.execute(
            "update whatsapp_session_snapshots set tombstoned_at = tombstoned_at "
            "- make_interval(secs => %s) where company_id = %s",
            (seconds, company),
        )

    def kept(company: str) -> int:
        found = sql.execute(
            "select count(*) from whatsapp_session_snapshots where company_id = %s", (company,)
        ).fetchone()
        assert found is not None
        return int(found[0])

    return Subject(
        store=store,
        leases=FakeLeaseStore(FakeDatabase()),
        expire=expire,
        outage=stack.stop_postgrest,
        recovery=stack.start_postgrest,
        damage=damage,
        age_tombstones=age_tombstones,
        kept=kept,
    )


def fake_subject() -> Subject:
    database = FakeDatabase()

    def expire(company: str) -> None:
        database.leases[company].expires_at = database.clock()

    def damage(meta: SnapshotMeta) -> None:
        row = database.snapshots[(meta.company_id, meta.epoch, meta.seq)]
        row.sealed = replace(row.sealed, payload=flipped(row.sealed.payload))

    def age_tombstones(company: str, seconds: float) -> None:
        for key, row in database.snapshots.items():
            if key[0] == company and row.tombstoned_at is not None:
                row.tombstoned_at -= seconds

    return Subject(
        store=FakeSnapshotStore(database),
        leases=FakeLeaseStore(database),
        expire=expire,
        outage=lambda: setattr(database, "reachable", False),
        recovery=lambda: setattr(database, "reachable", True),
        damage=damage,
        age_tombstones=age_tombstones,
        kept=lambda company: sum(key[0] == company for key in database.snapshots),
    )


def new_id() -> str:
    return str(uuid.uuid4())


def flipped(content: bytes) -> bytes:
    return bytes([content[0] ^ 1]) + content[1:]


def snapshot(
    company: str, epoch: int, seq: int, *, size: int = 3000, clean: bool = False, key_id: str = "k1"
) -> SealedSnapshot:
    random = Random(f"{company} {epoch} {seq} {size}")  # noqa: S311 - content, not a key
    payload = random.randbytes(size)
    return SealedSnapshot(
        meta=SnapshotMeta(
            company_id=company,
            epoch=epoch,
            seq=seq,
            key_id=key_id,
            sha256=hashlib.sha256(payload).hexdigest(),
            size_bytes=size,
            clean=clean,
            created_at=NOON,
        ),
        wrapped_key=random.randbytes(60),
        payload=payload,
    )


@dataclass
class Holder:
    """A company and the instance that holds its lease."""

    company: str
    owner: str
    epoch: int
    store: SnapshotStore

    def write(self, seq: int, **content: object) -> SealedSnapshot:
        """Write a snapshot of this term."""
        sealed = snapshot(self.company, self.epoch, seq, **content)  # type: ignore[arg-type]
        self.store.write(self.owner, sealed)
        return sealed

    def positions(self) -> list[tuple[int, int]]:
        """Return the (epoch, seq) that are listed."""
        return [(meta.epoch, meta.seq) for meta in self.store.list(self.company)]


def hold(subject: Subject, company: str | None = None, owner: str | None = None) -> Holder:
    company, owner = company or new_id(), owner or new_id()
    [claim] = subject.leases.claim(owner, [company], 60)
    assert claim.granted
    return Holder(company, owner, claim.epoch, subject.store)


@pytest.fixture
def holder(subject: Subject) -> Holder:
    return hold(subject)


# --- writing and reading ---------------------------------------------------------------------


@pytest.mark.parametrize("clean", [True, False])
def test_what_was_written_reads_back(subject: Subject, holder: Holder, clean: bool) -> None:
    sealed = holder.write(1, clean=clean)
    found = subject.store.read(holder.company, holder.epoch, 1)
    assert (found.payload, found.wrapped_key) == (sealed.payload, sealed.wrapped_key)
    place = {"created_at": NOON, "object_key": None}
    assert replace(found.meta, **place) == sealed.meta  # type: ignore[arg-type]
    assert subject.store.list(holder.company) == [found.meta]


def test_when_it_was_kept_is_on_the_database_clock(subject: Subject, holder: Holder) -> None:
    before = datetime.now(UTC)
    holder.write(1)
    [meta] = subject.store.list(holder.company)
    assert meta.created_at.tzinfo is not None
    assert before - timedelta(seconds=5) < meta.created_at < before + timedelta(seconds=60)


@pytest.mark.parametrize("size", [1, 64 * 1024, 8 * MIB])
def test_any_size_is_kept(subject: Subject, holder: Holder, size: int) -> None:
    sealed = holder.write(1, size=size)
    assert subject.store.read(holder.company, holder.epoch, 1).payload == sealed.payload


def test_a_company_without_snapshots_has_none(subject: Subject, holder: Holder) -> None:
    assert subject.store.list(holder.company) == []
    assert holder.company not in subject.store.companies()
    with pytest.raises(SnapshotDamaged):
        subject.store.read(holder.company, 1, 1)


def test_a_flipped_bit_is_found_and_the_older_one_still_reads(
    subject: Subject, holder: Holder
) -> None:
    older = holder.write(1)
    holder.write(2)
    subject.damage(subject.store.list(holder.company)[0])
    with pytest.raises(SnapshotDamaged):
        subject.store.read(holder.company, holder.epoch, 2)
    assert subject.store.read(holder.company, holder.epoch, 1).payload == older.payload


def test_content_that_is_not_what_its_hash_says_is_refused(
    subject: Subject, holder: Holder
) -> None:
    sealed = snapshot(holder.company, holder.epoch, 1)
    with pytest.raises(StoreRejected):
        subject.store.write(holder.owner, replace(sealed, payload=flipped(sealed.payload)))
    assert holder.positions() == []


# --- order, repetition, pruning --------------------------------------------------------------


def test_the_newest_three_are_kept_newest_first(holder: Holder) -> None:
    for seq in range(1, 6):
        holder.write(seq)
    assert holder.positions() == [(holder.epoch, seq) for seq in (5, 4, 3)]


def test_a_higher_epoch_comes_before_any_seq(subject: Subject, holder: Holder) -> None:
    holder.write(900)
    later = hold(subject, holder.company, holder.owner)
    later.write(1)
    assert later.positions() == [(later.epoch, 1), (holder.epoch, 900)]
    assert subject.store.companies()[holder.company] == (later.epoch, 1)


def test_the_same_write_twice_is_kept_once(subject: Subject, holder: Holder) -> None:
    sealed = holder.write(1)
    subject.store.write(holder.owner, sealed)
    holder.write(2)
    subject.store.write(holder.owner, sealed)
    assert holder.positions() == [(holder.epoch, 2), (holder.epoch, 1)]
    assert subject.store.read(holder.company, holder.epoch, 1).payload == sealed.payload


@pytest.mark.parametrize("seq", [4, 5])
def test_what_is_not_newer_is_refused_and_told_why(holder: Holder, seq: int) -> None:
    holder.write(5)
    with pytest.raises(StoreRejected) as refusal:
        holder.write(seq, size=500)
    facts = refusal.value.details
    assert facts["outcome"] == "stale"
    assert (facts["newest_epoch"], facts["newest_seq"]) == (holder.epoch, 5)
    assert holder.positions() == [(holder.epoch, 5)]


def test_pruning_leaves_the_newest(subject: Subject, holder: Holder) -> None:
    other = hold(subject)
    for seq in (1, 2, 3):
        holder.write(seq)
        other.write(seq)
    assert subject.store.prune(holder.company, 2) == 1
    assert subject.store.prune(holder.company, 2) == 0
    assert holder.positions() == [(holder.epoch, 3), (holder.epoch, 2)]
    assert len(other.positions()) == 3
    assert subject.store.prune(None, 1) >= 3
    assert (holder.positions(), other.positions()) == ([(holder.epoch, 3)], [(other.epoch, 3)])


@pytest.mark.parametrize("keep", [0, -1])
def test_pruning_to_nothing_is_refused(subject: Subject, holder: Holder, keep: int) -> None:
    holder.write(1)
    for company in (holder.company, None):
        with pytest.raises(StoreRejected):
            subject.store.prune(company, keep)
    assert len(holder.positions()) == 1


# --- the lease -------------------------------------------------------------------------------


def test_only_the_live_lease_writes(subject: Subject, holder: Holder) -> None:
    stranger = Holder(holder.company, new_id(), holder.epoch, subject.store)
    future = Holder(holder.company, holder.owner, holder.epoch + 1, subject.store)
    past = Holder(holder.company, holder.owner, holder.epoch - 1, subject.store)
    unclaimed = Holder(new_id(), holder.owner, 1, subject.store)
    for writer in (stranger, future, past, unclaimed):
        with pytest.raises(LeaseFenced):
            writer.write(1)
        assert writer.positions() == []


def test_an_expired_lease_writes_nothing(subject: Subject, holder: Holder) -> None:
    sealed = holder.write(1)
    subject.expire(holder.company)
    with pytest.raises(LeaseFenced):
        holder.write(2)
    with pytest.raises(LeaseFenced):
        subject.store.write(holder.owner, sealed)
    assert subject.store.read(holder.company, holder.epoch, 1).payload == sealed.payload


def test_the_old_owner_is_fenced_off_by_the_new_one(subject: Subject, holder: Holder) -> None:
    holder.write(1)
    subject.expire(holder.company)
    heir = hold(subject, holder.company)
    heir.write(1)
    with pytest.raises(LeaseFenced):
        holder.write(2)
    assert heir.positions() == [(heir.epoch, 1), (holder.epoch, 1)]


def test_a_claim_tells_the_newest_snapshot(subject: Subject, holder: Holder) -> None:
    bare, heir = new_id(), new_id()
    holder.write(1)
    holder.write(7)
    [refused] = subject.leases.claim(heir, [holder.company], 60)
    assert (refused.granted, refused.snapshot_epoch, refused.snapshot_seq) == (
        False,
        holder.epoch,
        7,
    )
    subject.expire(holder.company)
    claims = {c.company_id: c for c in subject.leases.claim(heir, [holder.company, bare], 60)}
    claim = claims[holder.company]
    assert (claim.granted, claim.snapshot_epoch, claim.snapshot_seq) == (True, holder.epoch, 7)
    assert (claims[bare].snapshot_epoch, claims[bare].snapshot_seq) == (None, None)
    assert claims[bare].last_version == 0
    subject.store.tombstone(holder.company)
    [claim] = subject.leases.claim(heir, [holder.company], 60)
    assert (claim.snapshot_epoch, claim.snapshot_seq) == (None, None)


def test_two_terms_writing_at_once_leave_the_newer_one_in_front(
    subject: Subject, holder: Holder
) -> None:
    """The old owner goes on writing while its lease runs out and is taken over."""
    started, taken_over = threading.Event(), threading.Event()

    def write_until_fenced() -> int:
        for seq in range(1, 10_000):
            try:
                holder.write(seq, size=100)
            except LeaseFenced:
                return seq
            started.set()
        raise AssertionError("the old owner was never fenced off")

    def take_over() -> Holder:
        assert started.wait(20)
        subject.expire(holder.company)
        heir = hold(subject, holder.company)
        for seq in (1, 2):
            heir.write(seq, size=100)
        taken_over.set()
        return heir

    with ThreadPoolExecutor(2) as pool:
        old, new = pool.submit(write_until_fenced), pool.submit(take_over)
        heir, fenced_at = new.result(60), old.result(60)
    assert taken_over.is_set()
    assert heir.positions() == [
        (heir.epoch, 2),
        (heir.epoch, 1),
        (holder.epoch, fenced_at - 1),
    ]


# --- the end of a session --------------------------------------------------------------------


def test_tombstoned_ones_are_out_of_use_for_seven_days_and_then_gone(
    subject: Subject, holder: Holder
) -> None:
    other = hold(subject)
    holder.write(1)
    holder.write(2)
    other.write(1)
    subject.store.tombstone(holder.company)
    subject.store.tombstone(holder.company)
    assert holder.positions() == []
    assert holder.company not in subject.store.companies()
    with pytest.raises(SnapshotDamaged):
        subject.store.read(holder.company, holder.epoch, 2)

    subject.age_tombstones(holder.company, TOMBSTONE_SECONDS - 3600)
    subject.store.prune(None, 3)
    assert subject.kept(holder.company) == 2
    subject.age_tombstones(holder.company, 3600)
    subject.store.prune(None, 3)
    assert subject.kept(holder.company) == 0
    assert other.positions() == [(other.epoch, 1)]


def test_a_new_pairing_has_snapshots_of_its_own(subject: Subject, holder: Holder) -> None:
    for seq in (1, 2, 3):
        holder.write(seq)
    subject.store.tombstone(holder.company)
    holder.write(4)
    later = hold(subject, holder.company, holder.owner)
    later.write(1)
    assert later.positions() == [(later.epoch, 1), (holder.epoch, 4)]
    assert subject.kept(holder.company) == 5
    later.write(2)
    later.write(3)  # prunes the one before, and spares the tombstoned
    assert later.positions() == [(later.epoch, seq) for seq in (3, 2, 1)]
    assert subject.kept(holder.company) == 6


def test_numbers_of_tombstoned_ones_are_not_used_again(subject: Subject, holder: Holder) -> None:
    holder.write(3)
    subject.store.tombstone(holder.company)
    with pytest.raises(StoreRejected) as refusal:
        holder.write(1)
    assert refusal.value.details["newest_seq"] == 3


def test_deleted_ones_are_gone(subject: Subject, holder: Holder) -> None:
    other = hold(subject)
    holder.write(1)
    subject.store.tombstone(holder.company)
    holder.write(2)
    other.write(1)
    for _ in range(2):
        subject.store.delete(holder.company)
        assert (holder.positions(), subject.kept(holder.company)) == ([], 0)
    assert other.positions() == [(other.epoch, 1)]


# --- keys ------------------------------------------------------------------------------------


def test_a_key_is_replaced_once_and_only_from_what_it_was(subject: Subject, holder: Holder) -> None:
    sealed = holder.write(1)
    [meta] = subject.store.list(holder.company)
    for _ in range(2):  # its answer may get lost
        assert subject.store.rewrap(meta, new_key_id="k2", wrapped_key=b"wrapped by k2")
    found = subject.store.read(holder.company, holder.epoch, 1)
    assert (found.meta.key_id, found.wrapped_key) == ("k2", b"wrapped by k2")
    assert found.payload == sealed.payload
    assert not subject.store.rewrap(meta, new_key_id="k3", wrapped_key=b"from an old look")
    assert not subject.store.rewrap(meta, new_key_id="k2", wrapped_key=b"wrapped anew")
    other = replace(found.meta, sha256="0" * 64)
    assert not subject.store.rewrap(other, new_key_id="k3", wrapped_key=b"of another content")
    missing = replace(found.meta, seq=2)
    assert not subject.store.rewrap(missing, new_key_id="k3", wrapped_key=b"of nothing")
    assert subject.store.read(holder.company, holder.epoch, 1) == found


# --- trouble ---------------------------------------------------------------------------------


def test_an_outage_is_unavailable_and_nothing_is_lost(subject: Subject, holder: Holder) -> None:
    sealed = holder.write(1)
    [meta] = subject.store.list(holder.company)
    calls: list[Callable[[], object]] = [
        lambda: holder.write(2),
        lambda: subject.store.list(holder.company),
        lambda: subject.store.read(holder.company, holder.epoch, 1),
        subject.store.companies,
        lambda: subject.store.tombstone(holder.company),
        lambda: subject.store.delete(holder.company),
        lambda: subject.store.prune(holder.company, 1),
        lambda: subject.store.rewrap(meta, new_key_id="k2", wrapped_key=b"x"),
    ]
    subject.outage()
    try:
        for call in calls:
            with pytest.raises(StoreUnavailable):
                call()
    finally:
        subject.recovery()
    assert subject.store.read(holder.company, holder.epoch, 1).payload == sealed.payload
    holder.write(2)
    assert len(holder.positions()) == 2


def test_reading_while_others_are_pruned_never_gives_half(subject: Subject, holder: Holder) -> None:
    holder.write(1)
    done = threading.Event()

    def write() -> None:
        try:
            for seq in range(2, 30):
                holder.write(seq, size=20_000)
        finally:
            done.set()

    def read() -> int:
        read_well = 0
        while not done.is_set():
            for epoch, seq in holder.positions():
                try:
                    subject.store.read(holder.company, epoch, seq)
                    read_well += 1
                except SnapshotDamaged:
                    assert (epoch, seq) not in holder.positions()
        return read_well

    with ThreadPoolExecutor(2) as pool:
        reading, writing = pool.submit(read), pool.submit(write)
        writing.result(60)
        assert reading.result(60) > 0


# --- real PostgREST alone --------------------------------------------------------------------


@pytest.fixture
def real(stack: LocalSupabase) -> Iterator[Subject]:
    client = make_client(stack.url, stack.service_key, 10.0)
    with psycopg.connect(stack.db_url, autocommit=True) as sql:
        subject = real_subject(stack, sql, SupabaseSnapshotStore(client))
        subject.leases = SupabaseLeaseStore(client)
        yield subject
    close_client(client)


def test_a_write_whose_answer_is_lost_may_be_repeated(
    real: Subject, stack: LocalSupabase, eventually: Callable[[Callable[[], object], str], None]
) -> None:
    """The write reaches PostgREST, which is frozen, and is carried out when it thaws."""
    holder = hold(real)
    hasty = make_client(stack.url, stack.service_key, 0.4)
    sealed = snapshot(holder.company, holder.epoch, 1)
    stack.freeze_postgrest()
    try:
        with pytest.raises(StoreUnavailable):
            SupabaseSnapshotStore(hasty).write(holder.owner, sealed)
    finally:
        stack.thaw_postgrest()
    eventually(lambda: holder.positions() == [(holder.epoch, 1)], "the lost write is carried out")
    real.store.write(holder.owner, sealed)
    assert holder.positions() == [(holder.epoch, 1)]
    close_client(hasty)


def test_more_companies_than_the_api_gives_rows(real: Subject, stack: LocalSupabase) -> None:
    with psycopg.connect(stack.db_url, autocommit=True) as sql:
        sql.execute(
            "insert into whatsapp_session_snapshots (company_id, epoch, seq, key_id, wrapped_key, "
            "sha256, size_bytes, payload) select gen_random_uuid(), 9, 9, 'many', '\\x00', "
            "encode(sha256('\\x00'), 'hex'), 1, '\\x00' from generate_series(1, 2500)"
        )
        try:
            newest = real.store.companies()
            assert sum(position == (9, 9) for position in newest.values()) >= 2500
        finally:
            sql.execute("delete from whatsapp_session_snapshots where key_id = 'many'")


# --- real S3 alone ---------------------------------------------------------------------------


@dataclass
class S3Subject:
    """The S3 store and what it stands on."""

    subject: Subject
    store: S3SnapshotStore
    bucket: S3Bucket
    keys: Callable[[], list[str]]
    make_store: Callable[..., S3SnapshotStore]


@pytest.fixture
def s3(
    real: Subject,
    stack: LocalSupabase,
    storage: ObjectStorage,
    bucket_name: str,
    make_bucket: Callable[..., S3Bucket],
) -> Iterator[S3Subject]:
    client = make_client(stack.url, stack.service_key, 10.0)
    bucket = make_bucket()

    def make_store(
        bucket: S3Bucket = bucket, prefix: str = PREFIX, days_later: float = 0
    ) -> S3SnapshotStore:
        return S3SnapshotStore(
            client,
            bucket,
            prefix=prefix,
            now=lambda: datetime.now(UTC) + timedelta(days=days_later),
        )

    real.store = make_store()
    yield S3Subject(real, real.store, bucket, lambda: storage.keys(bucket_name), make_store)
    close_client(client)


def test_objects_are_named_after_what_they_hold(s3: S3Subject) -> None:
    holder = hold(s3.subject)
    sealed = holder.write(3)
    name = f"{PREFIX}/{holder.company}/{holder.epoch}-3-{sealed.meta.sha256}.snapshot"
    assert s3.keys() == [name]
    assert s3.store.list(holder.company)[0].object_key == name


@pytest.mark.parametrize("prefix", ["", "/", "one", "/one/two/"])
def test_any_prefix_will_do(s3: S3Subject, prefix: str) -> None:
    s3.subject.store = store = s3.make_store(prefix=prefix)
    holder = hold(s3.subject)
    sealed = holder.write(1)
    assert store.read(holder.company, holder.epoch, 1).payload == sealed.payload
    store.delete(holder.company)
    assert s3.keys() == []


def test_objects_go_with_their_snapshots(s3: S3Subject) -> None:
    holder = hold(s3.subject)
    for seq in range(1, 6):
        holder.write(seq)
    assert len(s3.keys()) == 3
    s3.store.prune(holder.company, 2)
    assert len(s3.keys()) == 2
    s3.store.tombstone(holder.company)
    assert len(s3.keys()) == 2
    s3.subject.age_tombstones(holder.company, TOMBSTONE_SECONDS)
    s3.store.prune(None, 3)
    assert s3.keys() == []


def test_a_missing_object_is_damage_and_the_older_one_still_reads(s3: S3Subject) -> None:
    holder = hold(s3.subject)
    older = holder.write(1)
    holder.write(2)
    key = s3.store.list(holder.company)[0].object_key
    assert key is not None
    s3.bucket.remove(key)
    with pytest.raises(SnapshotDamaged, match=r"object.*missing"):
        s3.store.read(holder.company, holder.epoch, 2)
    assert s3.store.read(holder.company, holder.epoch, 1).payload == older.payload


FOREIGN_KEYS = ["backups/of-the-crm.sql", "../../etc/passwd", "a.snapshot"]


@pytest.mark.parametrize("key", FOREIGN_KEYS)
def test_a_row_cannot_have_the_object_of_somebody_else_read_or_removed(
    s3: S3Subject, stack: LocalSupabase, key: str
) -> None:
    holder = hold(s3.subject)
    holder.write(1)
    s3.bucket.put(key, b"of somebody else")
    with psycopg.connect(stack.db_url, autocommit=True) as connection:
        connection.execute(
            "update public.whatsapp_session_snapshots set object_key = %s where company_id = %s",
            (key, holder.company),
        )
    with pytest.raises(SnapshotDamaged, match="altered"):
        s3.store.read(holder.company, holder.epoch, 1)
    for seq in range(2, 5):
        holder.write(seq)  # which prunes the first
    assert [meta.seq for meta in s3.store.list(holder.company)] == [4, 3, 2]
    assert key in s3.keys()


def test_an_object_that_has_grown_is_not_read_to_its_end(s3: S3Subject) -> None:
    holder = hold(s3.subject)
    sealed = holder.write(1)
    key = s3.store.list(holder.company)[0].object_key
    assert key is not None
    s3.bucket.put(key, sealed.payload + bytes(8 * MIB))
    found = s3.bucket.find(key, sealed.meta.size_bytes)
    assert found is not None
    assert sealed.meta.size_bytes < len(found) <= sealed.meta.size_bytes + 2 * MIB
    with pytest.raises(SnapshotDamaged, match="bytes instead of"):
        s3.store.read(holder.company, holder.epoch, 1)


def test_a_refused_write_never_takes_the_object_of_an_earlier_one_away(s3: S3Subject) -> None:
    holder = hold(s3.subject)
    sealed = holder.write(1)
    s3.subject.expire(holder.company)
    with pytest.raises(LeaseFenced):
        s3.store.write(holder.owner, sealed)
    s3.make_store(days_later=2).sweep()
    assert s3.store.read(holder.company, holder.epoch, 1).payload == sealed.payload


def test_the_sweep_takes_old_objects_without_a_row_and_nothing_else(s3: S3Subject) -> None:
    holder = hold(s3.subject)
    kept = holder.write(1)
    with pytest.raises(StoreRejected):
        holder.write(0)  # stale: its object stays behind
    hash_text = "ab" * 32
    foreign = [
        "unrelated.txt",
        f"{PREFIX}/notes.txt",
        f"other/{holder.company}/1-1-{hash_text}.snapshot",
        f"{PREFIX}/{new_id()}/1-1-{hash_text}.snapshot",  # a company of another database
        f"{PREFIX}/{holder.company}/{holder.epoch + 1}-1-{hash_text}.snapshot",  # a later term
    ]
    for key in foreign:
        s3.bucket.put(key, b"of somebody else")
    assert len(s3.keys()) == 2 + len(foreign)

    assert s3.store.sweep() == 0  # too young
    assert s3.make_store(days_later=1.1).sweep() == 1
    expected = [*foreign, s3.store.list(holder.company)[0].object_key]
    assert sorted(s3.keys()) == sorted(str(key) for key in expected)
    assert s3.store.read(holder.company, holder.epoch, 1).payload == kept.payload


def test_deleting_takes_everything_but_a_later_pairing(s3: S3Subject) -> None:
    holder = hold(s3.subject)
    holder.write(1)
    with pytest.raises(StoreRejected):
        holder.write(0)
    later = f"{PREFIX}/{holder.company}/{holder.epoch + 1}-1-{'ab' * 32}.snapshot"
    s3.bucket.put(later, b"being written")
    s3.store.delete(holder.company)
    assert s3.keys() == [later]


def test_a_frozen_bucket_is_unavailable_in_time_and_nothing_is_lost(
    s3: S3Subject, storage: ObjectStorage, make_bucket: Callable[..., S3Bucket]
) -> None:
    store = s3.make_store(bucket=make_bucket(timeout_seconds=0.3))
    s3.subject.store = store
    holder = hold(s3.subject)
    sealed = holder.write(1)
    storage.freeze()
    began = time.monotonic()
    try:
        for call in (
            lambda: holder.write(2),
            lambda: store.read(holder.company, holder.epoch, 1),
            store.sweep,
        ):
            with pytest.raises(StoreUnavailable):
                call()
    finally:
        storage.thaw()
    assert time.monotonic() - began < 10
    assert holder.positions() == [(holder.epoch, 1)]
    assert store.read(holder.company, holder.epoch, 1).payload == sealed.payload
    holder.write(2)
    assert store.read(holder.company, holder.epoch, 2).meta.seq == 2


def test_a_bucket_that_is_away_delays_the_removal_of_objects_only(
    s3: S3Subject, make_bucket: Callable[..., S3Bucket]
) -> None:
    holder = hold(s3.subject)
    for seq in (1, 2, 3):
        holder.write(seq)
    away = s3.make_store(bucket=make_bucket(endpoint_url="http://127.0.0.1:1"))
    assert away.prune(holder.company, 1) == 2
    assert (holder.positions(), len(s3.keys())) == ([(holder.epoch, 3)], 3)
    assert s3.make_store(days_later=2).sweep() == 2
    with pytest.raises(StoreUnavailable):
        away.delete(holder.company)
    assert (holder.positions(), len(s3.keys())) == ([], 1)
    s3.store.delete(holder.company)
    assert s3.keys() == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bucket": "no-such-bucket"}, "Check S3_BUCKET"),
        ({"endpoint_url": "nowhere"}, "not usable"),
        ({"bucket": "not a bucket"}, "Invalid bucket name"),
    ],
)
def test_wrong_settings_are_named(
    s3: S3Subject, make_bucket: Callable[..., S3Bucket], changes: dict[str, str], words: str
) -> None:
    store = s3.make_store(bucket=make_bucket(**changes))
    holder = hold(s3.subject)
    with pytest.raises(StoreRejected, match=words):
        store.write(holder.owner, snapshot(holder.company, holder.epoch, 1))
    assert holder.positions() == []


def test_both_storages_read_what_the_database_holds(s3: S3Subject, stack: LocalSupabase) -> None:
    """A change of SNAPSHOT_STORAGE to s3 loses nothing; one back says what is missing."""
    client = make_client(stack.url, stack.service_key, 10.0)
    rows = SupabaseSnapshotStore(client)
    holder = hold(s3.subject)
    first = snapshot(holder.company, holder.epoch, 1)
    rows.write(holder.owner, first)
    holder.write(2)
    assert s3.store.read(holder.company, holder.epoch, 1).payload == first.payload
    with pytest.raises(StoreRejected, match="SNAPSHOT_STORAGE=s3"):
        rows.read(holder.company, holder.epoch, 2)
    close_client(client)


def test_every_error_is_one_of_the_product(make_bucket: Callable[..., S3Bucket]) -> None:
    bucket = make_bucket(endpoint_url="http://127.0.0.1:1", timeout_seconds=0.3)
    for call in (
        lambda: bucket.put("key", b"x"),
        lambda: bucket.find("key", 1),
        lambda: bucket.remove("key"),
        lambda: list(bucket.list("")),
    ):
        with pytest.raises(CrmWhatsappError) as error:
            call()
        assert isinstance(error.value, StoreUnavailable)

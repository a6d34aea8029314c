"""The key ring: what opens, what does not, and how seldom the database is asked."""

import json
import threading
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from crm_whatsapp.domain.api_keys import (
    ApiKey,
    KeysUnknown,
    KeyUnknown,
    Scope,
    _checksum,
    find_key_id,
    new_key_text,
)
from crm_whatsapp.domain.errors import (
    ConfigurationError,
    InvalidInput,
    StorageError,
    StoreUnavailable,
)
from crm_whatsapp.service.api_key_desk import ApiKeyDesk, TooManyKeys
from crm_whatsapp.service.api_key_misses import KeyMisses, MissTerms
from crm_whatsapp.service.api_key_seal import KeySeal
from crm_whatsapp.service.api_keys import ApiKeyRing
from tests.contract.api_key_fakes import FakeApiKeyStore
from tests.unit.service.fakes import DEADLINE_SECONDS, ManualClock

PEPPER = "the pepper of the tests 0123456789abcdef"
ACME = "aaaaaaaa-0000-4000-8000-000000000001"
BOLT = "bbbbbbbb-0000-4000-8000-000000000002"
AWAY = StoreUnavailable("The database cannot be reached.")


class Kept:
    """The file."""

    def __init__(self) -> None:
        self.text: str | None = None
        self.writes = 0
        self.failure: Exception | None = None

    def find(self) -> str | None:
        if self.failure is not None:
            raise self.failure
        return self.text

    def keep(self, text: str) -> None:
        if self.failure is not None:
            raise self.failure
        self.text = text
        self.writes += 1


class World:
    """A database, and pods that share it."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = FakeApiKeyStore()
        self.kept = Kept()

    def pod(self, pepper: str = PEPPER, kept: Kept | None = None) -> "PodKeys":
        return PodKeys(self, KeySeal.parse(pepper), kept or self.kept)


class PodKeys:
    def __init__(self, world: World, seal: KeySeal, kept: Kept) -> None:
        terms = MissTerms(longest_seconds=300.0, first_seconds=10.0, patience_seconds=5.0)
        self.misses = KeyMisses(world.clock, terms)
        self.ring = ApiKeyRing(
            store=world.store, seal=seal, kept=kept, clock=world.clock, misses=self.misses
        )
        self.desk = ApiKeyDesk(self.ring, seal, world.clock)

    def make(self, **wanted: Any) -> tuple[ApiKey, str]:
        common: dict[str, Any] = {
            "name": "a test",
            "company_id": ACME,
            "scopes": frozenset({Scope.READ}),
            "expires_at": None,
            "created_by": "tests",
        }
        return self.desk.create(**common | wanted)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def pod(world: World) -> PodKeys:
    made = world.pod()
    made.ring.sync()
    return made


class TestOpening:
    def test_a_key_opens_until_it_is_revoked(self, pod: PodKeys) -> None:
        key, text = pod.make()
        assert pod.ring.authenticate(text) == key
        assert pod.ring.find(key.id) == key
        revoked = pod.desk.revoke(key.id, by="tests", company_id=None)
        assert revoked.revoked_by == "tests"
        assert pod.ring.authenticate(text) is None
        assert pod.ring.find(key.id) is None

    def test_a_key_ends_by_itself(self, world: World, pod: PodKeys) -> None:
        key, text = pod.make(expires_at=world.clock.now() + timedelta(seconds=90.7))
        assert pod.ring.authenticate(text) == key
        world.clock.advance(91)
        assert pod.ring.authenticate(text) is None
        assert pod.ring.find(key.id) is None

    def test_no_database_is_asked_for_a_known_key(self, world: World, pod: PodKeys) -> None:
        _, text = pod.make()
        before = world.store.calls
        for _ in range(1000):
            assert pod.ring.authenticate(text) is not None
        assert world.store.calls == before

    def test_the_id_alone_opens_nothing(self, pod: PodKeys) -> None:
        key, _ = pod.make()
        _, other = new_key_text()
        forged = f"crmwa_{key.id}_{other.split('_')[2]}"
        assert pod.ring.authenticate(forged) is None

    def test_another_key_with_this_id_opens_nothing(self, pod: PodKeys, world: World) -> None:
        key, _ = pod.make()
        body = f"crmwa_{key.id}_{'0' * 43}"
        forged = body + _checksum(body)
        assert find_key_id(forged) == key.id
        before = world.store.calls
        assert pod.ring.authenticate(forged) is None
        assert world.store.calls == before

    @pytest.mark.parametrize(
        "change",
        [
            {"company_id": BOLT},
            {"company_id": None},
            {"scopes": frozenset(Scope)},
            {"expires_at": None},
            {"expires_at": datetime.fromisoformat("2099-01-01T00:00:00+00:00")},
        ],
    )
    def test_a_row_that_was_widened_opens_nothing(
        self, world: World, pod: PodKeys, change: dict[str, Any]
    ) -> None:
        key, text = pod.make(expires_at=world.clock.now() + timedelta(days=1))
        world.store.rows[key.id] = replace(key, **change)
        other = world.pod(kept=Kept())
        other.ring.sync()
        assert other.ring.authenticate(text) is None

    def test_a_row_made_without_the_pepper_opens_nothing(self, world: World) -> None:
        attacker = world.pod("a pepper that somebody else has made up")
        key, text = attacker.make(company_id=None)
        forged = KeySeal([PEPPER]).first_id
        world.store.rows[key.id] = replace(key, pepper_id=forged)
        pod = world.pod()
        pod.ring.sync()
        assert pod.ring.authenticate(text) is None

    def test_the_database_holds_no_key(self, world: World, pod: PodKeys) -> None:
        key, text = pod.make()
        secret = text.split("_")[2]
        assert secret not in repr(world.store.rows[key.id]) + world.store.rows[key.id].mac
        assert world.kept.text is not None
        assert secret not in world.kept.text


class TestPepper:
    def test_an_old_pepper_still_opens(self, world: World) -> None:
        old, new = (
            "the old pepper of the tests 0123456789",
            "the new pepper of the tests 0123456789",
        )
        key, text = world.pod(old).make()
        both = world.pod(f"{new}, {old}", Kept())
        both.ring.sync()
        assert both.ring.authenticate(text) == key
        assert both.ring.strangers() == 0
        later, later_text = both.make()
        assert later.pepper_id != key.pepper_id
        only_new = world.pod(new, Kept())
        only_new.ring.sync()
        assert only_new.ring.authenticate(later_text) == later
        assert only_new.ring.authenticate(text) is None
        assert only_new.ring.strangers() == 1

    @pytest.mark.parametrize("text", ["", "short", f"{PEPPER},short", f"{PEPPER},"])
    def test_a_pepper_that_is_too_short_is_refused_and_not_shown(self, text: str) -> None:
        with pytest.raises(ConfigurationError) as caught:
            KeySeal.parse(text)
        assert "short" not in str(caught.value)

    def test_it_is_not_shown(self) -> None:
        assert PEPPER not in repr(KeySeal([PEPPER]))


class TestOtherPods:
    def test_a_key_made_elsewhere_is_found_at_its_first_use(
        self, world: World, pod: PodKeys
    ) -> None:
        key, text = world.pod(kept=Kept()).make()
        assert pod.ring.authenticate(text) == key

    def test_a_revocation_elsewhere_is_known_with_the_next_sync(
        self, world: World, pod: PodKeys
    ) -> None:
        key, text = pod.make()
        other = world.pod(kept=Kept())
        other.desk.revoke(key.id, by="elsewhere", company_id=None)
        assert pod.ring.authenticate(text) is not None
        pod.ring.sync()
        assert pod.ring.authenticate(text) is None

    def test_a_revoked_key_costs_no_look(self, world: World, pod: PodKeys) -> None:
        key, text = pod.make()
        pod.desk.revoke(key.id, by="tests", company_id=None)
        before = world.store.calls
        assert pod.ring.authenticate(text) is None
        assert world.store.calls == before

    def test_what_has_not_changed_is_not_sent_again(self, world: World, pod: PodKeys) -> None:
        pod.make()
        pod.ring.sync()
        writes = world.kept.writes
        pod.ring.sync()
        assert world.kept.writes == writes


class TestMisses:
    def test_a_flood_of_made_up_keys_is_a_few_looks(self, world: World, pod: PodKeys) -> None:
        before = world.store.syncs
        for _ in range(600):  # 10 minutes of 10 keys a second
            for _ in range(10):
                assert pod.ring.authenticate(new_key_text()[1]) is None
            world.clock.advance(1)
        assert world.store.syncs - before <= 8

    def test_one_wrong_key_for_ever_is_a_look_in_five_minutes(
        self, world: World, pod: PodKeys
    ) -> None:
        _, text = new_key_text()
        before = world.store.syncs
        for _ in range(3600):
            assert pod.ring.authenticate(text) is None
            world.clock.advance(1)
        assert world.store.syncs - before <= 12

    def test_after_a_flood_a_key_made_elsewhere_is_found_in_time(
        self, world: World, pod: PodKeys
    ) -> None:
        for _ in range(2000):
            pod.ring.authenticate(new_key_text()[1])
            world.clock.advance(0.5)
        key, text = world.pod(kept=Kept()).make()
        waited = 0
        while pod.ring.authenticate(text) != key:
            world.clock.advance(1)
            waited += 1
            assert waited <= 300

    def test_what_is_remembered_of_wrong_keys_is_bounded(self, world: World) -> None:
        terms = MissTerms(longest_seconds=300.0, first_seconds=10.0)
        misses = KeyMisses(world.clock, terms)
        for number in range(5000):
            misses.note_absent(f"{number}")
        assert len(misses._absent) <= 1024

    def test_the_request_waits_for_the_look_of_the_job(self, world: World, pod: PodKeys) -> None:
        key, text = world.pod(kept=Kept()).make()
        asked = threading.Event()
        pod.ring.on_miss(asked.set)
        found: list[ApiKey | None] = []
        threads = [
            threading.Thread(target=lambda: found.append(pod.ring.authenticate(text)))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        assert asked.wait(DEADLINE_SECONDS)
        pod.ring.sync()
        for thread in threads:
            thread.join(DEADLINE_SECONDS)
        assert key in found

    def test_a_look_that_began_before_does_not_count(self, world: World) -> None:
        terms = MissTerms(longest_seconds=300.0, first_seconds=10.0, patience_seconds=0.05)
        misses = KeyMisses(world.clock, terms)
        early = misses.begin()
        ended: list[int] = []

        def ask() -> None:
            misses.end(early, succeeded=True, found_news=False)
            ended.append(early)

        assert misses.consult("aaaaaaaaaaaa", ask) is False
        assert ended == [early]

    def test_a_job_that_never_runs_holds_nobody_for_long(self, world: World) -> None:
        terms = MissTerms(longest_seconds=300.0, first_seconds=10.0, patience_seconds=0.05)
        misses = KeyMisses(world.clock, terms)
        assert misses.consult("aaaaaaaaaaaa", lambda: None) is False


class TestOutage:
    def test_what_is_known_stays_valid(self, world: World, pod: PodKeys) -> None:
        key, text = pod.make()
        world.store.failure = AWAY
        with pytest.raises(StoreUnavailable):
            pod.ring.sync()
        assert pod.ring.authenticate(text) == key

    def test_a_restart_locks_nobody_out(self, world: World, pod: PodKeys) -> None:
        key, text = pod.make()
        ended, ended_text = pod.make()
        pod.desk.revoke(ended.id, by="tests", company_id=None)
        world.store.failure = AWAY
        later = world.pod()
        later.ring.start()
        assert later.ring.authenticate(text) == key
        assert later.ring.authenticate(ended_text) is None
        assert later.ring.authenticate(new_key_text()[1]) is None

    @pytest.mark.parametrize(
        "text", [None, "", "{", "[]", '{"keys": 7}', '{"keys": [{}]}', "[" * 99999]
    )
    def test_without_anything_known_nothing_is_said_about_a_key(
        self, world: World, text: str | None
    ) -> None:
        world.kept.text = text
        world.store.failure = AWAY
        pod = world.pod()
        pod.ring.start()
        assert not pod.ring.is_loaded
        with pytest.raises(KeysUnknown):
            pod.ring.authenticate(new_key_text()[1])
        assert pod.ring.authenticate("no key at all") is None

    def test_a_file_that_was_widened_opens_nothing(self, world: World, pod: PodKeys) -> None:
        _, text = pod.make()
        assert world.kept.text is not None
        kept = json.loads(world.kept.text)
        kept["keys"][0]["scopes"] = ["manage", "read", "send"]
        world.kept.text = json.dumps(kept)
        world.store.failure = AWAY
        later = world.pod()
        later.ring.start()
        assert later.ring.authenticate(text) is None

    def test_a_full_disk_is_no_reason_to_refuse(self, world: World, pod: PodKeys) -> None:
        world.kept.failure = StorageError("No space left.")
        key, text = pod.make()
        assert pod.ring.authenticate(text) == key
        pod.ring.start()

    def test_a_key_that_could_not_be_written_is_not_given_out(
        self, world: World, pod: PodKeys
    ) -> None:
        world.store.failure = AWAY
        with pytest.raises(StoreUnavailable):
            pod.make()
        assert pod.ring.keys() == []


class TestLastUse:
    def test_it_is_written_with_the_sync_and_only_when_there_was_one(
        self, world: World, pod: PodKeys
    ) -> None:
        key, text = pod.make()
        pod.ring.sync()
        assert world.store.used[-1] == {}
        world.clock.advance(60)
        for _ in range(100):
            pod.ring.authenticate(text)
        assert world.store.rows[key.id].last_used_at is None
        assert pod.desk.listing(ACME)[0].last_used_at == world.clock.now()
        pod.ring.sync()
        assert world.store.used[-1] == {key.id: world.clock.now()}
        pod.ring.sync()
        assert world.store.used[-1] == {}

    def test_it_is_not_lost_in_an_outage(self, world: World, pod: PodKeys) -> None:
        key, text = pod.make()
        pod.ring.authenticate(text)
        world.store.failure = AWAY
        with pytest.raises(StoreUnavailable):
            pod.ring.sync()
        world.store.failure = None
        pod.ring.sync()
        assert list(world.store.used[-1]) == [key.id]

    def test_a_refused_key_is_not_used(self, world: World, pod: PodKeys) -> None:
        key, text = pod.make()
        pod.desk.revoke(key.id, by="tests", company_id=None)
        pod.ring.authenticate(text)
        pod.ring.sync()
        assert world.store.used[-1] == {}


class TestDesk:
    def test_what_cannot_be_made(self, world: World, pod: PodKeys) -> None:
        with pytest.raises(InvalidInput, match="scopes"):
            pod.make(scopes=frozenset())
        with pytest.raises(InvalidInput, match="expires_at"):
            pod.make(expires_at=world.clock.now())

    def test_a_company_has_a_number_of_keys_at_most(self, pod: PodKeys) -> None:
        made = [pod.make()[0] for _ in range(50)]
        with pytest.raises(TooManyKeys):
            pod.make()
        pod.make(company_id=BOLT)
        pod.desk.revoke(made[0].id, by="tests", company_id=ACME)
        pod.make()

    def test_a_company_reaches_its_own_keys_alone(self, pod: PodKeys) -> None:
        foreign, text = pod.make(company_id=BOLT)
        service, _ = pod.make(company_id=None)
        for key_id in (foreign.id, service.id, "aaaaaaaaaaaa"):
            with pytest.raises(KeyUnknown):
                pod.desk.revoke(key_id, by="tests", company_id=ACME)
        assert pod.ring.authenticate(text) == foreign
        with pytest.raises(KeyUnknown):
            pod.desk.revoke("aaaaaaaaaaaa", by="tests", company_id=None)
        assert [key.id for key in pod.desk.listing(BOLT)] == [foreign.id]

    def test_a_second_revocation_changes_nothing(self, world: World, pod: PodKeys) -> None:
        key, _ = pod.make()
        first = pod.desk.revoke(key.id, by="first", company_id=None)
        assert pod.desk.revoke(key.id, by="second", company_id=None) == first

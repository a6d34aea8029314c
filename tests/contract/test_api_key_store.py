"""Keys in the fake and in the real database: one set of promises."""

import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from crm_whatsapp.domain.api_keys import ApiKey, ApiKeyStore, Scope, new_key_text
from crm_whatsapp.domain.errors import StoreRejected
from crm_whatsapp.stores.api_key_store import SupabaseApiKeyStore
from crm_whatsapp.stores.supabase_client import close_client, make_client
from local_supabase import LocalSupabase
from tests.contract.api_key_fakes import FakeApiKeyStore
from tests.contract.conftest import Rest

pytestmark = pytest.mark.contract

Database = psycopg.Connection[dict[str, Any]]


def key_of(company_id: str | None, **changes: Any) -> ApiKey:
    """Return a key to be added."""
    key = ApiKey(
        id=new_key_text()[0],
        name="Ana's “CRM”",
        company_id=company_id,
        scopes=frozenset({Scope.READ, Scope.MANAGE}),
        pepper_id="0123abcd",
        mac=uuid.uuid4().hex * 2,
        created_at=datetime.now(UTC),
        created_by="tests",
    )
    return replace(key, **changes)


@pytest.fixture
def real(stack: LocalSupabase) -> Iterator[SupabaseApiKeyStore]:
    client = make_client(stack.url, stack.service_key, 20)
    yield SupabaseApiKeyStore(client)
    close_client(client)


@pytest.fixture(params=["fake", "real"])
def store(request: pytest.FixtureRequest) -> ApiKeyStore:
    if request.param == "fake":
        return FakeApiKeyStore()
    made: ApiKeyStore = request.getfixturevalue("real")
    return made


def known(store: ApiKeyStore) -> dict[str, ApiKey]:
    """Return the keys that a sync brings."""
    keys = store.sync({}, None).keys
    assert keys is not None
    return {key.id: key for key in keys}


def test_a_key_comes_back_as_it_was_added(store: ApiKeyStore, company_id: str) -> None:
    key = key_of(company_id, expires_at=datetime.now(UTC).replace(microsecond=0) + timedelta(9))
    service_key = key_of(None)
    store.add(key)
    store.add(service_key)
    assert known(store)[key.id] == key
    assert known(store)[service_key.id] == service_key
    assert store.listing(company_id) == [key]
    assert {key, service_key} <= set(store.listing(None))


def test_adding_again_changes_nothing(store: ApiKeyStore, company_id: str) -> None:
    key = key_of(company_id)
    store.add(key)
    store.add(replace(key, scopes=frozenset(Scope), mac="ab" * 32))
    assert store.listing(company_id) == [key]


def test_what_is_known_is_not_sent_again(store: ApiKeyStore, company_id: str) -> None:
    key = key_of(company_id)
    store.add(key)
    first = store.sync({}, None)
    assert store.sync({}, first.fingerprint).keys is None
    assert store.sync({key.id: datetime.now(UTC)}, first.fingerprint).keys is None
    store.revoke(key.id, "tests")
    second = store.sync({}, first.fingerprint)
    assert second.keys is not None
    assert second.fingerprint != first.fingerprint


def test_a_revocation_is_for_good(store: ApiKeyStore, company_id: str) -> None:
    key = key_of(company_id)
    store.add(key)
    revoked = store.revoke(key.id, "first")
    assert revoked is not None
    assert revoked.revoked_at is not None
    assert store.revoke(key.id, "second") == revoked
    assert known(store)[key.id] == revoked
    assert store.revoke(new_key_text()[0], "tests") is None


def test_the_last_use_is_the_latest(store: ApiKeyStore, company_id: str) -> None:
    key, noon = key_of(company_id), datetime(2027, 1, 8, 12, tzinfo=UTC)
    store.add(key)
    for at in (noon, noon + timedelta(hours=1), noon - timedelta(hours=1)):
        store.sync({key.id: at, new_key_text()[0]: at}, None)
    assert store.listing(company_id)[0].last_used_at == noon + timedelta(hours=1)


def test_expired_keys_are_listed_and_soon_no_longer_synced(
    store: ApiKeyStore, company_id: str
) -> None:
    now = datetime.now(UTC)
    recent = key_of(company_id, expires_at=now - timedelta(hours=23))
    old = key_of(company_id, expires_at=now - timedelta(hours=25))
    store.add(recent)
    store.add(old)
    assert {recent.id, old.id} & known(store).keys() == {recent.id}
    assert {key.id for key in store.listing(company_id)} == {recent.id, old.id}


def test_two_thousand_keys_come_in_one_call(
    real: SupabaseApiKeyStore, database: Database, company_id: str
) -> None:
    database.execute(
        "insert into public.whatsapp_api_keys "
        "(id, name, company_id, scopes, pepper_id, mac, created_by) "
        "select translate(lpad(to_hex(n), 12, '0'), '0189', 'wxyz'), 'many', %s, '{read}', "
        "'0123abcd', repeat('ab', 32), 'tests' from generate_series(1, 2000) as n",
        (company_id,),
    )
    try:
        assert sum(key.company_id == company_id for key in known(real).values()) == 2000
    finally:
        database.execute(
            "delete from public.whatsapp_api_keys where company_id = %s", (company_id,)
        )


def test_a_key_of_another_release_is_left_out(
    real: SupabaseApiKeyStore,
    database: Database,
    company_id: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    key, newer = key_of(company_id), key_of(company_id)
    real.add(key)
    real.add(newer)
    database.execute(
        "update public.whatsapp_api_keys set scopes = '{read,dream}' where id = %s", (newer.id,)
    )
    assert real.listing(company_id) == [key]
    assert newer.id in caplog.text
    with pytest.raises(StoreRejected, match="release"):
        real.revoke(newer.id, "tests")


def test_the_service_itself_cannot_widen_or_remove_a_key(
    service: Rest, real: SupabaseApiKeyStore, company_id: str
) -> None:
    key = key_of(company_id)
    real.add(key)
    row = {"id": f"eq.{key.id}"}
    for change in ({"scopes": ["send"]}, {"mac": "ab" * 32}, {"company_id": None}, {"id": "x"}):
        answer = service.client.patch("/whatsapp_api_keys", params=row, json=change)
        assert answer.status_code == 403, change
    assert service.client.delete("/whatsapp_api_keys", params=row).status_code == 403
    assert real.listing(company_id) == [key]


def test_malformed_rows_are_refused(service: Rest, company_id: str) -> None:
    good = {
        "id": new_key_text()[0],
        "name": "x",
        "company_id": company_id,
        "scopes": ["read"],
        "pepper_id": "0123abcd",
        "mac": "ab" * 32,
        "created_by": "tests",
    }
    for change in ({"id": "X"}, {"name": ""}, {"scopes": []}, {"mac": "secret"}, {"pepper_id": ""}):
        answer = service.client.post("/whatsapp_api_keys", json=good | change)
        assert answer.status_code == 400, change


def test_pods_that_tell_of_the_same_keys_do_not_deadlock(
    stack: LocalSupabase, real: SupabaseApiKeyStore, company_id: str
) -> None:
    keys = [key_of(company_id) for _ in range(40)]
    for key in keys:
        real.add(key)
    failures: list[Exception] = []

    def pod(order: Callable[[list[ApiKey]], list[ApiKey]]) -> None:
        client = make_client(stack.url, stack.service_key, 20)
        try:
            store = SupabaseApiKeyStore(client)
            for _ in range(15):
                store.sync({key.id: datetime.now(UTC) for key in order(keys)}, None)
        except Exception as exc:  # noqa: BLE001 - shown below
            failures.append(exc)
        finally:
            close_client(client)

    orders: list[Callable[[list[ApiKey]], list[ApiKey]]] = [list, lambda them: them[::-1]] * 2
    threads = [threading.Thread(target=pod, args=(order,)) for order in orders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert failures == []

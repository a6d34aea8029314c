"""Removal of what is old, on real Postgres: bounded, never the newest, never what others hold."""

import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from crm_whatsapp.domain.errors import StoreRejected
from crm_whatsapp.domain.webhooks import DeliveryState
from crm_whatsapp.stores.retention_store import SupabaseRetentionStore
from crm_whatsapp.stores.supabase_client import close_client, make_client
from local_supabase import LocalSupabase
from tests.contract.conftest import Rest

pytestmark = pytest.mark.contract

Database = psycopg.Connection[dict[str, Any]]
DAY = 86_400.0
EVENT = """
insert into public.whatsapp_status_events
    (id, company_id, version, to_status, reason, message, event, occurred_at, recorded_at)
values (%s, %s, %s, 'connected', 'online', '', 'test', clock_timestamp(),
    clock_timestamp() - make_interval(days => %s))
"""


@pytest.fixture
def store(stack: LocalSupabase) -> Iterator[SupabaseRetentionStore]:
    client = make_client(stack.url, stack.service_key, 10.0)
    yield SupabaseRetentionStore(client)
    close_client(client)


@pytest.fixture
def nothing_old(database: Database) -> None:
    """Other tests leave nothing that counts here."""
    database.execute("truncate public.whatsapp_status_events")
    database.execute("truncate public.whatsapp_webhooks cascade")


def add_events(database: Database, company_id: str, *ages_in_days: int) -> None:
    """Add a history, oldest first, ages in days."""
    for version, days in enumerate(ages_in_days, 1):
        database.execute(EVENT, [str(uuid.uuid4()), company_id, version, days])


def history(database: Database, company_id: str) -> list[int]:
    rows = database.execute(
        "select version from public.whatsapp_status_events where company_id = %s order by version",
        [company_id],
    )
    return [row["version"] for row in rows]


@pytest.mark.usefixtures("nothing_old")
class TestStatusEvents:
    def test_old_ones_go_and_the_newest_of_each_company_stays(
        self, store: SupabaseRetentionStore, database: Database
    ) -> None:
        active, quiet, fresh = (str(uuid.uuid4()) for _ in range(3))
        add_events(database, active, 200, 100, 95, 80, 1)
        add_events(database, quiet, 400, 300, 200)
        add_events(database, fresh, 3, 2)

        assert store.trim_status_events(90 * DAY, 1000) == 5

        assert history(database, active) == [4, 5]
        assert history(database, quiet) == [3]
        assert history(database, fresh) == [1, 2]
        assert store.trim_status_events(90 * DAY, 1000) == 0

    def test_of_one_version_twice_one_stays(
        self, store: SupabaseRetentionStore, database: Database, company_id: str
    ) -> None:
        for _ in range(3):
            database.execute(EVENT, [str(uuid.uuid4()), company_id, 7, 100])

        assert store.trim_status_events(90 * DAY, 1000) == 2
        assert history(database, company_id) == [7]

    def test_a_call_removes_so_many_and_the_oldest_first(
        self, store: SupabaseRetentionStore, database: Database, company_id: str
    ) -> None:
        add_events(database, company_id, *range(200, 100, -1))

        assert store.trim_status_events(90 * DAY, 30) == 30
        assert history(database, company_id) == list(range(31, 101))

    def test_what_somebody_holds_is_left_for_the_next_call(
        self, store: SupabaseRetentionStore, database: Database, stack: LocalSupabase
    ) -> None:
        company_id = str(uuid.uuid4())
        add_events(database, company_id, 200, 199, 198)
        with psycopg.connect(stack.db_url) as other:
            other.execute(
                "select 1 from public.whatsapp_status_events "
                "where company_id = %s and version = 1 for update",
                [company_id],
            )
            assert store.trim_status_events(90 * DAY, 1000) == 1
        assert store.trim_status_events(90 * DAY, 1000) == 1
        assert history(database, company_id) == [3]

    @pytest.mark.parametrize(
        ("seconds", "limit"),
        [(DAY - 1, 10), (0.0, 10), (-1.0, 10), (DAY, 0), (DAY, 10_001), (None, 10), (DAY, None)],
    )
    def test_a_history_of_less_than_a_day_is_not_to_be_had(
        self, service: Rest, seconds: float | None, limit: int | None
    ) -> None:
        answer = service.try_rpc(
            "whatsapp_trim_status_events_v1", p_older_than_seconds=seconds, p_limit=limit
        )
        assert (answer.status_code, answer.json()["code"]) == (400, "22023")

    def test_the_store_says_that_it_was_refused(self, store: SupabaseRetentionStore) -> None:
        with pytest.raises(StoreRejected, match="86400"):
            store.trim_status_events(60.0, 10)

    def test_ages_beyond_what_postgres_can_subtract_remove_nothing(
        self, store: SupabaseRetentionStore, database: Database, company_id: str
    ) -> None:
        add_events(database, company_id, 200, 199)
        assert store.trim_status_events(1e15, 10) == 0


@pytest.fixture
def webhook_id(database: Database, nothing_old: None) -> str:
    made = str(uuid.uuid4())
    database.execute(
        "insert into public.whatsapp_webhooks (id, url, secret_value) "
        "values (%s, 'https://x', 's')",
        [made],
    )
    return made


def add_deliveries(database: Database, webhook_id: str, state: str, *ages_in_days: int) -> None:
    """Add deliveries that were settled so long ago, or wait to be tried."""
    for days in ages_in_days:
        waits = state == "pending"
        database.execute(
            "insert into public.whatsapp_webhook_deliveries "
            "(webhook_id, lane_id, notice_id, kind, occurred_at, data, state, next_attempt_at, "
            "settled_at, queued_at) values (%s, 1, %s, 'session.status', clock_timestamp(), %s, "
            "%s, case when %s then clock_timestamp() end, "
            "case when not %s then clock_timestamp() - make_interval(days => %s) end, "
            "clock_timestamp() - make_interval(days => %s))",
            [webhook_id, str(uuid.uuid4()), json.dumps({}), state, waits, waits, days, days],
        )


def left(database: Database) -> dict[str, int]:
    rows = database.execute(
        "select state, count(*) as number from public.whatsapp_webhook_deliveries group by state"
    )
    return {row["state"]: row["number"] for row in rows}


class TestDeliveries:
    def test_each_state_has_its_own_age_and_what_waits_stays(
        self, store: SupabaseRetentionStore, database: Database, webhook_id: str
    ) -> None:
        add_deliveries(database, webhook_id, "delivered", 1, 8, 9, 40)
        add_deliveries(database, webhook_id, "parked", 1, 8, 31, 40)
        add_deliveries(database, webhook_id, "pending", 1, 100)

        assert store.trim_deliveries(DeliveryState.DELIVERED, 7 * DAY, 1000) == 3
        assert store.trim_deliveries(DeliveryState.PARKED, 30 * DAY, 1000) == 2

        assert left(database) == {"delivered": 1, "parked": 2, "pending": 2}

    def test_a_call_removes_so_many(
        self, store: SupabaseRetentionStore, database: Database, webhook_id: str
    ) -> None:
        add_deliveries(database, webhook_id, "delivered", *([8] * 12))

        removed = [store.trim_deliveries(DeliveryState.DELIVERED, DAY, 5) for _ in range(4)]

        assert removed == [5, 5, 2, 0]

    def test_what_waits_to_be_sent_is_never_removed(
        self, store: SupabaseRetentionStore, service: Rest
    ) -> None:
        with pytest.raises(StoreRejected, match="delivered or parked"):
            store.trim_deliveries(DeliveryState.PENDING, DAY, 10)


@pytest.mark.parametrize("function", ["status_events", "deliveries"])
def test_strangers_remove_nothing(
    stack: LocalSupabase, make_rest: Callable[..., Rest], function: str
) -> None:
    params: dict[str, Any] = {"p_older_than_seconds": DAY, "p_limit": 10}
    if function == "deliveries":
        params["p_state"] = "delivered"
    answer = make_rest(stack.anon_key).try_rpc(f"whatsapp_trim_{function}_v1", **params)
    assert answer.json()["code"] == "42501"

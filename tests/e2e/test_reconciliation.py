"""Rows and runtime disagree, each way there is: it is mended, counted and logged once."""

import json
import uuid
from collections.abc import Iterator

import psycopg
import pytest
from deployment import Deployment
from figures import Figures

from local_supabase import LocalSupabase
from service_process import wait_for

pytestmark = pytest.mark.e2e

OFTEN = {"SYNC_INTERVAL_SECONDS": "0.5"}
SELDOM = {"SYNC_INTERVAL_SECONDS": "3600"}
OLD_ROW = """
insert into public.whatsapp_connections (company_id, status, status_deadline_at, desired_state)
values (%s, %s, clock_timestamp() - interval '1 hour', %s)
"""


@pytest.fixture(autouse=True)
def database_returns(stack: LocalSupabase) -> Iterator[None]:
    """Leave a working database to the next test."""
    yield
    if stack.running()["postgrest"] is None:
        stack.start_postgrest()


def execute(deployment: Deployment, sql: str, *values: object) -> None:
    """Do what a CRM, an old system or a person does to the tables."""
    with psycopg.connect(deployment.stack.db_url, autocommit=True) as connection:
        assert connection.execute(sql.encode(), values).rowcount != 0, "nothing was changed"


def mismatches(deployment: Deployment) -> dict[str, int]:
    """Return what /readyz has counted, zeros left out."""
    checks = {check["name"]: check for check in deployment.service.readiness()["checks"]}
    return {
        kind: count
        for kind, count in checks["sync"].items()
        if isinstance(count, int) and not isinstance(count, bool) and count
    }


def logged(deployment: Deployment, company_id: str) -> list[str]:
    """Return the kinds that were logged for a company, in order."""
    return [
        entry["kind"]
        for line in deployment.log().splitlines()
        if '"row and runtime disagreed"' in line
        for entry in [json.loads(line)]
        if entry["company_id"] == company_id
    ]


def await_comparisons(deployment: Deployment, more: int) -> None:
    """Wait until so many more comparisons are complete, the last of them begun after this."""
    done = synced(deployment)
    assert wait_for(lambda: synced(deployment) >= done + more + 1, 30), synced(deployment)


def synced(deployment: Deployment) -> int:
    return deployment.log().count("Session sync complete")


@pytest.mark.parametrize("wish", ["run", "stop"])
def test_a_row_of_an_old_system_says_connected_and_nothing_is_saved(
    deployment: Deployment, wish: str
) -> None:
    company_id, pairing = str(uuid.uuid4()), str(uuid.uuid4())
    deployment.start(DEADLINE_SWEEP_SECONDS="60", **OFTEN)  # which would be as quick
    execute(deployment, OLD_ROW, company_id, "connected", wish)
    execute(deployment, OLD_ROW, pairing, "awaiting_scan", wish)

    deployment.await_row(
        company_id, status="disconnected", reason="credentials-missing", desired_state=wish
    )
    deployment.await_row(pairing, status="disconnected", reason="pairing-expired")
    assert deployment.service.status(company_id)["reason"] == "credentials-missing"
    await_comparisons(deployment, 2)
    assert logged(deployment, company_id) == ["row-without-runtime", "stale-status"]
    assert mismatches(deployment) == {"row-without-runtime": 2, "stale-status": 2}
    assert len(deployment.history(company_id)) == 1
    [lease] = deployment.rows(
        "select expires_at <= clock_timestamp() as over from public.whatsapp_leases "
        "where company_id = %s",
        company_id,
    )
    assert lease["over"], "a lease of nobody's session is kept"


def test_a_row_says_connected_of_a_session_that_is_to_be_stopped(deployment: Deployment) -> None:
    """The journal is lost; the folder is there, and the row claims what nobody runs."""
    ((company_id, jid),) = deployment.seed(1).items()
    execute(deployment, OLD_ROW, company_id, "connected", "stop")
    execute(
        deployment,
        "update public.whatsapp_connections set reason = 'online', version = 5 "
        "where company_id = %s",
        company_id,
    )
    deployment.start(**OFTEN)

    deployment.await_row(company_id, status="disconnected", reason="stopped", desired_state="stop")
    assert deployment.phones.counters(jid).get("logins", 0) == 0


def test_a_row_without_runtime_is_restored_when_its_session_is_saved(
    deployment: Deployment,
) -> None:
    """Put there by hand, under a running service: a session that was moved in."""
    deployment.start(**OFTEN)
    ((company_id, _),) = deployment.seed(1).items()
    execute(deployment, OLD_ROW, company_id, "disconnected", "run")

    deployment.await_row(company_id, 30, status="connected", desired_state="run")
    await_comparisons(deployment, 1)
    assert logged(deployment, company_id) == ["row-without-runtime"]


def test_what_is_changed_in_the_table_is_followed_or_put_right(deployment: Deployment) -> None:
    companies = deployment.seed(5)
    steered, deleted, edited, newer, nameless = companies
    service = deployment.start(**OFTEN)
    deployment.await_all_connected(list(companies))
    for company_id in companies:
        deployment.await_row(company_id, status="connected")

    wish = "update public.whatsapp_connections set desired_state = %s where company_id = %s"
    execute(deployment, wish, "stop", steered)
    execute(deployment, "delete from public.whatsapp_connections where company_id = %s", deleted)
    execute(
        deployment,
        "update public.whatsapp_connections set status = 'banned', reason = 'temporary-ban' "
        "where company_id = %s",
        edited,
    )
    execute(
        deployment,
        "update public.whatsapp_connections set version = version + 1000000000000, "
        "status = 'failed' where company_id = %s",
        newer,
    )
    (deployment.folders.session_path(nameless) / "creds.json").unlink()

    deployment.await_row(steered, status="disconnected", reason="stopped", desired_state="stop")
    deployment.await_row(deleted, status="connected", desired_state="run")
    deployment.await_row(edited, status="connected", reason="online")
    deployment.await_row(newer, status="connected", reason="online")
    assert wait_for(lambda: deployment.folders.has_credentials_file(nameless), 10)
    assert service.status(steered)["reason"] == "stopped"
    assert deployment.folders.has_credentials_file(steered), "a stop keeps the credentials"

    execute(deployment, wish, "run", steered)
    deployment.await_status(steered, "connected")
    deployment.await_row(steered, status="connected", desired_state="run")
    await_comparisons(deployment, 2)
    assert logged(deployment, steered) == ["desired-state-changed-in-table"] * 2
    assert logged(deployment, deleted) == ["runtime-without-row"]
    assert logged(deployment, edited) == ["row-outdated"]
    assert logged(deployment, newer) == ["row-newer"]
    assert logged(deployment, nameless) == ["credentials-file-missing"]
    assert mismatches(deployment) == {
        "desired-state-changed-in-table": 2,
        "runtime-without-row": 1,
        "row-outdated": 1,
        "row-newer": 1,
        "credentials-file-missing": 1,
    }
    for company_id in (deleted, edited, newer):
        assert deployment.history(company_id)[-1]["event"] == "row-corrected"
        assert deployment.phones.counters(companies[company_id])["logins"] == 1


def test_a_row_that_does_not_stay_as_it_is_written_is_logged_once(deployment: Deployment) -> None:
    ((company_id, _),) = deployment.seed(1).items()
    deployment.start(**OFTEN)
    deployment.await_row(company_id, status="connected")
    with psycopg.connect(deployment.stack.db_url, autocommit=True) as owner:
        owner.execute(
            "create function public.meddle() returns trigger language plpgsql as $$ begin "
            "new.status := 'failed'; return new; end $$; create trigger meddle before update "
            "on public.whatsapp_connections for each row execute function public.meddle()"
        )
        try:
            deployment.service.post("disconnect", company_id=company_id)
            deployment.await_row(company_id, status="failed", reason="stopped")
            await_comparisons(deployment, 8)
        finally:
            owner.execute("drop function public.meddle() cascade")
    assert logged(deployment, company_id) == ["row-outdated"]
    assert mismatches(deployment) == {"row-outdated": 1}
    corrections = [item["event"] for item in deployment.history(company_id)].count("row-corrected")
    assert 2 <= corrections <= 5, "the 1st, 2nd, 4th, 8th, ... comparison"
    assert "the row does not stay as it is written" in deployment.log()
    deployment.await_row(company_id, 60, status="disconnected", reason="stopped")


def test_after_an_outage_in_which_nothing_happened_the_table_is_looked_at(
    deployment: Deployment, stack: LocalSupabase
) -> None:
    companies = deployment.seed(1)
    (company_id,) = companies
    deployment.start(
        DATABASE_RETRY_MAX_SECONDS="0.5",
        LEASE_RENEW_SECONDS="1",
        DATABASE_TIMEOUT_SECONDS="3",
        **SELDOM,
    )
    deployment.await_row(company_id, status="connected")
    stack.stop_postgrest()
    assert wait_for(lambda: "a job could not reach the database" in deployment.log(), 20)
    execute(
        deployment,
        "update public.whatsapp_connections set desired_state = 'stop' where company_id = %s",
        company_id,
    )
    stack.start_postgrest()
    deployment.await_row(company_id, 20, status="disconnected", reason="stopped")


def test_a_comparison_asks_the_database_twice(deployment: Deployment) -> None:
    companies = deployment.seed(3)
    service = deployment.start(SYNC_INTERVAL_SECONDS="1", LEASE_RENEW_SECONDS="3600")
    deployment.await_all_connected(list(companies))
    await_comparisons(deployment, 1)

    def calls() -> tuple[int, dict[str, float]]:
        figures = Figures.read(service.request("GET", "/metrics").content.decode())
        return synced(deployment), figures.by("whatsapp_database_calls_total", "call")

    begun, before = calls()
    await_comparisons(deployment, 3)
    ended, after = calls()
    rows = after["whatsapp_connections"] - before["whatsapp_connections"]
    snapshots = after["whatsapp_snapshot_companies_v1"] - before["whatsapp_snapshot_companies_v1"]
    assert abs(rows - (ended - begun)) <= 1, "one more or less is under way"
    assert abs(snapshots - (ended - begun)) <= 1
    others = {call for call in after if after[call] > before.get(call, 0)}
    # Other jobs of the same interval.
    assert others == {
        "whatsapp_connections",
        "whatsapp_snapshot_companies_v1",
        "whatsapp_schema_version_v1",
        "whatsapp_list_webhooks_v1",
        "whatsapp_sync_api_keys_v1",
    }

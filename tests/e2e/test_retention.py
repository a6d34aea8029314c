"""What is old is removed by the running service, and nothing else."""

import json
import sqlite3
import uuid
from contextlib import closing
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from deployment import Deployment

from service_process import wait_for

pytestmark = pytest.mark.e2e


def test_old_history_and_companies_logged_out_long_ago_go(deployment: Deployment) -> None:
    companies = deployment.seed(3)
    old, recent, live = companies
    service = deployment.start()
    deployment.await_all_connected(list(companies))
    for company_id in (old, recent):
        deployment.phones.call("unlink", {"jid": companies[company_id]})
        deployment.await_row(company_id, status="logged_out", reason="phone-unlinked")
    service.terminate()

    long_ago = datetime.now(UTC) - timedelta(days=31)
    with closing(sqlite3.connect(deployment.sessions_dir / "state.db")) as journal, journal:
        [(text,)] = journal.execute("select record from connections where company_id = ?", (old,))
        record = json.loads(text) | {"last_disconnected_at": long_ago.isoformat()}
        journal.execute(
            "update connections set record = ? where company_id = ?", (json.dumps(record), old)
        )
    gone = str(uuid.uuid4())
    with psycopg.connect(deployment.stack.db_url, autocommit=True) as connection:
        connection.execute(
            "update public.whatsapp_status_events set recorded_at = recorded_at - interval '91 d'"
        )
        connection.execute(
            "insert into public.whatsapp_status_events (id, company_id, version, to_status, "
            "reason, message, event, occurred_at, recorded_at) select gen_random_uuid(), %s, n, "
            "'connected', 'online', '', 'test', clock_timestamp(), "
            "clock_timestamp() - interval '100 d' from generate_series(1, 2500) as n",
            [gone],
        )
    before = {company_id: deployment.history(company_id) for company_id in (old, recent, live)}

    deployment.start(CLEANUP_LOGGED_OUT_AFTER_DAYS="30", CLEANUP_INTERVAL_SECONDS="1")
    assert wait_for(lambda: deployment.row(old) is None, 20), deployment.row(old)
    assert wait_for(lambda: len(deployment.history(gone)) == 1, 20)

    assert deployment.history(gone)[0]["version"] == 2500
    assert deployment.service.status(old)["reason"] == "never-connected"
    deployment.await_row(recent, status="logged_out", reason="phone-unlinked")
    deployment.await_row(live, status="connected")
    assert deployment.history(recent) == before[recent][-1:]
    kept = [entry["id"] for entry in deployment.history(live)]
    assert before[live][-1]["id"] not in kept, "the newest is a transition of this start"
    assert len(kept) >= 2
    entries = [
        json.loads(line) for line in deployment.log().splitlines() if '"clean-up complete"' in line
    ]
    assert sum(entry["status_events"] for entry in entries) >= 2499
    assert sum(entry["logged_out_companies"] for entry in entries) == 1
    assert not [line for line in deployment.log().splitlines() if "clean-up postponed" in line]

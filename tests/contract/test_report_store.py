"""The past as the report tells it, on real Postgres: by hand, and against a reference in Python."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import quantiles
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crm_whatsapp.domain.connection import Reason, Status
from crm_whatsapp.domain.errors import StoreUnavailable
from crm_whatsapp.domain.reports import CompanyUptime, ReportHistory
from crm_whatsapp.domain.restore_outcomes import (
    CANCELLING,
    UNWANTED,
    RestoreOutcome,
    outcome_of,
)
from crm_whatsapp.domain.status_words import WORDING
from crm_whatsapp.stores.report_store import SupabaseReportStore
from crm_whatsapp.stores.supabase_client import close_client, make_client
from local_supabase import LocalSupabase
from tests.contract.conftest import Rest

pytestmark = pytest.mark.contract

Database = psycopg.Connection[dict[str, Any]]
UNTIL = datetime(2026, 11, 21, 12, tzinfo=UTC)
SINCE = UNTIL - timedelta(hours=24)


@dataclass(frozen=True)
class Line:
    """One line of a history. at_seconds: from the begin of the window."""

    at_seconds: float
    reason: Reason
    status: Status | None = None

    @property
    def to_status(self) -> Status:
        return self.status or WORDING[self.reason].status

    @property
    def occurred_at(self) -> datetime:
        return SINCE + timedelta(seconds=self.at_seconds)


@pytest.fixture(scope="module")
def store(stack: LocalSupabase) -> Iterator[SupabaseReportStore]:
    client = make_client(stack.url, stack.service_key, 20.0)
    yield SupabaseReportStore(client)
    close_client(client)


@pytest.fixture(scope="module")
def database(stack: LocalSupabase) -> Iterator[Database]:
    connection: Database = psycopg.connect(
        stack.db_url,
        autocommit=True,
        row_factory=psycopg.rows.dict_row,  # type: ignore[arg-type]
    )
    with connection:
        yield connection


def write_history(database: Database, lines: Sequence[Line]) -> str:
    """Write a company's history; return its id."""
    company_id = str(uuid.uuid4())
    rows = [
        (str(uuid.uuid4()), company_id, version, line.to_status.value, line.reason.value,
         line.occurred_at)
        for version, line in enumerate(lines, start=1)
    ]  # fmt: skip
    with database.cursor() as cursor:
        cursor.executemany(
            "insert into public.whatsapp_status_events "
            "(id, company_id, version, to_status, reason, message, event, occurred_at) "
            "values (%s, %s, %s, %s, %s, '', 'Test', %s)",
            rows,
        )
    return company_id


def read(
    store: SupabaseReportStore,
    *company_ids: str,
    running: Sequence[str] | None = None,
    worst: int = 5,
) -> ReportHistory:
    return store.read(
        SINCE,
        UNTIL,
        company_ids=company_ids,
        running_ids=company_ids if running is None else running,
        worst=worst,
    )


HOUR = 3600.0
ONLINE, RESTORING, LOST = Reason.ONLINE, Reason.RESTORING, Reason.NETWORK_LOST


@pytest.mark.parametrize(
    ("lines", "connected_hours", "wanted_hours"),
    [
        pytest.param([Line(-HOUR, ONLINE)], 24, 24, id="connected all the time"),
        pytest.param([Line(0, ONLINE)], 24, 24, id="connected just as the window begins"),
        pytest.param(
            [Line(-HOUR, ONLINE), Line(6 * HOUR, LOST), Line(12 * HOUR, ONLINE)],
            18, 24, id="away for a quarter",
        ),
        pytest.param([Line(12 * HOUR, RESTORING)], 0, 12, id="never came up"),
        pytest.param([Line(23 * HOUR, ONLINE)], 1, 1, id="linked an hour ago"),
        pytest.param(
            [Line(-99 * HOUR, Reason.PAIRING), Line(-90 * HOUR, ONLINE),
             Line(-80 * HOUR, Reason.PHONE_UNLINKED)],
            0, 24, id="logged out long ago",
        ),
        pytest.param(
            [Line(-HOUR, ONLINE), Line(8 * HOUR, Reason.STOPPED), Line(20 * HOUR, RESTORING),
             Line(20 * HOUR + 36, ONLINE)],
            11.99, 12, id="the time in which people had stopped it does not count",
        ),
        pytest.param(
            [Line(HOUR, Reason.PREPARING_PAIRING), Line(HOUR + 5, Reason.PAIRING),
             Line(2 * HOUR, Reason.FINISHING_PAIRING), Line(3 * HOUR, ONLINE)],
            21, 21, id="nor does a pairing",
        ),
        pytest.param(
            [Line(-HOUR, ONLINE), Line(2 * HOUR, Reason.SERVICE_STOPPED), Line(3 * HOUR, ONLINE)],
            23, 24, id="but the time in which the service was stopped does",
        ),
        pytest.param(
            [Line(-HOUR, ONLINE), Line(6 * HOUR, LOST), Line(5 * HOUR, ONLINE)],
            24 + 1, 24 + 1, id="clocks of two instances that disagree",
        ),
        pytest.param(
            [Line(-HOUR, ONLINE), Line(25 * HOUR, LOST)], 24, 24, id="what comes after the window",
        ),
    ],
)  # fmt: skip
def test_uptime_by_hand(
    store: SupabaseReportStore,
    database: Database,
    lines: list[Line],
    connected_hours: float,
    wanted_hours: float,
) -> None:
    company_id = write_history(database, lines)
    history = read(store, company_id)
    (uptime,) = history.worst
    assert uptime.connected_seconds == pytest.approx(connected_hours * HOUR, abs=1e-3)
    assert uptime.wanted_seconds == pytest.approx(wanted_hours * HOUR, abs=1e-3)
    assert uptime.percent == pytest.approx(100 * connected_hours / wanted_hours)
    assert history.average_percent == pytest.approx(uptime.percent)
    assert history.companies == 1


def test_a_company_without_a_past_is_in_no_average(
    store: SupabaseReportStore, database: Database
) -> None:
    up = write_history(database, [Line(-HOUR, ONLINE)])
    stopped = write_history(database, [Line(-HOUR, Reason.STOPPED)])
    nobody = str(uuid.uuid4())
    history = read(store, up, stopped, nobody)
    assert (history.companies, history.average_percent) == (1, 100.0)
    empty = read(store)
    assert (empty.companies, empty.average_percent, empty.worst) == (0, None, ())
    assert (empty.succeeded, empty.failed, empty.p50_seconds) == (0, 0, None)
    assert (empty.snapshot_companies, empty.oldest_snapshot_at) == (0, None)


def test_the_worst_come_first_and_no_more_than_asked_for(
    store: SupabaseReportStore, database: Database
) -> None:
    made = [
        write_history(database, [Line(-HOUR, ONLINE), Line(hours * HOUR, LOST)])
        for hours in (20, 5, 15, 10)
    ]
    history = read(store, *made, worst=2)
    assert [item.company_id for item in history.worst] == [made[1], made[3]]
    assert history.companies == 4
    assert history.average_percent == pytest.approx(100 * (20 + 5 + 15 + 10) / 4 / 24)


def test_only_sessions_that_should_run_have_an_uptime(
    store: SupabaseReportStore, database: Database
) -> None:
    runs = write_history(database, [Line(-HOUR, ONLINE)])
    other = write_history(database, [Line(HOUR, RESTORING), Line(HOUR + 2, ONLINE)])
    history = read(store, runs, other, running=[runs])
    assert [item.company_id for item in history.worst] == [runs]
    assert history.succeeded == 1, "restores of all companies count"


@pytest.mark.parametrize(
    ("lines", "succeeded", "failed", "p50_seconds"),
    [
        pytest.param([Line(10, RESTORING), Line(12, ONLINE)], 1, 0, 2.0, id="one"),
        pytest.param(
            [Line(10, RESTORING), Line(11, RESTORING), Line(13, ONLINE)], 1, 0, 3.0,
            id="several lines about one restore",
        ),
        pytest.param(
            [Line(10, RESTORING), Line(12, Reason.CONNECT_FAILURE, Status.CONNECTING),
             Line(20, RESTORING), Line(21, Reason.WHATSAPP_UNREACHABLE),
             Line(30, RESTORING), Line(34, ONLINE)],
            1, 2, 4.0, id="two failures before a success",
        ),
        pytest.param([Line(10, LOST), Line(20, ONLINE)], 0, 0, None, id="a reconnect is none"),
        pytest.param(
            [Line(10, RESTORING), Line(12, Reason.STOPPED)], 0, 0, None, id="cancelled by people"
        ),
        pytest.param(
            [Line(10, RESTORING), Line(12, Reason.SERVICE_STOPPED), Line(20, RESTORING),
             Line(22.5, ONLINE)],
            1, 0, 2.5, id="cut off by a stop of the service",
        ),
        pytest.param([Line(10, RESTORING)], 0, 0, None, id="still under way"),
        pytest.param([Line(-5, RESTORING), Line(-1, ONLINE)], 0, 0, None, id="before the window"),
        pytest.param(
            [Line(-50, LOST), Line(-5, RESTORING), Line(-3, RESTORING), Line(4, ONLINE)],
            1, 0, 9.0, id="begun before the window, ended within it",
        ),
        pytest.param(
            [Line(10, RESTORING, Status.DISCONNECTED), Line(100, RESTORING), Line(103, ONLINE)],
            1, 0, 3.0, id="waited for a poll first",
        ),
        pytest.param(
            [Line(10, RESTORING, Status.DISCONNECTED), Line(100, Reason.CREDENTIALS_MISSING)],
            0, 0, None, id="waited for a poll and was never begun",
        ),
        pytest.param(
            [Line(10, RESTORING), Line(12, Reason.LOGGED_OUT_BY_SERVER)], 0, 1, None,
            id="logged out",
        ),
        pytest.param(
            [Line(24 * HOUR - 1, RESTORING), Line(24 * HOUR, ONLINE)], 0, 0, None,
            id="ended as the window ends",
        ),
    ],
)  # fmt: skip
def test_restores_by_hand(
    store: SupabaseReportStore,
    database: Database,
    lines: list[Line],
    succeeded: int,
    failed: int,
    p50_seconds: float | None,
) -> None:
    history = read(store, write_history(database, lines))
    assert (history.succeeded, history.failed) == (succeeded, failed)
    assert history.p50_seconds == (
        None if p50_seconds is None else pytest.approx(p50_seconds, abs=1e-5)
    )


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason is not RESTORING])
def test_every_reason_ends_a_restore_as_the_service_says(
    store: SupabaseReportStore, database: Database, reason: Reason
) -> None:
    lines = [Line(0, RESTORING), Line(HOUR, reason)]
    history = read(store, write_history(database, lines))
    outcome = outcome_of(reason)
    assert (history.succeeded, history.failed) == (
        outcome is RestoreOutcome.SUCCEEDED,
        outcome is RestoreOutcome.FAILED,
    )
    (uptime,) = history.worst
    assert uptime.wanted_seconds == (HOUR if reason in UNWANTED else 24 * HOUR)


def test_durations_of_many_restores(store: SupabaseReportStore, database: Database) -> None:
    seconds = [float(number) for number in range(1, 101)]
    companies = [
        write_history(database, [Line(0, RESTORING), Line(took, ONLINE)]) for took in seconds
    ]
    history = read(store, *companies)
    assert history.succeeded == 100
    assert history.p50_seconds == pytest.approx(50.5)
    assert history.p95_seconds == pytest.approx(95.05)


def test_snapshots_are_those_of_running_sessions_that_are_in_use(
    store: SupabaseReportStore, database: Database
) -> None:
    def snapshot(company_id: str, seq: int, hours_ago: float, *, dead: bool = False) -> None:
        database.execute(
            "insert into public.whatsapp_session_snapshots "
            "(company_id, epoch, seq, key_id, wrapped_key, sha256, size_bytes, payload, "
            "created_at, tombstoned_at) values (%s, 1, %s, 'k', 'x', %s, 1, 'x', %s, %s)",
            [
                company_id,
                seq,
                "0" * 64,
                UNTIL - timedelta(hours=hours_ago),
                UNTIL if dead else None,
            ],
        )

    old, fresh, dead, stopped, bare = (str(uuid.uuid4()) for _ in range(5))
    snapshot(old, 1, 99)
    snapshot(old, 2, 7)
    snapshot(fresh, 1, 1)
    snapshot(dead, 1, 50, dead=True)
    snapshot(stopped, 1, 80)
    history = read(store, old, fresh, dead, bare, stopped, running=[old, fresh, dead, bare])
    assert history.snapshot_companies == 2
    assert history.oldest_snapshot_at == UNTIL - timedelta(hours=7)


def reference(histories: dict[str, list[Line]], running: set[str], worst: int) -> ReportHistory:
    """Work it out the slow way."""
    durations: list[float] = []
    failed = 0
    uptimes: list[CompanyUptime] = []
    for company_id, all_lines in histories.items():
        lines = known_at(SINCE, clipped(all_lines))
        begun: float | None = None
        for line in lines:
            outcome = outcome_of(line.reason)
            if outcome is None:
                if line.to_status is Status.CONNECTING:
                    begun = line.at_seconds if begun is None else min(begun, line.at_seconds)
                continue
            if begun is not None and line.at_seconds >= 0:
                if outcome is RestoreOutcome.SUCCEEDED:
                    durations.append(max(0.0, line.at_seconds - begun))
                failed += outcome is RestoreOutcome.FAILED
            begun = None
        if company_id in running:
            uptimes += uptime_of(company_id, lines)
    percents = [item.percent for item in uptimes]
    return ReportHistory(
        since=SINCE,
        until=UNTIL,
        succeeded=len(durations),
        failed=failed,
        p50_seconds=percentile(durations, 50),
        p95_seconds=percentile(durations, 95),
        companies=len(uptimes),
        average_percent=sum(percents) / len(percents) if percents else None,
        worst=tuple(sorted(uptimes, key=lambda item: (item.percent, item.company_id))[:worst]),
        snapshot_companies=0,
        oldest_snapshot_at=None,
    )


def known_at(moment: datetime, lines: list[Line]) -> list[Line]:
    """Return the lines from the last one on that tells what held at the moment.

    Where clocks disagree, what a later line puts before the moment is taken for its past.
    """
    earlier = [
        place
        for place, line in enumerate(lines)
        if line.occurred_at <= moment and line.reason is not RESTORING
    ]
    return lines[earlier[-1] :] if earlier else lines


def uptime_of(company_id: str, lines: list[Line]) -> list[CompanyUptime]:
    length = (UNTIL - SINCE).total_seconds()
    known = known_at(SINCE, lines)
    if not known:
        return []
    ends = [line.at_seconds for line in known[1:]] + [length]
    connected = wanted = 0.0
    for line, end in zip(known, ends, strict=True):
        seconds = max(0.0, min(end, length) - max(line.at_seconds, 0.0))
        connected += seconds * (line.to_status is Status.CONNECTED)
        wanted += seconds * (line.reason not in UNWANTED)
    if wanted == 0:
        return []
    return [
        CompanyUptime(
            company_id=company_id,
            percent=100 * connected / wanted,
            connected_seconds=connected,
            wanted_seconds=wanted,
        )
    ]


def percentile(values: list[float], percent: int) -> float | None:
    if len(values) < 2:
        return values[0] if values else None
    return quantiles(values, n=100, method="inclusive")[percent - 1]


LINES = st.builds(
    Line,
    at_seconds=st.integers(-40_000_000, 100_000_000).map(lambda millis: millis / 1000),
    reason=st.sampled_from([*Reason, RESTORING, RESTORING, ONLINE, ONLINE]),
    status=st.none(),
)
WAITING = st.builds(
    Line,
    at_seconds=st.integers(-40_000_000, 100_000_000).map(lambda millis: millis / 1000),
    reason=st.just(RESTORING),
    status=st.just(Status.DISCONNECTED),
)
HISTORIES = st.lists(
    st.tuples(
        st.lists(st.one_of(LINES, LINES, LINES, WAITING), max_size=25),
        st.booleans(),  # in the order of time, as one clock writes them
        st.booleans(),  # should run
    ),
    max_size=6,
)


@settings(
    max_examples=60,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(drawn=HISTORIES)
def test_any_history_gives_what_the_reference_gives(
    store: SupabaseReportStore,
    database: Database,
    drawn: list[tuple[list[Line], bool, bool]],
) -> None:
    histories: dict[str, list[Line]] = {}
    running: set[str] = set()
    for lines, in_order, runs in drawn:
        ordered = sorted(lines, key=lambda line: line.at_seconds) if in_order else lines
        company_id = write_history(database, ordered)
        histories[company_id] = ordered
        if runs:
            running.add(company_id)
    found = read(store, *histories, running=sorted(running), worst=3)
    expected = reference(histories, running, 3)
    assert (found.succeeded, found.failed) == (expected.succeeded, expected.failed)
    assert found.p50_seconds == close(expected.p50_seconds)
    assert found.p95_seconds == close(expected.p95_seconds)
    assert found.companies == expected.companies
    assert found.average_percent == close(expected.average_percent)
    assert [item.percent for item in found.worst] == [
        close(item.percent) for item in expected.worst
    ]
    for item in found.worst:
        (alone,) = uptime_of(item.company_id, clipped(histories[item.company_id]))
        assert item.connected_seconds == close(alone.connected_seconds)
        assert item.wanted_seconds == close(alone.wanted_seconds)


def clipped(lines: list[Line]) -> list[Line]:
    return [line for line in lines if line.occurred_at < UNTIL]


def close(value: float | None) -> Any:
    return None if value is None else pytest.approx(value, rel=1e-6, abs=1e-3)


def test_old_history_is_not_read(database: Database) -> None:
    """What a report costs depends on its window, not on what has happened before."""
    busy = [
        write_history(
            database,
            [Line(-50_000.0 + number, LOST if number % 2 else ONLINE) for number in range(4_000)]
            + [Line(100, LOST), Line(200, ONLINE)],
        )
        for _ in range(4)
    ]
    database.execute("analyze public.whatsapp_status_events")
    with database.transaction():
        database.execute(
            "select public.whatsapp_report_v1(%(since)s, %(until)s, %(ids)s::uuid[], %(ids)s)",
            {"since": SINCE, "until": UNTIL, "ids": busy},
        )
        read_rows = database.execute(
            "select pg_stat_get_xact_tuples_returned(t.oid) as by_scan, "
            "pg_stat_get_xact_tuples_fetched(t.oid) as by_index "
            "from (select 'public.whatsapp_status_events'::regclass::oid) as t"
        ).fetchone()
    assert read_rows is not None
    assert read_rows["by_scan"] == 0, "the whole table was read"
    assert read_rows["by_index"] <= 4 * (1 + 3)


def test_only_the_service_may_ask(stack: LocalSupabase, make_rest: Any, company_id: str) -> None:
    outsider: Rest = make_rest(stack.anon_key)
    answer = outsider.try_rpc(
        "whatsapp_report_v1",
        p_since=SINCE.isoformat(),
        p_until=UNTIL.isoformat(),
        p_company_ids=[company_id],
        p_running_ids=[company_id],
    )
    assert answer.status_code in (401, 403, 404), answer.text


def test_a_database_that_is_away_is_told(stack: LocalSupabase) -> None:
    client = make_client("http://127.0.0.1:9", stack.service_key, 1.0)
    try:
        with pytest.raises(StoreUnavailable):
            read(SupabaseReportStore(client))
    finally:
        close_client(client)


def test_the_lists_of_the_function_are_those_of_the_service() -> None:
    assert CANCELLING - UNWANTED == {Reason.HELD_ELSEWHERE, Reason.SERVICE_STOPPED}

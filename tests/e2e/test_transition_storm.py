"""A storm of transitions while the database comes and goes: nothing is missing, nothing doubled.

Two witnesses that owe nothing to the database: the service's log, which names every change as it
decides it, and the sandbox, which counts the logins of each device.
"""

import itertools
import json
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
from deployment import Deployment, SandboxRefused

from local_supabase import LocalSupabase
from service_process import wait_for

pytestmark = pytest.mark.e2e

COMPANIES = 100
GUARD_SECONDS = 240.0
"""A storm that takes longer than this has stopped; on a quiet machine it takes a quarter of it."""

QUICK_RETURN = {"DATABASE_RETRY_MAX_SECONDS": "0.5", "DATABASE_TIMEOUT_SECONDS": "3"}


@pytest.fixture(autouse=True)
def database_returns(stack: LocalSupabase) -> Iterator[None]:
    """Leave a working database to the next test."""
    yield
    if stack.running()["postgrest"] is None:
        stack.start_postgrest()


class ChangesLogged:
    """The changes of status that the service has logged, read as they come."""

    def __init__(self, deployment: Deployment) -> None:
        self._path = deployment.folder / "service.log"
        self._offset = 0
        self.of: dict[str, list[tuple[str, str, str]]] = defaultdict(list)

    @property
    def count(self) -> int:
        """How many there were so far."""
        return sum(map(len, self.of.values()))

    def read(self) -> list[tuple[str, str]]:
        """Read what is new; return (company id, status) of each change."""
        with self._path.open("rb") as log:
            log.seek(self._offset)
            text = log.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        found = []
        for line in whole.splitlines():
            if b'"session status changed"' in line:
                entry = json.loads(line)
                company_id, status = entry["company_id"], entry["status"]
                self.of[company_id].append((entry["before"], status, entry["reason"]))
                found.append((company_id, status))
        return found


class Storm:
    """Cuts every session as soon as the service says that it is connected, until it was enough."""

    def __init__(self, deployment: Deployment, companies: dict[str, str], changes: int) -> None:
        self._deployment = deployment
        self._companies = companies
        self._until = changes
        self._thread = threading.Thread(target=self._run, name="storm")
        self._stop = threading.Event()
        self.logged = ChangesLogged(deployment)
        self.cuts: Counter[str] = Counter()
        self.error: Exception | None = None

    def __enter__(self) -> "Storm":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def await_changes(self, number: int) -> None:
        """Wait until the service has decided so many changes."""
        reached = wait_for(
            lambda: self.logged.count >= number or self.error is not None, GUARD_SECONDS, 0.02
        )
        assert reached and self.error is None, (self.logged.count, self.error)

    def await_end(self) -> None:
        """Wait until it was enough and every session is connected again."""
        self._thread.join(GUARD_SECONDS)
        assert not self._thread.is_alive(), f"only {self.logged.count} changes"
        assert self.error is None, self.error

    def _run(self) -> None:
        try:
            up: set[str] = set()
            while not self._stop.is_set():
                news = self.logged.read()
                for company_id, status in news:
                    (up.add if status == "connected" else up.discard)(company_id)
                if self.logged.count >= self._until:
                    if len(up) == len(self._companies):
                        return
                else:
                    for company_id in sorted(up):
                        self._cut(company_id)
                    up.clear()
                if not news:
                    self._stop.wait(0.01)
        except Exception as error:  # noqa: BLE001 - told where it is waited for
            self.error = error

    def _cut(self, company_id: str) -> None:
        try:
            self._deployment.phones.call("cut", {"jid": self._companies[company_id]})
        except SandboxRefused:  # it has gone down by itself: the service was killed
            return
        self.cuts[company_id] += 1


def test_a_storm_with_the_database_cut_ten_times(
    deployment: Deployment, stack: LocalSupabase, record_property: Any
) -> None:
    companies = deployment.seed(COMPANIES)
    deployment.start(**QUICK_RETURN)
    deployment.await_all_connected(list(companies), 60)
    begun = time.monotonic()
    with Storm(deployment, companies, 5_000) as storm:
        for outage in range(1, 11):
            storm.await_changes(outage * 450 - 200)
            stack.stop_postgrest(kill=outage % 2 == 0)
            storm.await_changes(outage * 450)
            stack.start_postgrest()
        storm.await_end()
    record_property("storm_seconds", round(time.monotonic() - begun, 1))
    record_property("storm_changes", storm.logged.count)

    await_written(deployment)
    histories = histories_of(deployment)
    assert_rows_are_the_runtime(deployment, companies, histories)
    assert histories.keys() == companies.keys()
    for company_id, history in histories.items():
        assert changes_in(history) == storm.logged.of[company_id], company_id
    logins = Counter(
        {
            company_id: sum(entry["event"] == "ClientConnected" for entry in history)
            for company_id, history in histories.items()
        }
    )
    assert logins == {
        company_id: deployment.phones.counters(jid)["logins"]
        for company_id, jid in companies.items()
    }
    written = sum(map(len, histories.values()))
    record_property("storm_transitions", written)
    assert written >= 5_000
    assert written >= 2 * storm.cuts.total(), "a cut is a loss and a login"
    assert_metrics_agree(deployment, written)


def test_a_storm_with_the_service_killed_while_the_database_is_away(
    deployment: Deployment, stack: LocalSupabase, record_property: Any
) -> None:
    companies = deployment.seed(COMPANIES)
    service = deployment.start(**QUICK_RETURN)
    deployment.await_all_connected(list(companies), 60)
    with Storm(deployment, companies, 1_800) as storm:
        storm.await_changes(400)
        stack.stop_postgrest(kill=True)
        storm.await_changes(700)
        service.kill()
        service.spawn()
        storm.await_changes(1_000)
        stack.start_postgrest()
        storm.await_changes(1_300)
        service.kill()  # with answers of the database on their way
        service.spawn()
        storm.await_end()
    service.wait_ready()

    await_written(deployment)
    histories = histories_of(deployment)
    assert_rows_are_the_runtime(deployment, companies, histories)
    unlogged = 0
    for company_id, history in histories.items():
        missing = left_out(changes_in(history), storm.logged.of[company_id])
        assert missing is not None, (company_id, changes_in(history), storm.logged.of[company_id])
        # A change is recorded before it is logged: each kill may come in between, once a company.
        assert len(missing) <= 2, (company_id, missing)
        unlogged += len(missing)
    record_property("recorded_but_killed_before_the_log_line", unlogged)
    for jid in companies.values():
        assert deployment.phones.counters(jid)["max_simultaneous"] == 1


def await_written(deployment: Deployment) -> None:
    """Wait until nothing is on its way to the database; nothing may have been lost there."""
    journal: dict[str, Any] = {}

    def empty() -> bool:
        checks = {check["name"]: check for check in deployment.service.readiness()["checks"]}
        journal.clear()
        journal.update(checks["journal"])
        return journal["pending"] == 0

    assert wait_for(empty, 60), journal
    assert (journal["lost"], journal["refused"], journal["held_in_memory"]) == (0, 0, 0)


def histories_of(deployment: Deployment) -> dict[str, list[dict[str, Any]]]:
    """Return each company's transitions as the database has them, by version."""
    histories: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for entry in deployment.rows(
        "select company_id::text, version, from_status, to_status, reason, event "
        "from public.whatsapp_status_events order by company_id, version"
    ):
        histories[entry["company_id"]].append(entry)
    return histories


def changes_in(history: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """Return (from, to, reason) of each transition that changed status or reason."""
    reasons = ["never-connected", *(entry["reason"] for entry in history)]
    return [
        (entry["from_status"], entry["to_status"], entry["reason"])
        for before, entry in zip(reasons, history, strict=False)
        if entry["from_status"] != entry["to_status"] or entry["reason"] != before
    ]


def left_out(whole: list[Any], part: list[Any]) -> list[Any] | None:
    """Return what of the whole is not in the part, which has its order; None when it is no part."""
    rest, missing = iter(part), []
    wanted = next(rest, None)
    for item in whole:
        if item == wanted:
            wanted = next(rest, None)
        else:
            missing.append(item)
    return missing if wanted is None else None


def assert_rows_are_the_runtime(
    deployment: Deployment,
    companies: dict[str, str],
    histories: dict[str, list[dict[str, Any]]],
) -> None:
    """Each row says what the status call says, and is the end of an unbroken history."""
    rows = {
        row["company_id"]: row
        for row in deployment.rows(
            "select company_id::text, status, reason, version, jid from public.whatsapp_connections"
        )
    }
    assert rows.keys() == companies.keys()
    for company_id, jid in companies.items():
        runtime, row = deployment.service.status(company_id), rows[company_id]
        assert (row["status"], row["reason"], row["jid"]) == ("connected", "online", jid)
        assert (runtime["status"], runtime["reason"]) == ("connected", "online")
        history = histories[company_id]
        versions = [entry["version"] for entry in history]
        assert versions == sorted(set(versions))
        assert versions[-1] == row["version"]
        for before, entry in itertools.pairwise(history):
            assert entry["from_status"] == before["to_status"], (company_id, before, entry)


def assert_metrics_agree(deployment: Deployment, written: int) -> None:
    """The service has counted what the database holds."""
    figures = deployment.metrics()
    assert figures.value("whatsapp_journal_sent_total", kind="transition") == written
    assert figures.value("whatsapp_journal_pending", kind="transition") == 0
    by_status = {
        row["status"]: row["number"]
        for row in deployment.rows(
            "select status, count(*) as number from public.whatsapp_connections group by status"
        )
    }
    counted = {
        status: figures.value("whatsapp_sessions", status=status)
        for status in ("connected", "connecting", "disconnected")
    }
    assert counted == {"connecting": 0, "disconnected": 0} | by_status

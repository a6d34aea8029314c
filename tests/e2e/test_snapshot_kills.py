"""kill -9 of everything at random moments: whoever was paired before is connected after.

A run prints its seed; KILL_SEED=<seed> repeats its plan. KILL_COUNT sets the number of kills.
"""

import json
import os
import random
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import mean

import pytest
from deployment import Deployment

from crm_whatsapp.sessions.key_ring import generate_key_entry
from service_process import API, wait_for

pytestmark = pytest.mark.e2e

RESTORED = "session restored from its snapshot"
SETTINGS = {
    "SNAPSHOT_ENCRYPTION_KEYS": generate_key_entry("kills"),
    "SNAPSHOT_SCAN_SECONDS": "0.2",
    "SNAPSHOT_RATCHET_INTERVAL_SECONDS": "0.2",
    "SESSION_RECOVERY_RETRY_DELAY": "50",
    "LEASE_TTL_SECONDS": "10",
    "LEASE_RENEW_SECONDS": "1",
}
PHASES = ("pairing", "snapshot", "restore", "shutdown")


@dataclass(slots=True)
class Killer:
    """Brings the service into a phase and kills it at a random moment of it."""

    deployment: Deployment
    dice: random.Random
    companies: dict[str, str]
    plan: list[str] = field(default_factory=list)

    def strike(self, phase: str) -> None:
        getattr(self, f"_in_{phase}")()

    def _kill_after(self, phase: str, longest_seconds: float) -> None:
        seconds = self.dice.uniform(0, longest_seconds)
        self.plan.append(f"{phase} {seconds:.3f}")
        threading.Event().wait(seconds)  # the moment is what varies; nothing is waited for
        self.deployment.service.kill()

    def _in_pairing(self) -> None:
        """Somebody scans; the session counts as paired once the phone says so."""
        company_id = str(uuid.uuid4())
        service = self.deployment.service
        assert service.post("connect", company_id=company_id, method="qr").status == 202
        code = self.deployment.qr(company_id)
        linked: list[str] = []

        def scan() -> None:
            try:
                linked.append(self.deployment.phones.scan(code))
            except AssertionError:
                return  # the kill came before the phone was told

        scanning = threading.Thread(target=scan)
        scanning.start()
        # Up to 0.3 s: the phone agrees, creds.json is written. Later: the hand-over, a snapshot.
        self._kill_after("pairing", self.dice.choice((0.3, 1.5)))
        scanning.join()
        if linked:
            self.companies[company_id] = linked[0]

    def _in_snapshot(self) -> None:
        """Stores change and are copied all the time."""
        for jid in self.companies.values():
            number = f"55119{self.dice.randrange(10**8):08d}"
            body = {"jid": jid, "from": number, "text": "changes the store"}
            self.deployment.phones.call("messages", body)
        self._kill_after("snapshot", 0.6)

    def _in_restore(self) -> None:
        """Some folders are lost, and come back from their snapshots at the start."""
        self.deployment.service.kill()
        saved = self._with_snapshot()
        for company_id in self.dice.sample(saved, self.dice.randint(1, len(saved))):
            folder = self.deployment.folders.session_path(company_id)
            shutil.rmtree(folder, ignore_errors=True)
        begun = len(self.deployment.log())
        self.deployment.service.spawn()
        wait_for(lambda: "Restoring session" in self.deployment.log()[begun:], 15, 0.01)
        self._kill_after("restore", 0.7)

    def _in_shutdown(self) -> None:
        process = self.deployment.service.process
        assert process is not None
        process.terminate()
        self._kill_after("shutdown", 0.8)

    def _with_snapshot(self) -> list[str]:
        rows = self.deployment.rows(
            "select distinct company_id from public.whatsapp_session_snapshots "
            "where tombstoned_at is null"
        )
        return sorted({str(row["company_id"]) for row in rows} & self.companies.keys())


@pytest.fixture(autouse=True)
def snapshots_on(deployment: Deployment) -> Iterator[None]:
    deployment.settings |= SETTINGS
    yield


def run(deployment: Deployment, count: int, record: Callable[[str, object], None]) -> None:
    seed = int(os.environ.get("KILL_SEED") or random.SystemRandom().randrange(10**9))
    record("KILL_SEED", seed)
    print(f"KILL_SEED={seed}")  # noqa: T201 - shown with a failure
    companies = deployment.seed(4)
    deployment.start()
    deployment.await_all_connected(list(companies))
    await_copied(deployment, companies)
    killer = Killer(deployment, random.Random(seed), companies)  # noqa: S311 - a replayable plan
    # Each phase equally often, in random order.
    phases = [PHASES[number % len(PHASES)] for number in range(count)]
    killer.dice.shuffle(phases)
    paired = 0
    took: dict[str, list[float]] = {phase: [] for phase in PHASES}
    for phase in phases:
        begun = time.monotonic()
        known = len(killer.companies)
        killer.strike(phase)
        paired += len(killer.companies) - known
        deployment.service.spawn()
        try:
            assert_all_are_back(deployment, killer.companies)
        except AssertionError as failure:
            pytest.fail(f"KILL_SEED={seed}, after {killer.plan}: {failure}")
        took[phase].append(time.monotonic() - begun)
    record("kills", len(killer.plan))
    for phase, seconds in took.items():
        record(f"{phase}: mean seconds a kill and the way back", round(mean(seconds), 2))
    record("pairings that survived a kill", paired)
    record("restored from snapshots", deployment.log().count(RESTORED))
    deployment.service.terminate()
    # Half a session would have been set aside before its snapshot came in its place.
    aside = list(deployment.sessions_dir.glob("quarantine/*"))
    assert not aside, f"KILL_SEED={seed}, after {killer.plan}: {aside}"


def assert_all_are_back(deployment: Deployment, companies: dict[str, str]) -> None:
    """All connected, each over one connection, and no file was found damaged."""
    service = deployment.service
    service.wait_ready()
    begun = time.monotonic()
    for company_id in companies:
        deployment.await_status(company_id, "connected", 30)
    slow = time.monotonic() - begun
    devices = deployment.phones.call("state")
    for company_id, jid in companies.items():
        counters = devices["counters"][jid]
        assert counters["max_simultaneous"] == 1, (company_id, jid, counters)
        assert counters["replaced"] == 0, (company_id, jid, counters)
        assert counters["pairings"] <= 1, (company_id, jid, counters)
        row = service.request("GET", f"{API}/status?company_id={company_id}").json()
        assert row["phone_number"] == f"+{jid.split(':')[0]}", (company_id, jid, row)
    damaged = [line for line in deployment.log().splitlines() if is_damage(line)]
    assert not damaged, damaged[:3]
    assert slow < 20, f"it took {slow:.1f} s"


def is_damage(line: str) -> bool:
    """Tell whether a log line speaks of a file or snapshot that is not whole."""
    try:
        entry = json.loads(line)
    except ValueError:
        return False
    said = f"{entry.get('event')} {entry.get('message')} {entry.get('detail')}"
    return entry.get("reason") == "store-corrupt" or "a snapshot is damaged" in said


def await_copied(deployment: Deployment, companies: dict[str, str]) -> None:
    def copied() -> bool:
        rows = deployment.rows("select distinct company_id from public.whatsapp_session_snapshots")
        return len(rows) == len(companies)

    assert wait_for(copied, 20), "no snapshot of some company"


def test_kills_at_random_moments_cost_nobody_a_scan(
    deployment: Deployment, record_property: Callable[[str, object], None]
) -> None:
    run(deployment, int(os.environ.get("KILL_COUNT") or 20), record_property)


@pytest.mark.soak
def test_many_kills_at_random_moments_cost_nobody_a_scan(
    deployment: Deployment, record_property: Callable[[str, object], None]
) -> None:
    run(deployment, 200, record_property)

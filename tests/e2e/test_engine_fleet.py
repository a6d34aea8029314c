"""The real supervisor and real engines against the sandbox."""

import os
import random
import signal
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from crm_whatsapp.domain import events
from crm_whatsapp.domain.engines import EngineRole
from crm_whatsapp.domain.errors import SendUnconfirmed
from crm_whatsapp.engine.settings import EngineSettings
from sandbox.sandbox import Sandbox
from tests.e2e.engine_fixtures import Account, Edge, Rig, make_rig

pytestmark = pytest.mark.e2e

MakeRig = Callable[..., Rig]


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    with Sandbox.start(tmp_path_factory.mktemp("sandbox")) as sandbox:
        yield Edge(sandbox)


@pytest.fixture
def rig(edge: Edge, tmp_path: Path) -> Iterator[MakeRig]:
    rigs: list[Rig] = []

    def make(**settings: Any) -> Rig:
        made = make_rig(edge, tmp_path, EngineSettings(environment=edge.env, **settings))
        rigs.append(made)
        return made

    edge.clear_faults()
    yield make
    edge.clear_faults()
    for made in rigs:
        made.fleet.shutdown(8)
        assert made.fleet.health() == []


@pytest.fixture
def black_hole() -> Iterator[str]:
    """A proxy that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def connect_all(rig: Rig, accounts: list[Account], timeout: float = 30.0) -> float:
    """Start all; return the seconds until the last one was connected."""
    began = time.monotonic()
    for account in accounts:
        rig.start(account)
    for account in accounts:
        rig.events.wait(
            events.ClientConnected,
            company_id=account.company_id,
            generation=account.generation,
            timeout=timeout,
        )
    return time.monotonic() - began


def deaths(rig: Rig) -> list[events.EngineEvent]:
    return [seen.event for seen in rig.events.find(events.EngineDied)]


def test_pair_by_qr_then_restore_in_a_shard(rig: MakeRig, edge: Edge) -> None:
    r = rig()
    account = r.new_account()
    r.pair(account)
    qr = r.events.wait(events.QrIssued).event
    assert isinstance(qr, events.QrIssued)
    assert qr.expires_in_seconds == 60
    jid = edge.post("/api/scan", qr=qr.value)["jid"]
    paired = r.events.wait(events.PairingSucceeded).event
    assert isinstance(paired, events.PairingSucceeded)
    assert paired.jid == jid
    assert paired.lid
    connected = r.events.wait(events.ClientConnected, generation=1)
    r.stop(account)
    r.events.wait(events.ClientStopped, generation=1)
    r.start(account)
    restored = r.events.wait(events.ClientConnected, generation=2)
    assert restored.event.jid == jid  # type: ignore[attr-defined]
    assert restored.at - connected.at <= 3


def test_pair_by_code(rig: MakeRig, edge: Edge) -> None:
    r = rig()
    number = edge.post("/api/phones")["number"]
    account = r.new_account()
    r.pair(account, phone_number=number)
    issued = r.events.wait(events.PairingCodeIssued).event
    assert isinstance(issued, events.PairingCodeIssued)
    assert issued.expires_in_seconds == 160
    edge.post("/api/pair-code", code=issued.code, number=number)
    r.events.wait(events.PairingSucceeded)
    r.events.wait(events.ClientConnected)
    assert not r.events.find(events.QrIssued)


def test_codes_that_run_out_end_the_pairing(rig: MakeRig, edge: Edge) -> None:
    r = rig()
    edge.post("/api/qr-lifetime", jid="*", seconds=1)
    account = r.new_account()
    r.pair(account)
    r.events.wait(events.PairingExpired, timeout=40)
    r.await_health("pairing engine gone", lambda health: not health)
    r.stop(account)
    r.events.wait(events.ClientStopped, generation=1)


def test_a_pairing_can_be_stopped_and_begun_again(rig: MakeRig) -> None:
    r = rig()
    account = r.new_account()
    r.pair(account)
    r.events.wait(events.QrIssued, generation=1)
    r.stop(account)
    r.pair(account)
    r.events.wait(events.ClientStopped, generation=1)
    r.events.wait(events.QrIssued, generation=2)


def test_too_many_pairings_are_refused(rig: MakeRig) -> None:
    r = rig(pairing_engines_max=1)
    first, second = r.new_account(), r.new_account()
    r.pair(first)
    r.pair(second)
    refused = r.events.wait(events.PairingFailed, company_id=second.company_id).event
    assert "Try again" in refused.detail  # type: ignore[attr-defined]
    r.events.wait(events.QrIssued, company_id=first.company_id)


def test_restore_fifty_sessions(rig: MakeRig, record_property: Any) -> None:
    r = rig()
    accounts = r.link(50)
    seconds = connect_all(r, accounts)
    record_property("restore_50_seconds", seconds)
    (engine,) = r.fleet.health()
    assert engine.sessions == 50
    assert engine.deaths == 0
    assert not deaths(r)


def test_stores_are_in_wal_mode_after_a_start(rig: MakeRig) -> None:
    r = rig()
    (account,) = r.link(1)
    connect_all(r, [account])
    header = (account.folder / "store.db").read_bytes()[:20]
    assert header[18:20] == b"\x02\x02"


def test_a_second_fleet_waits_for_the_lock_then_reports_it(rig: MakeRig) -> None:
    first, second = rig(), rig(lock_wait_seconds=0.3)
    (account,) = first.link(1)
    connect_all(first, [account])
    second.start(account)
    ended = second.events.wait(events.ClientEnded).event
    assert isinstance(ended, events.ClientEnded)
    assert ended.locked


def test_refusals(rig: MakeRig, edge: Edge) -> None:
    r = rig()
    accounts = r.link(6)
    reasons = (401, 402, 403, 405, 409, 415)
    for account, reason in zip(accounts, reasons, strict=True):
        edge.post(
            "/api/fail-logins", jid=account.jid, reason=reason, count=-1, code=101, expire=3600
        )
        r.start(account)
    a401, a402, a403, a405, a409, a415 = (account.company_id for account in accounts)
    for company_id, code in ((a401, 401), (a403, 403)):
        out = r.events.wait(events.LoggedOut, company_id=company_id).event
        assert (out.on_connect, out.code) == (True, code)  # type: ignore[attr-defined]
    ban = r.events.wait(events.TemporarilyBanned, company_id=a402).event
    assert (ban.code, ban.expires_in_seconds) == (101, 3600)  # type: ignore[attr-defined]
    r.events.wait(events.ClientOutdated, company_id=a405)
    failed = r.events.wait(events.ConnectFailed, company_id=a409).event
    assert failed.code == 409  # type: ignore[attr-defined]
    ended = r.events.wait(events.ClientEnded, company_id=a415).event
    assert "does not know" in ended.detail  # type: ignore[attr-defined]
    assert not deaths(r)


def test_unreachable_and_corrupt_are_told_apart(rig: MakeRig, edge: Edge) -> None:
    r = rig()
    good, bad = r.link(2)
    (bad.folder / "store.db").write_bytes(b"this is not a database" * 100)
    r.start(bad)
    corrupt = r.events.wait(events.ClientEnded, company_id=bad.company_id).event
    assert isinstance(corrupt, events.ClientEnded)
    assert corrupt.store_corrupt
    assert not corrupt.unreachable
    edge.post("/api/network", refuse=True)
    r.start(good)
    ended = r.events.wait(events.ClientEnded, company_id=good.company_id).event
    assert isinstance(ended, events.ClientEnded)
    assert ended.unreachable
    assert not ended.store_corrupt


def test_link_events(rig: MakeRig, edge: Edge) -> None:
    r = rig()
    cut, replaced, unlinked = r.link(3)
    connect_all(r, [cut, replaced, unlinked])
    edge.post("/api/cut", jid=cut.jid)
    r.events.wait(events.ClientDisconnected, company_id=cut.company_id)
    r.events.wait(events.ClientConnected, company_id=cut.company_id, count=2)
    edge.post("/api/replace", jid=replaced.jid)
    r.events.wait(events.StreamReplaced, company_id=replaced.company_id)
    edge.post("/api/unlink", jid=unlinked.jid)
    out = r.events.wait(events.LoggedOut, company_id=unlinked.company_id).event
    assert (out.on_connect, out.code) == (False, 0)  # type: ignore[attr-defined]


def test_send_and_logout(rig: MakeRig, edge: Edge) -> None:
    r = rig()
    sender, recipient = r.link(2)
    connect_all(r, [sender, recipient])
    number = recipient.jid.partition(":")[0]
    sent = r.send(sender, f"{number}@s.whatsapp.net", "hello @everyone").result(10)
    assert sent.whatsapp_id
    assert sent.server_timestamp_seconds > 0
    assert "hello @everyone" in [m["text"] for m in edge.get("/api/messages")]
    r.fleet.logout(sender.company_id, sender.generation)
    answer = r.events.wait(events.LogoutAnswered).event
    assert isinstance(answer, events.LogoutAnswered)
    assert answer.succeeded, answer.detail
    r.stop(sender)
    r.events.wait(events.ClientStopped, company_id=sender.company_id)


ONE_ENGINE = {"max_starts": 100_000, "max_descriptors": 100_000, "max_memory_mb": 10_000}
"""No replacement: all that a storm does happens in one process."""


def storm(r: Rig, accounts: list[Account], seconds: float) -> dict[str, float]:
    """Probe at 100 calls a second while sessions stop and start; return figures."""
    steady, moving = accounts[: len(accounts) // 2], accounts[len(accounts) // 2 :]
    ends_at = time.monotonic() + seconds
    rng = random.Random(7)  # noqa: S311 - the same storm each time
    over = threading.Event()

    def probe() -> None:
        while not over.wait(0.01):
            account = rng.choice(accounts)
            r.fleet.probe(account.company_id, account.generation)

    prober = threading.Thread(target=probe)
    prober.start()
    cycles = 0
    try:
        while time.monotonic() < ends_at:
            batch = rng.sample(moving, 5)
            for account in batch:
                r.stop(account)
                r.start(account)
            for account in batch:
                r.events.wait(
                    events.ClientConnected,
                    company_id=account.company_id,
                    generation=account.generation,
                )
            cycles += len(batch)
    finally:
        over.set()
        prober.join()
    answered = len(r.events.find(events.ProbeAnswered))
    return {"cycles": cycles, "answered": answered, "steady": len(steady)}


@pytest.mark.alone
def test_calls_during_starts_and_stops_end_no_engine(rig: MakeRig, record_property: Any) -> None:
    r = rig(**ONE_ENGINE)
    accounts = r.link(30)
    connect_all(r, accounts)
    figures = storm(r, accounts, 20)
    for name, value in figures.items():
        record_property(name, value)
    assert not deaths(r)
    assert figures["answered"] >= 1000
    assert figures["cycles"] >= 20


@pytest.mark.soak
def test_calls_during_starts_and_stops_for_a_minute(rig: MakeRig, record_property: Any) -> None:
    r = rig(**ONE_ENGINE)
    accounts = r.link(50)
    connect_all(r, accounts)
    figures = storm(r, accounts, 60)
    for name, value in figures.items():
        record_property(name, value)
    assert not deaths(r)
    assert figures["answered"] >= 3000


def test_a_killed_engine_loses_nobody(rig: MakeRig, record_property: Any) -> None:
    r = rig()
    accounts = r.link(20)
    connect_all(r, accounts)
    (engine,) = r.fleet.health()
    assert engine.pid is not None
    killed_at = time.monotonic()
    os.kill(engine.pid, signal.SIGKILL)
    r.events.wait(events.EngineDied, count=20)
    assert not any(e.suspect for e in deaths(r))  # type: ignore[attr-defined]
    connect_all(r, accounts)
    record_property("seconds_to_come_back", time.monotonic() - killed_at)
    (fresh,) = r.fleet.health()
    assert fresh.pid != engine.pid
    assert fresh.deaths == 1


def test_a_second_unexplained_death_brings_sessions_back_one_at_a_time(rig: MakeRig) -> None:
    r = rig()
    accounts = r.link(8)
    for round_number in (1, 2):
        connect_all(r, accounts)
        (engine,) = r.fleet.health()
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGKILL)
        r.events.wait(events.EngineDied, count=8 * round_number)
    r.edge.post("/api/network", slow_login_ms=150)
    seconds = connect_all(r, accounts)
    assert seconds >= 8 * 0.15, "one at a time"


def test_an_answer_that_ends_the_process_makes_a_suspect(rig: MakeRig, edge: Edge) -> None:
    r = rig()
    poison, *others = r.link(6)
    connect_all(r, others)
    edge.post("/api/fail-logins", jid=poison.jid, reason=413, count=-1)
    r.start(poison)
    r.events.wait(events.EngineDied, count=6)
    suspects = [e.company_id for e in deaths(r) if e.suspect]  # type: ignore[attr-defined]
    assert suspects == [poison.company_id]
    assert all("panic: runtime error" in e.detail for e in deaths(r))  # type: ignore[attr-defined]
    r.start(poison, isolated=True)
    connect_all(r, others)
    died = r.events.wait(events.EngineDied, company_id=poison.company_id, generation=2).event
    assert isinstance(died, events.EngineDied)
    assert died.suspect
    assert len(deaths(r)) == 7, "the others were left alone"


def test_suspects_that_prove_themselves_move_to_a_shard(rig: MakeRig) -> None:
    r = rig(isolation_proof_seconds=0.2, isolation_proof_queued_seconds=0.2)
    accounts = r.link(3)
    for account in accounts:
        r.start(account, isolated=True)

    def hand_over(event: events.EngineEvent) -> None:
        if isinstance(event, events.HandoverRequested):
            account = next(a for a in accounts if a.company_id == event.company_id)
            r.stop(account)
            r.start(account)

    r.events.react = hand_over
    for account in accounts:
        r.events.wait(events.ClientConnected, company_id=account.company_id, generation=2)
    shards = [h for h in r.fleet.health() if h.role is EngineRole.SHARD]
    assert [h.sessions for h in shards] == [3]


def test_a_silent_engine_is_ended(rig: MakeRig) -> None:
    r = rig(heartbeat_loss_seconds=2)
    accounts = r.link(2)
    connect_all(r, accounts)
    (engine,) = r.fleet.health()
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGSTOP)
    r.events.wait(events.EngineDied, count=2, timeout=10)


def test_a_black_holed_dial_is_abandoned_and_its_engine_replaced(
    rig: MakeRig, black_hole: str, record_property: Any
) -> None:
    r = rig(abandoned_grace_seconds=2)
    lost, *others = r.link(4)
    connect_all(r, others)
    (old,) = r.fleet.health()
    gaps: list[float] = []
    stopped_at: dict[str, float] = {}

    def hand_over(event: events.EngineEvent) -> None:
        if isinstance(event, events.HandoverRequested):
            account = next(a for a in others if a.company_id == event.company_id)
            stopped_at[account.company_id] = time.monotonic()
            r.stop(account)
            r.start(account)
        elif isinstance(event, events.ClientConnected) and event.company_id in stopped_at:
            gaps.append(time.monotonic() - stopped_at[event.company_id])

    r.events.react = hand_over
    r.start(lost, proxy=black_hole)
    r.await_health("dialing", lambda health: health[0].starts == 4)
    r.stop(lost)
    r.await_health("abandoned", lambda health: health[0].abandoned == 1, timeout=5)
    r.start(lost)  # waits until the abandoned client is gone
    assert not r.events.find(events.ClientStopped, company_id=lost.company_id)
    for account in [*others, lost]:
        r.events.wait(events.ClientConnected, company_id=account.company_id, generation=2)
    r.events.wait(events.ClientStopped, company_id=lost.company_id, generation=1)
    health = r.await_health("old engine gone", lambda health: len(health) == 1)
    assert health[0].pid != old.pid
    assert not deaths(r)
    record_property("handover_gap_max_seconds", max(gaps))
    assert max(gaps) <= 3


def test_an_engine_with_nothing_but_an_abandoned_client_ends_at_once(
    rig: MakeRig, edge: Edge
) -> None:
    r = rig()
    (lost,) = r.link(1)
    edge.post("/api/black-hole", jid="*", mode="login")
    r.start(lost)
    r.await_health("dialing", lambda health: bool(health) and health[0].starts == 1)
    r.stop(lost)
    r.events.wait(events.ClientStopped, timeout=5)
    assert not deaths(r)


def test_a_probe_on_a_frozen_link_fails_in_time(rig: MakeRig, edge: Edge) -> None:
    r = rig(probe_seconds=2)
    frozen, healthy = r.link(2)
    connect_all(r, [frozen, healthy])
    edge.post("/api/black-hole", jid=frozen.jid, mode="link")
    asked_at = time.monotonic()
    for _ in range(3):
        r.fleet.probe(frozen.company_id, frozen.generation)
    r.fleet.probe(healthy.company_id, healthy.generation)
    r.events.wait(events.ProbeAnswered, company_id=healthy.company_id)
    failed = r.events.wait(events.ProbeFailed, company_id=frozen.company_id, count=3)
    assert failed.at - asked_at <= 3
    future = r.fleet.send_text(
        frozen.company_id,
        frozen.generation,
        to_jid="5511900000001@s.whatsapp.net",
        text="lost",
        timeout_seconds=1,
    )
    with pytest.raises(SendUnconfirmed):
        future.result(2)


def test_stopping_a_frozen_link_holds_nobody_up(
    rig: MakeRig, edge: Edge, record_property: Any
) -> None:
    r = rig()
    frozen, *others = r.link(8)
    connect_all(r, [frozen, *others[:2]])
    edge.post("/api/black-hole", jid=frozen.jid, mode="link")
    stopped_at = time.monotonic()
    r.stop(frozen)
    seconds = connect_all(r, others[2:])
    assert seconds < 3
    gone = r.events.wait(events.ClientStopped, company_id=frozen.company_id)
    record_property("frozen_stop_seconds", gone.at - stopped_at)
    assert not deaths(r)


@pytest.mark.alone
def test_shutdown_with_a_frozen_link_and_a_dial_ends_in_time(
    rig: MakeRig, edge: Edge, record_property: Any
) -> None:
    r = rig()
    frozen, dialing, *others = r.link(10)
    connect_all(r, [frozen, *others])
    edge.post("/api/black-hole", jid=frozen.jid, mode="link")
    edge.post("/api/black-hole", jid="*", mode="login")
    r.start(dialing)
    r.await_health("dialing", lambda health: health[0].starts == 10)
    began = time.monotonic()
    unstopped = r.fleet.shutdown(3)
    seconds = time.monotonic() - began
    record_property("shutdown_seconds", seconds)
    assert seconds <= 3.5
    assert set(unstopped) == {frozen.company_id, dialing.company_id}
    assert r.fleet.shutdown(3) == unstopped
    assert r.fleet.health() == []


def test_an_engine_past_its_bounds_is_replaced_without_a_gap(
    rig: MakeRig, record_property: Any
) -> None:
    r = rig(max_starts=29)
    accounts = r.link(30)
    by_company = {account.company_id: account for account in accounts}
    asked_at: dict[str, float] = {}
    gaps: list[float] = []

    def hand_over(event: events.EngineEvent) -> None:
        if isinstance(event, events.HandoverRequested):
            account = by_company[event.company_id]
            asked_at[event.company_id] = time.monotonic()
            r.stop(account)
            r.start(account)
        elif isinstance(event, events.ClientConnected) and event.company_id in asked_at:
            gaps.append(time.monotonic() - asked_at[event.company_id])

    r.events.react = hand_over
    connect_all(r, accounts)
    r.events.wait(events.HandoverRequested, count=30)
    for account in accounts:
        r.events.wait(events.ClientConnected, company_id=account.company_id, generation=2)
    health = r.await_health("old engine gone", lambda health: len(health) == 1)
    assert health[0].sessions == 30
    record_property("handover_gap_p50_seconds", statistics.median(gaps))
    record_property("handover_gap_max_seconds", max(gaps))
    assert max(gaps) <= 3
    assert not deaths(r)


def test_an_engine_loads_no_web_framework_and_gets_no_keys(
    rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUPABASE_SERVICE_ROLE_KEY", "sb_secret_of_the_test")
    monkeypatch.setenv("WHATSAPP_API_KEY", "another")
    r = rig()
    (account,) = r.link(1)
    connect_all(r, [account])
    (engine,) = r.fleet.health()
    environment = Path(f"/proc/{engine.pid}/environ").read_bytes()
    assert b"sb_secret_of_the_test" not in environment
    assert b"WHATSAPP_API_KEY" not in environment
    limits = Path(f"/proc/{engine.pid}/limits").read_text()
    assert next(line for line in limits.splitlines() if "core file" in line).split()[4] == "0"


def test_a_poison_session_among_fifty_disturbs_the_others_once(
    rig: MakeRig, edge: Edge, record_property: Any
) -> None:
    r = rig(isolation_proof_seconds=1)
    accounts = r.link(50)
    poison = accounts[20]
    by_company = {account.company_id: account for account in accounts}
    edge.post("/api/fail-logins", jid=poison.jid, reason=413, count=-1)
    crashes: dict[str, int] = {}

    def serve(event: events.EngineEvent) -> None:
        account = by_company[event.company_id]
        if event.generation != account.generation:
            return
        if isinstance(event, events.EngineDied):
            crashes[account.company_id] = crashes.get(account.company_id, 0) + event.suspect
            if crashes[account.company_id] < 2:
                r.start(account, isolated=event.suspect)
        elif isinstance(event, events.HandoverRequested):
            r.stop(account)
            r.start(account)

    r.events.react = serve
    began = time.monotonic()
    for account in accounts:
        r.start(account)
    r.await_health(
        "all but one in shards",
        lambda health: (
            crashes.get(poison.company_id) == 2  # so do 49 on their way to 50
            and [h.sessions for h in health if h.role is EngineRole.SHARD] == [49]
        ),
        timeout=120,
    )
    record_property("seconds_until_49_of_50_are_home", time.monotonic() - began)
    record_property("suspects", sum(1 for count in crashes.values() if count))
    assert crashes[poison.company_id] == 2
    assert all(count <= 1 for company, count in crashes.items() if company != poison.company_id)

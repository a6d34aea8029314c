"""What snapshots cost: CPU, bytes, time at a restore, and writes of sessions that do nothing.

    make bench-snapshot [ARGS="--sessions 50 --restores 30 --runs 3"]

Prints `name<TAB>value<TAB>unit`, all measured on the deployed process, with stores as they are
after pairing (812 one-time keys):

snapshot_cpu_ms   CPU of the web process for one snapshot: the mean of as many POST /backup-session
    as there are sessions, one after another, each copied, checked, sealed, written and read back.
    The request itself and whatever else the process does meanwhile are counted in.
snapshot_bytes    the largest of these snapshots, as the database stores it
restore_from_snapshot_added_ms   how much longer a session takes when SESSIONS_DIR is empty:
    (start until all are connected from snapshots - the same from disk) / sessions; the medians of
    the runs. Both starts follow a clean stop.
idle_snapshot_writes_per_hour   snapshots written of sessions that are connected and do nothing,
    for 500 sessions and an hour. 500 connected sessions are too heavy for a small machine, and an
    hour is long; what an hour holds is scans, so the window holds at least as many of them: 720
    (an hour at the default of one in 5 s), at one in 25 ms. Changes of ratchets are let through
    at once instead of after 15 minutes, so that nothing hides behind that interval. It counts the
    numbers given to snapshots in the database, which pruning does not take back, and scales by
    sessions and by scans.
"""

from __future__ import annotations

import argparse
import base64
import os
import secrets
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from local_supabase import LocalSupabase
from sandbox import Sandbox
from saved_sessions import seed_saved_sessions
from service_process import UNLIMITED, ServiceProcess, wait_for

LIMIT_SECONDS = 120.0
ONE_TIME_KEYS = 812
SCAN_SECONDS = 0.025
SCANS_AN_HOUR = 720
FULL_HOUSE = 500
_QUIET_SECONDS = 2.0

Figure = tuple[str, float, str]


@dataclass(slots=True)
class Bench:
    """One database and one sandbox; every part has a SESSIONS_DIR and companies of its own."""

    stack: LocalSupabase
    sandbox: Sandbox
    folder: Path
    key: str

    def service(self, name: str, **settings: str) -> ServiceProcess:
        """Return a service that keeps its sessions in a folder of this name; not started."""
        return ServiceProcess(
            {
                "SESSIONS_DIR": str(self.folder / name),
                "SUPABASE_URL": self.stack.url,
                "SUPABASE_SERVICE_ROLE_KEY": self.stack.service_key,
                "SNAPSHOT_ENCRYPTION_KEYS": self.key,
                "LOG_LEVEL": "WARNING",
                **UNLIMITED,
                **self.sandbox.env,
                **settings,
            },
            self.folder / "service.log",
            ends_with_parent=True,
        )

    def seed(self, name: str, count: int) -> list[str]:
        """Write saved sessions into the folder of this name; return their companies."""
        _note(f"writing {count} saved sessions")
        sessions = seed_saved_sessions(
            self.sandbox.admin_url, self.folder / name, count, one_time_keys=ONE_TIME_KEYS
        )
        return list(sessions)

    def newest(self) -> dict[str, tuple[int, int, int]]:
        """Return (epoch, seq, bytes) of the newest snapshot of every company."""
        with psycopg.connect(self.stack.db_url, autocommit=True) as database:
            rows = database.execute(
                "select distinct on (company_id) company_id::text, epoch, seq, size_bytes "
                "from public.whatsapp_session_snapshots where tombstoned_at is null "
                "order by company_id, epoch desc, seq desc"
            ).fetchall()
        return {company: (int(epoch), int(seq), int(size)) for company, epoch, seq, size in rows}

    def empty_database(self) -> None:
        """Forget all companies of the part before."""
        with psycopg.connect(self.stack.db_url, autocommit=True) as database:
            for table in ("connections", "status_events", "leases", "session_snapshots"):
                database.execute(f"truncate public.whatsapp_{table}".encode())


def main() -> int:
    """Run the benchmark; it ends with a message when a session did not connect."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sessions", type=int, default=50, help="connected sessions")
    parser.add_argument("--restores", type=int, default=30, help="sessions that are restored")
    parser.add_argument("--runs", type=int, default=3, help="restores of each kind")
    arguments = parser.parse_args()
    key = f"bench:{base64.b64encode(secrets.token_bytes(32)).decode()}"
    with tempfile.TemporaryDirectory(prefix="bench-snapshot-") as name:
        folder = Path(name)
        with LocalSupabase.start(folder / "db") as stack, Sandbox.start(folder / "sb") as sandbox:
            bench = Bench(stack, sandbox, folder, key)
            figures = _costs(bench, arguments.sessions)
            bench.empty_database()
            figures.insert(2, _restores(bench, arguments.restores, arguments.runs))
    for figure, value, unit in figures:
        sys.stdout.write(f"{figure}\t{value:.2f}\t{unit}\n")
    return 0


def _costs(bench: Bench, sessions: int) -> list[Figure]:
    """Let sessions do nothing, then copy each."""
    companies = bench.seed("idle", sessions)
    service = bench.service(
        "idle",
        SNAPSHOT_SCAN_SECONDS=str(SCAN_SECONDS),
        SNAPSHOT_RATCHET_INTERVAL_SECONDS=str(SCAN_SECONDS),
    )
    try:
        _await_connected(service, sessions)
        _await_copies(bench, service, companies)
        idle = _idle_writes(bench, service, sessions)
    finally:
        service.kill()
    bench.empty_database()
    service = bench.service("idle")
    try:
        _await_connected(service, sessions)
        _await_copies(bench, service, companies)
        cpu, size = _hand_made(bench, service, companies)
    finally:
        service.kill()
    return [
        ("snapshot_cpu_ms", cpu, "ms"),
        ("snapshot_bytes", size, "bytes"),
        ("idle_snapshot_writes_per_hour", idle, "writes"),
    ]


def _idle_writes(bench: Bench, service: ServiceProcess, sessions: int) -> float:
    scans_before, before, begun = _scans(service), bench.newest(), time.monotonic()
    wanted = scans_before + SCANS_AN_HOUR
    if not wait_for(lambda: _scans(service) >= wanted, LIMIT_SECONDS * 3, pause_seconds=1.0):
        raise SystemExit(f"too few scans:\n{service.log_tail()}")
    scans, after = _scans(service) - scans_before, bench.newest()
    if _connected(service) != sessions:
        raise SystemExit(f"not all of {sessions} sessions stayed connected:\n{service.log_tail()}")
    written = sum(after[company][1] - before[company][1] for company in before)
    _note(
        f"{written} writes by {sessions} idle sessions in {scans} scans, "
        f"{time.monotonic() - begun:.0f} s"
    )
    return written * FULL_HOUSE / sessions * SCANS_AN_HOUR / scans


def _hand_made(bench: Bench, service: ServiceProcess, companies: list[str]) -> tuple[float, float]:
    """Return the CPU of one snapshot in ms, and the bytes of the largest."""
    _back_up(service, companies[0])
    worker = service.worker_pid()
    before, begun = _cpu_seconds(worker), time.monotonic()
    for company_id in companies:
        _back_up(service, company_id)
    spent, took = _cpu_seconds(worker) - before, time.monotonic() - begun
    _note(f"{len(companies)} snapshots by hand: {took:.2f} s, {spent:.2f} s of them CPU")
    newest = bench.newest()
    return spent * 1000 / len(companies), float(max(newest[item][2] for item in companies))


def _restores(bench: Bench, sessions: int, runs: int) -> Figure:
    companies = bench.seed("restored", sessions)
    service = bench.service("restored")
    from_disk, from_snapshots = [], []
    try:
        _await_connected(service, sessions)
        _await_copies(bench, service, companies)
        service.terminate()
        for run in range(1, runs + 1):
            from_disk.append(_await_connected(service, sessions))
            service.terminate()
            lost = bench.folder / "restored"
            lost.rename(bench.folder / f"lost-{run}")
            lost.mkdir(mode=0o700)
            from_snapshots.append(_await_connected(service, sessions))
            service.terminate()
            _note(
                f"{sessions} sessions, run {run}: {from_disk[-1]:.2f} s from disk, "
                f"{from_snapshots[-1]:.2f} s from snapshots"
            )
    finally:
        service.kill()
    added = statistics.median(from_snapshots) - statistics.median(from_disk)
    return ("restore_from_snapshot_added_ms", added * 1000 / sessions, "ms")


def _await_connected(service: ServiceProcess, sessions: int) -> float:
    """Start the service; return the seconds until all sessions are connected."""
    begun = time.monotonic()
    service.spawn()

    def all_connected() -> bool:
        try:
            return _connected(service) >= sessions
        except (OSError, KeyError):
            return False

    if not wait_for(all_connected, LIMIT_SECONDS):
        raise SystemExit(f"not all of {sessions} sessions connected:\n{service.log_tail()}")
    return time.monotonic() - begun


def _await_copies(bench: Bench, service: ServiceProcess, companies: list[str]) -> None:
    """Wait until every session has its snapshot and what followed the login is written too."""
    seen: list[tuple[float, object]] = [(time.monotonic(), None)]

    def settled() -> bool:
        newest = bench.newest()
        if newest != seen[0][1]:
            seen[0] = (time.monotonic(), newest)
        quiet = time.monotonic() - seen[0][0] >= _QUIET_SECONDS
        return quiet and newest.keys() >= set(companies)

    if not wait_for(settled, LIMIT_SECONDS, pause_seconds=0.2):
        raise SystemExit(f"not every session got its snapshot:\n{service.log_tail()}")


def _back_up(service: ServiceProcess, company_id: str) -> None:
    answer = service.post("backup-session", company_id=company_id)
    if answer.status != 200:
        raise SystemExit(f"/backup-session answered {answer.status}: {answer.content!r}")


def _connected(service: ServiceProcess) -> int:
    return int(_checks(service)["restore"]["sessions_by_status"].get("connected", 0))


def _scans(service: ServiceProcess) -> int:
    """Return how often sessions were searched for changes."""
    return int(_checks(service)["jobs"]["snapshot-scan"]["runs"])


def _checks(service: ServiceProcess) -> dict[str, Any]:
    return {check["name"]: check for check in service.readiness()["checks"]}


def _cpu_seconds(pid: int) -> float:
    """Return the CPU the process has used, in user and kernel mode. Source: proc(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _note(text: str) -> None:
    sys.stderr.write(f"# {text}\n")


if __name__ == "__main__":
    sys.exit(main())

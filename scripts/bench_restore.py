"""How long saved sessions take from the start of gunicorn until all are connected.

    make bench-restore [ARGS="--sizes 100 300 --runs 3"]

Prints `name<TAB>value<TAB>unit` for each figure: the median of the runs, and how many engines
died over all of them. Memory is the PSS (smaps_rollup) of gunicorn and all below it; the sandbox
and the database, which run on the same machine, are left out.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from local_supabase import LocalSupabase
from sandbox import Sandbox
from saved_sessions import seed_saved_sessions
from service_process import UNLIMITED, ServiceProcess, tree_pss_mb, wait_for

LIMIT_SECONDS = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One start of the service."""

    seconds: float
    pss_mb: float
    engine_deaths: int
    shutdown_seconds: float


def main() -> int:
    """Run the benchmark; 1 when a run did not connect everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 300], help="sessions")
    parser.add_argument("--runs", type=int, default=3, help="starts for each size")
    arguments = parser.parse_args()
    figures: list[tuple[str, float, str]] = []
    deaths = 0
    with tempfile.TemporaryDirectory(prefix="bench-restore-") as name:
        folder = Path(name)
        with LocalSupabase.start(folder / "db") as stack, Sandbox.start(folder / "sb") as sandbox:
            for size in arguments.sizes:
                runs = _bench(stack, sandbox, folder / f"of-{size}", size, arguments.runs)
                deaths += sum(run.engine_deaths for run in runs)
                seconds = statistics.median(run.seconds for run in runs)
                memory = statistics.median(run.pss_mb for run in runs)
                figures.append((f"restore_{size}_seconds", seconds, "s"))
                figures.append((f"restore_{size}_pss_mb", memory, "MB"))
    figures.append(("engine_deaths", float(deaths), "engines"))
    for figure, value, unit in figures:
        sys.stdout.write(f"{figure}\t{value:.2f}\t{unit}\n")
    return 0


def _bench(stack: LocalSupabase, sandbox: Sandbox, folder: Path, size: int, runs: int) -> list[Run]:
    folder.mkdir()
    sessions_dir = folder / "sessions"
    _note(f"writing {size} saved sessions")
    seed_saved_sessions(sandbox.admin_url, sessions_dir, size)
    service = ServiceProcess(
        {
            "SESSIONS_DIR": str(sessions_dir),
            "SUPABASE_URL": stack.url,
            "SUPABASE_SERVICE_ROLE_KEY": stack.service_key,
            "LOG_LEVEL": "WARNING",
            **UNLIMITED,
            **sandbox.env,
        },
        folder / "service.log",
    )
    done = []
    try:
        for number in range(runs + 1):
            run = _run(service, size)
            kind = "warm-up" if number == 0 else f"run {number}"
            _note(
                f"{size} sessions, {kind}: {run.seconds:.2f} s, {run.pss_mb:.0f} MB, "
                f"{run.engine_deaths} engine deaths, stopped in {run.shutdown_seconds:.2f} s"
            )
            if run.engine_deaths:
                _note_deaths(service)
            if number:
                done.append(run)
    finally:
        service.kill()
    return done


def _run(service: ServiceProcess, size: int) -> Run:
    begun = time.monotonic()
    service.spawn()
    connected_at: list[float] = []

    def all_connected() -> bool:
        try:
            count, _ = _figures(service)
        except (OSError, KeyError):
            return False
        if count >= size:
            connected_at.append(time.monotonic())
        return bool(connected_at)

    if not wait_for(all_connected, LIMIT_SECONDS, pause_seconds=0.05):
        raise SystemExit(f"not all of {size} sessions connected:\n{service.log_tail()}")
    memory = tree_pss_mb(service.processes())
    _, deaths = _figures(service)
    stopped = service.terminate()
    return Run(
        seconds=connected_at[0] - begun,
        pss_mb=memory,
        engine_deaths=deaths,
        shutdown_seconds=stopped,
    )


def _note_deaths(service: ServiceProcess) -> None:
    """Show what the service has logged about engines that died."""
    for line in service.log_path.read_text(errors="replace").splitlines():
        if '"engine_died"' in line:
            _note(line[:2000])


def _figures(service: ServiceProcess) -> tuple[int, int]:
    """Return how many sessions are connected, and how many engines have died."""
    checks = {check["name"]: check for check in service.readiness()["checks"]}
    connected = int(checks["restore"]["sessions_by_status"].get("connected", 0))
    deaths = sum(int(engine["deaths"]) for engine in checks["engines"]["engines"])
    return connected, deaths


def _note(text: str) -> None:
    sys.stderr.write(f"# {text}\n")


if __name__ == "__main__":
    sys.exit(main())

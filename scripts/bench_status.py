"""How fast a status poll is answered, at a steady rate, while sessions restore.

    make bench-status [ARGS="--sessions 50 --rate 200 --seconds 10"]

Prints `name<TAB>value<TAB>unit`:

status_p50_ms, status_p99_ms  GET /status of saved sessions at the given rate, measured from the
    moment a request was due (so a stall counts for every request that it delayed), from the start
    of the restore of all sessions on
status_flask_floor_p50_ms     the same load on /healthz of the same process: what Flask, gunicorn
    and the client cost without any work of ours
status_max_rps                polls answered per second when eight clients ask as fast as they can

The load comes from a process of its own.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from local_supabase import LocalSupabase
from sandbox import Sandbox
from saved_sessions import seed_saved_sessions
from service_process import API, UNLIMITED, ServiceProcess

_CLIENTS = 8


def main() -> int:
    """Run the benchmark, or, with --load, be the client of one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sessions", type=int, default=50, help="saved sessions that restore")
    parser.add_argument("--rate", type=float, default=200.0, help="requests per second")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each part takes")
    parser.add_argument("--load", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.load:
        plan = json.loads(arguments.load)
        sys.stdout.write(json.dumps(_be_the_client(**plan)))
        return 0
    with tempfile.TemporaryDirectory(prefix="bench-status-") as name:
        folder = Path(name)
        with LocalSupabase.start(folder / "db") as stack, Sandbox.start(folder / "sb") as sandbox:
            _bench(stack, sandbox, folder, arguments)
    return 0


def _bench(
    stack: LocalSupabase, sandbox: Sandbox, folder: Path, arguments: argparse.Namespace
) -> None:
    sessions_dir = folder / "sessions"
    companies = list(seed_saved_sessions(sandbox.admin_url, sessions_dir, arguments.sessions))
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
    polls = [f"{API}/status?company_id={company_id}" for company_id in companies]
    try:
        service.start()
        restoring = _load(service, polls, arguments.rate, arguments.seconds)
        floor = _load(service, ["/healthz"], arguments.rate, arguments.seconds)
        fastest = _load(service, polls, 0.0, arguments.seconds / 2)
    finally:
        service.kill()
    lines = [
        ("status_p50_ms", _percentile(restoring, 50), "ms"),
        ("status_p99_ms", _percentile(restoring, 99), "ms"),
        ("status_flask_floor_p50_ms", _percentile(floor, 50), "ms"),
        ("status_max_rps", len(fastest) / (arguments.seconds / 2), "requests/s"),
    ]
    sys.stderr.write(f"# floor p99 {_percentile(floor, 99):.2f} ms at the same rate\n")
    for figure, value, unit in lines:
        sys.stdout.write(f"{figure}\t{value:.2f}\t{unit}\n")


def _load(
    service: ServiceProcess, paths: Sequence[str], rate: float, seconds: float
) -> list[float]:
    """Have a process of its own ask; return the latencies in ms, every answer being a 200."""
    plan = {
        "port": service.port,
        "key": service.api_key,
        "paths": list(paths),
        "rate": rate,
        "seconds": seconds,
    }
    client = subprocess.run(
        [sys.executable, __file__, "--load", json.dumps(plan)],
        capture_output=True,
        text=True,
        timeout=seconds * 4 + 30,
        check=False,
    )
    if client.returncode:
        raise SystemExit(f"the client failed: {client.stderr[-2000:]}")
    latencies: list[float] = json.loads(client.stdout)
    return latencies


def _be_the_client(
    port: int, key: str, paths: list[str], rate: float, seconds: float
) -> list[float]:
    """Ask over kept-alive connections; rate 0 means as fast as possible."""
    latencies: list[float] = []
    lock = threading.Lock()
    begun = time.monotonic() + 0.2
    numbers = iter(range(10**9))

    def work() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        mine = []
        while True:
            with lock:
                number = next(numbers)
            due = begun + number / rate if rate else max(begun, time.monotonic())
            if due >= begun + seconds:
                break
            threading.Event().wait(max(0.0, due - time.monotonic()))
            connection.request("GET", paths[number % len(paths)], headers={"X-API-Key": key})
            response = connection.getresponse()
            response.read()
            if response.status != 200:
                raise SystemExit(f"{paths[number % len(paths)]} answered {response.status}")
            mine.append((time.monotonic() - due) * 1000)
        connection.close()
        with lock:
            latencies.extend(mine)

    threads = [threading.Thread(target=work) for _ in range(_CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return latencies


def _percentile(values: Sequence[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


if __name__ == "__main__":
    sys.exit(main())

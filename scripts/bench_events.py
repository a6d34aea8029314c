"""How soon the outside hears: rows, streams, webhooks; and what an idle hour costs the database.

    make bench-events [ARGS="--sessions 100 --changes 400 --clients 10 --deliveries 3000"]

Prints `name<TAB>value<TAB>unit`, all measured on the deployed process with that many sessions
connected:

transition_to_row_p50_ms   from the moment the service decides on a change until the database
    records it: `recorded_at - occurred_at` of whatsapp_status_events, both clocks being this
    machine's. Every change is a link that the sandbox cuts, or its return, at a steady pace.
transition_to_sse_p99_ms   from the same moment until a client of GET /events has read it, over all
    clients; they are in a process of their own
webhooks_per_second        deliveries a second, from the first to the last request that a receiver
    gets, with that many queued for all companies before the first is sent. Each is signed, in
    order within its company, answered 204 and settled in the database.
idle_db_calls_per_hour     requests to the database by connected sessions that do nothing. Every
    interval in the settings is divided by 20, so three minutes hold an hour; a proxy counts.

Lines that begin with # tell more.
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
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import httpx
import psycopg

from local_supabase import LocalSupabase
from node_runtime import find_node
from sandbox import Sandbox
from saved_sessions import seed_saved_sessions
from service_process import API, UNLIMITED, ServiceProcess, wait_for

HASTE = 20.0
_HOUR_SECONDS = 3600.0
_LIMIT_SECONDS = 120.0
_PACE_SECONDS = 0.05
_SETTLING_SECONDS = 10.0

# The intervals that run by the clock, as they are by default, in seconds. How long a lease lives
# makes no calls; a short one would only be lost to a busy machine.
_INTERVALS = {
    "LEASE_RENEW_SECONDS": 15.0,
    "SYNC_INTERVAL_SECONDS": 300.0,
    "KEEPALIVE_INTERVAL_SECONDS": 900.0,
    "SNAPSHOT_SCAN_SECONDS": 5.0,
    "SNAPSHOT_RATCHET_INTERVAL_SECONDS": 900.0,
    "QR_EXPIRY_INTERVAL_SECONDS": 60.0,
    "WEBHOOK_POLL_SECONDS": 300.0,
}

_RECEIVER = """
const http = require("node:http");
let count = 0, first = 0, last = 0;
const server = http.createServer((request, response) => {
  if (request.method === "GET") {
    response.end(JSON.stringify({ count, seconds: (last - first) / 1000 }));
    return;
  }
  request.resume();
  request.on("end", () => {
    last = performance.now();
    if (!count) first = last;
    count += 1;
    response.writeHead(204).end();
  });
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
"""


@dataclass(slots=True)
class Bench:
    """One database and one sandbox for all parts."""

    stack: LocalSupabase
    sandbox: Sandbox
    folder: Path
    sessions: int
    companies: dict[str, str] = field(default_factory=dict)

    def service(self, name: str, **settings: str) -> ServiceProcess:
        """Make the service with sessions of its own; it is not started."""
        sessions_dir = self.folder / name
        self.companies = seed_saved_sessions(self.sandbox.admin_url, sessions_dir, self.sessions)
        return ServiceProcess(
            {
                "SESSIONS_DIR": str(sessions_dir),
                "SUPABASE_URL": self.stack.url,
                "SUPABASE_SERVICE_ROLE_KEY": self.stack.service_key,
                "SNAPSHOT_ENCRYPTION_KEYS": "bench:" + "A" * 43 + "=",
                "LOG_LEVEL": "WARNING",
                **UNLIMITED,
                **self.sandbox.env,
                **settings,
            },
            self.folder / f"{name}.log",
            ends_with_parent=True,
        )

    def start(self, service: ServiceProcess) -> None:
        """Start it and wait until all its sessions are connected."""
        service.start()

        def connected() -> bool:
            checks = {check["name"]: check for check in service.readiness()["checks"]}
            return bool(
                checks["restore"]["sessions_by_status"].get("connected", 0) >= self.sessions
            )

        if not wait_for(connected, _LIMIT_SECONDS):
            raise SystemExit(f"not all sessions connected:\n{service.log_tail(20)}")

    def cut(self, jid: str) -> None:
        """Have the sandbox end a device's link; whatsmeow comes back by itself."""
        httpx.post(
            f"{self.sandbox.admin_url}/api/cut", json={"jid": jid}, timeout=30
        ).raise_for_status()

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Ask the database directly."""
        with psycopg.connect(self.stack.db_url, autocommit=True) as connection:
            return connection.execute(query.encode(), values).fetchall()


def main() -> int:
    """Run the benchmark, or, with --listen, be its clients."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sessions", type=int, default=100, help="connected sessions")
    parser.add_argument("--changes", type=int, default=400, help="transitions to be timed")
    parser.add_argument("--clients", type=int, default=10, help="event streams")
    parser.add_argument("--deliveries", type=int, default=3000, help="webhooks to be delivered")
    parser.add_argument("--idle", type=float, default=180.0, help="seconds that hold an hour")
    parser.add_argument("--listen", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.listen:
        _listen(**json.loads(arguments.listen))
        return 0
    with tempfile.TemporaryDirectory(prefix="bench-events-") as name:
        folder = Path(name)
        with LocalSupabase.start(folder / "db") as stack, Sandbox.start(folder / "sb") as sandbox:
            bench = Bench(stack, sandbox, folder, arguments.sessions)
            # First: the companies of the other parts would be restored from their snapshots.
            idle = _idle_calls(bench, arguments.idle)
            figures = [
                *_latencies(bench, arguments.changes, arguments.clients),
                _throughput(bench, arguments.deliveries),
                idle,
            ]
    for figure, value, unit in figures:
        sys.stdout.write(f"{figure}\t{value:.2f}\t{unit}\n")
    return 0


# --- rows and streams -------------------------------------------------------------------------


def _latencies(bench: Bench, changes: int, clients: int) -> list[tuple[str, float, str]]:
    service = bench.service("latencies")
    try:
        bench.start(service)
        with _listeners(service, clients) as read:
            begun = datetime.now(UTC)
            _make_changes(bench, changes)
            rows = _await_rows(bench, begun, changes)
            heard = read(len(rows))
    finally:
        service.kill()
    to_row = [float(recorded) for (recorded,) in rows]
    _say(
        f"{len(rows)} transitions; to the row p99 {_percentile(to_row, 99):.1f} ms; to {clients} "
        f"streams p50 {_percentile(heard, 50):.1f} ms, {len(heard)} readings"
    )
    return [
        ("transition_to_row_p50_ms", statistics.median(to_row), "ms"),
        ("transition_to_sse_p99_ms", _percentile(heard, 99), "ms"),
    ]


def _make_changes(bench: Bench, changes: int) -> None:
    """Cut one link after another: each cut is a transition, and so is each return."""
    jids = list(bench.companies.values())
    begun = time.monotonic()
    for number in range(changes // 2):
        due = begun + number * 2 * _PACE_SECONDS
        threading.Event().wait(max(0.0, due - time.monotonic()))
        bench.cut(jids[number % len(jids)])


def _await_rows(bench: Bench, begun: datetime, changes: int) -> list[tuple[Any, ...]]:
    query = (
        "select extract(epoch from recorded_at - occurred_at) * 1000 "
        "from public.whatsapp_status_events where occurred_at >= %s"
    )
    found: list[tuple[Any, ...]] = []

    def all_are_there() -> bool:
        found[:] = bench.rows(query, begun)
        return len(found) >= changes - changes % 2

    if not wait_for(all_are_there, _LIMIT_SECONDS, pause_seconds=0.5):
        raise SystemExit(f"{len(found)} of {changes} transitions reached the database")
    return found


@contextmanager
def _listeners(service: ServiceProcess, clients: int) -> Iterator[Callable[[int], list[float]]]:
    """Have clients listen in a process of their own; yield how to read what they heard."""
    plan = {"port": service.port, "key": service.api_key, "clients": clients}
    process = subprocess.Popen(
        [sys.executable, __file__, "--listen", json.dumps(plan)], stdout=subprocess.PIPE, text=True
    )
    output = _output_of(process)

    def read(transitions: int) -> list[float]:
        wanted = transitions * clients
        heard: list[float] = []
        for line in output:
            heard.append(float(line))
            if len(heard) >= wanted:
                break
        return heard

    try:
        for _ in range(clients):
            if output.readline() != "listening\n":
                raise SystemExit("a client of the event stream failed")
        yield read
    finally:
        process.kill()
        process.wait()


def _listen(port: int, key: str, clients: int) -> None:
    """Be so many clients: print each event's delay in ms as it arrives."""
    lock = threading.Lock()

    def say(text: str) -> None:
        with lock:
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        path = f"{API}/events?snapshot=false"
        connection.request("GET", path, headers={"X-API-Key": key})
        response = connection.getresponse()
        say("listening" if response.status == 200 else f"answered {response.status}")
        event = ""
        for line in response:
            if line.startswith(b"event: "):
                event = line[7:].strip().decode()
            elif line.startswith(b"data: ") and event == "status":
                now = time.time()
                told = json.loads(line[6:])
                say(f"{(now - datetime.fromisoformat(told['timestamp']).timestamp()) * 1000:.3f}")

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# --- webhooks ---------------------------------------------------------------------------------


def _throughput(bench: Bench, deliveries: int) -> tuple[str, float, str]:
    receiver = subprocess.Popen([find_node(), "-e", _RECEIVER], stdout=subprocess.PIPE, text=True)
    target = f"http://127.0.0.1:{int(_output_of(receiver).readline())}"
    service = bench.service(
        "webhooks",
        WEBHOOK_URL=f"{target}/hook",
        WEBHOOK_EVENTS="message.received",
        WEBHOOK_ALLOWED_NETWORKS="127.0.0.0/8",
    )
    try:
        bench.start(service)
        companies = list(bench.companies)
        for begin in range(0, deliveries, 1000):
            _enqueue(bench, companies, min(1000, deliveries - begin))
        bench.cut(bench.companies[companies[0]])  # its transition wakes the dispatcher

        def stats() -> dict[str, Any]:
            answer: dict[str, Any] = httpx.get(target, timeout=30).json()
            return answer

        if not wait_for(lambda: stats()["count"] >= deliveries, _LIMIT_SECONDS, pause_seconds=0.5):
            raise SystemExit(f"{stats()['count']} of {deliveries} arrived\n{service.log_tail(20)}")
        told = stats()
    finally:
        service.kill()
        receiver.kill()
        receiver.wait()
    _say(f"{told['count']} deliveries in {told['seconds']:.2f} s")
    return "webhooks_per_second", told["count"] / told["seconds"], "deliveries/s"


def _enqueue(bench: Bench, companies: list[str], count: int) -> None:
    notices = [
        {
            "id": str(uuid.uuid4()),
            "kind": "message.received",
            "company_id": companies[number % len(companies)],
            "occurred_at": datetime.now(UTC).isoformat(),
            "data": {
                "message_id": f"BENCH{number}",
                "type": "text",
                "text": "as long as most " * 4,
            },
        }
        for number in range(count)
    ]
    bench.rows("select public.whatsapp_enqueue_notices_v1(%s::jsonb)", json.dumps(notices))


# --- an idle hour -----------------------------------------------------------------------------


def _idle_calls(bench: Bench, seconds: float) -> tuple[str, float, str]:
    hurried = {name: f"{value / HASTE:g}" for name, value in _INTERVALS.items()}
    with _counting_proxy(bench.stack.url) as (url, calls):
        service = bench.service("idle", **hurried | {"SUPABASE_URL": url})
        try:
            bench.start(service)
            _await_snapshots(bench, calls)
            before = Counter(calls)
            threading.Event().wait(seconds)
            counted = Counter(calls) - before
        finally:
            service.kill()
    share = seconds * HASTE / _HOUR_SECONDS
    for path, count in counted.most_common():
        _say(f"{count / share:.0f} an hour: {path}")
    return "idle_db_calls_per_hour", counted.total() / share, "calls/h"


def _await_snapshots(bench: Bench, calls: Counter[str]) -> None:
    """Wait until every session has its copy: that belongs to the start, not to the idle hour."""
    written = "POST /rest/v1/rpc/whatsapp_write_snapshot_v1"
    if not wait_for(lambda: calls[written] >= bench.sessions, _LIMIT_SECONDS, pause_seconds=0.5):
        raise SystemExit(f"{calls[written]} of {bench.sessions} snapshots were written")
    threading.Event().wait(_SETTLING_SECONDS)


@contextmanager
def _counting_proxy(upstream: str) -> Iterator[tuple[str, Counter[str]]]:
    """Pass requests on and count them by path."""
    calls: Counter[str] = Counter()
    lock = threading.Lock()
    address = urlsplit(upstream)

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass_on(self) -> None:
            path = urlsplit(self.path).path
            with lock:
                calls[f"{self.command} {path}"] += 1
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            connection = http.client.HTTPConnection(
                address.hostname or "", address.port, timeout=30
            )
            headers = {
                name: value
                for name, value in self.headers.items()
                if name.lower() not in ("host", "connection", "accept-encoding")
            }
            connection.request(self.command, self.path, body=body, headers=headers)
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PATCH = do_DELETE = do_HEAD = _pass_on

        def log_message(self, format: str, *arguments: Any) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 256  # the start of many sessions comes at once

    server = Server(("127.0.0.1", 0), Proxy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", calls
    finally:
        server.shutdown()
        server.server_close()


def _percentile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def _output_of(process: subprocess.Popen[str]) -> IO[str]:
    if process.stdout is None:
        raise SystemExit("a process was started without its output")
    return process.stdout


def _say(text: str) -> None:
    sys.stderr.write(f"# {text}\n")


if __name__ == "__main__":
    sys.exit(main())

"""Send the API what its OpenAPI document allows and forbids, and compare the answers with it.

    make fuzz                                      # 10,000 requests
    make fuzz ARGS="--requests 2000 --seed 7"

Runs the deployed service with a local database and the sandbox, and schemathesis against it: with
a service key (fuzz_api.toml) and without one (fuzz_anonymous.toml). Prints `name<TAB>value`: the
requests by phase, by route and by answer, the seed and the time. Ends with 1 when an answer was
not as documented; the report of schemathesis then tells which request it was.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from local_supabase import LocalSupabase
from sandbox import Sandbox
from saved_sessions import seed_saved_sessions
from service_process import API, REPOSITORY, UNLIMITED, ServiceProcess, wait_for

_FOLDER = Path(__file__).resolve().parent
_FIRST_EXAMPLES = 40
SETTINGS = {
    "SESSION_PAIRING_TIMEOUT_SECONDS": "7200",
    "SSE_MAX_SECONDS": "0.1",  # a stream ends by itself and is read to its end
    "SSE_MAX_STREAMS_PER_KEY": "100",
    "SEND_CONNECT_WAIT_SECONDS": "0.1",
    "SEND_ACK_WAIT_SECONDS": "2",
    "WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8",
    "WEBHOOK_ALLOW_HTTP": "true",
    "WEBHOOK_RETRY_FOR_SECONDS": "60",
    "METRICS_TOKEN": "a-token-of-the-fuzzer-0123456789",
}
"""What a service is started with for this; SNAPSHOT_ENCRYPTION_KEYS should be set as well."""


@dataclass(slots=True)
class Tally:
    """What was sent and how it was answered."""

    phases: Counter[str] = field(default_factory=Counter)
    routes: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    checks: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def requests(self) -> int:
        return sum(self.phases.values())

    def add(self, other: Tally) -> None:
        """Count what another run sent as well."""
        self.phases += other.phases
        self.routes += other.routes
        self.answers += other.answers
        self.modes += other.modes
        self.checks += other.checks
        self.failures += other.failures

    @classmethod
    def read(cls, report: Path) -> Tally:
        """Count a report of schemathesis (NDJSON)."""
        tally = cls()
        with report.open(encoding="utf-8") as lines:
            for line in lines:
                scenario = json.loads(line).get("ScenarioFinished")
                if scenario is not None:
                    tally._count(scenario)
        return tally

    def _count(self, scenario: dict[str, Any]) -> None:
        recorder = scenario["recorder"]
        for name, interaction in recorder.get("interactions", {}).items():
            value = recorder["cases"][name]["value"]
            self.phases[scenario["phase"]] += 1
            self.routes[f"{value['method']} {value['path']}"] += 1
            mode = ((value.get("meta") or {}).get("generation") or {}).get("mode", "other")
            self.modes[mode] += 1
            response = interaction["response"]
            self.answers[str(response["status_code"]) if response else "none"] += 1
        self.checks += sum(len(checks) for checks in recorder.get("checks", {}).values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Companies:
    """The only companies that valid requests name.

    connected, pairing: are spared the calls that end it.
    """

    connected: Sequence[str]
    pairing: Sequence[str]
    others: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fuzzer:
    """schemathesis, told of one running service.

    target: where webhooks go.
    """

    service: ServiceProcess
    companies: Companies
    target: str
    folder: Path

    def prepare(self) -> None:
        """Bring the companies to what they are named for."""
        by_qr, by_code = self.companies.pairing
        number = "+5511987654321"
        for answer in (
            self.service.post("connect", company_id=by_qr, method="qr"),
            self.service.post(
                "connect", company_id=by_code, method="pairing_code", phone_number=number
            ),
        ):
            if answer.status != 202:
                raise SystemExit(f"no pairing: {answer.status} {answer.content.decode()}")

        def all_connected() -> bool:
            return all(self.service.status(it)["is_connected"] for it in self.companies.connected)

        if not wait_for(all_connected, 60.0):
            raise SystemExit(f"no saved session came back:\n{self.service.log_tail()}")

        def codes_shown() -> bool:
            paths = (f"qr?company_id={by_qr}", f"pairing-code?company_id={by_code}")
            return all(self.service.request("GET", f"{API}/{it}").status == 200 for it in paths)

        if not wait_for(codes_shown, 60.0):
            raise SystemExit(f"nothing to scan:\n{self.service.log_tail()}")

    def run(self, config: str, *, examples: int, seed: int, phases: str = "") -> Tally:
        """Run all phases once.

        Args:
            examples: how many are made up for a route in a phase, at most.
            phases: comma-separated; empty: examples, coverage, fuzzing and stateful.
        """
        name = f"{config}-{seed}"
        report = self.folder / f"{name}.ndjson"
        command = [
            *(sys.executable, "-m", "schemathesis.cli"),
            *("--config-file", str(_FOLDER / f"{config}.toml")),
            *("run", f"{self.service.url}/api/whatsapp/openapi.json"),
            *("--max-examples", str(examples), "--seed", str(seed), "--no-color", "--no-shrink"),
            *("--generation-database", "none", "--output-truncate", "true"),
            *("--report", "ndjson", "--report-ndjson-path", str(report)),
            *(("--phases", phases) if phases else ()),
        ]
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "NO_PROXY": "127.0.0.1",
            "PYTHONPATH": str(_FOLDER),
            "FUZZ_API_KEY": self.service.api_key,
            "FUZZ_COMPANIES": ",".join(self.companies.others),
            "FUZZ_KEPT_COMPANIES": ",".join([*self.companies.connected, *self.companies.pairing]),
            "FUZZ_TARGET": self.target,
        }
        output = self.folder / f"{name}.txt"
        with output.open("wb") as text:
            ended = subprocess.run(
                command, cwd=self.folder, env=environment, stdout=text, stderr=text, check=False
            )
        text_of_run = output.read_text(errors="replace")
        if not report.exists():
            raise SystemExit(f"schemathesis did not run:\n{text_of_run[-3000:]}")
        tally = Tally.read(report)
        if ended.returncode:
            tally.failures.append(text_of_run)
        return tally

    def run_until(self, requests: int, *, seed: int) -> Tally:
        """Run without a key once, then with one until so many requests were made."""
        total = self.run("fuzz_anonymous", examples=5, seed=seed, phases="fuzzing")
        examples, rounds = _FIRST_EXAMPLES, 0
        while total.requests < requests and not total.failures:
            before = total.requests
            total.add(self.run("fuzz_api", examples=examples, seed=seed + rounds))
            rounds += 1
            done = max(total.requests - before, 1)
            left = requests - total.requests
            examples = max(_FIRST_EXAMPLES, min(300, round(examples * left / done)))
        return total


@contextmanager
def webhook_target() -> Iterator[str]:
    """Listen on this machine and take every delivery; yield the URL."""

    class Taker(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Taker) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()


def companies_to_fuzz(sandbox: Sandbox, sessions_dir: Path) -> Companies:
    """Return companies, some with a saved session; before the service starts."""
    saved = list(seed_saved_sessions(sandbox.admin_url, sessions_dir, 4))
    new = [str(uuid.uuid4()) for _ in range(4)]
    return Companies(connected=saved[:2], pairing=new[:2], others=[*saved[2:], *new[2:]])


def main() -> int:
    """Run until enough was sent, and tell what it was."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=10_000, help="at least so many")
    parser.add_argument("--seed", type=int, default=None, help="random unless given")
    arguments = parser.parse_args()
    seed = secrets.randbelow(2**31) if arguments.seed is None else arguments.seed
    sys.stderr.write(f"# seed {seed}\n")
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-api-") as name:
        folder = Path(name)
        with (
            LocalSupabase.start(folder / "db") as stack,
            Sandbox.start(folder / "sb") as sandbox,
            webhook_target() as target,
        ):
            tally = _fuzz(stack, sandbox, folder, target, arguments.requests, seed)
    _tell(tally, seed, time.monotonic() - begun)
    return 1 if tally.failures else 0


def _fuzz(
    stack: LocalSupabase, sandbox: Sandbox, folder: Path, target: str, requests: int, seed: int
) -> Tally:
    sessions_dir = folder / "sessions"
    companies = companies_to_fuzz(sandbox, sessions_dir)
    service = ServiceProcess(
        {
            "SESSIONS_DIR": str(sessions_dir),
            "SUPABASE_URL": stack.url,
            "SUPABASE_SERVICE_ROLE_KEY": stack.service_key,
            "SNAPSHOT_ENCRYPTION_KEYS": new_snapshot_key(),
            "LOG_LEVEL": "WARNING",
            **UNLIMITED,
            **sandbox.env,
            **SETTINGS,
        },
        folder / "service.log",
        ends_with_parent=True,
    )
    try:
        service.start()
        fuzzer = Fuzzer(service=service, companies=companies, target=target, folder=folder)
        fuzzer.prepare()
        tally = fuzzer.run_until(requests, seed=seed)
        log = service.log_path.read_text(errors="replace")
        if "Traceback" in log:
            tally.failures.append(f"the service logged an unexpected error:\n{log[-5000:]}")
        if service.request("GET", "/readyz").status != 200:
            tally.failures.append("the service is not ready any more")
    finally:
        service.kill()
    return tally


def new_snapshot_key() -> str:
    """Return a fresh SNAPSHOT_ENCRYPTION_KEYS."""
    made = subprocess.run(
        [sys.executable, "-m", "crm_whatsapp", "new-key"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    return made.stdout.strip()


def _tell(tally: Tally, seed: int, seconds: float) -> None:
    for failure in tally.failures:
        sys.stderr.write(f"{failure}\n")
    lines: list[tuple[str, object]] = [("requests", tally.requests), ("checks", tally.checks)]
    for what, counts in (
        ("phase", tally.phases),
        ("data", tally.modes),
        ("answer", tally.answers),
        ("route", tally.routes),
    ):
        lines += [(f"{what} {name}", count) for name, count in sorted(counts.items())]
    lines += [("failures", len(tally.failures)), ("seed", seed), ("seconds", round(seconds))]
    for figure, value in lines:
        sys.stdout.write(f"{figure}\t{value}\n")


if __name__ == "__main__":
    raise SystemExit(main())

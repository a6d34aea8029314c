"""The whole product on this machine, with phones to play with: `make demo`.

Starts a local Supabase, a sandbox that stands for WhatsApp and its phones, and the service as it
is deployed. Data stays in var/demo, so a second start finds every session again. Nothing leaves
this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from crm_whatsapp.domain.errors import CrmWhatsappError
from foreground import AskedToEnd, GuardedProcess, ended_by_signals, free_port, wait_while
from local_supabase import LocalSupabase, StackError
from node_runtime import NodeRuntimeError
from sandbox.sandbox import Sandbox, SandboxError, prepare
from service_process import (
    API,
    DIRECT,
    REPOSITORY,
    ServiceDidNotStart,
    ServiceProcess,
    wait_for,
)

FOLDER = REPOSITORY / "var" / "demo"
PATIENCE_SECONDS = 30.0


class DemoFailed(RuntimeError):
    """The demo cannot go on; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Company:
    """A company of the demo and the phone that it links.

    number: international, digits only.
    """

    company_id: str
    name: str
    number: str


COMPANIES = (
    Company(
        company_id="3b1bee0c-cbee-4de1-88f1-d6e890f4c995",
        name="Bella Bakery",
        number="5511900000101",
    ),
    Company(
        company_id="6e3f1d52-7a0b-4c8e-9d41-2b5a8c7f0e13",
        name="Northwind Travel",
        number="5511900000102",
    ),
    Company(
        company_id="a94c2e07-15d8-4f36-b0c9-83e7d6f12b54",
        name="Solaris Dental",
        number="5511900000103",
    ),
)
CUSTOMER = ("Maria, a customer", "5511900000200")


class Demo:
    """The database, the sandbox and the service, started and ended together."""

    def __init__(self, folder: Path, port: int | None = None) -> None:
        self.folder = folder
        self._port = port
        self._sandbox: Sandbox | None = None
        self._service: ServiceProcess | None = None
        self._ends = ExitStack()

    @property
    def service(self) -> ServiceProcess:
        """The running service."""
        if self._service is None:
            raise DemoFailed("the demo is not running")
        return self._service

    @property
    def key_path(self) -> Path:
        """Where the service keeps the key that it made."""
        return self.folder / "sessions" / "api-key"

    def start(self) -> None:
        """Start everything that is not running yet; `stop` ends it, also after an error."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        say("1/3  Supabase on this machine (Postgres and PostgREST) ...")
        stack = LocalSupabase.start(self.folder / "supabase")
        self._ends.callback(stack.stop)
        _write_companies(stack.db_url)
        say("2/3  The sandbox: WhatsApp's side and its phones (npm packages the first time) ...")
        prepare(self.folder / "sandbox")
        self._sandbox = Sandbox.start(self.folder / "sandbox")
        self._ends.callback(self._sandbox.stop)
        self._add_phones()
        say("3/3  The service, as it is deployed: gunicorn -c gunicorn.conf.py app:app ...")
        self._start_service(stack, self._sandbox)

    def stop(self) -> None:
        """End everything that was started, the service first."""
        self._ends.close()

    def is_running(self) -> bool:
        """Tell whether the sandbox and the service both still run."""
        if self._sandbox is None or self.service.process is None:
            return False
        return self._sandbox.process.poll() is None and self.service.process.poll() is None

    def phone(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Call the sandbox's API."""
        if self._sandbox is None:
            raise DemoFailed("the demo is not running")
        request = urllib.request.Request(  # noqa: S310 - loopback only
            f"{self._sandbox.admin_url}/api/{path}",
            None if body is None else json.dumps(body).encode(),
            {"content-type": "application/json"},
        )
        try:
            with DIRECT.open(request, timeout=PATIENCE_SECONDS) as response:
                return json.load(response)
        except urllib.error.HTTPError as refusal:
            with refusal:
                raise DemoFailed(f"sandbox: {path}: {refusal.read().decode()}") from refusal

    def _add_phones(self) -> None:
        known = {phone["number"] for phone in self.phone("state")["phones"]}
        wanted = [*((company.name, company.number) for company in COMPANIES), CUSTOMER]
        for name, number in wanted:
            if number not in known:
                self.phone("phones", {"name": name, "number": number})

    def _start_service(self, stack: LocalSupabase, sandbox: Sandbox) -> None:
        environment = {
            "SESSIONS_DIR": str(self.folder / "sessions"),
            "SUPABASE_URL": stack.url,
            "SUPABASE_SERVICE_ROLE_KEY": stack.service_key,
            "SNAPSHOT_ENCRYPTION_KEYS": stack.snapshot_encryption_keys,
            "SANDBOX_PHONE_URL": sandbox.admin_url,
            "WHATSAPP_API_KEY": "",  # the service makes one, as on any new machine
            **sandbox.env,
        }
        port = self._port or _port_of_last_time(self.folder / "port")
        self._service = ServiceProcess(environment, self.folder / "service.log", port=port)
        self._service.spawn()
        assert self._service.process is not None  # noqa: S101
        self._ends.callback(GuardedProcess(self._service.process).end)
        try:
            self._service.wait_ready()
        except ServiceDidNotStart as error:
            raise DemoFailed(f"the service did not start:\n{_telling(self._service)}") from error
        self._service.api_key = self.key_path.read_text().strip()


def main() -> int:
    """Run the demo or its self-test; return the exit code."""
    parser = argparse.ArgumentParser(prog="demo.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the data is kept")
    parser.add_argument("--port", type=int, help="default: that of the last time, or a free one")
    parser.add_argument("--reset", action="store_true", help="delete the demo's data first")
    parser.add_argument(
        "--self-test",
        action="store_true",
        help="link a company, start again, see it connected without a scan, and end; "
        "in a folder of its own",
    )
    arguments = parser.parse_args()
    try:
        with ended_by_signals():
            if arguments.self_test:
                return self_test()
            return run(arguments.folder.resolve(), arguments.port, reset=arguments.reset)
    except AskedToEnd:
        say("ended")
        return 0
    except (DemoFailed, NodeRuntimeError, SandboxError, StackError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except CrmWhatsappError as error:
        print(f"demo: {error.message} To start over: make demo ARGS=--reset", file=sys.stderr)
        return 1


def run(folder: Path, port: int | None, *, reset: bool) -> int:
    """Run the demo until a signal ends it; return the exit code when it ends by itself."""
    parent = os.getppid()
    begun = time.monotonic()
    if reset and folder.exists():
        _forget(folder)
    demo = Demo(folder, port)
    try:
        demo.start()
        _explain(demo, time.monotonic() - begun)
        wait_while(demo.is_running, parent)
        raise DemoFailed(f"a part of it has ended:\n{_telling(demo.service)}")
    finally:
        say("stopping ...")
        demo.stop()


def self_test() -> int:
    """Prove the demo's promise: linked once, connected again after a restart without a scan."""
    company = COMPANIES[0]
    with tempfile.TemporaryDirectory(prefix="crm-whatsapp-demo-") as name:
        folder = Path(name)
        jid = _in_demo(folder, lambda demo: _link(demo, company))
        say(f"self-test: {company.name} is linked as {jid}; starting again")
        _in_demo(folder, lambda demo: _expect_restored(demo, company, jid))
    say(f"self-test passed: {company.name} came back without a scan")
    return 0


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


def _in_demo(folder: Path, work: Any) -> Any:
    demo = Demo(folder)
    try:
        demo.start()
        return work(demo)
    finally:
        demo.stop()


def _link(demo: Demo, company: Company) -> str:
    """Connect by QR as the dashboard does, and scan with the company's phone."""
    demo.service.post("connect", company_id=company.company_id, method="qr")
    path = f"{API}/qr?company_id={company.company_id}&format=raw"
    codes: list[str] = []

    def shown() -> bool:
        answer = demo.service.request("GET", path)
        if answer.status == 200:
            codes.append(answer.json()["value"])
        return bool(codes)

    if not wait_for(shown, PATIENCE_SECONDS):
        raise DemoFailed(f"no QR code: {demo.service.status(company.company_id)}")
    jid = str(demo.phone("scan", {"qr": codes[-1], "number": company.number})["jid"])
    _expect_connected(demo, company)
    return jid


def _expect_restored(demo: Demo, company: Company, jid: str) -> None:
    _expect_connected(demo, company)
    pairings = demo.phone("state")["counters"][jid]["pairings"]
    if pairings != 1:
        raise DemoFailed(f"the phone was linked {pairings} times instead of once")


def _expect_connected(demo: Demo, company: Company) -> None:
    last: list[dict[str, Any]] = []

    def connected() -> bool:
        last[:] = [demo.service.status(company.company_id)]
        return bool(last[0].get("is_connected"))

    if not wait_for(connected, PATIENCE_SECONDS):
        raise DemoFailed(f"not connected within {PATIENCE_SECONDS:g} s: {last}")


def _explain(demo: Demo, seconds: float) -> None:
    customer, number = CUSTOMER
    say(
        f"""
Ready after {seconds:.0f} s. Open

    {demo.service.url}/dashboard

and sign in with the key   {demo.service.api_key}
(a key of this demo only, kept in {_shown(demo.key_path)})

  1. Choose {COMPANIES[0].name} and press "Connect WhatsApp".
  2. Press "Scan with the sandbox phone", choose the phone {COMPANIES[0].name} there and press
     "Link this device". The company is connected. To see a message arrive, send one from the
     company's page to +{number} ({customer}).
  3. Press Ctrl+C here, run `make demo` again and reload the page: connected, without a scan.

Log: {_shown(demo.folder / "service.log")}      Start over: make demo ARGS=--reset      End: Ctrl+C
"""
    )


def _telling(service: ServiceProcess) -> str:
    """Return the end of the service's log, without the refusals while it was starting."""
    lines = [line for line in service.log_tail(2000).splitlines() if "starting:" not in line]
    return "\n".join(lines[-15:])


def _shown(path: Path) -> str:
    return str(path.relative_to(REPOSITORY) if path.is_relative_to(REPOSITORY) else path)


def _write_companies(db_url: str) -> None:
    """Have the dashboard list the companies before they are linked; `push_name` is their name."""
    with psycopg.connect(db_url) as connection, connection.cursor() as cursor:
        cursor.executemany(
            "insert into public.whatsapp_connections (company_id, desired_state, push_name) "
            "values (%s, 'run', %s) on conflict (company_id) do nothing",
            [(company.company_id, company.name) for company in COMPANIES],
        )


def _port_of_last_time(path: Path) -> int:
    """Return the port of the last start when it is free, so that an open page goes on working."""
    try:
        last = int(path.read_text())
    except (FileNotFoundError, ValueError):
        last = 0
    port = free_port(last)
    path.write_text(f"{port}\n")
    return port


def _forget(folder: Path) -> None:
    stack = LocalSupabase.find(folder / "supabase")
    if stack is not None:
        stack.stop()
    shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())

"""What an end-to-end test works with: the deployed service, its database and its phones."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from figures import Figures

from crm_whatsapp.sessions.session_folders import LocalSessionFolders
from local_supabase import LocalSupabase
from sandbox import Sandbox
from saved_sessions import seed_saved_sessions
from service_process import API, DIRECT, UNLIMITED, ServiceProcess, wait_for

TABLES = (
    "whatsapp_connections",
    "whatsapp_status_events",
    "whatsapp_leases",
    "whatsapp_instances",
    "whatsapp_session_snapshots",
    "whatsapp_webhooks",
    "whatsapp_webhook_lanes",
    "whatsapp_webhook_deliveries",
    "whatsapp_api_keys",
)


class SandboxRefused(AssertionError):
    """The sandbox's admin API answered with an error."""


@dataclass(frozen=True, slots=True)
class SandboxAdmin:
    """The sandbox's admin API: see scripts/sandbox/README.md for the levers."""

    url: str

    def call(self, path: str, body: Any = None, *, timeout_seconds: float = 60.0) -> Any:
        """GET, or POST when there is a body."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(  # noqa: S310 - loopback only
            f"{self.url}/api/{path}", data, {"content-type": "application/json"}
        )
        try:
            with DIRECT.open(request, timeout=timeout_seconds) as response:
                return json.load(response)
        except urllib.error.HTTPError as refusal:
            with refusal:
                raise SandboxRefused(f"{path}: {refusal.read().decode()}") from refusal

    def reset(self) -> None:
        """Forget every phone, device, fault and counter."""
        self.call("reset", {})

    def scan(self, qr: str, number: str | None = None) -> str:
        """Scan a QR code with a phone; return the new device's jid."""
        body = {"qr": qr} if number is None else {"qr": qr, "number": number}
        return str(self.call("scan", body)["jid"])

    def counters(self, jid: str) -> dict[str, int]:
        """Return what was counted for a device."""
        counters: dict[str, int] = self.call("state")["counters"].get(jid, {})
        return counters

    def is_linked(self, jid: str) -> bool:
        """Tell whether the device is on its phone's list of linked devices."""
        return any(
            device["jid"] == jid
            for phone in self.call("state")["phones"]
            for device in phone["devices"]
        )

    def open_connections(self) -> int:
        """Return how many devices are connected now."""
        return sum(
            device["connected"]
            for phone in self.call("state")["phones"]
            for device in phone["devices"]
        )

    def events(self, after: int, **wanted: Any) -> list[dict[str, Any]]:
        """Return the trace events after `after` that have these values, oldest first."""
        return [
            event
            for event in self.call(f"events?after={after}&timeout=0")
            if all(event.get(name) == value for name, value in wanted.items())
        ]

    def fail_logins(self, jid: str, reason: int, *, count: int = -1, **more: int) -> None:
        """Refuse the next logins of a device, all of them unless a count is given; 0 ends it."""
        self.call("fail-logins", {"jid": jid, "reason": reason, "count": count, **more})

    def last_event(self) -> int:
        """Return the sequence number of the newest trace event."""
        events = self.call("events?after=0&timeout=0")
        return int(events[-1]["seq"]) if events else 0

    def await_event(
        self, after: int, timeout_seconds: float = 20.0, **wanted: Any
    ) -> dict[str, Any]:
        """Return the first trace event after `after` that has these values; fail without one."""
        deadline = datetime.now(UTC).timestamp() + timeout_seconds
        while (left := deadline - datetime.now(UTC).timestamp()) > 0:
            for event in self.call(f"events?after={after}&timeout={min(left, 10):.2f}"):
                after = int(event["seq"])
                if all(event.get(name) == value for name, value in wanted.items()):
                    found: dict[str, Any] = event
                    return found
        pytest.fail(f"the sandbox saw no {wanted} within {timeout_seconds} s")


def empty_database(db_url: str) -> None:
    """Remove every row of the service."""
    with psycopg.connect(db_url, autocommit=True) as connection:
        connection.execute(f"truncate {', '.join(f'public.{table}' for table in TABLES)}".encode())


@dataclass(slots=True)
class Deployment:
    """A service with a SESSIONS_DIR of its own."""

    stack: LocalSupabase
    sandbox: Sandbox
    phones: SandboxAdmin
    folder: Path
    settings: dict[str, str] = field(default_factory=dict)
    services: list[ServiceProcess] = field(default_factory=list)

    @property
    def sessions_dir(self) -> Path:
        """SESSIONS_DIR."""
        return self.folder / "sessions"

    @property
    def folders(self) -> LocalSessionFolders:
        """The session folders, as the service sees them."""
        return LocalSessionFolders(self.sessions_dir)

    @property
    def service(self) -> ServiceProcess:
        """The service started last."""
        return self.services[-1]

    def environment(self, **settings: str) -> dict[str, str]:
        """Return the environment of a service."""
        return {
            "SESSIONS_DIR": str(self.sessions_dir),
            "SUPABASE_URL": self.stack.url,
            "SUPABASE_SERVICE_ROLE_KEY": self.stack.service_key,
            **UNLIMITED,
            **self.sandbox.env,
            **self.settings,
            **settings,
        }

    def new_service(self, **settings: str) -> ServiceProcess:
        """Return a service that is not started yet; it is ended with the test."""
        service = ServiceProcess(
            self.environment(**settings), self.folder / "service.log", ends_with_parent=True
        )
        self.services.append(service)
        return service

    def start(self, **settings: str) -> ServiceProcess:
        """Start a service and wait until it answers."""
        return self.new_service(**settings).start()

    def engines(self) -> list[dict[str, Any]]:
        """Return the engines as /readyz tells of them."""
        checks = {check["name"]: check for check in self.service.readiness()["checks"]}
        engines: list[dict[str, Any]] = checks["engines"]["engines"]
        return engines

    def metrics(self) -> Figures:
        """Return what /metrics tells, by (name, labels)."""
        answer = self.service.request("GET", "/metrics")
        assert answer.status == 200, answer.content
        return Figures.read(answer.content.decode())

    def engine_deaths(self) -> list[str]:
        """Return the log lines of engines that ended unasked."""
        return [line for line in self.log().splitlines() if "engine_died" in line]

    def end(self) -> None:
        """End everything the test has started."""
        for service in self.services:
            service.kill()

    def log(self) -> str:
        """Return all that the services have logged."""
        path = self.folder / "service.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def log_tail(self, lines: int = 80) -> str:
        """Return the end of the log."""
        return "\n".join(self.log().splitlines()[-lines:])

    def seed(self, count: int, *, creds: bool = True) -> dict[str, str]:
        """Write saved sessions, as an earlier run would have left them: company id -> jid."""
        return seed_saved_sessions(
            self.phones.url, self.sessions_dir, count, with_credentials=creds
        )

    def pair(self, company_id: str, number: str | None = None) -> str:
        """Connect a company by QR, as the clerk does; return the device's jid."""
        service = self.service
        answer = service.post("connect", company_id=company_id, method="qr")
        assert answer.status in (200, 202), answer.content
        jid = self.phones.scan(self.qr(company_id), number)
        self.await_status(company_id, "connected")
        return jid

    def pair_by_code(self, company_id: str, number: str) -> str:
        """Connect a company by pairing code, typed into an existing phone; return the jid."""
        answer = self.service.post(
            "connect", company_id=company_id, method="pairing_code", phone_number=f"+{number}"
        )
        assert answer.status == 202, answer.content
        code = self.pairing_code(company_id)
        jid = str(self.phones.call("pair-code", {"code": code, "number": number})["jid"])
        self.await_status(company_id, "connected")
        return jid

    def pairing_code(self, company_id: str, timeout_seconds: float = 20.0) -> str:
        """Return the pairing code as soon as there is one."""
        path = f"{API}/pairing-code?company_id={company_id}"
        found: list[str] = []

        def shown() -> bool:
            answer = self.service.request("GET", path)
            if answer.status == 200:
                found.append(answer.json()["code"])
            return bool(found)

        assert wait_for(shown, timeout_seconds), f"no code: {self.service.status(company_id)}"
        return found[-1]

    def first_poll(self, company_id: str, timeout_seconds: float = 30.0) -> dict[str, Any]:
        """Poll until the service answers at all; return that first answer."""
        first: list[dict[str, Any]] = []

        def answered() -> bool:
            try:
                answer = self.service.request("GET", f"{API}/status?company_id={company_id}")
            except OSError:
                return False
            if answer.status == 200:
                first.append(answer.json())
            return bool(first)

        assert wait_for(answered, timeout_seconds), f"no poll was answered in {timeout_seconds} s"
        return first[0]

    def qr(self, company_id: str, timeout_seconds: float = 20.0) -> str:
        """Return the QR text as soon as there is one."""
        path = f"{API}/qr?company_id={company_id}&format=raw"
        found: list[str] = []

        def shown() -> bool:
            answer = self.service.request("GET", path)
            if answer.status == 200:
                found.append(answer.json()["value"])
            return bool(found)

        assert wait_for(shown, timeout_seconds), f"no QR code: {self.service.status(company_id)}"
        return found[-1]

    def await_status(
        self,
        company_id: str,
        status: str,
        timeout_seconds: float = 20.0,
        **also: Any,
    ) -> dict[str, Any]:
        """Poll until the status is as wanted; fail, saying what it was, when it is not in time."""
        last: dict[str, Any] = {}

        def reached() -> bool:
            last.clear()
            last.update(self.service.status(company_id))
            return last.get("status") == status and all(
                last.get(name) == value for name, value in also.items()
            )

        assert wait_for(reached, timeout_seconds), (
            f"not {status} {also} within {timeout_seconds} s but {last}"
        )
        return last

    def await_all_connected(self, companies: Sequence[str], timeout_seconds: float = 20.0) -> None:
        """Wait until the service counts all these companies as connected."""

        def reached() -> bool:
            return self.connected_count() >= len(companies)

        assert wait_for(reached, timeout_seconds), (
            f"{self.connected_count()} of {len(companies)} connected after {timeout_seconds} s"
        )

    def connected_count(self) -> int:
        """Return how many sessions are connected, without polling (a poll may restore)."""
        checks = {check["name"]: check for check in self.service.readiness()["checks"]}
        return int(checks["restore"]["sessions_by_status"].get("connected", 0))

    def rows(self, sql: str, *values: Any) -> list[dict[str, Any]]:
        """Ask the database."""
        with (
            psycopg.connect(self.stack.db_url, row_factory=psycopg.rows.dict_row) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(sql.encode(), values)
            return cursor.fetchall()

    def row(self, company_id: str) -> dict[str, Any] | None:
        """Return the company's row."""
        found = self.rows(
            "select * from public.whatsapp_connections where company_id = %s", company_id
        )
        return found[0] if found else None

    def await_row(
        self, company_id: str, timeout_seconds: float = 10.0, **wanted: Any
    ) -> dict[str, Any]:
        """Wait until the company's row has these values."""
        last: list[dict[str, Any] | None] = [None]

        def reached() -> bool:
            last[0] = self.row(company_id)
            return last[0] is not None and all(last[0][k] == v for k, v in wanted.items())

        assert wait_for(reached, timeout_seconds), f"the row is not {wanted} but {last[0]}"
        assert last[0] is not None
        return last[0]

    def history(self, company_id: str) -> list[dict[str, Any]]:
        """Return the company's transitions, oldest first."""
        return self.rows(
            "select * from public.whatsapp_status_events where company_id = %s "
            "order by version, recorded_at",
            company_id,
        )

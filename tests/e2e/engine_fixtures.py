"""What the engine fleet's tests need: the sandbox, linked stores, and a record of events."""

import json
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crm_whatsapp.domain.connection import PairingMethod
from crm_whatsapp.domain.engines import EngineHealth, PairOrder, SentMessage, StartOrder
from crm_whatsapp.domain.events import EngineEvent
from crm_whatsapp.engine.settings import EngineSettings
from crm_whatsapp.engine.supervisor import Supervisor
from sandbox.sandbox import Sandbox
from sandbox.seed_stores import create_devices, write_store

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Edge:
    """The sandbox's admin API."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.url = sandbox.admin_url
        self.env = sandbox.env

    def post(self, path: str, **body: Any) -> Any:
        request = urllib.request.Request(  # noqa: S310 - loopback
            f"{self.url}{path}",
            json.dumps(body).encode(),
            {"content-type": "application/json"},
        )
        with _OPENER.open(request, timeout=30) as response:
            return json.load(response)

    def get(self, path: str) -> Any:
        with _OPENER.open(f"{self.url}{path}", timeout=30) as response:
            return json.load(response)

    def clear_faults(self) -> None:
        self.post("/api/black-hole", jid="*", mode="off")
        self.post("/api/fail-logins", jid="*", reason=500, count=0)
        self.post("/api/network", refuse=False, latency_ms=0, jitter_ms=0, slow_login_ms=0)
        self.post("/api/qr-lifetime", jid="*", seconds=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One event and when it came."""

    at: float
    event: EngineEvent


class EventRecord:
    """Every event of a fleet, with waiting."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.seen: list[Seen] = []
        self.react: Callable[[EngineEvent], None] | None = None

    def __call__(self, event: EngineEvent) -> None:
        with self._changed:
            self.seen.append(Seen(at=time.monotonic(), event=event))
            self._changed.notify_all()
        if self.react is not None:
            self.react(event)

    def find(self, *kinds: type[EngineEvent], **fields: Any) -> list[Seen]:
        with self._changed:
            return [s for s in self.seen if _fits(s.event, kinds, fields)]

    def wait(
        self, *kinds: type[EngineEvent], timeout: float = 20.0, count: int = 1, **fields: Any
    ) -> Seen:
        """Return the last of the first `count` events of these kinds; fail with what came."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                found = [s for s in self.seen if _fits(s.event, kinds, fields)]
                if len(found) >= count:
                    return found[count - 1]
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    names = " or ".join(kind.__name__ for kind in kinds)
                    came = [s.event for s in self.seen[-8:]]
                    raise AssertionError(
                        f"{len(found)} of {count} {names} {fields} in {timeout:g} s; last: {came}"
                    )
                self._changed.wait(remaining)


def _fits(event: EngineEvent, kinds: tuple[type[EngineEvent], ...], fields: Any) -> bool:
    return isinstance(event, kinds) and all(
        getattr(event, key) == value for key, value in fields.items()
    )


@dataclass(slots=True, kw_only=True)
class Account:
    """A company with a linked store."""

    company_id: str
    jid: str
    folder: Path
    generation: int = 0


@dataclass(slots=True, kw_only=True)
class Rig:
    """A fleet on the sandbox."""

    edge: Edge
    folder: Path
    events: EventRecord
    fleet: Supervisor
    accounts: list[Account] = field(default_factory=list)

    def link(self, count: int, *, one_time_keys: int = 10) -> list[Account]:
        """Make so many linked stores."""
        fresh = []
        for device in create_devices(self.edge.url, count, one_time_keys=one_time_keys):
            account = self.new_account(device["jid"])
            write_store(account.folder / "store.db", device)
            fresh.append(account)
        self.accounts += fresh
        return fresh

    def new_account(self, jid: str = "") -> Account:
        company_id = str(uuid.uuid4())
        folder = self.folder / company_id
        folder.mkdir(parents=True)
        return Account(company_id=company_id, jid=jid, folder=folder)

    def start(self, account: Account, *, isolated: bool = False, proxy: str | None = None) -> int:
        account.generation += 1
        self.fleet.start(
            StartOrder(
                company_id=account.company_id,
                generation=account.generation,
                store_path=account.folder / "store.db",
                lock_path=account.folder / "lock",
                isolated=isolated,
                proxy=proxy,
            )
        )
        return account.generation

    def pair(self, account: Account, phone_number: str | None = None) -> int:
        account.generation += 1
        method = PairingMethod.PAIRING_CODE if phone_number else PairingMethod.QR
        self.fleet.pair(
            PairOrder(
                company_id=account.company_id,
                generation=account.generation,
                store_path=account.folder / "store.db",
                lock_path=account.folder / "lock",
                method=method,
                phone_number=phone_number,
            )
        )
        return account.generation

    def stop(self, account: Account) -> None:
        self.fleet.stop(account.company_id, account.generation)

    def send(self, account: Account, to_jid: str, text: str) -> Future[SentMessage]:
        return self.fleet.send_text(
            account.company_id, account.generation, to_jid=to_jid, text=text, timeout_seconds=10
        )

    def engine_of_pid(self, pid: int | None) -> EngineHealth | None:
        return next((h for h in self.fleet.health() if h.pid == pid), None)

    def await_health(
        self, what: str, check: Callable[[list[EngineHealth]], bool], timeout: float = 20.0
    ) -> list[EngineHealth]:
        """Wait until the fleet's health satisfies `check`."""
        deadline = time.monotonic() + timeout
        pause = threading.Event()
        while not check(health := self.fleet.health()):
            if time.monotonic() >= deadline:
                raise AssertionError(f"{what}: not in {timeout:g} s; health: {health}")
            pause.wait(0.05)
        return health


def make_rig(edge: Edge, folder: Path, settings: EngineSettings) -> Rig:
    """Return a fleet with these settings on the sandbox."""
    record = EventRecord()
    return Rig(edge=edge, folder=folder, events=record, fleet=Supervisor(settings, record))

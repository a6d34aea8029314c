"""Two clients for one service, each a process of its own: one that behaves, and one that does not.

    python load_clients.py '{"kind": "polls", "port": 8000, ...}'

Prints what it saw as JSON. Requests are due at a steady rate, whatever became of the earlier ones,
and latencies count from that moment: a stall counts for all that it delayed.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

_CLIENTS = 8
_API = "/api/whatsapp"
_LARGE = b'{"x":"' + b"a" * 1_200_000 + b'"}'
_JSON = {"Content-Type": "application/json"}

Shape = Callable[[int, str, str], tuple[str, str, dict[str, str], bytes | None]]
"""(number, good key, company) -> method, path, headers, body."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a client saw.

    answers: how often each status; "broken" are connections that ended in the middle.
    latencies_ms: of every answer.
    """

    answers: dict[str, int]
    latencies_ms: list[float]
    seconds: float

    @property
    def rate(self) -> float:
        """Requests a second."""
        return sum(self.answers.values()) / self.seconds


@dataclass(slots=True)
class LoadClient:
    """A client that runs."""

    process: subprocess.Popen[str]
    seconds: float

    def result(self) -> Load:
        """Wait until it is done."""
        output, errors = self.process.communicate(timeout=self.seconds * 4 + 60)
        assert self.process.returncode == 0, errors[-2000:]
        seen = json.loads(output)
        return Load(seen["answers"], seen["latencies_ms"], self.seconds)

    def end(self) -> None:
        """End it if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


def start_polls(
    port: int, key: str, companies: Sequence[str], *, rate: float, seconds: float
) -> LoadClient:
    """Poll the status of these companies in turn."""
    plan = {"kind": "polls", "port": port, "key": key, "companies": list(companies)}
    return _start({**plan, "rate": rate, "seconds": seconds})


def start_flood(port: int, key: str, company: str, *, rate: float, seconds: float) -> LoadClient:
    """Send what no service likes: half of it with a key that is valid for this company."""
    plan = {"kind": "flood", "port": port, "key": key, "companies": [company]}
    return _start({**plan, "rate": rate, "seconds": seconds})


def _start(plan: dict[str, Any]) -> LoadClient:
    process = subprocess.Popen(
        [sys.executable, __file__, json.dumps(plan)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    return LoadClient(process, plan["seconds"])


def _wrong_key(number: int, key: str, company: str) -> Any:
    return "GET", f"{_API}/status?company_id={company}", {"X-API-Key": f"wrong-{number:032}"}, None


def _made_up_api_key(number: int, key: str, company: str) -> Any:
    name = "".join("abcdefghijklmnopqrstuvwxyz234567"[number >> 5 * i & 31] for i in range(12))
    text = f"crmwa_{name}_{'a' * 43}"
    return "GET", f"{_API}/status?company_id={company}", {"X-API-Key": text}, None


def _wrong_token(number: int, key: str, company: str) -> Any:
    headers = {"Authorization": f"Bearer eyJhbGciOiJIUzI1NiJ9.e30.{number:043}"}
    return "GET", f"{_API}/status?company_id={company}", headers, None


def _malformed_json(number: int, key: str, company: str) -> Any:
    return "POST", f"{_API}/disconnect", {"X-API-Key": key, **_JSON}, b'{"company_id": [[[[[['


def _oversized(number: int, key: str, company: str) -> Any:
    return "POST", f"{_API}/disconnect", {"X-API-Key": key, **_JSON}, _LARGE


def _oversized_of_a_stranger(number: int, key: str, company: str) -> Any:
    return "POST", f"{_API}/messages/send", {"X-API-Key": "wrong-key-again", **_JSON}, _LARGE


def _bad_id(number: int, key: str, company: str) -> Any:
    return "GET", f"{_API}/status?company_id=..%2F..%2Fetc&x={number}", {"X-API-Key": key}, None


def _foreign_id(number: int, key: str, company: str) -> Any:
    foreign = f"00000000-0000-4000-8000-{number:012x}"
    return "GET", f"{_API}/status?company_id={foreign}", {"X-API-Key": key}, None


def _unknown_route(number: int, key: str, company: str) -> Any:
    return "GET", f"/wp-admin/{number}.php", {}, None


def _wrong_method(number: int, key: str, company: str) -> Any:
    return "PUT", f"{_API}/status", {"X-API-Key": key}, b"x"


SHAPES: tuple[Shape, ...] = (
    _wrong_key,
    _malformed_json,
    _unknown_route,
    _bad_id,
    _made_up_api_key,
    _foreign_id,
    _wrong_token,
    _oversized,
    _wrong_method,
    _oversized_of_a_stranger,
)


def _poll(number: int, key: str, company: str) -> Any:
    return "GET", f"{_API}/status?company_id={company}", {"X-API-Key": key}, None


class _Client:
    """Threads that share the numbers of the requests, each with a connection of its own."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self._plan = plan
        self._shapes = SHAPES if plan["kind"] == "flood" else (_poll,)
        self._lock = threading.Lock()
        self._numbers = iter(range(10**9))
        self._begun = time.monotonic() + 0.2
        self._answers: Counter[str] = Counter()
        self._latencies_ms: list[float] = []

    def run(self) -> dict[str, Any]:
        threads = [threading.Thread(target=self._work) for _ in range(_CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return {"answers": self._answers, "latencies_ms": self._latencies_ms}

    def _work(self) -> None:
        plan = self._plan
        connection = http.client.HTTPConnection("127.0.0.1", plan["port"], timeout=30)
        answers: Counter[str] = Counter()
        latencies_ms = []
        while True:
            with self._lock:
                number = next(self._numbers)
            due = self._begun + number / plan["rate"]
            if due >= self._begun + plan["seconds"]:
                break
            threading.Event().wait(max(0.0, due - time.monotonic()))
            company = plan["companies"][number % len(plan["companies"])]
            shape = self._shapes[number % len(self._shapes)]
            method, path, headers, body = shape(number, plan["key"], company)
            try:
                connection.request(method, path, body, headers)
                response = connection.getresponse()
                response.read()
                answers[str(response.status)] += 1
            except (OSError, http.client.HTTPException):
                connection.close()  # refused before all of it was sent
                answers["broken"] += 1
                continue
            latencies_ms.append((time.monotonic() - due) * 1000)
        connection.close()
        with self._lock:
            self._answers.update(answers)
            self._latencies_ms.extend(latencies_ms)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_Client(json.loads(sys.argv[1])).run()))

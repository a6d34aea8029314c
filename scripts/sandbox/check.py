"""Check the sandbox with real neonize clients: exit code 0 when everything works.

python scripts/sandbox/check.py [--state-dir DIR]
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from sandbox.sandbox import Sandbox  # noqa: E402
from sandbox.seed_stores import create_devices, write_store  # noqa: E402

DEADLINE_SECONDS = 20.0
CONTACT = "5511988887777"
SEPARATOR = "\x1e"


class CheckFailed(AssertionError):
    """Something did not happen, or not as it should."""


class Api:
    """The sandbox's HTTP API."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Return the decoded answer; a refusal raises with the sandbox's own words."""
        request = urllib.request.Request(  # noqa: S310 - a loopback http address
            self.url + path,
            None if body is None else json.dumps(body).encode(),
            {"content-type": "application/json"},
            method=method,
        )
        try:
            with self._opener.open(request, timeout=DEADLINE_SECONDS + 10) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            raise CheckFailed(f"{method} {path}: {error.read().decode()}") from error

    def post(self, path: str, **body: object) -> Any:
        """Pull a lever."""
        return self.call("POST", path, body)

    def last_seq(self) -> int:
        """Return the number of the newest event, to wait for later ones."""
        events = self.call("GET", "/api/events?after=0")
        return int(events[-1]["seq"]) if events else 0

    def wait(self, after: int, what: str, matches: Callable[[dict[str, Any]], bool]) -> Any:
        """Return the first event after a number that matches."""
        until = time.monotonic() + DEADLINE_SECONDS
        while (left := until - time.monotonic()) > 0:
            for event in self.call("GET", f"/api/events?after={after}&timeout={left:.0f}"):
                after = event["seq"]
                if matches(event):
                    return event
        raise CheckFailed(f"the sandbox did not report {what}")


class BotProcess:
    """check_bot.py in a process of its own."""

    def __init__(self, store: Path, sandbox: Sandbox) -> None:
        self.events: queue.Queue[dict[str, Any]] = queue.Queue()
        self.unmet: list[dict[str, Any]] = []
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "check_bot.py"), str(store)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **sandbox.env},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._process.stdout or ():
            if SEPARATOR in line:
                self.events.put(json.loads(line.split(SEPARATOR, 1)[1]))

    def order(self, do: str, **details: object) -> None:
        """Tell the bot to do something."""
        if self._process.stdin is None:
            raise CheckFailed("the bot has no standard input")
        self._process.stdin.write(json.dumps({"do": do, **details}) + "\n")
        self._process.stdin.flush()

    def expect(self, event: str, **details: object) -> dict[str, Any]:
        """Wait for an event with these details; others are kept for later expectations."""
        until = time.monotonic() + DEADLINE_SECONDS
        arrived, self.unmet = self.unmet, []
        while True:
            for index, found in enumerate(arrived):
                if found["event"] == event and details.items() <= found.items():
                    self.unmet += arrived[index + 1 :]
                    return found
                self.unmet.append(found)
            try:
                arrived = [self.events.get(timeout=max(0.0, until - time.monotonic()))]
            except queue.Empty:
                names = [found["event"] for found in self.unmet]
                raise CheckFailed(f"no {event} {details or ''} from the bot, but {names}") from None

    def kill(self) -> None:
        """End the bot as a crash would."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for stream in (self._process.stdin, self._process.stdout):
            if stream:
                stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self.kill()


def check_pairing(sandbox: Sandbox, store: Path) -> str:
    """Pair by QR code, exchange messages and receipts; return the device's jid."""
    api = Api(sandbox.admin_url)
    with BotProcess(store, sandbox) as bot:
        jid = str(api.post("/api/scan", qr=bot.expect("qr")["qr"])["jid"])
        bot.expect("PairStatusEv")
        bot.expect("ConnectedEv")
        check_messages(api, bot, jid)
    return jid


def check_messages(api: Api, bot: BotProcess, jid: str) -> None:
    """Send text and an attachment out, text and a picture in, and receipts."""
    mark = api.last_seq()
    bot.order("send", to=CONTACT, text="from the bot")
    message_id = bot.expect("sent")["id"]
    api.wait(mark, "the bot's text", lambda e: e.get("text") == "from the bot")
    for kind in ("delivered", "read"):
        api.post("/api/receipts", jid=jid, message_id=message_id, type=kind)
        bot.expect("ReceiptEv", ids=[message_id])
    api.post("/api/messages", jid=jid, **{"from": CONTACT}, text="from the phone")
    bot.expect("MessageEv", text="from the phone", sender=CONTACT)
    picture = {"type": "image", "base64": base64.b64encode(b"x" * 1000).decode(), "caption": "see"}
    api.post("/api/messages", jid=jid, **{"from": CONTACT}, media=picture)
    bot.expect("MessageEv", text="see", image=1000)
    bot.order("document", to=CONTACT, content="an attachment")
    document_id = bot.expect("sent")["id"]
    api.wait(mark, "the document", lambda e: e.get("id") == document_id)
    (document,) = (m for m in api.call("GET", "/api/messages") if m["id"] == document_id)
    require(document["media"]["bytes"] == len("an attachment"), "the attachment is damaged")


def check_restart(first: Sandbox, folder: Path, store: Path, jid: str) -> Sandbox:
    """Kill the sandbox: the pairing and what waits for the device must survive."""
    Api(first.admin_url).post("/api/messages", jid=jid, **{"from": CONTACT}, text="while away")
    first.process.kill()
    first.stop()
    sandbox = Sandbox.start(folder)
    require(sandbox.admin_url == first.admin_url, "the ports changed over a restart")
    with BotProcess(store, sandbox) as bot:
        bot.expect("MessageEv", text="while away")
        bot.expect("OfflineSyncCompletedEv", count=1)
        bot.expect("ConnectedEv")
        bot.order("query")
        bot.expect("answered")
    return sandbox


def check_pair_code(sandbox: Sandbox, store: Path) -> None:
    """Pair by code, then be unlinked by the phone."""
    api = Api(sandbox.admin_url)
    number = api.post("/api/phones", name="Code")["number"]
    with BotProcess(store, sandbox) as bot:
        bot.expect("qr")
        bot.order("pair-code", number=number)
        jid = api.post("/api/pair-code", code=bot.expect("code")["code"], number=number)["jid"]
        bot.expect("ConnectedEv")
        api.post("/api/unlink", jid=jid)
        bot.expect("LoggedOutEv")


def check_seeded(sandbox: Sandbox, store: Path) -> None:
    """A device that was never paired connects, and one-time keys of its store work."""
    api = Api(sandbox.admin_url)
    (device,) = create_devices(sandbox.admin_url, 1)
    write_store(store, device)
    with BotProcess(store, sandbox) as bot:
        bot.expect("ConnectedEv")
        api.post("/api/messages", jid=device["jid"], **{"from": CONTACT}, text="to a seeded one")
        bot.expect("MessageEv", text="to a seeded one")
        api.post("/api/cut", jid=device["jid"])
        bot.expect("DisconnectedEv")
        bot.expect("ConnectedEv")
    counters = api.call("GET", "/api/state")["counters"][device["jid"]]
    require(counters["max_simultaneous"] == 1, f"double connections: {counters}")


def require(truth: bool, complaint: str) -> None:
    """Raise unless true."""
    if not truth:
        raise CheckFailed(complaint)


def run(folder: Path) -> None:
    """Run all checks in one state folder."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        stores = Path(name)
        sandbox = Sandbox.start(folder)
        try:
            jid = check_pairing(sandbox, stores / "paired.db")
            print(f"ok  pairing by QR, messages both ways ({jid})", flush=True)
            sandbox = check_restart(sandbox, folder, stores / "paired.db", jid)
            print("ok  restart after kill -9, offline backlog", flush=True)
            check_pair_code(sandbox, stores / "code.db")
            print("ok  pairing by code, unlinking", flush=True)
            check_seeded(sandbox, stores / "seeded.db")
            print("ok  a seeded device, a cut connection", flush=True)
        finally:
            sandbox.stop()


def main() -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--state-dir", type=Path, help="default: a temporary folder")
    arguments = parser.parse_args()
    try:
        if arguments.state_dir:
            arguments.state_dir.mkdir(parents=True, exist_ok=True)
            run(arguments.state_dir.resolve())
        else:
            with tempfile.TemporaryDirectory(prefix="sandbox-check-") as folder:
                run(Path(folder))
    except CheckFailed as error:
        print(f"FAILED  {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

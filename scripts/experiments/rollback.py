"""Measure what an old store costs: messages lost and asked for again after an unclean restore.

    python scripts/experiments/rollback.py [--quick] [--peer phone] [--messages 20]

A real neonize client (the bot) talks to a peer in a sandbox of its own. Its store is copied while
it runs, more messages are exchanged, the bot is killed, the old copy is put back, and both sides
write again. Each case is run with the store as it was copied, and with the Signal sessions and the
bot's own sender keys deleted from it (the reset). It prints a Markdown table:

peer          phone: played by the sandbox with the JavaScript libsignal. It asks again for whatever
              it cannot read, also for a message with a number it has seen: kinder than a real one.
              bot: a second neonize client. It drops such a message without a word.
rolled back   messages exchanged after the copy; `mixed`: in both directions, at random; `outgoing`:
              all from the bot.
first         who writes first after the restore: all of its messages, then all of the other's.
lost          not delivered when nothing had happened for --patience seconds.
asked again   retry requests: those of the bot, those of the peer.
slowest       the longest time from the order to the delivery, of messages that were delivered.

What was measured, and what follows: docs/adr/0014-signal-sessions-after-an-unclean-restore.md.
A message is sent when its predecessor was delivered, or 0.3 s after it. Groups are not measured:
the sandbox has none. The 40 cases take several minutes; --quick runs 12 of them.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from crm_whatsapp.sessions.signal_reset import forget_ratchets
from sandbox.check import Api, BotProcess
from sandbox.sandbox import Sandbox
from sandbox.seed_stores import create_devices, write_store

PACE_SECONDS = 0.3
DEADLINE_SECONDS = 20.0
WARM_UP = 6
FIRST_PEER_NUMBER = 5511970000001
_END = "end"

Record = tuple[str, str]  # (who read it, its text)


class ExperimentFailed(RuntimeError):
    """Something failed that is not what is measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One line of the table."""

    peer: str
    rolled_back: int
    mixed: bool
    bot_first: bool
    reset: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Direction:
    """What became of the messages of one side; milliseconds, of those delivered."""

    delivered: int
    lost: int
    median_ms: float
    slowest_ms: float


class Notebook:
    """Who read what when (monotonic), and which events the sandbox reported."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._read: dict[Record, float] = {}
        self._events: list[dict[str, Any]] = []
        self._last_change = time.monotonic()

    def note(self, who: str, text: str) -> None:
        """Write down that somebody read a text; the first time counts."""
        with self._changed:
            self._read.setdefault((who, text), time.monotonic())
            self._touch()

    def add_event(self, event: dict[str, Any]) -> None:
        """Keep an event of the sandbox."""
        with self._changed:
            self._events.append(event)
            self._touch()

    def _touch(self) -> None:
        self._last_change = time.monotonic()
        self._changed.notify_all()

    def when(self, who: str, text: str) -> float | None:
        """Tell when somebody first read a text."""
        with self._changed:
            return self._read.get((who, text))

    def wait(self, who: str, text: str, seconds: float) -> bool:
        """Wait until somebody has read a text."""
        with self._changed:
            return self._changed.wait_for(lambda: (who, text) in self._read, seconds)

    def wait_for_quiet(self, seconds: float) -> None:
        """Return when nothing has been written down for so long."""
        with self._changed:
            while (left := self._last_change + seconds - time.monotonic()) > 0:
                self._changed.wait(left)

    def mark(self) -> int:
        """Return a position for count()."""
        with self._changed:
            return len(self._events)

    def count(self, mark: int, matches: Callable[[dict[str, Any]], bool]) -> int:
        """Count the events after a position that match."""
        with self._changed:
            return sum(1 for event in self._events[mark:] if matches(event))


class Client:
    """A neonize client in a process of its own, whose messages go to the notebook."""

    def __init__(self, who: str, store: Path, sandbox: Sandbox, notebook: Notebook) -> None:
        self._who = who
        self._notebook = notebook
        self._connected = threading.Event()
        self._bot = BotProcess(store, sandbox)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._connected.wait(DEADLINE_SECONDS):
            self.kill()
            raise ExperimentFailed(f"the {who} did not connect")

    def _read(self) -> None:
        while (found := self._bot.events.get())["event"] != _END:
            if found["event"] == "ConnectedEv":
                self._connected.set()
            elif found["event"] == "MessageEv" and not found["own"]:
                self._notebook.note(self._who, found["text"])

    def write(self, number: str, text: str) -> None:
        """Send a text; returns before it is sent."""
        self._bot.order("send", to=number, text=text)

    def kill(self) -> None:
        """End it as a crash would."""
        self._bot.kill()
        self._bot.events.put({"event": _END})
        self._reader.join()


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """The sandbox, what it reports, and a folder for stores."""

    sandbox: Sandbox
    api: Api
    notebook: Notebook
    folder: Path

    def new_device(self) -> tuple[dict[str, Any], Path]:
        """Link a device to a phone of its own; return it and its store."""
        (device,) = create_devices(self.sandbox.admin_url, 1, one_time_keys=100)
        store = self.folder / f"{device['jid'].split('@')[0].replace(':', '-')}.db"
        write_store(store, device)
        return device, store


class Talk:
    """The bot and its peer: how they write to each other."""

    def __init__(self, lab: Lab, case: Case, peer_number: str) -> None:
        self._lab = lab
        device, self.store = lab.new_device()
        self.jid = str(device["jid"])
        self._number = _number(self.jid)
        self._texts = itertools.count(1)
        self.peer_jid = f"{peer_number}@s.whatsapp.net"
        self._peer: Client | None = None
        if case.peer == "bot":
            other, other_store = lab.new_device()
            self.peer_jid = str(other["jid"])
            self._peer = Client("peer", other_store, lab.sandbox, lab.notebook)
        self._bot = Client("bot", self.store, lab.sandbox, lab.notebook)

    def _say(self, *, from_bot: bool, patience: float) -> tuple[str, str, float]:
        """Let one side write; return who should read it, the text, and when it was ordered."""
        text = f"{self._number} {next(self._texts)}"
        reader = "peer" if from_bot else "bot"
        if from_bot and self._peer is None:
            reader = "phone"  # the sandbox opens it
        ordered_at = time.monotonic()
        if from_bot:
            self._bot.write(_number(self.peer_jid), text)
        elif self._peer is not None:
            self._peer.write(self._number, text)
        else:
            sender = _number(self.peer_jid)
            self._lab.api.post("/api/messages", jid=self.jid, text=text, **{"from": sender})
        self._lab.notebook.wait(reader, text, patience)
        return reader, text, ordered_at

    def exchange(self, directions: Iterator[bool]) -> None:
        """Write one message after the other; all must arrive. True: from the bot."""
        for from_bot in directions:
            reader, text, _ = self._say(from_bot=from_bot, patience=DEADLINE_SECONDS)
            if self._lab.notebook.when(reader, text) is None:
                raise ExperimentFailed(f"{text!r} was not delivered before the rollback")

    def send(self, count: int, *, from_bot: bool) -> list[tuple[str, str, float]]:
        """Write so many messages, whatever becomes of them."""
        return [self._say(from_bot=from_bot, patience=PACE_SECONDS) for _ in range(count)]

    def copy_store(self) -> bytes:
        """Copy the store of the running bot."""
        with closing(sqlite3.connect(f"file:{self.store}?mode=ro", uri=True)) as store:
            with closing(sqlite3.connect(":memory:")) as memory:
                store.backup(memory)
                return memory.serialize()

    def roll_back(self, copy: bytes, *, reset: bool) -> None:
        """Kill the bot and start it again with an older store."""
        self._bot.kill()
        for suffix in ("-wal", "-shm", "-journal"):
            self.store.with_name(self.store.name + suffix).unlink(missing_ok=True)
        self.store.write_bytes(copy)
        if reset:
            with closing(sqlite3.connect(self.store)) as db, db:
                forget_ratchets(db)
        self._bot = Client("bot", self.store, self._lab.sandbox, self._lab.notebook)

    def close(self) -> None:
        """End both."""
        self._bot.kill()
        if self._peer is not None:
            self._peer.kill()


def measure(lab: Lab, case: Case, peer_number: str, messages: int, patience: float) -> list[str]:
    """Run one case; return its line of the table."""
    talk = Talk(lab, case, peer_number)
    try:
        talk.exchange(index % 2 == 0 for index in range(WARM_UP))
        copy = talk.copy_store()
        dice = random.Random(case.rolled_back)  # noqa: S311 - the same messages in every run
        talk.exchange(not case.mixed or dice.random() < 0.5 for _ in range(case.rolled_back))
        lab.notebook.wait_for_quiet(0.5)
        talk.roll_back(copy, reset=case.reset)
        mark = lab.notebook.mark()
        sides = (case.bot_first, not case.bot_first)
        sent = {side: talk.send(messages, from_bot=side) for side in sides}
        lab.notebook.wait_for_quiet(1.0)
        if any(_sum_up(lab.notebook, one).lost for one in sent.values()):
            lab.notebook.wait_for_quiet(patience)
        out, incoming = (_sum_up(lab.notebook, sent[side]) for side in (True, False))
        asked = [
            lab.notebook.count(mark, asks) for asks in (_asked_by_bot(talk), _asked_by_peer(talk))
        ]
        return _line(case, out, incoming, asked)
    finally:
        talk.close()


def _asked_by_bot(talk: Talk) -> Callable[[dict[str, Any]], bool]:
    return lambda event: event.get("receipt") == "retry" and event.get("jid") == talk.jid


def _asked_by_peer(talk: Talk) -> Callable[[dict[str, Any]], bool]:
    def matches(event: dict[str, Any]) -> bool:
        if event["type"] == "undecryptable":  # the sandbox asks for the phone
            return (event["jid"], event["to"]) == (talk.jid, talk.peer_jid)
        return event.get("receipt") == "retry" and event.get("jid") == talk.peer_jid

    return matches


def _sum_up(notebook: Notebook, sent: list[tuple[str, str, float]]) -> Direction:
    read_at = [notebook.when(reader, text) for reader, text, _ in sent]
    took = [
        (at - ordered_at) * 1000
        for at, (_, _, ordered_at) in zip(read_at, sent, strict=True)
        if at is not None
    ]
    return Direction(
        delivered=len(took),
        lost=len(sent) - len(took),
        median_ms=statistics.median(took) if took else 0.0,
        slowest_ms=max(took, default=0.0),
    )


HEAD = (
    "peer", "rolled back", "first", "reset",
    "bot→peer delivered", "lost", "median ms", "slowest ms",
    "peer→bot delivered", "lost", "median ms", "slowest ms",
    "bot asked again", "peer asked again",
)  # fmt: skip


def _line(case: Case, out: Direction, incoming: Direction, asked: list[int]) -> list[str]:
    kind = "mixed" if case.mixed else "outgoing"
    cells = [
        case.peer,
        f"{case.rolled_back} {kind}" if case.rolled_back else "0",
        "bot" if case.bot_first else "peer",
        "yes" if case.reset else "no",
    ]
    for side in (out, incoming):
        cells += [str(side.delivered), str(side.lost)]
        cells += [f"{side.median_ms:.0f}", f"{side.slowest_ms:.0f}"]
    return cells + [str(count) for count in asked]


def _number(jid: str) -> str:
    return jid.split("@")[0].split(":")[0]


@contextmanager
def open_lab() -> Iterator[Lab]:
    """Start a sandbox in a temporary folder, and write down what it reports."""
    with tempfile.TemporaryDirectory(prefix="rollback-") as name:
        folder = Path(name)
        with Sandbox.start(folder / "sandbox") as sandbox:
            lab = Lab(
                sandbox=sandbox, api=Api(sandbox.admin_url), notebook=Notebook(), folder=folder
            )
            ended = threading.Event()
            follower = threading.Thread(target=_follow, args=(lab, ended), daemon=True)
            follower.start()
            try:
                yield lab
            finally:
                ended.set()
                follower.join()


def _follow(lab: Lab, ended: threading.Event) -> None:
    after = 0
    while not ended.is_set():
        for event in lab.api.call("GET", f"/api/events?after={after}&timeout=1"):
            after = event["seq"]
            if event["type"] == "message" and event["direction"] == "in":
                lab.notebook.note("phone", event["text"])
            lab.notebook.add_event(event)


def cases(peers: list[str], *, quick: bool) -> list[Case]:
    """Return all cases, the quick ones first."""
    rollbacks = [(0, True), (10, True), (10, False)]
    if not quick:
        rollbacks += [(1000, True), (1000, False)]
    firsts = (True,) if quick else (True, False)
    return [
        Case(peer=peer, rolled_back=count, mixed=mixed, bot_first=first, reset=reset)
        for (count, mixed), peer, first, reset in itertools.product(
            rollbacks, peers, firsts, (False, True)
        )
    ]


def main() -> int:
    """Run all cases, one after the other; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="no rollback of 1000; the bot first")
    parser.add_argument("--peer", choices=("phone", "bot"), action="append", help="default: both")
    parser.add_argument("--messages", type=int, default=20, help="each way after the restore")
    parser.add_argument("--patience", type=float, default=6.0, help="seconds of quiet")
    arguments = parser.parse_args()
    try:
        with open_lab() as lab:
            print(f"| {' | '.join(HEAD)} |\n|{' --- |' * len(HEAD)}", flush=True)
            peers = arguments.peer or ["phone", "bot"]
            for index, case in enumerate(cases(peers, quick=arguments.quick)):
                number = str(FIRST_PEER_NUMBER + index)
                line = measure(lab, case, number, arguments.messages, arguments.patience)
                print(f"| {' | '.join(line)} |", flush=True)
    except ExperimentFailed as error:
        print(f"FAILED  {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

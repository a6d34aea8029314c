"""kill -9 at random moments of SQLite's work: never a false alarm, and every flipped bit is found.

A run prints its seed; PAGES_SEED=<seed> PAGES_ROUNDS=<rounds> repeats its plan. The moments of the
kills, and what the looks at the log meet, are the machine's.
"""

import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from crm_whatsapp.sessions import before_start
from crm_whatsapp.sessions.page_record import read_record
from crm_whatsapp.sessions.store_log import settle_stores
from crm_whatsapp.sessions.store_pages import StorePages
from crm_whatsapp.sessions.write_ahead_log import ends_in_index, open_log
from tests.unit.sessions.writing_client import (
    UNKNOWN,
    Preserved,
    WritingClient,
    logical_content,
    new_seed,
    new_store,
    verdict,
    writing,
)

FRAME_BYTES = 24 + 4096
LOG_HEADER_BYTES = 32


class Life:
    """One store through starts, work, kills and clean stops, looked at as the service does."""

    def __init__(self, session: Path, dice: random.Random) -> None:
        self.session = session
        self.path = new_store(session)
        self.pages = StorePages()
        self.dice = dice
        self.counted: Counter[str] = Counter()

    def start_work_and_kill(self, checkpoint_frames: int, most_at_once: int) -> None:
        """Run a client; the service looks at its log all the time, and sometimes at the store."""
        with self.pages.turn(self.session):
            self.pages.prepare(self.session)
            before_start.keep(self.session)
        seed = self.dice.randrange(10**9)
        with writing(self.path, seed=seed, checkpoint_frames=checkpoint_frames) as client:
            for _ in range(self.dice.randrange(1, 50)):
                self._work(client, most_at_once)
            client.order(self.dice.randint(1, most_at_once))
            for _ in range(self.dice.randrange(20)):  # the kill comes in the midst of it
                self.pages.look(self.session)
            client.kill()

    def _work(self, client: WritingClient, most_at_once: int) -> None:
        client.order(self.dice.randint(1, most_at_once))
        if self.dice.random() < 0.2:
            self.pages.look(self.session)
        if self.dice.random() < 0.1:
            self._count("while it was written", verdict(self.session, self.pages))
        client.await_written()
        self.pages.look(self.session)

    def assert_no_alarm(self) -> None:
        """Look as a new service would."""
        self._count("after the kill", verdict(self.session))

    def assert_flips_are_found(self, count: int, *, unless_unknown: bool) -> None:
        """Flip single bits; each is found, or SQLite reads the same from the store all the same."""
        preserved = Preserved(self.session)
        whole = logical_content(self.session)
        committed = self._last_committed_frame()
        for _ in range(count):
            name = self.dice.choice(["store.db", "store.db-wal"])
            bit = self._some_bit(name, len(preserved.files.get(name, b"")))
            if bit is None:
                continue
            preserved.flip(name, bit)
            said = verdict(self.session)
            if said not in (None, UNKNOWN):
                self.counted[f"flipped in {name}: found"] += 1
            elif logical_content(self.session) == whole:
                self.counted[f"flipped in {name}: harmless"] += 1
            elif name == "store.db-wal" and _frame_of(bit) > committed:
                self.counted[f"flipped in {name}: in what nobody was told of yet"] += 1
            else:
                self.counted[f"flipped in {name}: missed"] += 1
                assert unless_unknown and said == UNKNOWN, f"bit {bit} of {name}"
        preserved.put_back()

    def _last_committed_frame(self) -> int:
        """Return the last one whose writer knew that it was committed when it was killed."""
        with open_log(self.path) as log:
            header = log.header()
        salts = header.start.salts if header is not None else b""
        return max((frame for run, frame in ends_in_index(self.path) if run == salts), default=0)

    def _some_bit(self, name: str, size: int) -> int | None:
        """Return any bit; half of those in the log are near the end of what is committed."""
        if size == 0:
            return None
        if name == "store.db-wal" and self.dice.random() < 0.5:
            with open_log(self.path) as log:
                header = log.header()
                frames = [0]
                if header is not None:
                    frames += [commit.end.frame for commit in log.commits_after(header.start)]
            first = LOG_HEADER_BYTES + max(0, frames[-1] - 3) * FRAME_BYTES
            last = LOG_HEADER_BYTES + frames[-1] * FRAME_BYTES
            if first < last <= size:
                return self.dice.randrange(first * 8, last * 8)
        return self.dice.randrange(size * 8)

    def stop_cleanly(self) -> None:
        """Do what the service does when its engines have ended."""
        assert settle_stores([self.path], 30, pages=self.pages) == []
        record = read_record(self.session)
        assert record is not None
        assert record.closed
        assert verdict(self.session) is None

    def take_the_second_chance(self) -> None:
        """Put back what was there before the last start."""
        with self.pages.turn(self.session):
            assert before_start.put_back(self.session)
        self._count("put back", verdict(self.session))

    def _count(self, when: str, said: str | None) -> None:
        assert said in (None, UNKNOWN), f"a false alarm {when}: {said}"
        self.counted[f"{when}: {said or 'whole'}"] += 1


def _frame_of(bit: int) -> int:
    return (bit // 8 - LOG_HEADER_BYTES) // FRAME_BYTES + 1


def live(
    session: Path,
    *,
    rounds: int,
    flips: int,
    checkpoint_frames: int,
    most_at_once: int,
    unless_unknown: bool,
) -> Counter[str]:
    seed = new_seed(os.environ.get("PAGES_SEED"))
    print(f"PAGES_SEED={seed} PAGES_ROUNDS={rounds}")  # noqa: T201 - shown with a failure
    dice = random.Random(seed)  # noqa: S311 - a plan to be repeated
    life = Life(session, dice)
    for number in range(rounds):
        try:
            life.start_work_and_kill(checkpoint_frames, most_at_once)
            life.assert_no_alarm()
            life.assert_flips_are_found(flips, unless_unknown=unless_unknown)
            if dice.random() < 0.1:
                life.stop_cleanly()
            elif dice.random() < 0.1:
                life.take_the_second_chance()
        except AssertionError as failure:
            pytest.fail(f"PAGES_SEED={seed}, round {number}: {failure}")
    return life.counted


def rounds(usual: int) -> int:
    return int(os.environ.get("PAGES_ROUNDS") or usual)


def as_deployed(session: Path, number: int) -> Counter[str]:
    """A log is started over after 120 frames, and looked at after about 10."""
    return live(
        session,
        rounds=number,
        flips=10,
        checkpoint_frames=120,
        most_at_once=3,
        unless_unknown=False,
    )


def far_too_busy(session: Path, number: int) -> Counter[str]:
    """A log is started over between two looks: often nobody can tell what was copied."""
    return live(
        session,
        rounds=number,
        flips=3,
        checkpoint_frames=25,
        most_at_once=8,
        unless_unknown=True,
    )


def record(counted: Counter[str], record_property: Callable[[str, object], None]) -> None:
    for what, times in sorted(counted.items()):
        record_property(what, times)


def test_every_flipped_bit_is_found_and_nothing_else(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    counted = as_deployed(tmp_path / "session", rounds(60))
    record(counted, record_property)
    assert counted["flipped in store.db: found"] > 100
    assert counted["flipped in store.db-wal: found"] > 30
    assert not counted["after the kill: unknown"]


def test_a_log_that_is_started_over_between_looks_gives_no_false_alarm(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    counted = far_too_busy(tmp_path / "session", rounds(40))
    record(counted, record_property)
    assert counted["after the kill: whole"]


@pytest.mark.soak
@pytest.mark.parametrize("kind", [as_deployed, far_too_busy])
def test_many_kills_give_no_false_alarm(
    tmp_path: Path,
    record_property: Callable[[str, object], None],
    kind: Callable[[Path, int], Counter[str]],
) -> None:
    record(kind(tmp_path / "session", rounds(500)), record_property)

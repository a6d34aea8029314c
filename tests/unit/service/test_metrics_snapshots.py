"""A snapshot is judged by what it has missed, not by its age."""

from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from crm_whatsapp.domain.connection import ClientPhase, Status
from crm_whatsapp.domain.errors import StoreUnavailable
from crm_whatsapp.domain.snapshots import SnapshotMeta, StoreFingerprint
from crm_whatsapp.service.metrics.snapshot_figures import SnapshotFigures, snapshot_figures
from crm_whatsapp.service.snapshot_ledger import SnapshotLedger, SnapshotTerms
from tests.unit.service.fakes import ManualClock
from tests.unit.service.pod import COMPANY, OTHER, online

FIRST = StoreFingerprint(important="keys", ratchets="1")
LATER = StoreFingerprint(important="keys", ratchets="2")
BOUND_SECONDS = 1_000.0


class World:
    """A keeper's memory, and what is made of it."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.ledger = SnapshotLedger(self.clock, SnapshotTerms())
        self.keeper: Any = SimpleNamespace(
            is_on=True,
            written=7,
            failed=2,
            states=self.ledger.states,
            behind_seconds=self.ledger.behind_seconds,
        )
        self.connections = [online(client=ClientPhase.LIVE)]
        self.uptimes = {COMPANY: 30.0}

    def write(self, fingerprint: StoreFingerprint = FIRST, company_id: str = COMPANY) -> None:
        meta = SnapshotMeta(
            company_id=company_id,
            epoch=1,
            seq=1,
            key_id="k1",
            sha256="ab" * 32,
            size_bytes=40_000,
            clean=False,
            created_at=datetime(2026, 1, 8, 12, tzinfo=UTC),
        )
        self.ledger.note_written(company_id, fingerprint, meta)

    def figures(self) -> SnapshotFigures:
        return snapshot_figures(
            self.keeper,
            self.connections,
            self.uptimes,
            now_monotonic=self.clock.monotonic(),
            overdue_after_seconds=BOUND_SECONDS,
        )


@pytest.fixture
def world() -> World:
    return World()


def test_an_idle_session_has_an_old_snapshot_and_no_lag(world: World) -> None:
    world.write()
    for _ in range(30):
        world.clock.advance(86_400.0)
        world.ledger.note_seen(COMPANY, FIRST)

    figures = world.figures()

    assert (figures.ages, figures.lags) == ([30 * 86_400.0], [0.0])
    assert (figures.overdue, figures.missing, figures.failing) == (0, 0, 0)


def test_the_lag_runs_from_the_first_sight_of_a_change(world: World) -> None:
    world.write()
    world.clock.advance(500.0)
    world.ledger.note_seen(COMPANY, LATER)
    world.clock.advance(600.0)
    world.ledger.note_seen(COMPANY, StoreFingerprint(important="keys", ratchets="3"))
    assert world.figures().lags == [600.0]
    assert world.figures().overdue == 0

    world.clock.advance(500.0)
    assert world.figures().overdue == 1

    world.write(LATER)
    assert world.figures().lags == [0.0]
    assert world.figures().ages == [0.0]


def test_a_change_that_is_undone_leaves_no_lag(world: World) -> None:
    world.write()
    world.ledger.note_seen(COMPANY, LATER)
    world.clock.advance(5.0)
    world.ledger.note_seen(COMPANY, FIRST)

    assert world.figures().lags == [0.0]


def test_a_session_without_any_lags_since_it_connected(world: World) -> None:
    world.connections.append(online(OTHER, client=ClientPhase.LIVE))
    world.uptimes[OTHER] = 2 * BOUND_SECONDS
    world.write()

    figures = world.figures()

    assert (figures.missing, figures.overdue) == (1, 1)
    assert figures.lags == [0.0, 2 * BOUND_SECONDS]


def test_failures_count_as_lag_until_one_is_written(world: World) -> None:
    world.write()
    world.ledger.note_failure(COMPANY, StoreUnavailable())
    world.clock.advance(1_500.0)
    world.ledger.note_failure(COMPANY, StoreUnavailable())
    assert (world.figures().failing, world.figures().lags) == (1, [1_500.0])

    world.write()

    assert (world.figures().failing, world.figures().lags) == (0, [0.0])


def test_only_connected_sessions_are_judged(world: World) -> None:
    world.write()
    world.ledger.note_seen(COMPANY, LATER)
    world.clock.advance(5_000.0)
    world.connections = [
        replace(item, status=Status.FAILED, client=ClientPhase.NONE) for item in world.connections
    ]

    figures = world.figures()

    assert (figures.lags, figures.ages, figures.missing, figures.overdue) == ([], [], 0, 0)


def test_a_forgotten_company_leaves_nothing_behind(world: World) -> None:
    world.write()
    world.ledger.note_seen(COMPANY, LATER)

    world.ledger.drop(COMPANY)

    assert world.ledger.states() == {}
    assert world.ledger.behind_seconds() == {}


def test_without_a_key_nothing_is_missing(world: World) -> None:
    world.keeper.is_on = False

    figures = world.figures()

    assert (figures.is_on, figures.missing, figures.overdue) == (False, 0, 0)


def test_the_figures_have_their_names(world: World) -> None:
    world.write()
    world.clock.advance(400.0)
    world.ledger.note_seen(COMPANY, LATER)
    world.clock.advance(100.0)

    told = {
        (sample.name, sample.labels.get("le")): sample.value
        for family in world.figures().metrics()
        for sample in family.samples
    }

    assert told["whatsapp_snapshots_enabled", None] == 1
    assert told["whatsapp_snapshots_written_total", None] == 7
    assert told["whatsapp_snapshots_failed_total", None] == 2
    assert told["whatsapp_snapshot_lag_max_seconds", None] == 100.0
    assert told["whatsapp_snapshot_age_max_seconds", None] == 500.0
    assert told["whatsapp_snapshot_age_seconds_bucket", "300.0"] == 0
    assert told["whatsapp_snapshot_age_seconds_bucket", "900.0"] == 1

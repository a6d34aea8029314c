"""When the stores of running sessions are compared, and what follows from damage."""

from dataclasses import replace

import pytest

from crm_whatsapp.domain.connection import ClientPhase, Connection
from crm_whatsapp.domain.errors import CrmWhatsappError, StorageError
from crm_whatsapp.domain.snapshots import StoreDamaged, StoreUnfit
from crm_whatsapp.service.store_guard import StoreGuard
from tests.unit.service.fakes import FakeCopier, ManualClock
from tests.unit.service.pod import COMPANY, OTHER, online

INTERVAL_SECONDS = 600.0
LIVE = online(client=ClientPhase.LIVE)


class ComparedStores(FakeCopier):
    """Stores of which a test says what is wrong."""

    def __init__(self) -> None:
        self.compared: list[str] = []
        self.wrong: dict[str, CrmWhatsappError] = {}

    def verify(self, company_id: str) -> None:
        self.compared.append(company_id)
        if company_id in self.wrong:
            raise self.wrong[company_id]


class World:
    """A guard with its surroundings."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.stores = ComparedStores()
        self.with_snapshot = {COMPANY, OTHER}
        self.replaced: list[str] = []
        self.guard = StoreGuard(
            copier=self.stores,
            clock=self.clock,
            interval_seconds=INTERVAL_SECONDS,
            has_snapshot=lambda company_id: company_id in self.with_snapshot,
        )
        self.guard.on_damage(self.replaced.append)

    def round(self, *connections: Connection) -> int:
        """Let an interval pass after the store was first seen."""
        self.guard.check(connections)
        self.clock.advance(INTERVAL_SECONDS)
        return self.guard.check(connections)


@pytest.fixture
def world() -> World:
    return World()


def test_a_store_is_compared_every_interval_from_its_start_on(world: World) -> None:
    assert world.guard.check([LIVE]) == 0
    world.clock.advance(INTERVAL_SECONDS - 1)
    assert world.guard.check([LIVE]) == 0
    world.clock.advance(1)
    assert world.guard.check([LIVE]) == 1
    assert world.guard.check([LIVE]) == 0
    assert world.stores.compared == [COMPANY]


@pytest.mark.parametrize("client", [item for item in ClientPhase if item is not ClientPhase.LIVE])
def test_only_running_stores_are_compared(world: World, client: ClientPhase) -> None:
    assert world.round(replace(LIVE, client=client)) == 0


def test_damage_is_told_once_and_leaves_the_others_alone(world: World) -> None:
    world.stores.wrong[COMPANY] = StoreDamaged("flipped")
    other = replace(LIVE, company_id=OTHER)
    assert world.round(LIVE, other) == 2
    assert world.round(LIVE, other) == 2
    assert world.replaced == [COMPANY]
    assert world.stores.compared.count(OTHER) == 2


def test_damage_is_told_again_after_a_new_start(world: World) -> None:
    world.stores.wrong[COMPANY] = StoreDamaged("flipped")
    world.round(LIVE)
    world.guard.check([])  # stopped, and started again
    world.round(LIVE)
    assert world.replaced == [COMPANY, COMPANY]


def test_damage_is_told_again_when_the_store_was_whole_in_between(world: World) -> None:
    world.guard.found(COMPANY, "flipped")
    world.round(LIVE)
    world.guard.found(COMPANY, "flipped")
    assert world.replaced == [COMPANY, COMPANY]


def test_without_a_snapshot_nothing_is_started_until_there_is_one(world: World) -> None:
    world.with_snapshot.clear()
    world.stores.wrong[COMPANY] = StoreDamaged("flipped")
    world.round(LIVE)
    assert world.replaced == []
    world.with_snapshot.add(COMPANY)
    world.round(LIVE)
    assert world.replaced == [COMPANY]


@pytest.mark.parametrize("error", [StoreUnfit("busy"), StorageError("the disk refuses")])
def test_a_store_that_cannot_be_read_now_is_not_damaged(
    world: World, error: CrmWhatsappError
) -> None:
    world.stores.wrong[COMPANY] = error
    assert world.round(LIVE) == 1
    assert world.replaced == []

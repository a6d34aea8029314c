"""The places of the shard engines: who is where, how often a place died, how it comes back."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from crm_whatsapp.domain.engines import EngineRole
from crm_whatsapp.engine.death_record import DeathRecord
from crm_whatsapp.engine.engine_unit import Engine
from crm_whatsapp.engine.placement import SlotLoad, choose_slot
from crm_whatsapp.engine.session_table import Session
from crm_whatsapp.engine.settings import EngineSettings

_log = structlog.get_logger(__name__)


@dataclass(slots=True, kw_only=True, eq=False)
class Slot:
    """One place.

    displaced: companies whose engine died here; they come back to this place.
    careful_until: monotonic; until then, or until all displaced are back, one dial at a time.
    """

    index: int
    deaths: DeathRecord
    engine: Engine | None = None
    incarnation: int = 0
    replaced_at: float = float("-inf")
    wait_seconds: float = 0.0
    displaced: set[str] = field(default_factory=set)
    careful_until: float | None = None


class ShardSlots:
    """Places sessions on shard engines and brings dead ones back; control thread only."""

    def __init__(
        self,
        settings: EngineSettings,
        rng: random.Random,
        open_engine: Callable[[Engine, float], None],
    ) -> None:
        self._settings = settings
        self._rng = rng
        self._open_engine = open_engine
        self._slots: dict[int, Slot] = {}

    def place(self, session: Session) -> Engine:
        """Return the engine that takes the session; it is opened when it is missing."""
        home = next(
            (s.index for s in self._slots.values() if session.company_id in s.displaced), None
        )
        index = choose_slot(
            (
                SlotLoad(
                    index=slot.index,
                    sessions=len(slot.engine.sessions) if slot.engine else 0,
                    is_open=slot.engine is not None,
                    waits=slot.engine is not None and slot.engine.process is None,
                )
                for slot in self._slots.values()
            ),
            capacity=self._settings.sessions_per_engine,
            preferred=home,
        )
        return self.open(index)

    def open(self, index: int) -> Engine:
        """Return the engine of a place, with a new one if there is none."""
        slot = self._slots.get(index)
        if slot is None:
            slot = self._slots[index] = Slot(index=index, deaths=self._new_record())
        if slot.engine is None:
            slot.engine = self._next_engine(slot)
            self._open_engine(slot.engine, slot.wait_seconds)
            slot.wait_seconds = 0.0
        return slot.engine

    def replace(self, engine: Engine) -> Engine:
        """Put a fresh engine in the place of one that retires; return the fresh one."""
        slot = self._slot_of(engine)
        slot.replaced_at = time.monotonic()
        slot.engine = None
        return self.open(slot.index)

    def is_settled(self, engine: Engine) -> bool:
        """Say whether the place of the engine had no replacement lately."""
        pause = self._settings.replacement_pause_seconds
        return time.monotonic() - self._slot_of(engine).replaced_at >= pause

    def vacate(self, engine: Engine) -> None:
        """Leave the place empty; the engine ends on purpose."""
        slot = self._slot_of(engine)
        if slot.engine is engine:
            slot.engine = None

    def engine_died(self, engine: Engine, *, had_suspect: bool) -> None:
        """Count an unwanted death, and bring the place back if sessions will return to it."""
        slot = self._slot_of(engine)
        now = time.monotonic()
        lived = now - engine.spawned_at if engine.spawned_at is not None else 0.0
        slot.wait_seconds = slot.deaths.add(now, lived_seconds=lived, had_suspect=had_suspect)
        slot.displaced |= {s.company_id for s in engine.sessions.values() if not s.stop_requested}
        if not had_suspect and slot.deaths.calls_for_care(now):
            slot.careful_until = now + self._settings.careful_max_seconds
            _log.warning("engine_restart_careful", engine=engine.name)
        if slot.engine is engine:
            slot.engine = None
            if slot.displaced:
                self.open(slot.index)

    def settled(self, company_id: str) -> None:
        """Note that a company's start was answered, or is not wanted any more."""
        for slot in self._slots.values():
            slot.displaced.discard(company_id)
            self._end_care(slot)

    def tick(self, now: float) -> None:
        for slot in self._slots.values():
            if slot.careful_until is not None and now >= slot.careful_until:
                slot.displaced.clear()
            self._end_care(slot)

    def _end_care(self, slot: Slot) -> None:
        if slot.careful_until is not None and not slot.displaced:
            slot.careful_until = None
            if slot.engine is not None and slot.engine.careful:
                slot.engine.set_careful(False)

    def _slot_of(self, engine: Engine) -> Slot:
        assert engine.slot is not None  # noqa: S101 - a shard engine has a place
        return self._slots[engine.slot]

    def _next_engine(self, slot: Slot) -> Engine:
        slot.incarnation += 1
        return Engine(
            name=f"engine-{slot.index}.{slot.incarnation}",
            role=EngineRole.SHARD,
            slot=slot.index,
            settings=self._settings,
            careful=slot.careful_until is not None,
            deaths=slot.deaths.total,
        )

    def _new_record(self) -> DeathRecord:
        return DeathRecord(
            careful_window_seconds=self._settings.careful_window_seconds,
            backoff_max_seconds=self._settings.respawn_max_seconds,
            reset_seconds=self._settings.respawn_reset_seconds,
            rng=self._rng,
        )

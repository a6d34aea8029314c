"""Replacing a shard engine by a fresh one while its sessions stay up."""

from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from crm_whatsapp.domain.engines import EngineRole
from crm_whatsapp.engine.engine_unit import Engine
from crm_whatsapp.engine.session_table import Session, SessionTable, Stage
from crm_whatsapp.engine.settings import EngineSettings
from crm_whatsapp.engine.shard_slots import ShardSlots

_log = structlog.get_logger(__name__)

_END_SECONDS = 2.0


@dataclass(slots=True, kw_only=True, eq=False)
class Move:
    """One retiring engine and the fresh one.

    moving: company -> when it was asked to move, monotonic.
    """

    old: Engine
    fresh: Engine
    began_at: float | None = None
    moving: dict[str, float] = field(default_factory=dict)


class Replacement:
    """Decides which engines retire and paces the moves; control thread only."""

    def __init__(
        self,
        settings: EngineSettings,
        slots: ShardSlots,
        table: SessionTable,
        request_handover: Callable[[Session], None],
    ) -> None:
        self._settings = settings
        self._slots = slots
        self._table = table
        self._request_handover = request_handover
        self._moves: list[Move] = []

    def tick(self, engines: list[Engine], now: float) -> None:
        for engine in engines:
            if engine.ready and not engine.ending and not engine.retiring:
                self._consider(engine)
        for move in self._moves:
            self._advance(move, now)
        self._moves = [move for move in self._moves if not move.old.ending]

    def engine_ended(self, engine: Engine) -> None:
        self._moves = [move for move in self._moves if move.old is not engine]

    def _consider(self, engine: Engine) -> None:
        if engine.abandoned and engine.holds_only_abandoned:
            self._end(engine, "nothing but abandoned clients")
            return
        if engine.role is not EngineRole.SHARD:
            return
        reason = self._reason(engine)
        if reason is not None:
            self._retire(engine, reason)

    def _reason(self, engine: Engine) -> str | None:
        settings, pulse = self._settings, engine.pulse
        if max(engine.abandoned.values(), default=0.0) >= settings.abandoned_grace_seconds:
            return "an abandoned client"
        # Soon after a replacement it takes twice as much, so that growth causes no storm.
        factor = 1 if self._slots.is_settled(engine) else 2
        if pulse.starts > factor * settings.max_starts:
            return f"{pulse.starts} starts"
        if pulse.open_descriptors > factor * settings.max_descriptors:
            return f"{pulse.open_descriptors} descriptors"
        if pulse.hanging_uploads > factor * settings.max_hanging_uploads:
            return f"{pulse.hanging_uploads} uploads that hang"
        if pulse.memory_mb > factor * settings.max_memory_mb:
            return f"{pulse.memory_mb:.0f} MB"
        return None

    def _retire(self, engine: Engine, reason: str) -> None:
        _log.info("engine_retires", engine=engine.name, reason=reason)
        engine.retiring = True
        if not engine.sessions:
            self._end(engine, "empty")
            return
        self._moves.append(Move(old=engine, fresh=self._slots.replace(engine)))

    def _end(self, engine: Engine, reason: str) -> None:
        _log.info("engine_ends", engine=engine.name, reason=reason)
        if engine.role is EngineRole.SHARD:
            self._slots.vacate(engine)
        if engine.sessions:
            engine.kill()
        else:
            engine.shut_down(_END_SECONDS)

    def _advance(self, move: Move, now: float) -> None:
        if not move.fresh.ready:
            if move.fresh.ending:  # it died as well: its place has another one by now
                move.fresh = self._slots.open(move.fresh.slot or 0)
            return
        if move.began_at is None:
            move.began_at = now
        old = move.old
        over = now - move.began_at >= self._settings.handover_limit_seconds
        if over or not [key for key in old.sessions if key not in old.abandoned]:
            self._end(old, "replaced")
            return
        self._request_moves(move, now)

    def _request_moves(self, move: Move, now: float) -> None:
        step = self._settings.handover_step_seconds
        for company_id, asked_at in list(move.moving.items()):
            if now - asked_at >= step or self._is_elsewhere(company_id, move.old):
                del move.moving[company_id]
        for session in list(move.old.sessions.values()):
            if len(move.moving) >= self._settings.handover_at_once:
                return
            if (
                session.stage is Stage.SETTLED
                and session.handover_requested_at is None
                and not session.stop_requested
            ):
                session.handover_requested_at = now
                move.moving[session.company_id] = now
                self._request_handover(session)

    def _is_elsewhere(self, company_id: str, old: Engine) -> bool:
        sessions = self._table.of_company(company_id)
        if not sessions:
            return False
        return any(s.engine is not old and s.connected_at is not None for s in sessions)

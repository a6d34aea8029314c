"""The decisions of the supervisor; everything here runs on its control thread."""

import os
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import structlog

from crm_whatsapp.domain.engines import EngineEventSink, EngineRole, PairOrder, StartOrder
from crm_whatsapp.domain.events import (
    ClientStopped,
    EngineDied,
    EngineEvent,
    HandoverRequested,
    PairingFailed,
)
from crm_whatsapp.engine.control_loop import ControlLoop
from crm_whatsapp.engine.death_record import LastWords, describe_death
from crm_whatsapp.engine.engine_calls import EngineCalls
from crm_whatsapp.engine.engine_environment import engine_environment
from crm_whatsapp.engine.engine_reports import EngineReports
from crm_whatsapp.engine.engine_unit import Engine
from crm_whatsapp.engine.engine_watch import EngineWatch
from crm_whatsapp.engine.frames import Order, taken_frame
from crm_whatsapp.engine.isolation import IsolationWard
from crm_whatsapp.engine.placement import engines_needed
from crm_whatsapp.engine.replacement import Replacement
from crm_whatsapp.engine.session_calls import SessionCalls
from crm_whatsapp.engine.session_table import Session, SessionTable, Stage
from crm_whatsapp.engine.settings import EngineSettings
from crm_whatsapp.engine.shard_slots import ShardSlots
from crm_whatsapp.engine.store_journal import prepare_empty_store, use_write_ahead_log

_log = structlog.get_logger(__name__)

_TICK_SECONDS = 0.25
_UNPAIRED_STOP_SECONDS = 2.0


class Fleet:
    """The engines of this pod and the sessions in them."""

    def __init__(
        self, settings: EngineSettings, sink: EngineEventSink, loop: ControlLoop, rng: random.Random
    ) -> None:
        self.engines: list[Engine] = []
        self.deaths: Counter[EngineRole] = Counter()
        self._settings = settings
        self._sink = sink
        self._loop = loop
        self._table = SessionTable()
        self._engine_calls = EngineCalls(loop)
        self.calls = SessionCalls(settings, self._table, self._engine_calls, self.emit)
        self._reports = EngineReports(self._table, self._engine_calls, self)
        self._slots = ShardSlots(settings, rng, self._open)
        self._ward = IsolationWard(settings, self._open, self._give, self._request_handover)
        self._replacement = Replacement(settings, self._slots, self._table, self._request_handover)
        self._watch = EngineWatch(settings, self._slots, time.monotonic())
        self._pairings = 0
        self._closing = False
        self._unstopped: set[str] = set()
        self._all_ended: Callable[[], None] | None = None
        loop.call_in(_TICK_SECONDS, self._tick)

    # --- orders -------------------------------------------------------------------------------

    def start(self, order: StartOrder | PairOrder) -> None:
        """Start or pair; an older client of the company is stopped first and waited for."""
        session = Session(order=order)
        if self._closing:
            self.emit(session.stopped_event())
            return
        if self._table.find(*session.key) is not None:
            _log.error("engine_order_repeated", company_id=order.company_id)
            return
        older = self._table.of_company(order.company_id)
        self._table.add(session)
        for other in older:
            if other.stage is Stage.PARKED:  # never started, and not wanted any more
                self._table.remove(other)
                self.emit(other.stopped_event())
            elif not other.stop_requested and not other.closing:
                self.stop(*other.key)
        if self._table.find(*session.key) is session and session.engine is None:
            self._place_or_park(session)

    def prewarm(self, sessions: int) -> None:
        capacity = self._settings.sessions_per_engine
        if not self._closing:
            for index in range(engines_needed(sessions, capacity=capacity)):
                self._slots.open(index)

    def stop(self, company_id: str, generation: int) -> None:
        session = self._table.find(company_id, generation)
        if session is None:
            self.emit(ClientStopped(company_id=company_id, generation=generation))
            return
        if session.stop_requested:
            return
        session.stop_requested = True
        self._slots.settled(company_id)
        engine = session.engine
        if engine is None or engine.process is None:
            self._ward.forget(session)
            self._gone(session, session.stopped_event())
            return
        if engine.role is EngineRole.PAIRING:
            session.final = session.final or session.stopped_event()
            if session.closing or not engine.ready:
                engine.kill()
                return
            connected = session.connected_at is not None
            limit = self._settings.slow_stop_seconds if connected else _UNPAIRED_STOP_SECONDS
            self._loop.call_in(limit, engine.kill)
        engine.send({"type": Order.STOP, "company_id": company_id, "generation": generation})

    def taken(self, company_id: str, generation: int) -> None:
        session = self._table.find(company_id, generation)
        if session is not None and session.engine is not None:
            session.engine.send(taken_frame(company_id, generation))

    # --- the end of it all --------------------------------------------------------------------

    def close(self, timeout_seconds: float, all_ended: Callable[[], None]) -> None:
        """Stop everything; `all_ended` is called when no process is left."""
        self._closing = True
        self._all_ended = all_ended
        for session in self._table.all():
            if session.engine is None or session.engine.process is None:
                self._ward.forget(session)
                self._gone(session, session.stopped_event())
            else:
                session.stop_requested = True
        for engine in list(self.engines):
            if engine.process is None:
                self.engines.remove(engine)
            engine.shut_down(timeout_seconds)
        self._check_all_ended()

    def kill_all(self) -> None:
        for engine in self.engines:
            engine.kill()

    def unstopped(self) -> list[str]:
        """Return the companies whose client did not say that it stopped."""
        return sorted(self._unstopped)

    def _check_all_ended(self) -> None:
        if self._closing and not self.engines and self._all_ended is not None:
            self._all_ended()

    # --- placing ------------------------------------------------------------------------------

    def _place_or_park(self, session: Session) -> None:
        if len(self._table.of_company(session.company_id)) > 1:
            session.stage = Stage.PARKED
            return
        order = session.order
        if isinstance(order, PairOrder):
            self._open_pairing(session)
        elif order.isolated:
            self._ward.admit(session)
        else:
            self._give(session, self._slots.place(session))

    def _give(self, session: Session, engine: Engine) -> None:
        session.stage = Stage.ORDERED
        use_write_ahead_log(session.order.store_path, company_id=session.company_id)
        engine.take(session)

    def _open_pairing(self, session: Session) -> None:
        running = sum(engine.role is EngineRole.PAIRING for engine in self.engines)
        if running >= self._settings.pairing_engines_max:
            detail = f"{running} companies are being linked right now. Try again in a minute."
            refused = PairingFailed(
                company_id=session.company_id, generation=session.generation, detail=detail
            )
            self._gone(session, refused)
            return
        self._pairings += 1
        engine = Engine(
            name=f"pairing-{self._pairings}",
            role=EngineRole.PAIRING,
            slot=None,
            settings=self._settings,
        )
        prepare_empty_store(session.order.store_path, company_id=session.company_id)
        session.stage = Stage.ORDERED
        engine.take(session)
        self._open(engine, 0.0)

    def _open(self, engine: Engine, wait_seconds: float) -> None:
        self.engines.append(engine)
        engine.spawn_due_at = time.monotonic() + wait_seconds
        if wait_seconds > 0:
            _log.warning("engine_respawn_waits", engine=engine.name, seconds=round(wait_seconds, 1))
            self._loop.call_in(wait_seconds, lambda: self._spawn(engine))
        else:
            self._spawn(engine)

    def _spawn(self, engine: Engine) -> None:
        if self._closing or engine not in self.engines:
            return
        root = self._settings.package_root or Path(__file__).resolve().parents[2]
        environment = engine_environment(
            os.environ, package_root=root, extra=self._settings.environment
        )
        try:
            engine.spawn(
                environment,
                on_frame=lambda e, frame: self._loop.post(lambda: self._reports.take(e, frame)),
                on_end=lambda e, code: self._loop.post(lambda: self._ended(e, code)),
            )
        except OSError as exc:
            engine.unusable = f"The engine process could not be started: {exc}"
            self._loop.post(lambda: self._ended(engine, None))

    # --- how sessions and engines end ---------------------------------------------------------

    def login_settled(self, session: Session) -> None:
        """See Audience."""
        self._slots.settled(session.company_id)

    def client_gone(self, session: Session, event: EngineEvent) -> None:
        """See Audience."""
        self._slots.settled(session.company_id)
        self._gone(session, session.stopped_event() if session.stop_requested else event)

    def _gone(self, session: Session, event: EngineEvent | None) -> None:
        """Forget a session, say so, and let the next one of its company go."""
        self._table.remove(session)
        if session.engine is not None:
            session.engine.drop(session)
        if event is not None:
            self.emit(event)
        if self._closing:
            return
        for waiting in self._table.of_company(session.company_id):
            if waiting.stage is Stage.PARKED:
                self._place_or_park(waiting)
        self._ward.advance()

    def _ended(self, engine: Engine, return_code: int | None) -> None:
        """The process has ended: answer for everything it held."""
        if engine not in self.engines:
            return
        self.engines.remove(engine)
        wanted = engine.ending
        engine.ready, engine.ending = False, True
        words = engine.process.last_words if engine.process else LastWords()
        detail = engine.unusable or describe_death(return_code, words.cause)
        suspects = set() if wanted else engine.suspects()
        if not wanted:
            self.deaths[engine.role] += 1
            _log.error(
                "engine_died",
                engine=engine.name,
                detail=detail,
                sessions=len(engine.sessions),
                suspects=sorted(company_id for company_id, _ in suspects),
                trace=words.lines,
            )
        self._engine_calls.engine_ended(engine)
        self._ward.engine_ended(engine)
        self._replacement.engine_ended(engine)
        if engine.role is EngineRole.SHARD:
            if wanted:
                self._slots.vacate(engine)
            elif not self._closing:
                self._slots.engine_died(engine, had_suspect=bool(suspects))
        for session in list(engine.sessions.values()):
            self._gone(session, self._last_word(session, session.key in suspects, detail))
        if not self._closing:
            self._ward.advance()
        self._check_all_ended()

    def _last_word(self, session: Session, suspect: bool, detail: str) -> EngineEvent | None:
        if self._closing:
            self._note_unstopped(session)
        if session.final is not None:
            return session.final
        if session.closing:
            return None
        if session.stop_requested:
            return session.stopped_event()
        return EngineDied(
            company_id=session.company_id,
            generation=session.generation,
            suspect=suspect,
            detail=detail,
        )

    def _note_unstopped(self, session: Session) -> None:
        paired = isinstance(session.order, StartOrder) or session.connected_at is not None
        if paired and session.final is None:
            self._unstopped.add(session.company_id)

    # --- time and events ----------------------------------------------------------------------

    def _tick(self) -> None:
        now = time.monotonic()
        if self._closing:
            return
        self._loop.call_in(_TICK_SECONDS, self._tick)
        self._watch.tick(list(self.engines), now, _TICK_SECONDS)
        self._replacement.tick(list(self.engines), now)
        self._ward.tick(now)
        self._slots.tick(now)

    def _request_handover(self, session: Session) -> None:
        self.emit(HandoverRequested(company_id=session.company_id, generation=session.generation))

    def emit(self, event: EngineEvent) -> None:
        """Hand an event to the service."""
        try:
            self._sink(event)
        except Exception:  # noqa: BLE001 - one bad receiver must not end the engines
            _log.exception("engine_event_lost", company_id=event.company_id)

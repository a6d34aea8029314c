"""The decisions of the supervisor; everything here runs on its control thread."""

import os
import random
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import structlog

from crm_whatsapp.domain import events
from crm_whatsapp.domain.engines import (
    EngineEventSink,
    EngineRole,
    PairOrder,
    SentMessage,
    StartOrder,
)
from crm_whatsapp.domain.errors import EngineUnavailable, SessionNotConnected
from crm_whatsapp.engine.call_answers import finish_send, logout_event, probe_event
from crm_whatsapp.engine.control_loop import ControlLoop
from crm_whatsapp.engine.death_record import describe_death
from crm_whatsapp.engine.engine_calls import CallEnd, EngineCalls
from crm_whatsapp.engine.engine_environment import engine_environment
from crm_whatsapp.engine.engine_unit import Engine, Pulse
from crm_whatsapp.engine.event_translation import domain_event
from crm_whatsapp.engine.frames import Frame, FrameError, Order, Report, get_int, get_text
from crm_whatsapp.engine.isolation import IsolationWard
from crm_whatsapp.engine.login import LOGIN_SETTLED
from crm_whatsapp.engine.placement import engines_needed
from crm_whatsapp.engine.replacement import Replacement
from crm_whatsapp.engine.session_table import Key, Session, SessionTable, Stage
from crm_whatsapp.engine.settings import EngineSettings
from crm_whatsapp.engine.shard_slots import ShardSlots
from crm_whatsapp.engine.store_journal import prepare_empty_store, use_write_ahead_log

_log = structlog.get_logger(__name__)

_TICK_SECONDS = 0.25
_PAIRING_STOP_SECONDS = 2.0
_END_OF_PAIRING = ("PairingFailed", "PairingExpired")


class Fleet:
    """The engines of this pod and the sessions in them."""

    def __init__(
        self, settings: EngineSettings, sink: EngineEventSink, loop: ControlLoop, rng: random.Random
    ) -> None:
        self.engines: list[Engine] = []
        self._settings = settings
        self._sink = sink
        self._loop = loop
        self._table = SessionTable()
        self._calls = EngineCalls(loop)
        self._slots = ShardSlots(settings, rng, self._open)
        self._ward = IsolationWard(settings, self._open, self._give, self._request_handover)
        self._replacement = Replacement(settings, self._slots, self._table, self._request_handover)
        self._pairings = 0
        self._ticked_at = time.monotonic()
        self._closing = False
        self._unstopped: set[str] = set()
        self._all_ended: Callable[[], None] | None = None
        loop.call_in(_TICK_SECONDS, self._tick)

    # --- orders -------------------------------------------------------------------------------

    def start(self, order: StartOrder | PairOrder) -> None:
        session = Session(order=order)
        if self._closing:
            self._emit(session.stopped_event())
            return
        older = self._table.of_company(order.company_id)
        self._table.add(session)
        for other in older:
            if other.stage is Stage.PARKED:  # never started, and not wanted any more
                self._table.remove(other)
                self._emit(other.stopped_event())
            elif not other.stop_requested and not other.closing:
                self.stop(*other.key)
        if len(self._table.of_company(order.company_id)) > 1:
            session.stage = Stage.PARKED
            return
        self._place(session)

    def prewarm(self, sessions: int) -> None:
        capacity = self._settings.sessions_per_engine
        if not self._closing:
            for index in range(engines_needed(sessions, capacity=capacity)):
                self._slots.open(index)

    def stop(self, company_id: str, generation: int) -> None:
        session = self._table.find(company_id, generation)
        if session is None:
            self._emit(events.ClientStopped(company_id=company_id, generation=generation))
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
            self._loop.call_in(_PAIRING_STOP_SECONDS, engine.kill)
        engine.send({"type": Order.STOP, "company_id": company_id, "generation": generation})

    # --- calls --------------------------------------------------------------------------------

    def probe(self, company_id: str, generation: int) -> None:
        seconds = self._settings.probe_seconds
        self._call(
            (company_id, generation),
            Order.PROBE,
            seconds,
            lambda end: self._emit(probe_event(company_id, generation, end)),
        )

    def logout(self, company_id: str, generation: int) -> None:
        seconds = self._settings.logout_seconds
        self._call(
            (company_id, generation),
            Order.LOGOUT,
            seconds,
            lambda end: self._emit(logout_event(company_id, generation, end)),
        )

    def send_text(
        self, key: Key, to_jid: str, text: str, seconds: float, future: Future[SentMessage]
    ) -> None:
        session = self._table.find(*key)
        if session is None or session.connected_at is None:
            future.set_exception(SessionNotConnected())
            return
        if session.engine is None or not session.engine.ready or session.engine.ending:
            future.set_exception(EngineUnavailable())
            return

        def done(end: CallEnd) -> None:
            dead = finish_send(future, end)
            if dead is not None:
                company_id, generation = key
                self._emit(
                    events.SendShowedDeadSession(
                        company_id=company_id, generation=generation, detail=dead
                    )
                )

        self._calls.make(
            session,
            Order.SEND,
            engine_seconds=seconds,
            limit_seconds=seconds,
            done=done,
            to_jid=to_jid,
            text=text,
        )

    def _call(
        self, key: Key, order: Order, seconds: float, done: Callable[[CallEnd], None]
    ) -> None:
        session = self._table.find(*key)
        if session is None or session.engine is None or not session.engine.ready:
            done(CallEnd(fields=None, detail="The client is not running."))
            return
        self._calls.make(
            session,
            order,
            engine_seconds=seconds,
            limit_seconds=seconds + self._settings.call_margin_seconds,
            done=done,
        )

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

    def _place(self, session: Session) -> None:
        order = session.order
        if isinstance(order, PairOrder):
            self._open_pairing(session)
        elif order.isolated:
            self._ward.admit(session)
        else:
            self._give(session, self._slots.place(session))

    def _give(self, session: Session, engine: Engine) -> None:
        session.stage = Stage.ORDERED
        if isinstance(session.order, StartOrder):
            use_write_ahead_log(session.order.store_path, company_id=session.company_id)
        engine.take(session)

    def _open_pairing(self, session: Session) -> None:
        running = sum(engine.role is EngineRole.PAIRING for engine in self.engines)
        if running >= self._settings.pairing_engines_max:
            self._table.remove(session)
            self._emit(
                events.PairingFailed(
                    company_id=session.company_id,
                    generation=session.generation,
                    detail=f"{running} companies are being linked now. Try again in a minute.",
                )
            )
            return
        self._pairings += 1
        engine = Engine(
            name=f"pairing-{self._pairings}",
            role=EngineRole.PAIRING,
            slot=None,
            settings=self._settings,
        )
        prepare_empty_store(session.order.store_path, company_id=session.company_id)
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
                on_frame=lambda e, frame: self._loop.post(lambda: self._heard(e, frame)),
                on_end=lambda e, code: self._loop.post(lambda: self._ended(e, code)),
            )
        except OSError as exc:
            _log.error("engine_spawn_failed", engine=engine.name, error=str(exc))
            engine.unusable = f"The engine process could not be started: {exc}"
            self._loop.post(lambda: self._ended(engine, None))

    # --- what engines say ---------------------------------------------------------------------

    def _heard(self, engine: Engine, frame: Frame) -> None:
        engine.heard_at = time.monotonic()
        handlers: dict[str, Callable[[Engine, Frame], None]] = {
            Report.HELLO: self._heard_hello,
            Report.UNUSABLE: self._heard_unusable,
            Report.STARTING: self._heard_starting,
            Report.EVENT: self._heard_event,
            Report.ENDED: self._heard_gone,
            Report.STOPPED: self._heard_gone,
            Report.CALLED: lambda _, answer: self._calls.answered(answer),
            Report.HEARTBEAT: self._heard_heartbeat,
        }
        handler = handlers.get(frame["type"])
        try:
            if handler is None:
                raise FrameError(f"unknown frame {frame['type']!r}")
            handler(engine, frame)
        except FrameError as exc:
            _log.error("engine_frame_refused", engine=engine.name, error=str(exc))

    def _heard_hello(self, engine: Engine, frame: Frame) -> None:
        engine.ready = True
        _log.info(
            "engine_ready",
            engine=engine.name,
            pid=frame.get("pid"),
            neonize=frame.get("neonize"),
            seconds=round(time.monotonic() - (engine.spawned_at or 0.0), 2),
        )

    def _heard_unusable(self, engine: Engine, frame: Frame) -> None:
        engine.unusable = get_text(frame, "detail")
        _log.error("engine_unusable", engine=engine.name, error=engine.unusable)

    def _heard_starting(self, engine: Engine, frame: Frame) -> None:
        session = self._session_of(engine, frame)
        if session is not None and session.stage is Stage.ORDERED:
            session.stage = Stage.STARTING

    def _heard_event(self, engine: Engine, frame: Frame) -> None:
        event = domain_event(frame)
        session = self._session_of(engine, frame)
        if session is None or session.closing:
            return
        name = type(event).__name__
        if name in LOGIN_SETTLED:
            session.stage = Stage.SETTLED
            self._slots.settled(session.company_id)
        if isinstance(event, events.ClientConnected):
            session.connected_at = session.connected_at or time.monotonic()
        if name in _END_OF_PAIRING and engine.role is EngineRole.PAIRING:
            session.closing = True
            engine.kill()
        self._emit(event)

    def _heard_gone(self, engine: Engine, frame: Frame) -> None:
        event = domain_event(frame)
        session = self._session_of(engine, frame)
        if session is None:
            return
        if engine.role is EngineRole.PAIRING:
            # Its lock and its store are free only when the process has ended.
            session.final = session.final or event
            engine.kill()
            return
        self._slots.settled(session.company_id)
        self._gone(session, session.stopped_event() if session.stop_requested else event)

    def _heard_heartbeat(self, engine: Engine, frame: Frame) -> None:
        engine.pulse = Pulse.from_frame(frame)
        abandoned = frame.get("abandoned")
        entries = abandoned if isinstance(abandoned, list) else []
        engine.abandoned = {
            key: float(entry["seconds"])
            for entry in entries
            if (key := (entry["company_id"], entry["generation"])) in engine.sessions
        }

    def _session_of(self, engine: Engine, frame: Frame) -> Session | None:
        session = self._table.find(get_text(frame, "company_id"), get_int(frame, "generation"))
        return session if session is not None and session.engine is engine else None

    # --- how sessions and engines end ---------------------------------------------------------

    def _gone(self, session: Session, event: events.EngineEvent | None) -> None:
        """Forget a session, say so, and let the next one of its company go."""
        self._table.remove(session)
        if session.engine is not None:
            session.engine.drop(session)
        if event is not None:
            self._emit(event)
        waiting = self._table.of_company(session.company_id)
        if len(waiting) == 1 and waiting[0].stage is Stage.PARKED and not self._closing:
            waiting[0].stage = Stage.ORDERED
            self._place(waiting[0])
        self._ward.advance()

    def _ended(self, engine: Engine, return_code: int | None) -> None:
        """The process has ended: answer for everything it held."""
        if engine not in self.engines:
            return
        self.engines.remove(engine)
        wanted = engine.ending
        engine.ready, engine.ending = False, True
        lines = engine.process.last_lines if engine.process else ()
        detail = engine.unusable or describe_death(return_code, lines)
        suspects = set() if wanted else engine.suspects()
        if not wanted:
            _log.error(
                "engine_died",
                engine=engine.name,
                detail=detail,
                sessions=len(engine.sessions),
                suspects=sorted(company_id for company_id, _ in suspects),
            )
        self._calls.engine_ended(engine)
        self._ward.engine_ended(engine)
        self._replacement.engine_ended(engine)
        held = list(engine.sessions.values())
        if engine.role is EngineRole.SHARD:
            if wanted:
                self._slots.vacate(engine)
            elif not self._closing:
                self._slots.engine_died(engine, had_suspect=bool(suspects))
        for session in held:
            self._gone(session, self._last_word(session, session.key in suspects, detail))
        self._ward.advance()
        self._check_all_ended()

    def _last_word(self, session: Session, suspect: bool, detail: str) -> events.EngineEvent | None:
        if self._closing:
            self._note_unstopped(session)
        if session.final is not None:
            return session.final
        if session.closing:
            return None
        if session.stop_requested:
            return session.stopped_event()
        return events.EngineDied(
            company_id=session.company_id,
            generation=session.generation,
            suspect=suspect,
            detail=detail,
        )

    def _note_unstopped(self, session: Session) -> None:
        paired = isinstance(session.order, StartOrder) or session.connected_at is not None
        if paired and session.final is None:
            self._unstopped.add(session.company_id)

    # --- time ---------------------------------------------------------------------------------

    def _tick(self) -> None:
        now = time.monotonic()
        slept, self._ticked_at = now - self._ticked_at, now
        if not self._closing:
            self._loop.call_in(_TICK_SECONDS, self._tick)
        for engine in list(self.engines):
            if slept > 4 * _TICK_SECONDS:  # this process stood still itself: hear them first
                engine.heard_at = max(engine.heard_at, now - self._settings.heartbeat_seconds)
            self._check_alive(engine, now)
        if self._closing:
            return
        self._replacement.tick(list(self.engines), now)
        self._ward.tick(now)
        self._slots.tick(now)

    def _check_alive(self, engine: Engine, now: float) -> None:
        if engine.process is None:
            return
        settings = self._settings
        limit = settings.heartbeat_loss_seconds if engine.ready else settings.hello_seconds
        if now - engine.heard_at > limit:
            _log.error("engine_silent", engine=engine.name, seconds=round(now - engine.heard_at, 1))
            engine.process.kill()
        elif (
            engine.role is not EngineRole.PAIRING
            and engine.ready
            and not engine.ending
            and not engine.retiring
            and engine.empty_since is not None
            and now - engine.empty_since >= settings.idle_engine_seconds
        ):
            if engine.role is EngineRole.SHARD:
                self._slots.vacate(engine)
            engine.shut_down(_PAIRING_STOP_SECONDS)

    def _request_handover(self, session: Session) -> None:
        self._emit(
            events.HandoverRequested(company_id=session.company_id, generation=session.generation)
        )

    def _emit(self, event: events.EngineEvent) -> None:
        try:
            self._sink(event)
        except Exception:  # noqa: BLE001 - one bad receiver must not end the engines
            _log.exception("engine_event_lost", company_id=event.company_id)

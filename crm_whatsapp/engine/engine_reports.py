"""What engines report, applied to what the supervisor knows; control thread only."""

import time
from collections.abc import Callable, Mapping
from typing import Protocol

import structlog

from crm_whatsapp.domain.engines import EngineRole
from crm_whatsapp.domain.events import ClientConnected, ClientStarting, EngineEvent
from crm_whatsapp.engine.engine_calls import EngineCalls
from crm_whatsapp.engine.engine_unit import Engine, Pulse
from crm_whatsapp.engine.event_translation import domain_event
from crm_whatsapp.engine.frames import Frame, FrameError, Report, get_int, get_text, taken_frame
from crm_whatsapp.engine.login import LOGIN_SETTLED
from crm_whatsapp.engine.session_table import Session, SessionTable, Stage

_log = structlog.get_logger(__name__)

_END_OF_PAIRING = ("PairingFailed", "PairingExpired")


class Audience(Protocol):
    """Who acts on reports."""

    def emit(self, event: EngineEvent) -> None: ...

    def login_settled(self, session: Session) -> None: ...

    def client_gone(self, session: Session, event: EngineEvent) -> None: ...


class EngineReports:
    """Reads frames; a frame that is not understood is logged and dropped."""

    def __init__(self, table: SessionTable, calls: EngineCalls, audience: Audience) -> None:
        self._table = table
        self._calls = calls
        self._audience = audience
        self._handlers: Mapping[str, Callable[[Engine, Frame], None]] = {
            Report.HELLO: self._hello,
            Report.UNUSABLE: self._unusable,
            Report.STARTING: self._starting,
            Report.EVENT: self._event,
            Report.INBOUND: self._inbound,
            Report.ENDED: self._gone,
            Report.STOPPED: self._gone,
            Report.CALLED: lambda _, frame: self._calls.answered(frame),
            Report.HEARTBEAT: self._heartbeat,
        }

    def take(self, engine: Engine, frame: Frame) -> None:
        """Apply one frame of one engine."""
        engine.heard_at = time.monotonic()
        try:
            handler = self._handlers.get(frame["type"])
            if handler is None:
                raise FrameError(f"unknown frame {frame['type']!r}")
            handler(engine, frame)
        except (FrameError, KeyError, TypeError, ValueError, ArithmeticError) as exc:
            _log.error("engine_frame_refused", engine=engine.name, error=str(exc))

    def _hello(self, engine: Engine, frame: Frame) -> None:
        engine.ready = True
        modules = frame.get("modules")
        engine.modules = frozenset(modules) if isinstance(modules, list) else frozenset()
        _log.info(
            "engine_ready",
            engine=engine.name,
            pid=frame.get("pid"),
            neonize=frame.get("neonize"),
            seconds=round(time.monotonic() - (engine.spawned_at or 0.0), 2),
        )

    def _unusable(self, engine: Engine, frame: Frame) -> None:
        engine.unusable = get_text(frame, "detail")
        _log.error("engine_unusable", engine=engine.name, error=engine.unusable)

    def _starting(self, engine: Engine, frame: Frame) -> None:
        session = self._session_of(engine, frame)
        if session is not None and session.stage is Stage.ORDERED:
            session.stage = Stage.STARTING
            self._audience.emit(
                ClientStarting(company_id=session.company_id, generation=session.generation)
            )

    def _event(self, engine: Engine, frame: Frame) -> None:
        event = domain_event(frame)
        session = self._session_of(engine, frame)
        if session is None or session.closing:
            return
        name = type(event).__name__
        if name in LOGIN_SETTLED:
            session.stage = Stage.SETTLED
            session.settled_at = session.settled_at or time.monotonic()
            self._audience.login_settled(session)
        if isinstance(event, ClientConnected):
            session.connected_at = session.connected_at or time.monotonic()
        if name in _END_OF_PAIRING and engine.role is EngineRole.PAIRING:
            session.closing = True
            engine.kill()
        self._audience.emit(event)

    def _inbound(self, engine: Engine, frame: Frame) -> None:
        """Pass on a message or a receipt, also of a client that is just being stopped."""
        passed_on = False
        try:
            event = domain_event(frame)
            if self._session_of(engine, frame) is not None:
                self._audience.emit(event)
                passed_on = True
        finally:
            if not passed_on:  # nobody else will, and its client would wait for ever
                engine.send(
                    taken_frame(get_text(frame, "company_id"), get_int(frame, "generation"))
                )

    def _gone(self, engine: Engine, frame: Frame) -> None:
        event = domain_event(frame)
        session = self._session_of(engine, frame)
        if session is None:
            return
        if engine.role is EngineRole.PAIRING:
            # Its lock and its store are free only when the process has ended.
            session.final = session.final or event
            engine.kill()
            return
        self._audience.client_gone(session, event)

    def _heartbeat(self, engine: Engine, frame: Frame) -> None:
        engine.pulse = Pulse.from_frame(frame)
        engine.abandoned = {
            key: float(entry["seconds"])
            for entry in frame["abandoned"]
            if (key := (entry["company_id"], entry["generation"])) in engine.sessions
        }

    def _session_of(self, engine: Engine, frame: Frame) -> Session | None:
        session = self._table.find(get_text(frame, "company_id"), get_int(frame, "generation"))
        return session if session is not None and session.engine is engine else None

"""Suspects: sessions that may have ended an engine start again alone in one."""

import time
from collections import deque
from collections.abc import Callable

from crm_whatsapp.domain.engines import EngineRole
from crm_whatsapp.engine.engine_unit import Engine
from crm_whatsapp.engine.session_table import Session, Stage
from crm_whatsapp.engine.settings import EngineSettings

_ASK_AGAIN_SECONDS = 30.0
_STUCK_SECONDS = 10.0
_MORE_WHEN_STUCK = 3


class IsolationWard:
    """Keeps isolation engines, one session each, and a queue in front of them."""

    def __init__(
        self,
        settings: EngineSettings,
        open_engine: Callable[[Engine, float], None],
        give: Callable[[Session, Engine], None],
        request_handover: Callable[[Session], None],
    ) -> None:
        self._settings = settings
        self._open_engine = open_engine
        self._give = give
        self._request_handover = request_handover
        self._engines: list[Engine] = []
        self._queue: deque[Session] = deque()
        self._opened = 0

    def admit(self, session: Session) -> None:
        """Start the session alone, now or when an engine is free."""
        session.stage = Stage.QUEUED
        self._queue.append(session)
        self.advance()

    def forget(self, session: Session) -> None:
        """Take a session that was stopped out of the queue."""
        if session in self._queue:
            self._queue.remove(session)

    def engine_ended(self, engine: Engine) -> None:
        if engine in self._engines:
            self._engines.remove(engine)

    def advance(self) -> None:
        """Give free engines to waiting sessions."""
        while self._queue:
            engine = self._free_engine()
            if engine is None:
                return
            self._give(self._queue.popleft(), engine)

    def tick(self, now: float) -> None:
        """Let go of sessions that have proved themselves, and of the queue where it is stuck."""
        settings = self._settings
        proof = (
            settings.isolation_proof_queued_seconds
            if self._queue
            else settings.isolation_proof_seconds
        )
        for engine in self._engines:
            for session in list(engine.sessions.values()):
                connected = session.connected_at is not None and now - session.connected_at >= proof
                asked_at = session.handover_requested_at
                if connected and (asked_at is None or now - asked_at >= _ASK_AGAIN_SECONDS):
                    session.handover_requested_at = now
                    self._request_handover(session)
        self.advance()

    def _is_stuck(self, engine: Engine) -> bool:
        """Say whether its session got past its login but not to a connection, for a while.

        It may reconnect for hours; the suspects behind it need not wait for that.
        """
        now = time.monotonic()
        return all(
            session.settled_at is not None and now - session.settled_at >= _STUCK_SECONDS
            for session in engine.sessions.values()
        )

    def _free_engine(self) -> Engine | None:
        usable = [e for e in self._engines if not e.ending and not e.retiring]
        for engine in usable:
            if not engine.sessions:
                return engine
        limit = self._settings.isolation_engines_max
        blocking = sum(not self._is_stuck(engine) for engine in usable)
        if blocking >= limit or len(usable) >= limit + _MORE_WHEN_STUCK:
            return None
        self._opened += 1
        engine = Engine(
            name=f"isolation-{self._opened}",
            role=EngineRole.ISOLATION,
            slot=None,
            settings=self._settings,
        )
        engine.empty_since = time.monotonic()
        self._engines.append(engine)
        self._open_engine(engine, 0.0)
        return engine

"""Calls on sessions as the service orders them; control thread only."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from crm_whatsapp.domain.engines import SentMessage
from crm_whatsapp.domain.errors import EngineUnavailable, SessionNotConnected
from crm_whatsapp.domain.events import EngineEvent, SendShowedDeadSession
from crm_whatsapp.engine.call_answers import finish_send, logout_event, probe_event
from crm_whatsapp.engine.engine_calls import CallEnd, EngineCalls
from crm_whatsapp.engine.frames import Order
from crm_whatsapp.engine.media_frames import MediaOrder
from crm_whatsapp.engine.session_table import Key, SessionTable
from crm_whatsapp.engine.settings import EngineSettings


class SessionCalls:
    """Makes probes, logouts and sends, and turns their ends into events and results."""

    def __init__(
        self,
        settings: EngineSettings,
        table: SessionTable,
        calls: EngineCalls,
        emit: Callable[[EngineEvent], None],
    ) -> None:
        self._settings = settings
        self._table = table
        self._calls = calls
        self._emit = emit

    def probe(self, company_id: str, generation: int) -> None:
        self._call(
            (company_id, generation),
            Order.PROBE,
            self._settings.probe_seconds,
            lambda end: self._emit(probe_event(company_id, generation, end)),
        )

    def logout(self, company_id: str, generation: int) -> None:
        self._call(
            (company_id, generation),
            Order.LOGOUT,
            self._settings.logout_seconds,
            lambda end: self._emit(logout_event(company_id, generation, end)),
        )

    def send_text(
        self, key: Key, to_jid: str, text: str, seconds: float, future: Future[SentMessage]
    ) -> None:
        """Send; the future is done within `seconds`, also when the engine does not answer."""
        self._send(key, Order.SEND, seconds, future, {"to_jid": to_jid, "text": text})

    def send_media(self, key: Key, order: MediaOrder, future: Future[SentMessage]) -> None:
        """Upload and send; the future is done in time, also when the engine does not answer."""
        self._send(key, Order.SEND_MEDIA, order.total_seconds, future, order.fields())

    def _send(
        self,
        key: Key,
        order: Order,
        seconds: float,
        future: Future[SentMessage],
        fields: dict[str, Any],
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
                self._emit(SendShowedDeadSession(company_id=key[0], generation=key[1], detail=dead))

        self._calls.make(
            session,
            order,
            engine_seconds=seconds,
            limit_seconds=seconds,
            done=done,
            **fields,
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

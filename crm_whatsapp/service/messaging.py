"""Sending of messages through live sessions."""

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

from crm_whatsapp.domain.connection import ClientPhase, Connection, Reason, Status, UserAction
from crm_whatsapp.domain.engines import EngineFleet, SentMessage
from crm_whatsapp.domain.errors import (
    SendUnconfirmed,
    ServiceBusy,
    SessionNotConnected,
)
from crm_whatsapp.domain.events import SendShowedDeadSession
from crm_whatsapp.domain.jids import parse_recipient
from crm_whatsapp.service.session_manager import SessionManager

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SendLimits:
    """How long a send waits, in seconds, and how many may wait at once."""

    connect_wait_seconds: float = 5.0
    ack_wait_seconds: float = 10.0
    most_waiting: int = 8
    most_waiting_per_company: int = 4


class Messaging:
    """Sends text; a session that is not connected gets a moment to come back."""

    def __init__(self, *, manager: SessionManager, fleet: EngineFleet, limits: SendLimits) -> None:
        self._manager = manager
        self._fleet = fleet
        self._limits = limits
        self._places = threading.BoundedSemaphore(limits.most_waiting)
        self._lock = threading.Lock()
        self._per_company: Counter[str] = Counter()

    def send_text(self, company_id: str, *, to: str, text: str) -> SentMessage:
        """Send one text and wait for the server's ack.

        Args:
            to: an E.164 number or a jid.
        Raises:
            InvalidInput: `to` is neither.
            SessionNotConnected: not connected within connect_wait_seconds, or not any more.
            SendUnconfirmed: no ack within ack_wait_seconds; it may still arrive.
            SendRejected, EngineUnavailable: it was not sent.
            ServiceBusy: too many sends are waiting, or the session is changing its engine.
        """
        to_jid = parse_recipient(to)
        with self._place(company_id):
            connection = self.connected(company_id)
            future = self._fleet.send_text(
                connection.company_id,
                connection.generation,
                to_jid=to_jid,
                text=text,
                timeout_seconds=self.ack_wait_seconds,
            )
            return self.result_of(future, connection, self.ack_wait_seconds)

    @property
    def ack_wait_seconds(self) -> float:
        """How long a send waits for the server's ack."""
        return self._limits.ack_wait_seconds

    def result_of(
        self, future: Future[SentMessage], connection: Connection, seconds: float
    ) -> SentMessage:
        """Wait for a send that the fleet ends within so many seconds.

        Raises:
            What send_text raises once its session is connected.
        """
        try:
            return future.result(seconds + 2.0)
        except FutureTimeout as error:
            raise SendUnconfirmed from error
        except SessionNotConnected as error:
            self._notice_dead_session(connection)
            raise _not_connected(self._manager.find(connection.company_id) or connection) from error

    def _notice_dead_session(self, connection: Connection) -> None:
        """Have a client rebuilt that is connected here and not in its engine.

        Only this error tells that: a refusal, whatever its words, is an answer of WhatsApp.
        """
        log.warning("a send found no connected client", company_id=connection.company_id)
        event = SendShowedDeadSession(
            company_id=connection.company_id,
            generation=connection.generation,
            detail="the engine has no connected client",
        )
        self._manager.post(connection.company_id, event)

    def connected(self, company_id: str) -> Connection:
        """Return the connection as soon as it can send.

        Raises:
            SessionNotConnected: it is not connected, also after connect_wait_seconds.
            ServiceBusy: it is changing its engine.
        """
        current = self._manager.status(company_id)
        passing = current.status is Status.CONNECTING or current.is_connected
        known = self._manager.find(company_id) is not None
        if passing and known and not _can_send(current):
            self._manager.runtime(company_id).wait_until(
                _can_send, self._limits.connect_wait_seconds
            )
            current = self._manager.status(company_id)
        if _can_send(current):
            return current
        if current.is_connected:
            raise ServiceBusy("The session is moving to another engine; try again in a moment.")
        raise _not_connected(current)

    @contextmanager
    def _place(self, company_id: str) -> Iterator[None]:
        """Hold one of the few places for waiting sends, so that polls are never starved."""
        with self._lock:
            if self._per_company[company_id] >= self._limits.most_waiting_per_company:
                raise ServiceBusy("Too many messages of this company are waiting to be sent.")
            self._per_company[company_id] += 1
        try:
            if not self._places.acquire(timeout=1.0):
                raise ServiceBusy("Too many messages are waiting to be sent.")
            try:
                yield
            finally:
                self._places.release()
        finally:
            with self._lock:
                self._per_company[company_id] -= 1
                if not self._per_company[company_id]:
                    del self._per_company[company_id]


def _not_connected(connection: Connection) -> SessionNotConnected:
    lost = connection.is_connected  # so far; the event that says otherwise is under way
    state = "reconnecting" if lost else connection.status.value
    return SessionNotConnected(
        f"The session is {state}, not connected. Please reconnect the session.",
        status=Status.CONNECTING.value if lost else connection.status.value,
        reason=Reason.NETWORK_LOST.value if lost else connection.reason.value,
        expected=[Status.CONNECTED.value],
        user_action=UserAction.WAIT.value if lost else connection.user_action.value,
    )


def _can_send(connection: Connection) -> bool:
    return connection.is_connected and connection.client is ClientPhase.LIVE

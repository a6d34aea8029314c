"""One client inside an engine: from its order to the moment it is really gone."""

import logging
import threading
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from crm_whatsapp.engine.alarm import Alarm
from crm_whatsapp.engine.event_translation import (
    INBOUND_CODES,
    Fields,
    ended_fields,
    translate,
)
from crm_whatsapp.engine.inbound_flow import InboundFlow
from crm_whatsapp.engine.inbound_spool import FILE_NAME as SPOOL_NAME
from crm_whatsapp.engine.inbound_spool import InboundSpool
from crm_whatsapp.engine.inbound_translation import translate_inbound
from crm_whatsapp.engine.login import LOGIN_SETTLED
from crm_whatsapp.engine.session_lock import SessionLock
from crm_whatsapp.engine.start_gate import DialSlot, StartGate, Turn
from crm_whatsapp.engine.whatsapp_client import CallFailed, ClientFactory, WhatsAppClient

_log = logging.getLogger(__name__)


class Phase(StrEnum):
    """Where a client is."""

    WAITING = "waiting"  # for its lock or its turn; nothing was started
    DIALING = "dialing"  # connect() was called, no Device event yet: must not be stopped
    UNPAIRED = "unpaired"  # shows QR codes; connect() will not return before it is paired
    OPEN = "open"  # the socket is up
    RECONNECTING = "reconnecting"  # whatsmeow dials again, or waits to
    GONE = "gone"  # nothing is left


class Host(Protocol):
    """What a client needs of the engine around it."""

    gate: StartGate
    alarm: Alarm
    make_client: ClientFactory
    careful: bool
    slow_stop_seconds: float

    def report_event(self, client: "HostedClient", name: str, fields: Fields) -> None: ...

    def report_inbound(self, client: "HostedClient", name: str, fields: Fields) -> None:
        """A message or a receipt; answered by HostedClient.inbound_taken."""

    def report_gone(self, client: "HostedClient", fields: Fields | None) -> None:
        """The client is gone: as asked when fields is None, else by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOrder:
    """What to run."""

    company_id: str
    generation: int
    store_path: str
    lock: SessionLock
    proxy: str | None


class HostedClient:
    """Starts, listens to, and stops one client without ever breaking the start gate."""

    RECONNECT_STOP_SECONDS = 1.0
    LOGIN_SLOT_SECONDS = 20.0
    QUIET_SECONDS = 0.1
    DRAIN_SECONDS = 2.0

    def __init__(self, order: ClientOrder, host: Host) -> None:
        self.company_id = order.company_id
        self.generation = order.generation
        self.lock = order.lock
        self._host = host
        self._store_path = order.store_path
        self._proxy = order.proxy
        self._state = threading.Lock()
        self._phase = Phase.WAITING
        self._stop_requested_at: float | None = None
        self._stopping = False
        self._finished = False
        self._clearing = threading.Lock()
        self._cleared = False
        self._device: Fields = {}
        self._turn: Turn | None = None
        self._slot: DialSlot | None = None
        self._client: WhatsAppClient | None = None
        self._flow = InboundFlow(
            InboundSpool(Path(order.store_path).with_name(SPOOL_NAME)),
            lambda name, fields: host.report_inbound(self, name, fields),
        )

    # --- asked by the engine ------------------------------------------------------------------

    @property
    def phase(self) -> Phase:
        return self._phase

    @property
    def client(self) -> WhatsAppClient | None:
        """The client to call, only while a call can do no harm and has a chance."""
        return self._client if self._phase is Phase.OPEN and not self._stopping else None

    @property
    def is_stop_requested(self) -> bool:
        return self._stop_requested_at is not None

    def abandoned_seconds(self) -> float | None:
        """Return for how long the client has been asked to stop without a way to do it."""
        asked_at, phase = self._stop_requested_at, self._phase
        if asked_at is None or phase in (Phase.WAITING, Phase.GONE):
            return None
        age = time.monotonic() - asked_at
        allowed = {
            Phase.DIALING: 0.0,
            Phase.RECONNECTING: self.RECONNECT_STOP_SECONDS,
        }.get(phase, self._host.slow_stop_seconds)
        return age if age >= allowed else None

    def prepare(self, slot: DialSlot) -> bool:
        """Make the client; say False when it was stopped while it waited."""
        self._flow.recover()
        client = self._host.make_client(
            company_id=self.company_id,
            store_path=self._store_path,
            proxy=self._proxy,
            listener=self,
        )
        with self._state:
            if self._phase is not Phase.WAITING:
                return False
            self._client = client
            self._slot = slot
            self._phase = Phase.DIALING
            return True

    def dial(self, turn: Turn) -> None:
        """Connect on a thread of its own; `turn` is the write side of the gate."""
        self._turn = turn
        threading.Thread(target=self._run, name=f"client-{self.company_id}", daemon=True).start()

    def request_stop(self) -> None:
        """Stop when it can be done; twice is once."""
        with self._state:
            if self._stop_requested_at is not None:
                return
            self._stop_requested_at = time.monotonic()
            phase = self._phase
            if phase is Phase.WAITING:
                self._phase = Phase.GONE
        self._flow.open()
        if phase is Phase.WAITING:
            self._finish("")
        elif phase is not Phase.DIALING:
            self._stop_soon()

    def inbound_taken(self, count: int) -> None:
        """Let more messages and receipts through: so many have been told."""
        self._flow.taken(count)

    def fail_waiting(self, fields: Fields) -> None:
        """End a client that could not get its lock."""
        with self._state:
            if self._phase is not Phase.WAITING:
                return
            self._phase = Phase.GONE
            self._finished = True
        self.lock.release()
        self._host.report_gone(self, fields)

    # --- heard from Go --------------------------------------------------------------------------

    def device_known(self, device: Fields) -> None:
        self._device = device
        self._leave_dialing(self._phase_with_device())

    def event_arrived(self, code: int, message: Any) -> None:
        with self._flow.hearing():
            if code in INBOUND_CODES:
                self._inbound_arrived(code, message)
                return
            name, fields = translate(code, message, self._device)
            self._note(name)
            self._host.report_event(self, name, fields)

    def _inbound_arrived(self, code: int, message: Any) -> None:
        """Report messages and receipts, no faster than they are told outside."""
        for name, fields in translate_inbound(code, message):
            self._flow.put(name, fields)

    def qr_shown(self, text: str) -> None:
        """A saved session never shows a QR code: the device row is missing."""
        if self._leave_dialing(Phase.UNPAIRED):
            self._stop_soon()

    def login_status_changed(self, word: str) -> None:
        _log.debug("login status %s", word)

    # --- for PairingClient ----------------------------------------------------------------------

    def _phase_with_device(self) -> Phase:
        return Phase.OPEN

    def _gone_fields(self, error: str) -> Fields:
        if self._phase is Phase.UNPAIRED and not error:
            error = "The store holds no linked device."
        return ended_fields(error)

    def _leave_dialing(self, phase: Phase) -> bool:
        """Note that the dial is over; say whether it was not before."""
        if self._turn is not None:
            self._turn.release()
        if self._slot is not None and not self._host.careful:
            self._slot.release()
        elif self._slot is not None:
            self._host.alarm.ring_in(self.LOGIN_SLOT_SECONDS, self._slot.release)
        with self._state:
            was_dialing = self._phase is Phase.DIALING
            if self._phase not in (Phase.GONE, phase):
                self._phase = phase
            stop_now = was_dialing and self.is_stop_requested
        if stop_now:
            self._stop_soon()
        return was_dialing

    # --- inside ---------------------------------------------------------------------------------

    def _note(self, name: str) -> None:
        if name in LOGIN_SETTLED and self._slot is not None:
            self._slot.release()
        with self._state:
            if self._phase is Phase.GONE:
                return
            if name == "ClientConnected":
                self._phase = Phase.OPEN
            elif name in ("ClientDisconnected", "PairingSucceeded"):
                self._phase = Phase.RECONNECTING

    def _run(self) -> None:
        assert self._client is not None and self._turn is not None and self._slot is not None  # noqa: S101
        error = ""
        try:
            self._turn.begin()
            self._client.connect()
        except CallFailed as exc:
            error = str(exc)
        except Exception as exc:  # noqa: BLE001 - reported as the end of the client
            error = f"{type(exc).__name__}: {exc}"
        self._turn.release()
        self._slot.release()
        self._clear()
        self._finish(error)

    def _stop_soon(self) -> None:
        with self._state:
            if self._stopping:
                return
            self._stopping = True
        threading.Thread(target=self._stop, name=f"stop-{self.company_id}", daemon=True).start()

    def _stop(self) -> None:
        """Disconnect first, under the rules of a call; then forget it under the write side.

        Stop() would disconnect by itself and block for 5 s on a frozen link, or a minute behind
        a reconnect, before it writes the maps. After disconnect() there is no socket left and
        reconnects are cancelled, so Stop() writes at once.
        """
        assert self._client is not None  # noqa: S101
        turn = self._host.gate.enter_read()
        try:
            turn.begin()
            self._client.disconnect()
        except Exception:  # noqa: BLE001 - Stop() tries again
            _log.exception("disconnect failed")
        finally:
            turn.release()
        if self._phase in (Phase.OPEN, Phase.RECONNECTING):
            self._flow.drain(self.QUIET_SECONDS, self.DRAIN_SECONDS)
        self._clear()
        if self._phase is Phase.UNPAIRED:
            # connect() waits for a QR channel that nobody closes any more; it touches nothing.
            self._finish("")

    def _clear(self) -> None:
        """Take the client out of the shared maps, once."""
        assert self._client is not None  # noqa: S101
        with self._clearing:
            if self._cleared:
                return
            turn = self._host.gate.enter_write()
            try:
                turn.begin()
                self._client.stop()
            finally:
                turn.release()
                self._cleared = True

    def _finish(self, error: str) -> None:
        with self._state:
            if self._finished:
                return
            self._finished = True
            fields = None if self.is_stop_requested else self._gone_fields(error)
            self._phase = Phase.GONE
        if fields is not None and fields["gave_up"]:
            _log.warning("neonize gave up client %s: %s", self.company_id, error)
        self._flow.close()
        self.lock.release()
        self._host.report_gone(self, fields)

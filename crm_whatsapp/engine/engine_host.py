"""The engine itself: takes orders from its supervisor, runs clients, reports."""

import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from crm_whatsapp.engine.alarm import Alarm
from crm_whatsapp.engine.call_desk import CallDesk
from crm_whatsapp.engine.call_results import logout_fields, media_fields, probe_fields, send_fields
from crm_whatsapp.engine.child_settings import ChildSettings
from crm_whatsapp.engine.event_translation import Fields, ended_fields, event_frame
from crm_whatsapp.engine.frame_channel import FrameChannel
from crm_whatsapp.engine.frames import Frame, Order, Report
from crm_whatsapp.engine.hosted_client import ClientOrder, HostedClient, Phase
from crm_whatsapp.engine.media_frames import MediaOrder
from crm_whatsapp.engine.media_sending import MediaSending
from crm_whatsapp.engine.pairing_client import PairingClient
from crm_whatsapp.engine.session_lock import SessionLock
from crm_whatsapp.engine.start_gate import DialSlot, StartGate
from crm_whatsapp.engine.upload_budget import UploadBudget
from crm_whatsapp.engine.vitals import read_pss_bytes, read_vitals
from crm_whatsapp.engine.whatsapp_client import ClientFactory, WhatsAppClient

_log = logging.getLogger(__name__)

_LOCK_RETRY_SECONDS = 0.05


class EngineHost:
    """Runs the clients of one engine process."""

    def __init__(
        self, settings: ChildSettings, channel: FrameChannel, make_client: ClientFactory
    ) -> None:
        self.alarm = Alarm("alarm")
        self.gate = StartGate(
            alarm=self.alarm,
            start_max_seconds=settings.start_gate_max_seconds,
            entry_max_seconds=settings.call_entry_max_seconds,
            dials=1 if settings.careful else settings.dials_at_once,
        )
        self.make_client = make_client
        self.careful = settings.careful
        self.slow_stop_seconds = settings.slow_stop_seconds
        self._settings = settings
        self._channel = channel
        self._calls = CallDesk(
            gate=self.gate,
            alarm=self.alarm,
            per_client=settings.calls_per_client,
            per_engine=settings.calls_per_engine,
        )
        # Uploads have no time limit of their own: those that hang must not take the others' calls.
        self._uploads = CallDesk(
            gate=self.gate,
            alarm=self.alarm,
            per_client=settings.uploads_per_client,
            per_engine=settings.uploads_per_engine,
        )
        self._upload_budget = UploadBudget(settings.upload_bytes_at_once)
        self._changed = threading.Condition()
        self._clients: dict[str, HostedClient] = {}
        self._kept: list[HostedClient] = []
        self._starts = 0
        self._dials: queue.SimpleQueue[HostedClient] = queue.SimpleQueue()

    def run(self) -> None:
        """Obey orders until told to end, or until the supervisor is gone."""
        for target, name in ((self._dial_all, "starter"), (self._beat, "heartbeat")):
            threading.Thread(target=target, name=name, daemon=True).start()
        handlers: dict[str, Callable[[Frame], None]] = {
            Order.START: self._start,
            Order.PAIR: self._pair,
            Order.STOP: self._stop,
            Order.PROBE: self._probe,
            Order.LOGOUT: self._logout,
            Order.SEND: self._send,
            Order.SEND_MEDIA: self._send_media,
            Order.CAREFUL: self._set_careful,
            Order.TAKEN: self._taken,
            # On a thread of its own: clients that stop wait for TAKEN.
            Order.SHUTDOWN: lambda frame: threading.Thread(
                target=self._shutdown, args=(frame,), name="shutdown", daemon=True
            ).start(),
        }
        while True:
            frame = self._channel.receive()
            handlers[frame["type"]](frame)

    # --- what clients report ----------------------------------------------------------------

    def report_event(self, client: HostedClient, name: str, fields: Fields) -> None:
        self._channel.send(event_frame(client.company_id, client.generation, name, fields))

    def report_inbound(self, client: HostedClient, name: str, fields: Fields) -> None:
        frame = event_frame(client.company_id, client.generation, name, fields)
        self._channel.send({**frame, "type": Report.INBOUND})

    def report_gone(self, client: HostedClient, fields: Fields | None) -> None:
        with self._changed:
            if self._clients.get(client.company_id) is client:
                del self._clients[client.company_id]
            # Go keeps the callbacks of a client for its log lines, even after its end.
            self._kept.append(client)
            self._changed.notify_all()
        stopped = fields is None
        frame = event_frame(
            client.company_id,
            client.generation,
            "ClientStopped" if stopped else "ClientEnded",
            fields or {},
        )
        self._channel.send({**frame, "type": Report.STOPPED if stopped else Report.ENDED})

    # --- orders -------------------------------------------------------------------------------

    def _start(self, frame: Frame) -> None:
        self._admit(HostedClient(_client_order(frame), self))

    def _pair(self, frame: Frame) -> None:
        self._admit(
            PairingClient(
                _client_order(frame),
                self,
                calls=self._calls,
                phone_number=frame["phone_number"],
            )
        )

    def _admit(self, client: HostedClient) -> None:
        with self._changed:
            taken = client.company_id in self._clients
            if not taken:
                self._clients[client.company_id] = client
        if taken:
            client.fail_waiting(ended_fields("An older client of the company still lives here."))
            return
        if self._lock_or_fail(client) is False:
            threading.Thread(
                target=self._wait_for_lock, args=(client,), name="lock-waiter", daemon=True
            ).start()

    def _lock_or_fail(self, client: HostedClient) -> bool | None:
        """Queue the client when its lock is free; False: not free, None: it failed."""
        try:
            if not client.lock.try_acquire():
                return False
        except OSError as exc:
            client.fail_waiting(ended_fields(f"The session's lock cannot be used: {exc}"))
            return None
        self._dials.put(client)
        return True

    def _wait_for_lock(self, client: HostedClient) -> None:
        deadline = time.monotonic() + self._settings.lock_wait_seconds
        while client.phase is Phase.WAITING:
            time.sleep(_LOCK_RETRY_SECONDS)
            if self._lock_or_fail(client) is not False:
                return
            if time.monotonic() >= deadline:
                client.fail_waiting(ended_fields("", locked=True))
                return

    def _dial_all(self) -> None:
        """Start clients in order; the gate lets one at a time touch the maps."""
        while True:
            client = self._dials.get()
            slot = self.gate.dials.acquire()
            if not self._prepare(client, slot):
                slot.release()
                client.lock.release()
                continue
            self._starts += 1
            self._channel.send_and_wait(
                {
                    "type": Report.STARTING,
                    "company_id": client.company_id,
                    "generation": client.generation,
                }
            )
            client.dial(self.gate.enter_write())

    def _prepare(self, client: HostedClient, slot: DialSlot) -> bool:
        try:
            return client.prepare(slot)
        except Exception as exc:  # noqa: BLE001 - the starter must live on for the others
            client.fail_waiting(ended_fields(f"{type(exc).__name__}: {exc}"))
            return False

    def _stop(self, frame: Frame) -> None:
        client = self._find(frame)
        if client is not None:
            client.request_stop()

    def _taken(self, frame: Frame) -> None:
        client = self._find(frame)
        if client is not None:
            client.inbound_taken(frame["count"])

    def _find(self, frame: Frame) -> HostedClient | None:
        client = self._clients.get(frame["company_id"])
        return client if client and client.generation == frame["generation"] else None

    def _set_careful(self, frame: Frame) -> None:
        self.careful = bool(frame["on"])
        self.gate.dials.set_limit(1 if self.careful else self._settings.dials_at_once)

    # --- calls --------------------------------------------------------------------------------

    def _probe(self, frame: Frame) -> None:
        self._call(frame, lambda client: client.ask_blocklist(), probe_fields)

    def _logout(self, frame: Frame) -> None:
        self._call(frame, lambda client: client.logout(), logout_fields)

    def _send(self, frame: Frame) -> None:
        to_jid, text = frame["to_jid"], frame["text"]
        self._call(frame, lambda client: client.send_text(to_jid, text), send_fields)

    def _send_media(self, frame: Frame) -> None:
        MediaSending(
            MediaOrder.of(frame),
            company_id=frame["company_id"],
            find_client=lambda: self._find_client(frame),
            uploads=self._uploads,
            budget=self._upload_budget,
            calls=self._calls,
            done=lambda result: self._answer(frame, media_fields(result)),
        ).begin()

    def _call(
        self,
        frame: Frame,
        function: Callable[[WhatsAppClient], Any],
        describe: Callable[[Any], Fields],
    ) -> None:
        def done(result: Any) -> None:
            self._answer(frame, describe(result))

        client = self._find_client(frame)
        if client is None:
            done(ConnectionError("The client is not connected."))
            return
        self._calls.call(
            frame["company_id"],
            lambda: function(client),
            timeout_seconds=float(frame["timeout_seconds"]),
            done=done,
        )

    def _find_client(self, frame: Frame) -> WhatsAppClient | None:
        hosted = self._find(frame)
        return hosted.client if hosted else None

    def _answer(self, frame: Frame, fields: Fields) -> None:
        self._channel.send({"type": Report.CALLED, "call_id": frame["call_id"], "fields": fields})

    # --- life ---------------------------------------------------------------------------------

    def _beat(self) -> None:
        pss_bytes: int | None = None
        checked_at = float("-inf")
        while True:
            now = time.monotonic()
            if now - checked_at >= self._settings.memory_check_seconds:
                pss_bytes, checked_at = read_pss_bytes(), now
            vitals = read_vitals()
            with self._changed:
                clients = list(self._clients.values())
            abandoned = [
                {"company_id": c.company_id, "generation": c.generation, "seconds": seconds}
                for c in clients
                if (seconds := c.abandoned_seconds()) is not None
            ]
            self._channel.send(
                {
                    "type": Report.HEARTBEAT,
                    "rss_bytes": vitals.rss_bytes,
                    "hanging_uploads": self._uploads.hanging,
                    "pss_bytes": pss_bytes,
                    "open_descriptors": vitals.open_descriptors,
                    "threads": vitals.python_threads,
                    "starts": self._starts,
                    "clients": len(clients),
                    "abandoned": abandoned,
                }
            )
            time.sleep(self._settings.heartbeat_seconds)

    def _shutdown(self, frame: Frame) -> None:
        """Stop everything in parallel, then exit; a client in mid-dial is left to the exit."""
        deadline = time.monotonic() + float(frame["timeout_seconds"])
        with self._changed:
            clients = list(self._clients.values())
        for client in clients:
            client.request_stop()
        with self._changed:
            while any(self._is_worth_waiting(c) for c in self._clients.values()):
                remaining = deadline - time.monotonic()
                if remaining <= 0 or not self._changed.wait(min(remaining, 0.1)):
                    if time.monotonic() >= deadline:
                        break
        self._channel.send_and_wait(
            {"type": Report.LOG, "level": "debug", "logger": "engine", "message": "engine ends"}
        )
        os._exit(0)

    def _is_worth_waiting(self, client: HostedClient) -> bool:
        return client.phase is not Phase.DIALING


def _client_order(frame: Frame) -> ClientOrder:
    return ClientOrder(
        company_id=frame["company_id"],
        generation=frame["generation"],
        store_path=frame["store_path"],
        lock=SessionLock(Path(frame["lock_path"])),
        proxy=frame["proxy"],
    )

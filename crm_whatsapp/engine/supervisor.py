"""The engine fleet of this pod, as the service uses it."""

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from crm_whatsapp.domain.engines import (
    EngineEventSink,
    EngineHealth,
    EngineRole,
    PairOrder,
    SentMessage,
    StartOrder,
)
from crm_whatsapp.domain.errors import EngineUnavailable
from crm_whatsapp.domain.media import MediaParcel
from crm_whatsapp.engine.control_loop import ControlLoop
from crm_whatsapp.engine.fleet import Fleet
from crm_whatsapp.engine.media_frames import MediaOrder
from crm_whatsapp.engine.settings import EngineSettings

_KILL_RESERVE_SECONDS = 1.0


class Supervisor:
    """Implements `domain.engines.EngineFleet` with processes that run neonize.

    Orders are queued for one control thread and return at once; events come on that thread.
    Its constructor starts the thread, but no process.
    """

    def __init__(
        self, settings: EngineSettings, sink: EngineEventSink, *, rng: random.Random | None = None
    ) -> None:
        self._loop = ControlLoop("engine-supervisor")
        self._fleet = Fleet(settings, sink, self._loop, rng or random.Random())  # noqa: S311
        self._lock = threading.Lock()
        self._shut_down = False
        self._unstopped: list[str] = []

    def start(self, order: StartOrder) -> None:
        """See EngineFleet."""
        self._loop.post(lambda: self._fleet.start(order))

    def pair(self, order: PairOrder) -> None:
        """See EngineFleet."""
        self._loop.post(lambda: self._fleet.start(order))

    def prewarm(self, sessions: int) -> None:
        """Spawn the engines for so many sessions, all at once, before their orders come."""
        self._loop.post(lambda: self._fleet.prewarm(sessions))

    def stop(self, company_id: str, generation: int) -> None:
        """See EngineFleet."""
        self._loop.post(lambda: self._fleet.stop(company_id, generation))

    def probe(self, company_id: str, generation: int) -> None:
        """See EngineFleet."""
        self._loop.post(lambda: self._fleet.calls.probe(company_id, generation))

    def logout(self, company_id: str, generation: int) -> None:
        """See EngineFleet."""
        self._loop.post(lambda: self._fleet.calls.logout(company_id, generation))

    def taken(self, company_id: str, generation: int) -> None:
        """See EngineFleet."""
        self._loop.post(lambda: self._fleet.taken(company_id, generation))

    def send_text(
        self, company_id: str, generation: int, *, to_jid: str, text: str, timeout_seconds: float
    ) -> Future[SentMessage]:
        """See EngineFleet."""
        key = (company_id, generation)
        return self._send(
            lambda future: self._fleet.calls.send_text(key, to_jid, text, timeout_seconds, future)
        )

    def send_media(
        self,
        company_id: str,
        generation: int,
        *,
        to_jid: str,
        parcel: MediaParcel,
        upload_seconds: float,
        ack_seconds: float,
    ) -> Future[SentMessage]:
        """See EngineFleet."""
        order = MediaOrder(
            to_jid=to_jid, parcel=parcel, upload_seconds=upload_seconds, ack_seconds=ack_seconds
        )
        key = (company_id, generation)
        return self._send(lambda future: self._fleet.calls.send_media(key, order, future))

    def _send(self, begin: Callable[[Future[SentMessage]], None]) -> Future[SentMessage]:
        future: Future[SentMessage] = Future()
        future.set_running_or_notify_cancel()  # from here on it cannot be cancelled
        if self._shut_down:
            future.set_exception(EngineUnavailable())
            return future
        self._loop.post(lambda: begin(future))
        return future

    def health(self) -> list[EngineHealth]:
        """See EngineFleet."""
        now = time.monotonic()
        return [engine.health(now) for engine in list(self._fleet.engines)]

    def deaths(self) -> dict[EngineRole, int]:
        """Return how many engines of each role have ended unasked since start."""
        return dict(self._fleet.deaths)

    def shutdown(self, timeout_seconds: float) -> list[str]:
        """See EngineFleet. A second call returns what the first one found."""
        with self._lock:
            if self._shut_down:
                return self._unstopped
            self._shut_down = True
            reserve = min(_KILL_RESERVE_SECONDS, timeout_seconds / 4)
            all_ended = threading.Event()
            self._loop.post(lambda: self._fleet.close(timeout_seconds - reserve, all_ended.set))
            if not all_ended.wait(timeout_seconds - reserve / 2):
                self._loop.post(self._fleet.kill_all)
                all_ended.wait(reserve)
            self._unstopped = self._fleet.unstopped()
            self._loop.end(reserve)
            return self._unstopped

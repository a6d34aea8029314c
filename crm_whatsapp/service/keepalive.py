"""Keepalive: a real round trip to WhatsApp for every connected session, now and then."""

import hashlib

import structlog

from crm_whatsapp.domain.connection import ClientPhase, Connection
from crm_whatsapp.domain.engines import EngineFleet
from crm_whatsapp.domain.ports import Clock
from crm_whatsapp.service.session_manager import SessionManager

log = structlog.get_logger(__name__)


class Keepalive:
    """Probes each session every interval, plus or minus an eighth, spread over the sessions."""

    def __init__(
        self,
        *,
        manager: SessionManager,
        fleet: EngineFleet,
        clock: Clock,
        interval_seconds: float,
    ) -> None:
        self._manager = manager
        self._fleet = fleet
        self._clock = clock
        self._interval_seconds = interval_seconds
        self._due: dict[str, tuple[int, float]] = {}

    def check(self) -> int:
        """Probe what is due; return how many probes were asked for. Answers come as events."""
        now = self._clock.monotonic()
        live = [
            item
            for item in self._manager.connections()
            if item.is_connected and item.client is ClientPhase.LIVE
        ]
        due = self._due
        self._due = {}
        probed = 0
        for connection in live:
            generation, at = due.get(connection.company_id, (-1, 0.0))
            if generation != connection.generation:
                at = now + self._wait_of(connection)
            elif at <= now:
                self._fleet.probe(connection.company_id, connection.generation)
                probed += 1
                at = now + self._wait_of(connection)
            self._due[connection.company_id] = (connection.generation, at)
        if probed:
            log.info(f"Health check complete. Checked {probed} sessions.")
        return probed

    def _wait_of(self, connection: Connection) -> float:
        digest = hashlib.sha256(
            f"{connection.company_id}:{connection.generation}".encode()
        ).digest()
        share = int.from_bytes(digest[:4], "big") / 2**32
        return self._interval_seconds * (0.875 + 0.25 * share)

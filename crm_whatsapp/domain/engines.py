"""What the service asks of the engines, and what they answer."""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from crm_whatsapp.domain.connection import PairingMethod
from crm_whatsapp.domain.events import EngineEvent
from crm_whatsapp.domain.media import MediaParcel

EngineEventSink = Callable[[EngineEvent], None]
"""Receives every engine event on a reader thread; must only enqueue and return."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartOrder:
    """Start the saved session of one company."""

    company_id: str
    generation: int
    store_path: Path
    lock_path: Path
    isolated: bool = False
    proxy: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PairOrder:
    """Pair one company in a pairing engine of its own."""

    company_id: str
    generation: int
    store_path: Path
    lock_path: Path
    method: PairingMethod
    phone_number: str | None = None
    proxy: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SentMessage:
    """A message WhatsApp has acknowledged. server_timestamp_seconds: Unix time of the ack."""

    whatsapp_id: str
    server_timestamp_seconds: int


class EngineRole(StrEnum):
    """What an engine process is for."""

    SHARD = "shard"  # up to SESSIONS_PER_ENGINE paired sessions
    PAIRING = "pairing"  # one unpaired client
    ISOLATION = "isolation"  # one suspect session


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineHealth:
    """One engine as its supervisor sees it."""

    name: str
    role: EngineRole
    pid: int | None
    alive: bool
    retiring: bool
    sessions: int
    abandoned: int
    starts: int
    deaths: int
    open_descriptors: int
    memory_mb: float
    heartbeat_age_seconds: float
    retry_in_seconds: float | None


class EngineFleet(Protocol):
    """The engine processes of this pod.

    Orders return at once and never raise for a dead engine: the outcome is an event. Each order
    is answered by events that carry its generation.
    """

    def start(self, order: StartOrder) -> None:
        """Start a session. Ends in ClientConnected, a refusal event, ClientEnded or EngineDied.

        Waits, without holding up others, while an abandoned client of the same company lives.
        """

    def pair(self, order: PairOrder) -> None:
        """Open a pairing: QrIssued or PairingCodeIssued, PairingSucceeded, ClientConnected.

        The pairing engine lives until `stop`, or until the pairing failed or expired.
        """

    def stop(self, company_id: str, generation: int) -> None:
        """Stop the client; ends in exactly one ClientStopped (or EngineDied).

        A client in mid-dial is abandoned: ClientStopped comes when it is really gone.
        """

    def probe(self, company_id: str, generation: int) -> None:
        """Make one round trip; ends in ProbeAnswered or ProbeFailed within the probe limit."""

    def logout(self, company_id: str, generation: int) -> None:
        """Ask WhatsApp to unlink the device; ends in LogoutAnswered."""

    def send_text(
        self, company_id: str, generation: int, *, to_jid: str, text: str, timeout_seconds: float
    ) -> Future[SentMessage]:
        """Send a text; the future is done within timeout_seconds.

        The future raises SendUnconfirmed (details: whatsapp_id) without an answer in time,
        SendRejected when WhatsApp refused, SessionNotConnected when the client is not live,
        EngineUnavailable when its engine is gone.
        """

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
        """Upload an attachment and send it; the future is done within both times together.

        The file is read until then. The future raises what that of send_text raises, and
        MediaNotUploaded when WhatsApp did not take the content: then nothing was or will be sent.
        """

    def taken(self, company_id: str, generation: int) -> None:
        """Say that one InboundEvent of this client has been told outside.

        A client has only so many on their way; it holds back the others until then.
        """

    def health(self) -> list[EngineHealth]:
        """Tell how each engine is; from memory."""

    def shutdown(self, timeout_seconds: float) -> list[str]:
        """Stop every client in parallel, then end every engine, killing what does not.

        Returns the companies whose client did not stop by itself in time.
        """

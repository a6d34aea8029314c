"""Everything that can happen to a session. `session_policy.decide` answers each of them."""

from dataclasses import dataclass

from crm_whatsapp.domain.connection import DesiredState, PairingMethod, Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened to one company's session."""


# --- from people and from start-up -----------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PollArrived(Event):
    """Somebody asked for the status."""

    has_credentials: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StartupFound(Event):
    """The service has started and found a saved session."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordLoaded(Event):
    """The service has started and will not restore this company by itself."""

    has_credentials: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectRequested(Event):
    """The Connect WhatsApp button."""

    has_credentials: bool
    method: PairingMethod = PairingMethod.QR
    phone_number: str | None = None
    user_id: str | None = None
    fresh: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreRequested(Event):
    """Restore now, whatever the backoff says."""

    has_credentials: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DisconnectRequested(Event):
    """Stop the client, keep the credentials."""

    has_credentials: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LogoutRequested(Event):
    """Unlink at WhatsApp and remove what is saved."""

    has_credentials: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteRequested(Event):
    """Log out, best effort, and forget the company's session."""

    has_credentials: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredStateChanged(Event):
    """Someone wrote desired_state into the table."""

    desired_state: DesiredState
    has_credentials: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceStopping(Event):
    """The service shuts down; the fleet stops the client without another order."""


# --- from time -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerDue(Event):
    """The sweep found retry_at, status_deadline_at or qr_expires_at in the past."""

    has_credentials: bool


# --- from the lease and the disk -------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseDenied(Event):
    """Another pod holds the session; nothing was started."""

    retry_after_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseLost(Event):
    """Another pod took the session while it ran here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageFailed(Event):
    """The session folder cannot be used; nothing was started and nothing was overwritten.

    reason: store-corrupt, store-foreign, storage-unavailable, credentials-missing or key-missing.
    """

    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreDamageFound(Event):
    """Bits of the store have flipped while its client runs, and a snapshot can replace it."""


# --- from the engine -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineEvent(Event):
    """Something a client reported; stale when its generation is not the current one."""

    company_id: str
    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientStarting(EngineEvent):
    """The start begins now, after whatever it had to wait for: an engine, or its turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConnected(EngineEvent):
    """Logged in (event 3). After a pairing it comes once more for the first login."""

    jid: str | None = None
    lid: str | None = None
    push_name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientDisconnected(EngineEvent):
    """The link dropped; whatsmeow reconnects by itself (event 12)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepAliveTimedOut(EngineEvent):
    """Pings go unanswered (event 4)."""

    error_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepAliveRestored(EngineEvent):
    """A ping was answered again (event 5)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamReplaced(EngineEvent):
    """Another connection took over the same device (event 7); whatsmeow stays down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedOut(EngineEvent):
    """The device row is gone from the store (event 6).

    code: 401, 403 or 406 on connect; 0 when it was a stream error (device_removed).
    """

    on_connect: bool
    code: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TemporarilyBanned(EngineEvent):
    """Failure 402 (event 8)."""

    code: int
    expires_in_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOutdated(EngineEvent):
    """Failure 405 (event 10)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectFailed(EngineEvent):
    """WhatsApp refused the login with another code (event 9)."""

    code: int
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamErrored(EngineEvent):
    """A stream error that whatsmeow does not explain (event 11); a drop usually follows."""

    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientEnded(EngineEvent):
    """connect() returned or raised without being asked to; the client is gone.

    unreachable: True when the error says that WhatsApp's server could not be reached at all.
    gave_up: True when the library ended the client over something it could not pass on.
    """

    detail: str
    unreachable: bool = False
    gave_up: bool = False
    store_corrupt: bool = False
    locked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientStopped(EngineEvent):
    """The client is gone because it was asked to stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineDied(EngineEvent):
    """The process that held the client ended.

    suspect: True when this session was starting in it, or ran in it alone.
    """

    suspect: bool
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HandoverRequested(EngineEvent):
    """The engine is being replaced; the session should move to the fresh one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QrIssued(EngineEvent):
    """A QR code to show, valid for so long."""

    value: str
    expires_in_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PairingCodeIssued(EngineEvent):
    """A pairing code to type into the phone, valid for so long."""

    code: str
    expires_in_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PairingSucceeded(EngineEvent):
    """The phone agreed (PairStatus); the store now holds the device row."""

    jid: str
    lid: str | None
    platform: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PairingFailed(EngineEvent):
    """The phone or WhatsApp refused the pairing."""

    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PairingExpired(EngineEvent):
    """All codes ran out unscanned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeAnswered(EngineEvent):
    """A round trip to WhatsApp was answered; any answer counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeFailed(EngineEvent):
    """A round trip got no answer within its limit."""

    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LogoutAnswered(EngineEvent):
    """The unlink request was answered, or failed with detail."""

    succeeded: bool
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SendShowedDeadSession(EngineEvent):
    """A send failed with an error that only a dead session gives."""

    detail: str

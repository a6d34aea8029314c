"""The connection of one company: the closed sets of words and the record itself."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class DesiredState(StrEnum):
    """What people want of the session; only people change it."""

    RUN = "run"  # keep it connected, restore it whenever it is down
    STOP = "stop"  # leave it alone until somebody connects it again


class Status(StrEnum):
    """What the session is seen to be."""

    DISCONNECTED = "disconnected"  # no client, and none is being started
    CONNECTING = "connecting"  # a client is starting, reconnecting, or will retry at retry_at
    AWAITING_SCAN = "awaiting_scan"  # a pairing is open: QR or pairing code to be shown
    CONNECTED = "connected"  # logged in, proven by an event or a round trip
    LOGGED_OUT = "logged_out"  # the link to the phone is gone; a new pairing is needed
    BANNED = "banned"  # WhatsApp suspended the account until retry_at
    FAILED = "failed"  # restoring did not work; waits for a person, a poll or retry_at


class Reason(StrEnum):
    """Why the status is what it is."""

    NEVER_CONNECTED = "never-connected"  # nothing saved for this company
    ONLINE = "online"  # connected
    STOPPED = "stopped"  # disconnected by request
    RESTORING = "restoring"  # a client starts from the saved session
    PREPARING_PAIRING = "preparing-pairing"  # the first QR or pairing code is being fetched
    PAIRING = "pairing"  # the phone has to scan or to enter a code
    FINISHING_PAIRING = "finishing-pairing"  # the phone agreed, first login is under way
    NETWORK_LOST = "network-lost"  # the link dropped, whatsmeow reconnects
    WHATSAPP_UNREACHABLE = "whatsapp-unreachable"  # no route, refused, or no answer in time
    STREAM_REPLACED = "stream-replaced"  # another client uses the same linked device
    PHONE_UNLINKED = "phone-unlinked"  # removed under Linked devices on the phone
    LOGGED_OUT_BY_SERVER = "logged-out-by-server"  # WhatsApp refused the credentials
    LOGGED_OUT_BY_USER = "logged-out-by-user"  # logout was requested here
    TEMPORARY_BAN = "temporary-ban"  # 402
    CLIENT_OUTDATED = "client-outdated"  # 405: neonize must be upgraded
    CONNECT_FAILURE = "connect-failure"  # any other refusal or error of a start
    PAIRING_EXPIRED = "pairing-expired"  # all QR codes or the pairing code ran out
    PAIRING_FAILED = "pairing-failed"  # the phone or WhatsApp refused the pairing
    CREDENTIALS_MISSING = "credentials-missing"  # should run, but nothing is saved here
    STORE_CORRUPT = "store-corrupt"  # store.db or creds.json cannot be read
    STORE_FOREIGN = "store-foreign"  # the folder belongs to another library
    STORAGE_UNAVAILABLE = "storage-unavailable"  # folder not readable, disk full
    KEY_MISSING = "key-missing"  # a snapshot exists, its key is not configured
    ENGINE_CRASH = "engine-crash"  # this session ended its engine process twice
    HELD_ELSEWHERE = "held-elsewhere"  # another pod holds the lease
    LOGGING_OUT = "logging-out"  # a logout is under way
    SERVICE_STOPPED = "service-stopped"  # the service is down; it restores by itself


class UserAction(StrEnum):
    """What the person in front of the CRM should do."""

    NONE = "none"
    CONNECT = "connect"  # click Connect WhatsApp
    SCAN = "scan"  # scan the QR code or enter the pairing code
    RETRY = "retry"  # try again
    WAIT = "wait"  # nothing; it continues by itself at retry_at
    UPGRADE = "upgrade"  # the operator must install a newer release
    CONTACT_SUPPORT = "contact-support"


class ClientPhase(StrEnum):
    """What this process knows of the client in an engine. Never stored."""

    NONE = "none"
    STARTING = "starting"  # ordered, not yet connected
    LIVE = "live"  # has been connected; whatsmeow may be reconnecting
    PAIRING = "pairing"  # in a pairing engine, unpaired or in its first login
    HANDOVER = "handover"  # stopping in one engine to start in another; the status stays
    RESUMING = "resuming"  # starting in that other engine; the status stays
    STOPPING = "stopping"  # asked to stop; nothing follows


class Intent(StrEnum):
    """A request that needs several steps; survives restarts."""

    NONE = "none"
    LOGOUT = "logout"
    DELETE = "delete"
    PAIR = "pair"  # pair anew as soon as the running client has stopped
    SECOND_CHANCE = "second-chance"  # put the store of before the start back and try once more


UNLINKING = (Intent.LOGOUT, Intent.DELETE)
"""The intents that end in the removal of the session."""


class PairingMethod(StrEnum):
    """How a phone is linked."""

    QR = "qr"
    PAIRING_CODE = "pairing_code"


MOST_VERSION = 2**62
"""No version that this product has counted to is above it: they are microseconds since 1970."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """One company's connection; stored columns first, then what only this process knows."""

    company_id: str
    user_id: str | None = None
    desired_state: DesiredState = DesiredState.STOP
    status: Status = Status.DISCONNECTED
    reason: Reason = Reason.NEVER_CONNECTED
    message: str = 'Not connected. Click "Connect WhatsApp" to start.'
    user_action: UserAction = UserAction.CONNECT
    degraded: bool = False
    jid: str | None = None
    lid: str | None = None
    phone_number: str | None = None
    push_name: str | None = None
    platform: str | None = None
    last_connected_at: datetime | None = None
    last_disconnected_at: datetime | None = None
    last_event_at: datetime | None = None
    retry_at: datetime | None = None
    qr_expires_at: datetime | None = None
    status_deadline_at: datetime | None = None
    restore_attempts: int = 0
    version: int = 0
    intent: Intent = Intent.NONE
    engine_crashes: int = 0
    second_chance_used: bool = False
    failed_at: datetime | None = None

    client: ClientPhase = ClientPhase.NONE
    generation: int = 0
    unreachable_attempts: int = 0
    replaced_retries: int = 0
    connected_since: datetime | None = None
    pairing_method: PairingMethod | None = None
    pairing_phone: str | None = None
    unlink_confirmed: bool = False
    unlink_waits: bool = False

    @property
    def is_connected(self) -> bool:
        """Tell whether the session is proven to be logged in."""
        return self.status is Status.CONNECTED


LOCAL_FIELDS = frozenset(
    {
        "client",
        "generation",
        "unreachable_attempts",
        "replaced_retries",
        "connected_since",
        "pairing_method",
        "pairing_phone",
        "unlink_confirmed",
        "unlink_waits",
    }
)
"""What only this process knows: never journalled, and no reason for a transition."""

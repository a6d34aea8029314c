"""What the web layer is given: the services it calls and its settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from crm_whatsapp.domain.api_keys import ApiKey, Scope
from crm_whatsapp.domain.connection import Connection, PairingMethod
from crm_whatsapp.domain.engines import SentMessage
from crm_whatsapp.domain.folders import FolderReport
from crm_whatsapp.domain.media import MediaNote, MediaSource
from crm_whatsapp.domain.notices import NoticeKind
from crm_whatsapp.domain.reports import Report
from crm_whatsapp.domain.snapshots import SnapshotMeta
from crm_whatsapp.domain.webhooks import Answer, DeliveryRecord, DeliveryState, Webhook
from crm_whatsapp.service.event_subscription import Audience, Subscription
from crm_whatsapp.web.auth import Authenticator
from crm_whatsapp.web.limits import NO_LIMITS, LimitTerms


class ScanCode(Protocol):
    """A QR text or a pairing code, and when it stops working."""

    @property
    def value(self) -> str: ...
    @property
    def expires_at(self) -> datetime: ...


class ActiveSession(Protocol):
    """A connection that should be running, and the instance that holds its lease."""

    @property
    def connection(self) -> Connection: ...
    @property
    def owner_id(self) -> str | None: ...
    @property
    def is_local(self) -> bool: ...


class Verdict(Protocol):
    """What the session survives, and why."""

    @property
    def restart(self) -> bool: ...
    @property
    def disk_loss(self) -> bool: ...
    @property
    def why(self) -> str: ...


class SessionInfo(Protocol):
    """The storage of this pod and the session folder of one company."""

    @property
    def storage_valid(self) -> bool: ...
    @property
    def storage_path(self) -> str: ...
    @property
    def storage_writable(self) -> bool: ...
    @property
    def storage_detail(self) -> str: ...
    @property
    def session(self) -> FolderReport: ...
    @property
    def snapshots(self) -> Sequence[SnapshotMeta]: ...
    @property
    def verdict(self) -> Verdict: ...


class ReadinessCheck(Protocol):
    """One thing that was looked at."""

    @property
    def name(self) -> str: ...
    @property
    def ok(self) -> bool: ...
    @property
    def detail(self) -> str: ...
    @property
    def data(self) -> Mapping[str, Any]: ...


class ReadinessReport(Protocol):
    """Whether this pod can serve, and what is amiss."""

    @property
    def ready(self) -> bool: ...
    @property
    def degraded(self) -> bool: ...
    @property
    def checks(self) -> Sequence[ReadinessCheck]: ...


class Sessions(Protocol):
    """The sessions of all companies. No call waits for WhatsApp or for the database."""

    def status(self, company_id: str) -> Connection:
        """Return the connection; may start one restore in the background."""

    def connect(
        self,
        company_id: str,
        *,
        method: PairingMethod,
        user_id: str | None,
        phone_number: str | None,
        fresh: bool,
        proxy: str | None,
    ) -> Connection:
        """Connect; raises PairingConflict, ServiceStopping."""

    def disconnect(self, company_id: str) -> Connection:
        """Stop the client and keep the credentials."""

    def restore(self, company_id: str) -> Connection:
        """Restore now; raises NothingSaved."""

    def logout(self, company_id: str) -> Connection:
        """Unlink at WhatsApp and remove what is saved."""

    def delete(self, company_id: str) -> None:
        """Log out, best effort, and forget everything about the session."""

    def qr(self, company_id: str) -> ScanCode:
        """Return the QR text of now; raises NothingToScan."""

    def pairing_code(self, company_id: str) -> ScanCode:
        """Return the pairing code of now; raises NothingToScan."""

    def active_sessions(self) -> Sequence[ActiveSession]:
        """Return every connection that should be running."""


class Backups(Protocol):
    """What is saved. May ask the database."""

    def info(self, company_id: str) -> SessionInfo:
        """Look at the storage, the session folder and the snapshots."""

    def backup(self, company_id: str) -> SnapshotMeta:
        """Write a verified snapshot now.

        Raises:
            SnapshotsOff, NothingSaved, StoreUnfit, LeaseFenced, StoreUnavailable.
        """

    def clean_up(self, company_id: str | None, keep: int) -> int:
        """Remove older snapshots of one company, or of each; return how many went."""


class Messaging(Protocol):
    """Sending. Waits for the server's ack, within a limit."""

    def send_text(self, company_id: str, *, to: str, text: str) -> SentMessage:
        """Send a text.

        Raises:
            InvalidInput: `to` is neither a number nor a jid.
            SessionNotConnected: details status, expected, user_action.
            SendUnconfirmed: no ack in time; details whatsapp_id.
            SendRejected, EngineUnavailable, ServiceBusy.
        """


class Attachments(Protocol):
    """Sending of attachments. Waits for their content, its upload and the server's ack."""

    def send_media(
        self, company_id: str, *, to: str, note: MediaNote, source: MediaSource
    ) -> SentMessage:
        """Send an attachment.

        Raises:
            MediaTypeRefused, MediaTooLarge, MediaAddressRefused, MediaUnreachable.
            MediaNotUploaded: nothing was sent.
            And what Messaging.send_text raises.
        """


class Events(Protocol):
    """What happens, as it happens."""

    def subscribe(
        self,
        audience: Audience,
        *,
        last_event_id: str | None,
        snapshot: bool,
        unknown: Connection | None,
    ) -> Subscription:
        """Begin to listen; raises TooManyStreams, ServiceStopping."""


class Reports(Protocol):
    """How the sessions are, and how they have been."""

    def report(self, *, hours: int, companies: frozenset[str] | None) -> Report:
        """Return the report of these companies, of all when None; may ask the database."""


class Readiness(Protocol):
    """Whether this pod can serve."""

    def report(self) -> ReadinessReport:
        """Look at everything now; answers from memory."""


class Metrics(Protocol):
    """What Prometheus is told."""

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return the page and its content type, as this Accept header wants it."""

    def note_request(
        self, route: str | None, method: str, status_code: int, seconds: float
    ) -> None:
        """Count a request by the template of its route; None when none matched."""

    def note_limited(self, limit: str) -> None:
        """Count a call that a limit refused, by the name of the limit."""


class Webhooks(Protocol):
    """Who is told of what happens. Asks the database: StoreUnavailable, StoreRejected."""

    def listing(self) -> Sequence[Webhook]:
        """Return all of them, oldest first."""

    def get(self, webhook_id: str) -> Webhook:
        """Return one; raises NotFound."""

    def create(
        self,
        *,
        company_id: str | None,
        url: str,
        kinds: frozenset[NoticeKind],
        secret: str | None,
    ) -> tuple[Webhook, str]:
        """Register a target; return it with its secret. Raises InvalidInput, WrongState."""

    def change(
        self,
        webhook_id: str,
        *,
        url: str | None,
        kinds: frozenset[NoticeKind] | None,
        enabled: bool | None,
        secret: str | None,
        makes_secret: bool,
    ) -> tuple[Webhook, str | None]:
        """Change what is not None; return the target, and its secret if that is another now.

        Raises:
            NotFound, InvalidInput; WrongState: it is set by the environment.
        """

    def remove(self, webhook_id: str) -> None:
        """Remove it with its deliveries; raises as change."""

    def counts(self, webhook_id: str) -> Mapping[DeliveryState, int]:
        """Return how many of its deliveries are in each state."""

    def is_resting(self, webhook_id: str) -> bool:
        """Tell whether the target did not answer and is left alone for a while."""

    def deliveries(
        self, webhook_id: str, *, state: DeliveryState | None, before: int | None, limit: int
    ) -> Sequence[DeliveryRecord]:
        """Return the delivery log, newest first."""

    def redeliver(self, webhook_id: str, delivery_ids: Sequence[int] | None) -> int:
        """Queue these again, or all parked ones; return how many were queued."""

    def test(self, webhook_id: str) -> Answer:
        """Send a test now; raises WrongState when it is not taken, ServiceBusy."""


class Keys(Protocol):
    """Keys to call with. Asks the database: StoreUnavailable, StoreRejected, ServiceBusy."""

    def create(
        self,
        *,
        name: str,
        company_id: str | None,
        scopes: frozenset[Scope],
        expires_at: datetime | None,
        created_by: str,
    ) -> tuple[ApiKey, str]:
        """Make a key; return it with its text. Raises InvalidInput, WrongState."""

    def listing(self, company_id: str | None) -> Sequence[ApiKey]:
        """Return the keys of a company, of everybody when None, the newest first."""

    def revoke(self, key_id: str, *, by: str, company_id: str | None) -> ApiKey:
        """End a key, of this company when one is given; raises KeyUnknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebServices:
    """The running services of this process."""

    sessions: Sessions
    backups: Backups
    messaging: Messaging
    attachments: Attachments
    readiness: Readiness
    events: Events
    reports: Reports
    authenticator: Authenticator
    webhooks: Webhooks
    metrics: Metrics
    keys: Keys


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamTerms:
    """What one event stream is given.

    longest_seconds: then the client is asked to come again, give or take a tenth.
    patience_seconds: a client that takes nothing for so long is given up.
    retry_seconds: what clients are told to wait before they come again.
    """

    heartbeat_seconds: float = 15.0
    longest_seconds: float = 3600.0
    patience_seconds: float = 30.0
    retry_seconds: float = 1.0


MOST_CONTENT_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class LargeBodyTerms:
    """What bodies with content in them may cost.

    content_bytes: of the content itself, up to MOST_CONTENT_BYTES.
    at_once: how many of them are worked on at the same time.
    seconds: how long one may take to arrive.
    """

    content_bytes: int = MOST_CONTENT_BYTES
    at_once: int = 4
    seconds: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSettings:
    """Settings of the HTTP edge.

    secret_key: signs the dashboard's cookie; the same in every pod, at least 16 characters.
    sandbox_phone_url: base URL of a phone to play with; only the demo sets it.
    max_body_bytes: larger bodies are refused; forms, that is: models of JSON say their own bound.
    cookie_secure: send the dashboard's cookie over https only.
    dashboard_session_seconds: how long a login lasts.
    metrics_token: opens /metrics as a bearer token; None leaves that to service keys.
    large_bodies: what bodies with attachments in them may cost.
    cors_origins: origins whose pages may call the API, exactly as browsers write them.
    cors_max_age_seconds: how long browsers may remember that.
    limits: how often callers may call.
    trusted_proxies: how many proxies in front add to X-Forwarded-For; with 0 it is not read.
    embed_origins: origins whose pages may hold the embed page in a frame; none turns it off.
    """

    secret_key: str
    version: str = "0.1.0"
    sandbox_phone_url: str | None = None
    max_body_bytes: int = 8 * 1024
    cookie_secure: bool = False
    dashboard_session_seconds: int = 12 * 3600
    metrics_token: str | None = field(default=None, repr=False)
    streams: StreamTerms = StreamTerms()
    large_bodies: LargeBodyTerms = LargeBodyTerms()
    cors_origins: frozenset[str] = frozenset()
    cors_max_age_seconds: float = 600.0
    limits: LimitTerms = NO_LIMITS
    trusted_proxies: int = 0
    embed_origins: frozenset[str] = frozenset()

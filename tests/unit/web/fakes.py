"""An in-memory facade for the web layer: every call is kept, every answer can be set."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from crm_whatsapp.domain.connection import (
    Connection,
    DesiredState,
    PairingMethod,
    Reason,
    Status,
    UserAction,
)
from crm_whatsapp.domain.engines import SentMessage
from crm_whatsapp.domain.errors import NothingSaved, NothingToScan, PairingConflict
from crm_whatsapp.domain.folders import Credentials, FolderReport, FolderState
from crm_whatsapp.domain.media import MediaNote, MediaSource
from crm_whatsapp.domain.notices import Notice
from crm_whatsapp.domain.reports import EngineSummary, Report, SnapshotCover
from crm_whatsapp.domain.snapshots import SnapshotMeta
from crm_whatsapp.domain.transitions import Transition
from crm_whatsapp.service.api_key_desk import ApiKeyDesk
from crm_whatsapp.service.api_key_misses import KeyMisses, MissTerms
from crm_whatsapp.service.api_key_seal import KeySeal
from crm_whatsapp.service.api_keys import ApiKeyRing
from crm_whatsapp.service.company_runtime import ScanCode as ScannedCode
from crm_whatsapp.service.event_stream import EventStream, StreamLimits
from crm_whatsapp.service.memberships import Memberships, MembershipTerms
from crm_whatsapp.service.scan_code_notices import scan_code_notice
from crm_whatsapp.service.session_backups import Verdict
from crm_whatsapp.service.signing_keys import KeyTerms, SigningKeys
from crm_whatsapp.service.status_notices import status_notice
from crm_whatsapp.service.steady_clock import SteadyClock
from crm_whatsapp.web.auth import (
    ApiKeyAuthenticator,
    CompositeAuthenticator,
    KeyRingAuthenticator,
    Principal,
    Scope,
    hash_api_key,
)
from crm_whatsapp.web.services import (
    ActiveSession,
    Attachments,
    Messaging,
    Readiness,
    ReadinessCheck,
    ReadinessReport,
    ScanCode,
    SessionInfo,
    Sessions,
    WebServices,
)
from crm_whatsapp.web.user_tokens import UserTerms, UserTokenAuthenticator
from tests.contract.api_key_fakes import FakeApiKeyStore
from tests.contract.membership_fakes import FakeMembershipStore
from tests.unit.service.webhook_world import WebhookWorld

SERVICE_KEY = "service-key-for-tests-0123456789"
QR_TEXT = (
    "2@4q7xvYJZ0mYb0n0x1oX7rC2bVxZkq3uVnQw9gqgUP0Tt5s8sQ3y6mE5cJkq2N1vY7dX0nH3lQ4zT8w==,"
    "Y2xpZW50LXN0YXRpYy1wdWJsaWMta2V5LTAwMDAwMDA=,aWRlbnRpdHkta2V5LTAwMDAwMDAwMDAwMDAw,"
    "YWR2LXNlY3JldC1rZXktMDAwMDAwMDAwMDAwMDAwMDA=,1"
)
DISCONNECTED_MESSAGE = Connection(company_id="").message
STREAM_LIMITS = StreamLimits(
    streams=8,
    streams_per_principal=2,
    buffer_events=1_000,
    buffer_bytes=1_000_000,
    client_events=100,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeActiveSession:
    connection: Connection
    owner_id: str | None
    is_local: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeSessionInfo:
    storage_valid: bool = True
    storage_path: str = "/srv/sessions"
    storage_writable: bool = True
    storage_detail: str = ""
    session: FolderReport = field(default_factory=lambda: FolderReport(state=FolderState.MISSING))
    snapshots: Sequence[SnapshotMeta] = ()
    verdict: Verdict = field(
        default_factory=lambda: Verdict(restart=False, disk_loss=False, why="Nothing is saved.")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeCheck:
    name: str
    ok: bool
    detail: str
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeReport:
    ready: bool
    degraded: bool
    checks: Sequence[ReadinessCheck] = ()


class ToldConnections(dict[str, Connection]):
    """Connections by company. Whoever listens hears of each change."""

    def __init__(self, post: Callable[[Notice], None]) -> None:
        super().__init__()
        self._post = post

    def __setitem__(self, company_id: str, connection: Connection) -> None:
        before = self.get(company_id, Connection(company_id=company_id))
        super().__setitem__(company_id, connection)
        self._post(
            status_notice(
                Transition(
                    id=str(uuid.uuid4()),
                    connection=connection,
                    event="set",
                    from_status=before.status,
                    occurred_at=datetime.now(UTC),
                )
            )
        )


class FakeSessions(Sessions):
    """Connections in a dict. `failure` is raised by the next calls until it is cleared."""

    def __init__(self, post: Callable[[Notice], None] = lambda notice: None) -> None:
        self.connections: dict[str, Connection] = ToldConnections(post)
        self._post = post
        self.folders: dict[str, FolderReport] = {}
        self.codes: dict[str, ScannedCode] = {}
        self.calls: list[tuple[str, str, dict[str, Any]]] = []
        self.failure: Exception | None = None
        self.code_lifetime = timedelta(seconds=20)

    def _called(self, name: str, company_id: str, **arguments: Any) -> Connection:
        self.calls.append((name, company_id, arguments))
        if self.failure is not None:
            raise self.failure
        return self.connections.get(company_id, Connection(company_id=company_id))

    def _set(self, connection: Connection, **changes: Any) -> Connection:
        changed = replace(connection, **changes)
        self.connections[connection.company_id] = changed
        return changed

    def status(self, company_id: str) -> Connection:
        return self._called("status", company_id)

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
        connection = self._called(
            "connect",
            company_id,
            method=method,
            user_id=user_id,
            phone_number=phone_number,
            fresh=fresh,
            proxy=proxy,
        )
        if connection.is_connected:
            return connection
        if connection.pairing_method not in (None, method):
            raise PairingConflict()
        value = QR_TEXT if method is PairingMethod.QR else "K7QX-4MPN"
        expires_at = datetime.now(UTC) + self.code_lifetime
        code = ScannedCode(method=method, value=value, expires_at=expires_at)
        self.codes[company_id] = code
        pairing = self._set(
            connection,
            user_id=user_id,
            desired_state=DesiredState.RUN,
            status=Status.AWAITING_SCAN,
            reason=Reason.PAIRING,
            user_action=UserAction.SCAN,
            message="Scan the QR code with WhatsApp on the phone."
            if method is PairingMethod.QR
            else "Enter the code in WhatsApp on the phone.",
            pairing_method=method,
            qr_expires_at=expires_at,
        )
        self._post(scan_code_notice(company_id, code, datetime.now(UTC)))
        return pairing

    def disconnect(self, company_id: str) -> Connection:
        return self._set(
            self._called("disconnect", company_id),
            desired_state=DesiredState.STOP,
            status=Status.DISCONNECTED,
            reason=Reason.STOPPED,
            user_action=UserAction.CONNECT,
            message="Disconnected. The link to the phone is kept.",
            pairing_method=None,
            qr_expires_at=None,
        )

    def restore(self, company_id: str) -> Connection:
        connection = self._called("restore", company_id)
        if connection.last_connected_at is None:
            raise NothingSaved()
        return self._set(
            connection,
            desired_state=DesiredState.RUN,
            status=Status.CONNECTING,
            reason=Reason.RESTORING,
            user_action=UserAction.WAIT,
            message="Restoring connection from saved session...",
        )

    def logout(self, company_id: str) -> Connection:
        return self._set(
            self._called("logout", company_id),
            desired_state=DesiredState.STOP,
            status=Status.LOGGED_OUT,
            reason=Reason.LOGGED_OUT_BY_USER,
            user_action=UserAction.CONNECT,
            message="Logged out. Connect WhatsApp to link a phone again.",
        )

    def delete(self, company_id: str) -> None:
        self._called("delete", company_id)
        self.connections.pop(company_id, None)

    def _code(self, company_id: str, method: PairingMethod) -> ScanCode:
        connection = self._called("code", company_id)
        if connection.pairing_method is not method:
            raise NothingToScan()
        code = self.codes[company_id]
        now = datetime.now(UTC)
        if code.expires_at <= now:
            changed = replace(code, value=code.value + "'", expires_at=now + self.code_lifetime)
            code = self.codes[company_id] = changed
            self._set(connection, qr_expires_at=code.expires_at)
        return code

    def qr(self, company_id: str) -> ScanCode:
        return self._code(company_id, PairingMethod.QR)

    def pairing_code(self, company_id: str) -> ScanCode:
        return self._code(company_id, PairingMethod.PAIRING_CODE)

    def active_sessions(self) -> Sequence[ActiveSession]:
        self._called("active_sessions", "")
        return [
            FakeActiveSession(connection=connection, owner_id="pod-a", is_local=True)
            for connection in self.connections.values()
            if connection.desired_state is DesiredState.RUN
        ]


class FakeBackups:
    def __init__(self) -> None:
        self.calls: list[tuple[str, str | None]] = []
        self.raises: Exception | None = None
        self.session_info: SessionInfo = FakeSessionInfo()

    def info(self, company_id: str) -> SessionInfo:
        self._called("info", company_id)
        return self.session_info

    def backup(self, company_id: str) -> SnapshotMeta:
        self._called("backup", company_id)
        return snapshot_of(company_id)

    def clean_up(self, company_id: str | None, keep: int) -> int:
        self._called("clean_up", company_id)
        return 4

    def _called(self, name: str, company_id: str | None) -> None:
        self.calls.append((name, company_id))
        if self.raises is not None:
            raise self.raises


def snapshot_of(company_id: str) -> SnapshotMeta:
    return SnapshotMeta(
        company_id=company_id,
        epoch=3,
        seq=2,
        key_id="k1",
        sha256="ab" * 32,
        size_bytes=39_540,
        clean=True,
        created_at=datetime(2026, 1, 8, 12, tzinfo=UTC),
    )


class FakeMessaging(Messaging):
    def __init__(self) -> None:
        self.sent: list[tuple[str, str, str]] = []
        self.failure: Exception | None = None

    def send_text(self, company_id: str, *, to: str, text: str) -> SentMessage:
        if self.failure is not None:
            raise self.failure
        self.sent.append((company_id, to, text))
        return SentMessage(
            whatsapp_id="3EB0C431C26A1916E07E", server_timestamp_seconds=1_767_225_600
        )


class FakeAttachments(Attachments):
    def __init__(self) -> None:
        self.sent: list[tuple[str, str, MediaNote, MediaSource]] = []
        self.failure: Exception | None = None

    def send_media(
        self, company_id: str, *, to: str, note: MediaNote, source: MediaSource
    ) -> SentMessage:
        if self.failure is not None:
            raise self.failure
        self.sent.append((company_id, to, note, source))
        return SentMessage(
            whatsapp_id="3EB0C431C26A1916E07F", server_timestamp_seconds=1_767_225_600
        )


class FakeReadiness(Readiness):
    def __init__(self) -> None:
        self.current: ReadinessReport = FakeReport(
            ready=True,
            degraded=False,
            checks=[FakeCheck(name="database", ok=True, detail="", data={"pending": 0})],
        )

    def report(self) -> ReadinessReport:
        return self.current


class FakeAuthenticator(ApiKeyAuthenticator):
    """Service keys as in production, and company or narrow keys that tests add."""

    def __init__(self) -> None:
        super().__init__([hash_api_key(SERVICE_KEY)])

    def add_key(
        self,
        key: str,
        *,
        company_id: str | None = None,
        scopes: frozenset[Scope] = frozenset(Scope),
    ) -> None:
        self._principals[hash_api_key(key)] = Principal(
            id=f"fake-{len(self._principals)}",
            scopes=scopes,
            companies=None if company_id is None else {company_id: scopes},
            makes_keys=True,
        )

    def add_user(self, key: str, companies: Mapping[str, frozenset[Scope]]) -> None:
        """Have a key stand for the token of a user of these companies."""
        known = self._principals.get(hash_api_key(key))
        self._principals[hash_api_key(key)] = Principal(
            id=known.id if known else f"fake-{len(self._principals)}",
            scopes=frozenset().union(*companies.values()),
            companies=companies,
            user_id="7f0f0b61-0c3e-4c53-9a0c-0a7c2a1f1d11",
        )

    def remove_key(self, key: str) -> None:
        del self._principals[hash_api_key(key)]


class FakeMetrics:
    """Keeps what is counted; the page is what it was asked for."""

    def __init__(self) -> None:
        self.requests: list[tuple[str | None, str, int, float]] = []
        self.limited: list[str] = []

    def render(self, accept: str) -> tuple[bytes, str]:
        return f"# accept: {accept}\n".encode(), "text/plain; version=0.0.4; charset=utf-8"

    def note_request(
        self, route: str | None, method: str, status_code: int, seconds: float
    ) -> None:
        self.requests.append((route, method, status_code, seconds))

    def note_limited(self, limit: str) -> None:
        self.limited.append(limit)


class FakeReports:
    """A report that tests set; what was asked for is kept."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, frozenset[str] | None]] = []
        self.answer = Report(
            generated_at=datetime(2026, 11, 21, 12, tzinfo=UTC),
            since=datetime(2026, 11, 20, 12, tzinfo=UTC),
            total=0,
            should_run=0,
            by_status=dict.fromkeys(Status, 0),
            history=None,
            history_problem="The database did not answer in time.",
            snapshots=SnapshotCover(enabled=False, covered=0, without=0, oldest_seconds=None),
            troubles=(),
            engines=EngineSummary(total=0, running=0, deaths=0, memory_mb=0.0),
            database_problem=None,
            names={},
        )

    def report(self, *, hours: int, companies: frozenset[str] | None) -> Report:
        self.asked.append((hours, companies))
        return self.answer


class KeptInMemory:
    """The file of the keys last known."""

    def __init__(self) -> None:
        self.text: str | None = None
        self.failure: Exception | None = None

    def find(self) -> str | None:
        return self.text

    def keep(self, text: str) -> None:
        if self.failure is not None:
            raise self.failure
        self.text = text


class FakeKeys:
    """The real key ring on a fake database."""

    def __init__(self) -> None:
        clock = SteadyClock()
        terms = MissTerms(longest_seconds=300.0, first_seconds=10.0)
        seal = KeySeal(["a pepper of the tests, long enough 0123456789"])
        self.store = FakeApiKeyStore()
        self.ring = ApiKeyRing(
            store=self.store,
            seal=seal,
            kept=KeptInMemory(),
            clock=clock,
            misses=KeyMisses(clock, terms),
        )
        self.ring.sync()
        self.desk = ApiKeyDesk(self.ring, seal, clock)

    def make(
        self,
        *,
        company_id: str | None = None,
        scopes: frozenset[Scope] = frozenset(Scope),
        expires_at: datetime | None = None,
    ) -> tuple[str, str]:
        """Make a key; return its id and its text."""
        key, text = self.desk.create(
            name="for a test",
            company_id=company_id,
            scopes=scopes,
            expires_at=expires_at,
            created_by="tests",
        )
        return key.id, text


class FakeUsers:
    """Users whose tokens say their company, and those of a table: by a secret of their own each."""

    SECRET = "a-secret-of-users-with-a-claim-0123456789"
    MEMBER_SECRET = "a-secret-of-users-of-the-table-0123456789"

    def __init__(self) -> None:
        self.table = FakeMembershipStore()
        self.claimed = self._tokens(self.SECRET)
        self.members = self._tokens(
            self.MEMBER_SECRET,
            memberships=Memberships(
                self.table,
                MembershipTerms(
                    cache_seconds=45.0, stale_seconds=300.0, retry_seconds=5.0, wait_seconds=30.0
                ),
            ),
        )

    def _tokens(self, secret: str, **more: Any) -> UserTokenAuthenticator:
        roles = {"admin": frozenset(Scope), "viewer": frozenset({Scope.READ})}
        terms = UserTerms(issuer="https://abc.supabase.co", role_scopes=roles, secret=secret)
        return UserTokenAuthenticator(SigningKeys(_NoKeys(), _KEY_TERMS), terms, **more)


class _NoKeys:
    """A project that publishes no keys."""

    def read(self) -> bytes:
        return b'{"keys": []}'


_KEY_TERMS = KeyTerms(refresh_seconds=600.0, miss_seconds=10.0, stale_seconds=3_600.0)


class FakeServices:
    """Everything an app is given; `started = False` is a process that is not up yet."""

    def __init__(self) -> None:
        self.events = EventStream(STREAM_LIMITS, SteadyClock())
        self.sessions = FakeSessions(lambda notice: self.events.carry(notice))
        self.backups = FakeBackups()
        self.messaging = FakeMessaging()
        self.attachments = FakeAttachments()
        self.readiness = FakeReadiness()
        self.metrics = FakeMetrics()
        self.reports = FakeReports()
        self.authenticator = FakeAuthenticator()
        self.webhooks = WebhookWorld()
        self.keys = FakeKeys()
        self.users = FakeUsers()
        self.started = True

    def go_away(self) -> None:
        """Be stopped: streams end, and requests are told to come later."""
        self.started = False
        self.events.stop()

    def come_back(self) -> None:
        """Be started again: with the connections of before, and no memory of what happened."""
        self.events = EventStream(STREAM_LIMITS, SteadyClock())
        self.events.begin(self.sessions.connections.values())
        self.started = True

    def provide(self) -> WebServices | None:
        if not self.started:
            return None
        return WebServices(
            sessions=self.sessions,
            backups=self.backups,
            messaging=self.messaging,
            attachments=self.attachments,
            readiness=self.readiness,
            events=self.events,
            metrics=self.metrics,
            reports=self.reports,
            authenticator=CompositeAuthenticator(
                (
                    self.authenticator,
                    KeyRingAuthenticator(self.keys.ring),
                    self.users.claimed,
                    self.users.members,
                )
            ),
            keys=self.keys.desk,
            webhooks=self.webhooks.desk,
        )


def connected(company_id: str, phone_number: str, push_name: str) -> Connection:
    """Return a connection as it looks when all is well."""
    return Connection(
        company_id=company_id,
        desired_state=DesiredState.RUN,
        status=Status.CONNECTED,
        reason=Reason.ONLINE,
        message="Connected.",
        user_action=UserAction.NONE,
        jid=f"{phone_number}:1@s.whatsapp.net",
        phone_number=phone_number,
        push_name=push_name,
        last_connected_at=datetime(2026, 1, 8, 12, 0, 0, tzinfo=UTC),
    )


def saved_folder(company_id: str) -> FolderReport:
    """Return the report of a healthy session folder."""
    return FolderReport(
        state=FolderState.VALID,
        credentials=Credentials(
            company_id=company_id,
            jid="5511987654321:1@s.whatsapp.net",
            lid=None,
            push_name="Ana",
            platform="android",
            paired_at=datetime(2026, 1, 8, 12, 0, 0, tzinfo=UTC),
            epoch=1,
        ),
        file_count=2,
        size_bytes=204_800,
    )

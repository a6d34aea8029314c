"""The bodies of the contract, as pydantic models. They check requests and document answers."""

from datetime import datetime
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StrictBool, model_validator

from crm_whatsapp.domain.connection import (
    Connection,
    PairingMethod,
    Reason,
    Status,
    UserAction,
)
from crm_whatsapp.domain.errors import InvalidInput
from crm_whatsapp.domain.folders import FolderState
from crm_whatsapp.web.field_types import (
    CompanyId,
    PhoneNumber,
    ProxyUrl,
    ShortText,
    WholeNumber,
)


class Request(BaseModel):
    """What a caller sends; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class CompanyRequest(Request):
    """Which company."""

    company_id: CompanyId


class QrRequest(CompanyRequest):
    """Which company's QR code, and as what."""

    format: Literal["png", "svg", "raw"] = "png"


class ConnectRequest(CompanyRequest):
    """How to connect a company."""

    user_id: ShortText | None = Field(default=None, description="Who asks; kept with the row.")
    method: PairingMethod
    phone_number: PhoneNumber | None = Field(
        default=None, description="Needed for a pairing code.", examples=["+5511987654321"]
    )
    fresh: StrictBool = Field(
        default=False, description="Set a saved session aside and pair again."
    )
    proxy: ProxyUrl | None = Field(
        default=None, description="http, https or socks5 URL; needs a service key."
    )

    @model_validator(mode="after")
    def _code_needs_number(self) -> Self:
        if self.method is PairingMethod.PAIRING_CODE and self.phone_number is None:
            raise InvalidInput("phone_number is required for a pairing code.", field="phone_number")
        return self


class CleanUpRequest(Request):
    """Whose snapshots to thin out."""

    company_id: CompanyId | None = Field(
        default=None, description="Absent: of every company; needs a service key."
    )
    keep: WholeNumber = Field(default=3, ge=1, le=1000, description="How many stay, newest first.")


class StatusBody(BaseModel):
    """The connection of one company."""

    company_id: str
    status: Status
    is_connected: bool
    message: str
    reason: Reason
    user_action: UserAction
    phone_number: str | None
    push_name: str | None
    last_connected_at: datetime | None
    retry_at: datetime | None
    qr_expires_at: datetime | None

    @classmethod
    def of(cls, connection: Connection) -> Self:
        """Show a connection."""
        return cls(**_shown(connection))


class ActiveSessionBody(StatusBody):
    """A connection that should be running. owner_id: the instance that holds its lease."""

    user_id: str | None
    owner_id: str | None
    is_local: bool

    @classmethod
    def of_owned(cls, connection: Connection, owner_id: str | None, is_local: bool) -> Self:
        """Show a connection and who runs it."""
        return cls(
            **_shown(connection),
            user_id=connection.user_id,
            owner_id=owner_id,
            is_local=is_local,
        )


class ActiveSessionsBody(BaseModel):
    """Every connection that should be running, as far as the caller may see."""

    sessions: list[ActiveSessionBody]
    count: int


class QrBody(BaseModel):
    """The text of a QR code."""

    value: str
    expires_at: datetime


class PairingCodeBody(BaseModel):
    """The code to type into the phone."""

    code: str
    expires_at: datetime


class DeletedBody(BaseModel):
    """The session is forgotten; unlinking at WhatsApp goes on in the background."""

    company_id: str
    deleted: bool


class StorageBody(BaseModel):
    """Where sessions are kept. path: only for service keys."""

    valid: bool
    path: str | None
    writable: bool
    detail: str


class SessionFolderBody(BaseModel):
    """What is saved for the company."""

    exists: bool
    status: FolderState
    file_count: int
    size_bytes: int
    jid: str | None
    detail: str


class SnapshotBody(BaseModel):
    """A copy of the session kept outside this machine."""

    epoch: int
    seq: int
    created_at: datetime
    size_bytes: int
    clean: bool


class PersistenceBody(BaseModel):
    """What the session survives."""

    will_survive_restart: bool
    will_survive_disk_loss: bool
    why: str


class SessionInfoBody(BaseModel):
    """Everything about the saved session of a company."""

    storage: StorageBody
    session: SessionFolderBody
    snapshots: list[SnapshotBody]
    persistence: PersistenceBody


class BackupBody(BaseModel):
    """A snapshot was written and read back."""

    company_id: str
    snapshot: SnapshotBody


class CleanedUpBody(BaseModel):
    """How many snapshots were removed."""

    removed: int
    kept: int


class SentBody(BaseModel):
    """WhatsApp has acknowledged the message."""

    message_id: str
    whatsapp_id: str
    status: Literal["sent"] = "sent"


class CheckBody(BaseModel):
    """One thing that was looked at."""

    model_config = ConfigDict(extra="allow")

    name: str
    ok: bool
    detail: str


class ReadinessBody(BaseModel):
    """Whether this pod can serve."""

    ready: bool
    degraded: bool
    checks: list[CheckBody]


class HealthBody(BaseModel):
    """The process lives."""

    status: Literal["ok"] = "ok"


class FieldError(BaseModel):
    """What is wrong with one field."""

    field: str
    message: str


class ErrorDetail(BaseModel):
    """code: stable, for programs. message: for people. Some errors carry more."""

    model_config = ConfigDict(extra="allow")

    code: str
    message: str
    field: str | None = None
    fields: list[FieldError] | None = None


class ErrorBody(BaseModel):
    """Every error."""

    error: ErrorDetail


def _shown(connection: Connection) -> dict[str, Any]:
    return {
        "company_id": connection.company_id,
        "status": connection.status,
        "is_connected": connection.is_connected,
        "message": connection.message,
        "reason": connection.reason,
        "user_action": connection.user_action,
        "phone_number": connection.phone_number,
        "push_name": connection.push_name,
        "last_connected_at": connection.last_connected_at,
        "retry_at": connection.retry_at,
        "qr_expires_at": connection.qr_expires_at,
    }

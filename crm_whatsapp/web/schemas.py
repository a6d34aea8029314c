"""The bodies of the contract, as pydantic models. They check requests and document answers."""

import re
from datetime import datetime
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

import phonenumbers
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictStr,
    model_validator,
)
from pydantic_core import PydanticCustomError

from crm_whatsapp.domain.company import parse_company_id
from crm_whatsapp.domain.connection import (
    Connection,
    PairingMethod,
    Reason,
    Status,
    UserAction,
)
from crm_whatsapp.domain.errors import InvalidInput
from crm_whatsapp.domain.folders import FolderState

_PHONE_CHARACTERS = re.compile(r"\+?[0-9][0-9 ().-]{5,30}")
_CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f]")
_PROXY_SCHEMES = frozenset({"http", "https", "socks5"})


def _company_id(value: object) -> str:
    try:
        return parse_company_id(value)
    except InvalidInput as exc:
        raise PydanticCustomError("crm_company_id", "{reason}", {"reason": exc.message}) from exc


def _phone_number(value: str) -> str:
    """Return the digits of an E.164 number.

    Checks the length for the country, not the known ranges: those change more often than
    releases of this product.
    """
    if _PHONE_CHARACTERS.fullmatch(value):
        try:
            number = phonenumbers.parse("+" + value.removeprefix("+"), None)
        except phonenumbers.NumberParseException:
            number = None
        if number is not None and phonenumbers.is_possible_number(number):
            return phonenumbers.format_number(
                number, phonenumbers.PhoneNumberFormat.E164
            ).removeprefix("+")
    raise PydanticCustomError(
        "crm_phone_number",
        "phone_number must be an international number with country code, such as +5511987654321.",
    )


def _proxy_url(value: str) -> str:
    """Return the URL when it is one of a proxy; it holds a password, so it is never repeated."""
    try:
        parts = urlsplit(value)
        usable = (
            parts.scheme in _PROXY_SCHEMES
            and bool(parts.hostname)
            and parts.port != 0
            and parts.path in ("", "/")
            and not parts.query
            and not parts.fragment
            and re.search(r"[\s\x00-\x1f\x7f]", value) is None
        )
    except ValueError:
        usable = False
    if not usable:
        raise PydanticCustomError(
            "crm_proxy", "proxy must be an http, https or socks5 URL such as socks5://host:1080."
        )
    return value


def _no_nul(value: str) -> str:
    if "\x00" in value:
        raise PydanticCustomError("crm_nul", "text must not contain the character NUL.")
    return value


def _printable(value: str) -> str:
    if _CONTROL_CHARACTERS.search(value):
        raise PydanticCustomError("crm_control", "Control characters are not allowed.")
    return value


CompanyId = Annotated[
    str,
    BeforeValidator(_company_id),
    Field(
        description="The company, a canonical 36-character UUID.",
        min_length=36,
        max_length=36,
        json_schema_extra={"format": "uuid", "example": "3b1bee0c-cbee-4de1-88f1-d6e890f4c995"},
    ),
]
PhoneNumber = Annotated[StrictStr, Field(max_length=32), AfterValidator(_phone_number)]
ProxyUrl = Annotated[StrictStr, Field(max_length=2048), AfterValidator(_proxy_url)]
MessageText = Annotated[StrictStr, Field(min_length=1, max_length=65536), AfterValidator(_no_nul)]
ShortText = Annotated[StrictStr, Field(min_length=1, max_length=128), AfterValidator(_printable)]


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


class SendRequest(CompanyRequest):
    """A text message."""

    to: ShortText = Field(
        description="E.164 number or jid.",
        examples=["+5511987654321", "5511987654321@s.whatsapp.net"],
    )
    type: Literal["text"]
    text: MessageText


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

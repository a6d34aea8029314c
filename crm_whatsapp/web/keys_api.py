"""The routes of API keys: who may call, and for what."""

import re
from datetime import UTC, datetime
from typing import Annotated, Self

from flask import Response
from flask_openapi3.models.tag import Tag
from pydantic import AwareDatetime, BaseModel, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from crm_whatsapp.domain.api_keys import ApiKey, KeyUnknown, Scope, parse_key_id
from crm_whatsapp.domain.errors import InvalidInput
from crm_whatsapp.web.auth import CompanyKeeping, Principal, requires
from crm_whatsapp.web.errors import Forbidden
from crm_whatsapp.web.field_types import CompanyId, ShortText
from crm_whatsapp.web.json_answer import json_answer
from crm_whatsapp.web.request_context import current_principal, current_services
from crm_whatsapp.web.schemas import ErrorBody, Request
from crm_whatsapp.web.strict_blueprint import StrictBlueprint

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)", re.ASCII)


def _key_id(value: object) -> str:
    try:
        return parse_key_id(value)
    except InvalidInput as exc:
        raise PydanticCustomError("crm_key_id", "{reason}", {"reason": exc.message}) from exc


def _moment(value: object) -> datetime | None:
    """Read a time that is written out, with its zone; pydantic takes numbers too."""
    if value is None:
        return None
    try:
        if isinstance(value, str) and _TIME.fullmatch(value):
            return datetime.fromisoformat(value).astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise PydanticCustomError("crm_time", "expires_at must be a time such as 2027-01-31T12:00:00Z.")


KeyId = Annotated[
    str,
    BeforeValidator(_key_id),
    Field(
        description="The key's id: the part after crmwa_.",
        min_length=12,
        max_length=12,
        json_schema_extra={"pattern": "^[a-z2-7]{12}$", "example": "k3vq7mzc2hxd"},
    ),
]


class NewKeyRequest(Request):
    """A key to make."""

    name: ShortText = Field(description="For people: who uses it, and where.")
    company_id: CompanyId | None = Field(
        default=None, description="Absent: a service key, which only a service key can make."
    )
    scopes: list[Scope] = Field(
        min_length=1, max_length=len(Scope), description="No wider than those of the caller."
    )
    expires_at: Annotated[AwareDatetime | None, BeforeValidator(_moment)] = Field(
        default=None, description="Absent: valid until revoked, or as long as the caller's own."
    )


class KeyPath(Request):
    """Which key."""

    key_id: KeyId


class KeyBody(BaseModel):
    """A key, without what is secret."""

    id: str
    name: str
    company_id: str | None
    scopes: list[Scope]
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None

    @classmethod
    def of(cls, key: ApiKey) -> Self:
        """Show a key."""
        return cls(
            id=key.id,
            name=key.name,
            company_id=key.company_id,
            scopes=sorted(key.scopes, key=list(Scope).index),
            created_at=key.created_at,
            created_by=key.created_by,
            expires_at=key.expires_at,
            revoked_at=key.revoked_at,
            last_used_at=key.last_used_at,
        )


class NewKeyBody(KeyBody):
    """A key just made. key: shown in this answer alone."""

    key: str = Field(repr=False)


class KeysBody(BaseModel):
    """Keys, the newest first."""

    keys: list[KeyBody]
    count: int


keys_api = StrictBlueprint(
    "keys_api",
    __name__,
    url_prefix="/api/whatsapp",
    abp_tags=[Tag(name="keys", description="Who may call, and for what.")],
    abp_security=[{"api_key": []}, {"dashboard": []}],
    abp_responses={400: ErrorBody, 401: ErrorBody, 403: ErrorBody, 503: ErrorBody},
)


@keys_api.post("/keys", summary="Make a key", responses={201: NewKeyBody, 422: ErrorBody})
@requires(Scope.MANAGE)
def create_key(body: NewKeyRequest) -> Response:
    """Make a key that opens no more than the caller's own. It is shown in this answer alone."""
    principal = _key_maker()
    if body.company_id is None:
        principal.require_service("Making a service key")
    scopes = frozenset(body.scopes)
    lacking = sorted(scopes - principal.scopes)
    if lacking:
        raise Forbidden(f"This key lacks the scope {lacking[0].value} itself.")
    expires_at = body.expires_at or principal.expires_at
    if expires_at and principal.expires_at and expires_at > principal.expires_at:
        raise Forbidden("A key cannot outlive the key that makes it.")
    key, text = current_services().keys.create(
        name=body.name,
        company_id=body.company_id,
        scopes=scopes,
        expires_at=expires_at,
        created_by=principal.id,
    )
    return json_answer(NewKeyBody(**KeyBody.of(key).model_dump(), key=text), 201)


@keys_api.get("/keys", summary="All keys", responses={200: KeysBody})
@requires(Scope.MANAGE, keeping=CompanyKeeping.SHOWS_OWN)
def list_keys() -> Response:
    """List them, revoked ones too. A company key sees those of its company."""
    keys = current_services().keys.listing(_key_maker().only_company())
    rows = [KeyBody.of(key) for key in keys]
    return json_answer(KeysBody(keys=rows, count=len(rows)))


@keys_api.delete("/keys/<key_id>", summary="Revoke a key", responses={200: KeyBody, 404: ErrorBody})
@requires(Scope.MANAGE, keeping=CompanyKeeping.BY_RESOURCE)
def revoke_key(path: KeyPath) -> Response:
    """End a key for good: in this pod at once, in others within SYNC_INTERVAL_SECONDS."""
    principal = _key_maker()
    try:
        key = current_services().keys.revoke(
            path.key_id, by=principal.id, company_id=principal.only_company()
        )
    except KeyUnknown:
        if principal.is_service:
            raise
        # Not 404: whether others have a key with this id is not told.
        raise Forbidden("Your company has no key with this id.") from None
    return json_answer(KeyBody.of(key))


def _key_maker() -> Principal:
    principal = current_principal()
    if not principal.makes_keys:
        raise Forbidden("Keys are managed with a key, not with a user's token.")
    return principal

"""The bodies of the webhook routes."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, Field, StrictBool, StrictStr
from pydantic import model_validator as after_all
from pydantic_core import PydanticCustomError

from crm_whatsapp.domain.company import parse_company_id
from crm_whatsapp.domain.errors import InvalidInput
from crm_whatsapp.domain.notices import NoticeKind
from crm_whatsapp.domain.webhooks import DeliveryRecord, DeliveryState, Webhook, WebhookOrigin
from crm_whatsapp.web.field_types import CompanyId, WholeNumber
from crm_whatsapp.web.schemas import Request

_MOST_IDS = 1000
_LARGEST_ID = 2**63 - 1


def _webhook_id(value: object) -> str:
    try:
        return parse_company_id(value, field="webhook_id")
    except InvalidInput as exc:
        raise PydanticCustomError("crm_webhook_id", "{reason}", {"reason": exc.message}) from exc


WebhookId = Annotated[
    str,
    BeforeValidator(_webhook_id),
    Field(
        description="The webhook, a canonical 36-character UUID.",
        min_length=36,
        max_length=36,
        json_schema_extra={"format": "uuid"},
    ),
]
TargetUrl = Annotated[
    StrictStr,
    Field(
        min_length=1,
        max_length=2048,
        description="https URL that deliveries are posted to. Redirects are not followed.",
        examples=["https://crm.example.com/hooks/whatsapp"],
    ),
]
EventTypes = Annotated[
    list[NoticeKind],
    Field(max_length=len(NoticeKind), description="What it is told of; empty: everything."),
]
Secret = Annotated[
    StrictStr,
    Field(max_length=120, description="whsec_ and the base64 of 24 to 64 random bytes."),
]


class NewWebhookRequest(Request):
    """A target to register."""

    company_id: CompanyId | None = Field(
        default=None, description="Absent: of every company; needs a service key."
    )
    url: TargetUrl
    events: EventTypes = Field(default_factory=list)
    secret: Secret | None = Field(default=None, description="Absent: one is made.")


class ChangeWebhookRequest(Request):
    """What is to be different; what is absent stays."""

    url: TargetUrl | None = None
    events: EventTypes | None = None
    enabled: StrictBool | None = Field(
        default=None, description="false: deliveries wait, and none are queued."
    )
    secret: Secret | None = Field(
        default=None, description="Takes over; the one before goes on signing for a while."
    )
    rotate_secret: StrictBool = Field(default=False, description="Have a fresh secret made.")


class WebhookPath(Request):
    """Which webhook."""

    webhook_id: WebhookId


class DeliveriesRequest(Request):
    """Which part of the delivery log."""

    state: DeliveryState | None = None
    before: int | None = Field(
        default=None, ge=1, le=_LARGEST_ID, description="Only deliveries with a lower id."
    )
    limit: int = Field(default=50, ge=1, le=200)


class RedeliverRequest(Request):
    """What to send again: these, or all that are parked."""

    delivery_ids: (
        Annotated[
            list[Annotated[WholeNumber, Field(ge=1, le=_LARGEST_ID)]],
            Field(min_length=1, max_length=_MOST_IDS),
        ]
        | None
    ) = None
    all_parked: StrictBool = False

    @after_all(mode="after")
    def _one_of_both(self) -> Self:
        if (self.delivery_ids is not None) == self.all_parked:
            raise InvalidInput(
                "Give either delivery_ids or all_parked: true.", field="delivery_ids"
            )
        return self


class WebhookBody(BaseModel):
    """A registered target. Its secret is not shown."""

    id: str
    company_id: str | None
    url: str
    events: list[NoticeKind]
    enabled: bool
    origin: WebhookOrigin
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, webhook: Webhook) -> Self:
        """Show a webhook."""
        return cls(**_shown(webhook))


class WebhooksBody(BaseModel):
    """The registered targets, as far as the caller may see."""

    webhooks: list[WebhookBody]
    count: int


class WebhookWithSecretBody(WebhookBody):
    """A target with its signing secret, shown this once; null when it has not changed."""

    secret: str | None

    @classmethod
    def with_secret(cls, webhook: Webhook, secret: str | None) -> Self:
        """Show a webhook and a fresh secret."""
        return cls(**_shown(webhook), secret=secret)


class DeliveryCountsBody(BaseModel):
    """How many deliveries are in each state."""

    pending: int
    delivered: int
    parked: int


class WebhookDetailBody(WebhookBody):
    """A target and how it fares. is_resting: it did not answer and is left alone for a while."""

    is_resting: bool
    deliveries: DeliveryCountsBody

    @classmethod
    def of_faring(
        cls, webhook: Webhook, counts: Mapping[DeliveryState, int], *, is_resting: bool
    ) -> Self:
        """Show a webhook and how it fares."""
        shown = DeliveryCountsBody(**{state.value: count for state, count in counts.items()})
        return cls(**_shown(webhook), is_resting=is_resting, deliveries=shown)


class DeliveryBody(BaseModel):
    """A line of the delivery log. event_id: the id in the envelope and in webhook-id."""

    id: int
    event_id: str
    type: NoticeKind
    company_id: str | None
    state: DeliveryState
    attempts: int
    status_code: int | None
    error: str | None
    queued_at: datetime
    last_attempt_at: datetime | None
    next_attempt_at: datetime | None
    settled_at: datetime | None

    @classmethod
    def of(cls, record: DeliveryRecord) -> Self:
        """Show a line."""
        return cls(
            id=record.id,
            event_id=record.notice_id,
            type=record.kind,
            company_id=record.company_id,
            state=record.state,
            attempts=record.attempts,
            status_code=record.status_code,
            error=record.error,
            queued_at=record.queued_at,
            last_attempt_at=record.last_attempt_at,
            next_attempt_at=record.next_attempt_at,
            settled_at=record.settled_at,
        )


class DeliveriesBody(BaseModel):
    """A page of the delivery log, newest first. next_before: where the next page begins."""

    deliveries: list[DeliveryBody]
    count: int
    next_before: int | None


class RedeliveredBody(BaseModel):
    """How many deliveries were queued again; those still pending are not counted."""

    queued: int


class TestedBody(BaseModel):
    """The target has taken the test."""

    delivered: Literal[True] = True
    status_code: int
    took_ms: int


class RemovedWebhookBody(BaseModel):
    """The webhook and its deliveries are gone."""

    id: str
    deleted: bool


def _shown(webhook: Webhook) -> dict[str, Any]:
    return {
        "id": webhook.id,
        "company_id": webhook.company_id,
        "url": webhook.url,
        "events": sorted(webhook.kinds),
        "enabled": webhook.enabled,
        "origin": webhook.origin,
        "created_at": webhook.created_at,
        "updated_at": webhook.updated_at,
    }

"""The routes of webhooks: who is told of what happens, and how that went."""

from flask import Response
from flask_openapi3.models.tag import Tag

from crm_whatsapp.domain.errors import NotFound
from crm_whatsapp.domain.webhooks import Webhook
from crm_whatsapp.web.auth import CompanyKeeping, Scope, requires
from crm_whatsapp.web.errors import Forbidden
from crm_whatsapp.web.json_answer import json_answer
from crm_whatsapp.web.request_context import current_principal, current_services
from crm_whatsapp.web.schemas import ErrorBody
from crm_whatsapp.web.strict_blueprint import StrictBlueprint
from crm_whatsapp.web.webhook_schemas import (
    ChangeWebhookRequest,
    DeliveriesBody,
    DeliveriesRequest,
    DeliveryBody,
    NewWebhookRequest,
    RedeliveredBody,
    RedeliverRequest,
    RemovedWebhookBody,
    TestedBody,
    WebhookBody,
    WebhookDetailBody,
    WebhookPath,
    WebhooksBody,
    WebhookWithSecretBody,
)

webhooks_api = StrictBlueprint(
    "webhooks_api",
    __name__,
    url_prefix="/api/whatsapp",
    abp_tags=[Tag(name="webhooks", description="Who is told of what happens.")],
    abp_security=[{"api_key": []}, {"dashboard": []}],
    abp_responses={400: ErrorBody, 401: ErrorBody, 403: ErrorBody, 503: ErrorBody},
)


@webhooks_api.post(
    "/webhooks",
    summary="Register a target",
    responses={201: WebhookWithSecretBody, 422: ErrorBody},
)
@requires(Scope.MANAGE)
def create_webhook(body: NewWebhookRequest) -> Response:
    """Have events posted to a URL from now on. The secret is shown in this answer alone."""
    _refuse_users()
    if body.company_id is None:
        current_principal().require_service("A webhook for every company")
    webhook, secret = current_services().webhooks.create(
        company_id=body.company_id,
        url=body.url,
        kinds=frozenset(body.events),
        secret=body.secret,
    )
    return json_answer(WebhookWithSecretBody.with_secret(webhook, secret), 201)


@webhooks_api.get("/webhooks", summary="All targets", responses={200: WebhooksBody})
@requires(Scope.MANAGE, keeping=CompanyKeeping.SHOWS_OWN)
def list_webhooks() -> Response:
    """List them, oldest first. A company key sees those of its company."""
    principal = current_principal()
    rows = [
        WebhookBody.of(webhook)
        for webhook in current_services().webhooks.listing()
        if principal.may(Scope.MANAGE, webhook.company_id)
    ]
    return json_answer(WebhooksBody(webhooks=rows, count=len(rows)))


@webhooks_api.get(
    "/webhooks/<webhook_id>",
    summary="One target, and how it fares",
    responses={200: WebhookDetailBody, 404: ErrorBody},
)
@requires(Scope.MANAGE, keeping=CompanyKeeping.BY_RESOURCE)
def get_webhook(path: WebhookPath) -> Response:
    """Show the target with the number of its deliveries in each state."""
    webhooks = current_services().webhooks
    webhook = _reached(path)
    return json_answer(
        WebhookDetailBody.of_faring(
            webhook, webhooks.counts(webhook.id), is_resting=webhooks.is_resting(webhook.id)
        )
    )


@webhooks_api.patch(
    "/webhooks/<webhook_id>",
    summary="Change a target",
    responses={200: WebhookWithSecretBody, 404: ErrorBody, 422: ErrorBody},
)
@requires(Scope.MANAGE, keeping=CompanyKeeping.BY_RESOURCE)
def change_webhook(path: WebhookPath, body: ChangeWebhookRequest) -> Response:
    """Change what is given. After a change of the secret both sign for a while."""
    _refuse_users()
    _reached(path)
    webhook, secret = current_services().webhooks.change(
        path.webhook_id,
        url=body.url,
        kinds=None if body.events is None else frozenset(body.events),
        enabled=body.enabled,
        secret=body.secret,
        makes_secret=body.rotate_secret,
    )
    return json_answer(WebhookWithSecretBody.with_secret(webhook, secret))


@webhooks_api.delete(
    "/webhooks/<webhook_id>",
    summary="Remove a target",
    responses={200: RemovedWebhookBody, 404: ErrorBody, 422: ErrorBody},
)
@requires(Scope.MANAGE, keeping=CompanyKeeping.BY_RESOURCE)
def delete_webhook(path: WebhookPath) -> Response:
    """Remove it with its deliveries, those that wait included."""
    _reached(path)
    current_services().webhooks.remove(path.webhook_id)
    return json_answer(RemovedWebhookBody(id=path.webhook_id, deleted=True))


@webhooks_api.get(
    "/webhooks/<webhook_id>/deliveries",
    summary="The delivery log",
    responses={200: DeliveriesBody, 404: ErrorBody},
)
@requires(Scope.MANAGE, keeping=CompanyKeeping.BY_RESOURCE)
def list_deliveries(path: WebhookPath, query: DeliveriesRequest) -> Response:
    """Show what was sent and what waits, newest first, without the contents."""
    _reached(path)
    records = current_services().webhooks.deliveries(
        path.webhook_id, state=query.state, before=query.before, limit=query.limit
    )
    rows = [DeliveryBody.of(record) for record in records]
    more = rows[-1].id if len(rows) == query.limit else None
    return json_answer(DeliveriesBody(deliveries=rows, count=len(rows), next_before=more))


@webhooks_api.post(
    "/webhooks/<webhook_id>/redeliver",
    summary="Send again",
    responses={202: RedeliveredBody, 404: ErrorBody},
)
@requires(Scope.MANAGE, keeping=CompanyKeeping.BY_RESOURCE)
def redeliver(path: WebhookPath, body: RedeliverRequest) -> Response:
    """Queue deliveries anew, behind those that wait: all that are parked, or these."""
    _reached(path)
    queued = current_services().webhooks.redeliver(path.webhook_id, body.delivery_ids)
    return json_answer(RedeliveredBody(queued=queued), 202)


@webhooks_api.post(
    "/webhooks/<webhook_id>/test",
    summary="Send a test now",
    responses={200: TestedBody, 404: ErrorBody, 422: ErrorBody},
)
@requires(Scope.MANAGE, keeping=CompanyKeeping.BY_RESOURCE)
def test_webhook(path: WebhookPath) -> Response:
    """Post a signed `session.alert` of the kind `webhook-test`; 422 says why it was not taken."""
    _reached(path)
    answer = current_services().webhooks.test(path.webhook_id)
    return json_answer(
        TestedBody(status_code=answer.status_code or 0, took_ms=round(answer.took_seconds * 1000))
    )


def _refuse_users() -> None:
    """Refuse a user's token: a webhook outlives it, and hears codes and messages."""
    if current_principal().user_id is not None:
        raise Forbidden("Webhooks are set up with a key, not with a user's token.")


def _reached(path: WebhookPath) -> Webhook:
    """Return the webhook if the caller may reach it.

    A company key is refused in the same words whether others have such a webhook or nobody has.
    """
    principal = current_principal()
    try:
        webhook = current_services().webhooks.get(path.webhook_id)
    except NotFound:
        if principal.is_service:
            raise
        webhook = None
    if webhook is None or not principal.may(Scope.MANAGE, webhook.company_id):
        raise Forbidden("Your company has no webhook with this id.")
    return webhook

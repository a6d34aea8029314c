"""The routes of messages."""

from flask import Response
from flask_openapi3.models.tag import Tag

from crm_whatsapp.web.auth import Scope, requires
from crm_whatsapp.web.large_bodies import ContentBlueprint
from crm_whatsapp.web.message_schemas import SendRequest
from crm_whatsapp.web.request_context import current_services
from crm_whatsapp.web.schemas import ErrorBody, SentBody

messages_api = ContentBlueprint(
    "messages_api",
    __name__,
    url_prefix="/api/whatsapp",
    abp_tags=[Tag(name="messages", description="Send messages.")],
    abp_security=[{"api_key": []}, {"user_token": []}, {"dashboard": []}],
    abp_responses={400: ErrorBody, 401: ErrorBody, 403: ErrorBody, 503: ErrorBody},
)


@messages_api.post(
    "/messages/send",
    summary="Send a text or an attachment and wait for WhatsApp's ack",
    responses={200: SentBody, 422: ErrorBody},
)
@requires(Scope.SEND)
def send_message(body: SendRequest) -> Response:
    """Wait up to 10 s for the ack. Without one: 503 send-unconfirmed with the whatsapp_id."""
    services = current_services()
    attached = body.attachment()
    if attached is None:
        sent = services.messaging.send_text(body.company_id, to=body.to, text=body.text or "")
    else:
        note, source = attached
        sent = services.attachments.send_media(
            body.company_id, to=body.to, note=note, source=source
        )
    answer = SentBody(message_id=sent.whatsapp_id, whatsapp_id=sent.whatsapp_id)
    return Response(answer.model_dump_json(), mimetype="application/json")

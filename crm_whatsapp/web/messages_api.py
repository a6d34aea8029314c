"""The routes of messages."""

from flask import Response
from flask_openapi3.models.tag import Tag

from crm_whatsapp.web.auth import Scope, requires
from crm_whatsapp.web.request_context import current_services
from crm_whatsapp.web.schemas import ErrorBody, SendRequest, SentBody
from crm_whatsapp.web.strict_blueprint import StrictBlueprint

messages_api = StrictBlueprint(
    "messages_api",
    __name__,
    url_prefix="/api/whatsapp",
    abp_tags=[Tag(name="messages", description="Send messages.")],
    abp_security=[{"api_key": []}, {"user_token": []}, {"dashboard": []}],
    abp_responses={400: ErrorBody, 401: ErrorBody, 403: ErrorBody, 503: ErrorBody},
)


@messages_api.post(
    "/messages/send",
    summary="Send a text and wait for WhatsApp's ack",
    responses={200: SentBody, 422: ErrorBody},
)
@requires(Scope.SEND)
def send_message(body: SendRequest) -> Response:
    """Wait up to 10 s for the ack. Without one: 503 send-unconfirmed with the whatsapp_id."""
    sent = current_services().messaging.send_text(body.company_id, to=body.to, text=body.text)
    answer = SentBody(message_id=sent.whatsapp_id, whatsapp_id=sent.whatsapp_id)
    return Response(answer.model_dump_json(), mimetype="application/json")

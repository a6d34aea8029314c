"""The routes of a company's session."""

from io import BytesIO
from typing import Any

import segno
from flask import Response
from flask_openapi3.models.tag import Tag

from crm_whatsapp.domain.connection import Connection
from crm_whatsapp.web.auth import CompanyKeeping, Scope, requires
from crm_whatsapp.web.json_answer import json_answer
from crm_whatsapp.web.request_context import current_principal, current_services
from crm_whatsapp.web.schemas import (
    ActiveSessionBody,
    ActiveSessionsBody,
    CompanyRequest,
    ConnectRequest,
    DeletedBody,
    ErrorBody,
    PairingCodeBody,
    QrBody,
    QrRequest,
    StatusBody,
)
from crm_whatsapp.web.services import ScanCode
from crm_whatsapp.web.strict_blueprint import StrictBlueprint

_QR_SCALE = 8  # pixels a module
_QR_BORDER = 4  # modules, as ISO/IEC 18004 asks for

session_api = StrictBlueprint(
    "session_api",
    __name__,
    url_prefix="/api/whatsapp",
    abp_tags=[Tag(name="session", description="Connect a company and see how it is.")],
    abp_security=[{"api_key": []}, {"user_token": []}, {"dashboard": []}],
    abp_responses={400: ErrorBody, 401: ErrorBody, 403: ErrorBody, 503: ErrorBody},
)


@session_api.get("/status", summary="How is the connection?", responses={200: StatusBody})
@requires(Scope.READ)
def get_status(query: CompanyRequest) -> Response:
    """Answer from memory. Starts one restore in the background when that is due."""
    return _status(current_services().sessions.status(query.company_id))


@session_api.post(
    "/connect",
    summary="Connect a company",
    responses={200: StatusBody, 202: StatusBody, 409: ErrorBody},
)
@requires(Scope.MANAGE)
def connect(body: ConnectRequest) -> Response:
    """Restore the saved session, or open a pairing. 200 when it is connected already."""
    if body.proxy is not None:
        current_principal().require_service("A proxy")
    connection = current_services().sessions.connect(
        body.company_id,
        method=body.method,
        user_id=current_principal().user_id or body.user_id,
        phone_number=body.phone_number,
        fresh=body.fresh,
        proxy=body.proxy,
    )
    return _status(connection, 200 if connection.is_connected else 202)


@session_api.get(
    "/qr",
    summary="The QR code of now",
    responses={
        200: {
            "description": "The QR code as an image, or its text.",
            "content": {
                "image/png": {"schema": {"type": "string", "format": "binary"}},
                "image/svg+xml": {"schema": {"type": "string"}},
                "application/json": {"schema": QrBody.model_json_schema()},
            },
        },
        422: ErrorBody,
    },
)
@requires(Scope.MANAGE)
def get_qr(query: QrRequest) -> Response:
    """Return an image or, with format=raw, the text. X-Expires-At tells when it changes."""
    code = current_services().sessions.qr(query.company_id)
    if query.format == "raw":
        return json_answer(QrBody(value=code.value, expires_at=code.expires_at))
    return _qr_image(code, query.format)


@session_api.get(
    "/pairing-code",
    summary="The pairing code of now",
    responses={200: PairingCodeBody, 422: ErrorBody},
)
@requires(Scope.MANAGE)
def get_pairing_code(query: CompanyRequest) -> Response:
    """Return the code that is typed into the phone."""
    code = current_services().sessions.pairing_code(query.company_id)
    return json_answer(PairingCodeBody(code=code.value, expires_at=code.expires_at))


@session_api.post("/disconnect", summary="Stop, keep the credentials", responses={200: StatusBody})
@requires(Scope.MANAGE)
def disconnect(body: CompanyRequest) -> Response:
    """Stop the client. Polls do not restore it until somebody connects again."""
    return _status(current_services().sessions.disconnect(body.company_id))


@session_api.post("/restore", summary="Restore now", responses={202: StatusBody, 422: ErrorBody})
@requires(Scope.MANAGE)
def restore(body: CompanyRequest) -> Response:
    """Ask for a restore now; clears the backoff."""
    return _status(current_services().sessions.restore(body.company_id), 202)


@session_api.post("/logout", summary="Unlink from the phone", responses={200: StatusBody})
@requires(Scope.MANAGE)
def logout(body: CompanyRequest) -> Response:
    """Unlink at WhatsApp and remove what is saved."""
    return _status(current_services().sessions.logout(body.company_id))


@session_api.delete(
    "/sessions/<path:company_id>",
    summary="Forget a company's session",
    responses={200: DeletedBody, 404: ErrorBody},
)
@requires(Scope.MANAGE)
def delete_session(path: CompanyRequest) -> Response:
    """Log out, best effort, and forget everything about the session."""
    current_services().sessions.delete(path.company_id)
    return json_answer(DeletedBody(company_id=path.company_id, deleted=True))


@session_api.get(
    "/active-sessions",
    summary="All connections that should be running",
    responses={200: ActiveSessionsBody},
)
@requires(Scope.READ, keeping=CompanyKeeping.SHOWS_OWN)
def get_active_sessions() -> Response:
    """List them with owner and status. A company key sees its own."""
    principal = current_principal()
    rows = [
        ActiveSessionBody.of_owned(active.connection, active.owner_id, active.is_local)
        for active in current_services().sessions.active_sessions()
        if principal.may(Scope.READ, active.connection.company_id)
    ]
    return json_answer(ActiveSessionsBody(sessions=rows, count=len(rows)))


def _qr_image(code: ScanCode, image_format: str) -> Response:
    # Trying all eight masks takes 8 ms of the interpreter. The text is random, so each is as good.
    picture = segno.make_qr(code.value, error="l", boost_error=False, mask=0)
    target = BytesIO()
    options: dict[str, Any] = {"scale": _QR_SCALE, "border": _QR_BORDER}
    if image_format == "svg":
        picture.save(target, kind="svg", light="#ffffff", omitsize=True, **options)
        mimetype = "image/svg+xml"
    else:
        picture.save(target, kind="png", **options)
        mimetype = "image/png"
    response = Response(target.getvalue(), mimetype=mimetype)
    response.headers["X-Expires-At"] = code.expires_at.isoformat()
    return response


def _status(connection: Connection, http_status: int = 200) -> Response:
    return json_answer(StatusBody.of(connection), http_status)

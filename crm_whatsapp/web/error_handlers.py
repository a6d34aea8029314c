"""Errors as answers. The only place that knows which HTTP number an error has."""

import logging
from typing import Any

from flask import Flask, Response, g, jsonify, render_template, request
from werkzeug.exceptions import BadHost, HTTPException

from crm_whatsapp.domain import errors as domain
from crm_whatsapp.domain import media, snapshots, user_keys
from crm_whatsapp.domain.api_keys import KeysUnknown
from crm_whatsapp.domain.memberships import MembershipUnknown
from crm_whatsapp.web import errors as web
from crm_whatsapp.web.auth import Principal
from crm_whatsapp.web.request_context import note_limited

_STATUS: dict[type[domain.CrmWhatsappError], int] = {
    domain.CrmWhatsappError: 500,
    domain.InvalidInput: 400,
    domain.NotFound: 404,
    domain.WrongState: 422,
    domain.PairingConflict: 409,
    domain.RateLimited: 429,
    domain.ServiceStopping: 503,
    domain.ServiceBusy: 503,
    domain.TooManyStreams: 503,
    domain.StoreUnavailable: 503,
    domain.StoreRejected: 503,
    domain.StorageError: 503,
    domain.EngineError: 503,
    domain.SendRejected: 422,
    media.MediaTooLarge: 413,
    media.MediaUnreachable: 422,
    snapshots.KeyMissing: 422,
    snapshots.StoreUnfit: 422,
    snapshots.LeaseFenced: 409,
    snapshots.SnapshotDamaged: 503,
    user_keys.SigningKeysUnknown: 503,
    web.Unauthorized: 401,
    web.Forbidden: 403,
    web.UnsupportedMediaType: 415,
    web.BodyTooLarge: 413,
    web.BodyTooSlow: 408,
    web.BodyBroken: 400,
    web.Starting: 503,
    web.NotReady: 503,
}

# Trying again after so many seconds is safe and may help. Never SendUnconfirmed: the message may
# have arrived, and a client that repeats it by itself would send it twice.
_RETRY_AFTER_SECONDS: dict[type[domain.CrmWhatsappError], int] = {
    domain.ServiceStopping: 5,
    domain.ServiceBusy: 1,
    domain.TooManyStreams: 5,
    domain.StoreUnavailable: 5,
    KeysUnknown: 5,
    MembershipUnknown: 5,
    domain.StorageError: 30,
    domain.EngineUnavailable: 2,
    media.MediaNotUploaded: 5,
    user_keys.SigningKeysUnknown: 2,
    web.Starting: 1,
    web.NotReady: 5,
}

# `headers` go where they belong.
_NO_DETAILS = frozenset({"code", "message", "headers"})

_HTTP_CODES = {
    400: "bad-request",
    404: "not-found",
    405: "method-not-allowed",
    413: "body-too-large",
    415: "unsupported-media-type",
}
_HTTP_MESSAGES = {
    404: "There is nothing at this address.",
    405: "This address does not take that method.",
    413: "The request body is too large.",
}
# Their messages name folders, hosts and settings: a company's key is often not the operator's.
_INSIDE = (domain.StoreUnavailable, domain.StoreRejected, domain.StorageError)
_log = logging.getLogger(__name__)


def register_error_handlers(app: Flask) -> None:
    """Make every error of the app an answer of the contract's form."""
    app.register_error_handler(domain.CrmWhatsappError, _known_error)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unknown_error)


def status_of(error: domain.CrmWhatsappError) -> int:
    """Return the HTTP number of an error: its own, or that of its nearest ancestor."""
    return next(_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS)


def _known_error(error: domain.CrmWhatsappError) -> Response:
    status = status_of(error)
    if status >= 500:
        _log.warning("%s: %s", error.code, error.message)
    if isinstance(error, _INSIDE) and not _is_operator():
        error = type(error)()  # the log has what happened
    details = {name: it for name, it in error.details.items() if name not in _NO_DETAILS}
    if isinstance(error, domain.InvalidInput) and "field" in details:
        fields = [{"field": details["field"], "message": error.message}]
        details = {"fields": fields, **details}
    if isinstance(error, web.NotReady):
        response = _answer(status, error.code, error.message, {}, beside=details)
    else:
        response = _answer(status, error.code, error.message, details)
    if status == 401:
        response.headers["WWW-Authenticate"] = (
            'ApiKey realm="crm-whatsapp", Bearer realm="crm-whatsapp"'
        )
    retry_after = _RETRY_AFTER_SECONDS.get(type(error))
    if isinstance(error, domain.RateLimited):
        retry_after = error.details["retry_after_seconds"]
        note_limited(error)
    if retry_after is not None:
        response.headers["Retry-After"] = str(retry_after)
    return response


def _is_operator() -> bool:
    principal = g.get("principal")
    return isinstance(principal, Principal) and principal.is_service


def _http_error(error: HTTPException) -> Any:
    if error.code is None or error.code < 400:
        return error  # a redirect
    code = _HTTP_CODES.get(error.code, f"http-{error.code}")
    message = _HTTP_MESSAGES.get(error.code) or error.description or error.name
    if isinstance(error, BadHost):
        message = "The Host header of the request names no host."
    response = _answer(error.code, code, message, {})
    for name, value in error.get_headers():
        if name.lower() not in ("content-type", "content-length"):
            response.headers[name] = value
    return response


def _unknown_error(error: Exception) -> Response:
    _log.error("unexpected error in %s %s", request.method, request.path, exc_info=error)
    return _answer(500, "internal-error", "Something went wrong here. It has been logged.", {})


def _answer(
    status: int,
    code: str,
    message: str,
    details: dict[str, Any],
    beside: dict[str, Any] | None = None,
) -> Response:
    if _wants_page():
        page = render_template("error.html", status=status, message=message, code=code)
        return Response(page, status, mimetype="text/html")
    response = jsonify({"error": {"code": code, "message": message} | details, **(beside or {})})
    response.status_code = status
    return response


def _wants_page() -> bool:
    if not request.path.startswith("/dashboard"):
        return False
    # A page has links, and no link can be made from a Host header that is none.
    has_host = not isinstance(request.routing_exception, BadHost)
    return has_host and request.accept_mimetypes.accept_html

"""Counts every request once its answer is made."""

import time

from flask import Flask, Response, g, request

from crm_whatsapp.domain.errors import CrmWhatsappError
from crm_whatsapp.web.request_context import web_state


def measure(app: Flask) -> None:
    """Count the app's requests; to be called before anything else that looks at a request."""
    app.before_request(_begin)
    app.after_request(_note)


def _begin() -> None:
    g.begun_at = time.perf_counter()


def _note(response: Response) -> Response:
    """Count by the route's template. An event stream counts when it begins, not when it ends."""
    seconds = time.perf_counter() - g.begun_at
    try:
        services = web_state().services_provider()
    except CrmWhatsappError:
        services = None
    if services is not None:  # before that there is nobody to count, and nobody to ask
        rule = request.url_rule
        template = rule.rule if rule is not None else None
        services.metrics.note_request(template, request.method, response.status_code, seconds)
    return response

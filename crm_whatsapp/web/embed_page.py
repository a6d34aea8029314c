"""The page that a CRM puts into a frame, so that its people connect WhatsApp there.

It holds nothing secret and looks at no cookie: the page around it hands it the token of its user,
window to window, and its scripts call the API with that alone. Who may stand around it is for the
browser to enforce (Content Security Policy Level 3, frame-ancestors).
"""

from collections.abc import Iterable

from flask import Blueprint, Response, make_response, render_template, request
from werkzeug.wrappers import Response as AnyResponse

from crm_whatsapp.domain.errors import NotFound
from crm_whatsapp.web.auth import public
from crm_whatsapp.web.page_assets import answer_asset
from crm_whatsapp.web.request_context import web_state

_OFF = "The embed page is off: EMBED_ORIGINS names no page that may hold it."

embed_page = Blueprint(
    "embed_page", __name__, url_prefix="/embed", template_folder="embed/templates"
)


def embed_policy(origins: Iterable[str]) -> str:
    """Return the Content-Security-Policy of a page that only these origins may frame."""
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        "connect-src 'self'; form-action 'none'; base-uri 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'; "
        f"frame-ancestors {' '.join(sorted(origins))}"
    )


def may_be_framed(response: Response) -> bool:
    """Tell whether this answer is the page itself: all others stand in no frame."""
    return request.endpoint == "embed_page.get_page" and response.status_code == 200


@embed_page.get("/connect")
@public
def get_page() -> Response:
    """Show the connection of the company whose user's token the page around is going to send."""
    origins = _origins()
    page = render_template(
        "embed.html",
        origins=sorted(origins),
        heartbeat_seconds=web_state().settings.streams.heartbeat_seconds,
    )
    response = make_response(page)
    response.headers["Content-Security-Policy"] = embed_policy(origins)
    return response


@embed_page.get("/assets/<name>")
@public
def get_asset(name: str) -> AnyResponse:
    """Return a file of the page; it shares most of them with the dashboard."""
    _origins()
    return answer_asset(name, "crm_whatsapp.web.embed", "crm_whatsapp.web.dashboard")


def _origins() -> frozenset[str]:
    origins = web_state().settings.embed_origins
    if not origins:
        raise NotFound(_OFF)
    return origins

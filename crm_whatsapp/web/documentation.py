"""The OpenAPI document and its page. Swagger UI comes from a package, nothing from a CDN."""

from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, cast

from flask import Blueprint, Response, current_app, jsonify, render_template
from flask_openapi3.openapi import OpenAPI

from crm_whatsapp.domain.errors import NotFound
from crm_whatsapp.web.auth import public

_ASSETS = {
    "swagger-ui.css": ("css/swagger-ui.css", "text/css"),
    "swagger-ui-bundle.js": ("js/swagger-ui-bundle.js", "text/javascript"),
}
_EXTENSION = "crm_whatsapp.openapi"
# Swagger UI sets style attributes, draws with data: images and shows base64 fonts.
DOCS_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)

documentation = Blueprint(
    "documentation", __name__, url_prefix="/api/whatsapp", template_folder="templates"
)


@documentation.get("/openapi.json")
@public
def get_openapi() -> Response:
    """Return the document, made from the models that check the requests.

    Anybody may ask for it, and writing it out takes longer than all else: it is done once.
    """
    kept = current_app.extensions.get(_EXTENSION)
    if kept is None:
        kept = current_app.extensions[_EXTENSION] = jsonify(openapi_document()).get_data()
    return Response(kept, mimetype="application/json")


@documentation.get("/docs")
@public
def get_docs() -> Response:
    """Show the document."""
    response = Response(render_template("docs.html"), mimetype="text/html")
    response.headers["Content-Security-Policy"] = DOCS_CSP
    return response


@documentation.get("/docs/<name>")
@public
def get_docs_asset(name: str) -> Response:
    """Return one file of Swagger UI."""
    if name not in _ASSETS:
        raise NotFound()
    path, mimetype = _ASSETS[name]
    return Response(_swagger_folder().joinpath(path).read_bytes(), mimetype=mimetype)


def openapi_document() -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of the current app."""
    document: dict[str, Any] = cast(OpenAPI, current_app).api_doc
    return document


def _swagger_folder() -> Traversable:
    return files("flask_openapi3_swagger").joinpath("templates", "swagger")

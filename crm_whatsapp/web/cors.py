"""Pages of other origins: which of them may call the API, and with what (Fetch standard, CORS).

Cookies never travel with such calls: Access-Control-Allow-Credentials is not sent. Nor does
X-API-Key: a key does not belong into a page; what a page holds is its user's token.
"""

from flask import Flask, Response, request

_PATH = "/api/whatsapp/"
_METHODS = "GET, POST, PATCH, DELETE"
_HEADERS = "Authorization, Content-Type, Idempotency-Key, Last-Event-ID"
_EXPOSED = "Retry-After, X-Expires-At, RateLimit, RateLimit-Policy"


def allow_origins(app: Flask, origins: frozenset[str], max_age_seconds: float) -> None:
    """Let pages of these origins call the API. To be called before the access check is put in.

    Args:
        max_age_seconds: how long a browser may remember the answer to a preflight.
    """
    if not origins:
        return

    def answer_preflight() -> Response | None:
        if request.method != "OPTIONS" or not request.path.startswith(_PATH):
            return None
        if "Origin" not in request.headers:
            return None
        if "Access-Control-Request-Method" not in request.headers:
            return None
        response = Response(status=204)
        response.vary.update(("Access-Control-Request-Method", "Access-Control-Request-Headers"))
        if request.headers["Origin"] not in origins:
            response.status_code = 403
            return response
        response.headers["Access-Control-Allow-Methods"] = _METHODS
        response.headers["Access-Control-Allow-Headers"] = _HEADERS
        response.headers["Access-Control-Max-Age"] = str(round(max_age_seconds))
        return response

    def add_headers(response: Response) -> Response:
        if not request.path.startswith(_PATH):
            return response
        response.vary.add("Origin")
        origin = request.headers.get("Origin")
        if origin in origins:
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = _EXPOSED
        return response

    app.before_request(answer_preflight)
    app.after_request(add_headers)

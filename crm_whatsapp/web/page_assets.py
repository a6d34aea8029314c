"""Style sheets, scripts and icons of the pages: files that lie beside their templates."""

import re
from importlib.resources import files
from importlib.resources.abc import Traversable

from flask import Response, request
from werkzeug.wrappers import Response as AnyResponse

from crm_whatsapp.domain.errors import NotFound

_NAME = re.compile(r"[a-z_-]+\.(?:css|js|svg)")
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def answer_asset(name: str, *packages: str) -> AnyResponse:
    """Answer with a file of the folder `static` of the first package that has it.

    Raises:
        NotFound: none has it, or it is no name of an asset.
    """
    source = _find(name, packages) if _NAME.fullmatch(name) else None
    if source is None:
        raise NotFound()
    response = Response(source.read_bytes(), mimetype=_TYPES[name[name.rindex(".") :]])
    response.headers["Cache-Control"] = "no-cache"
    response.add_etag()
    return response.make_conditional(request)


def _find(name: str, packages: tuple[str, ...]) -> Traversable | None:
    candidates = (files(package).joinpath("static", name) for package in packages)
    return next((file for file in candidates if file.is_file()), None)

"""A pydantic model as an answer."""

from flask import Response
from pydantic import BaseModel


def json_answer(body: BaseModel, http_status: int = 200) -> Response:
    """Return the model as a JSON response."""
    return Response(body.model_dump_json(), http_status, mimetype="application/json")

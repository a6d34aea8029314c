"""Routes that take exactly what their models say: nothing twice, nothing unknown.

The models that document a route in OpenAPI are the ones that check its requests. The check of
flask-openapi3 itself is replaced: it takes the first of several equal parameters, reads bodies
of any content type, and builds a JSON schema for every query string (0.1 ms a request).
"""

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any, NoReturn

import structlog
from flask import request
from flask_openapi3.blueprint import APIBlueprint
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import RequestEntityTooLarge

from crm_whatsapp.domain.errors import InvalidInput
from crm_whatsapp.web import json_body
from crm_whatsapp.web.auth import declared_access
from crm_whatsapp.web.errors import BodyTooLarge, UnsupportedMediaType
from crm_whatsapp.web.request_context import count_for, enter_company
from crm_whatsapp.web.schemas import ErrorBody

_MAX_NAMED_FIELDS = 20
_MOST_BODY_BYTES = 64 * 1024


class StrictBlueprint(APIBlueprint):
    """A blueprint whose views get their checked `path`, `query` and `body` models.

    A model with a company_id is only handed over when the caller may reach that company. A body
    may have 64 kB, or as many bytes as its model says in `most_body_bytes`.
    """

    def _collect_openapi_info(self, rule: str, func: Callable[..., Any], **more: Any) -> Any:
        """Document what is refused before the view; called by flask-openapi3 for every route."""
        responses = more.get("responses") or {}
        if "body" in signature(func).parameters:
            responses = {408: ErrorBody, 413: ErrorBody, 415: ErrorBody, **responses}
        access = declared_access(func)
        if access is not None and access.scope is not None:
            responses = {**responses, 429: ErrorBody}
        more["responses"] = responses
        return super()._collect_openapi_info(rule, func, **more)

    @staticmethod
    def create_view_func(  # type: ignore[no-untyped-def]
        func, header, cookie, path, query, form, body, raw, *_: Any, **__: Any
    ) -> Callable[..., Any]:
        """Wrap a view; called by flask-openapi3 for every route."""

        @wraps(func)
        def view(**path_values: str) -> Any:
            arguments: dict[str, BaseModel] = {}
            if path is not None:
                arguments["path"] = _checked(path, path_values)
            if query is not None:
                arguments["query"] = _checked(query, _single_values(request.args))
            elif request.args:
                _refuse_unknown(next(iter(request.args)))
            if body is not None:
                arguments["body"] = _checked(body, _read_json_object(_most_bytes_of(body)))
            company_id = None
            for argument in arguments.values():
                company_id = getattr(argument, "company_id", None) or company_id
                _check_company(company_id)
            count_for(company_id)
            return func(**arguments)

        return view


def _most_bytes_of(body: type[BaseModel]) -> int:
    return int(getattr(body, "most_body_bytes", _MOST_BODY_BYTES))


def _check_company(company_id: str | None) -> None:
    if company_id is not None:
        structlog.contextvars.bind_contextvars(company_id=company_id)
        enter_company(company_id)


def _checked(model: type[BaseModel], values: dict[str, Any]) -> BaseModel:
    try:
        return model.model_validate(values)
    except ValidationError as exc:
        fields = [_named(item) for item in exc.errors()[:_MAX_NAMED_FIELDS]]
        raise InvalidInput(fields[0]["message"], field=fields[0]["field"], fields=fields) from exc


def _named(item: ErrorDetails) -> dict[str, str]:
    """Name the field and say what is wrong, without repeating what was sent."""
    name = json_body.shown(".".join(str(part) for part in item["loc"]))
    if item["type"] == "missing":
        message = f"{name} is required."
    elif item["type"] == "extra_forbidden":
        message = f"{name} is not a known field."
    elif item["type"].startswith("crm_"):
        message = item["msg"]
    else:
        message = f"{name}: {item['msg']}."
    return {"field": name, "message": message}


def _single_values(values: MultiDict[str, str]) -> dict[str, str]:
    single = values.to_dict()
    if len(single) != sum(1 for _ in values.items(multi=True)):
        twice = next(name for name in single if len(values.getlist(name)) > 1)
        json_body.refuse_duplicate(twice)
    return single


def _read_json_object(most_bytes: int) -> dict[str, Any]:
    if request.mimetype != "application/json":
        raise UnsupportedMediaType()
    coding = request.headers.get("Content-Encoding", "identity")
    if coding.strip().lower() != "identity":
        raise UnsupportedMediaType("Send the body as it is, without Content-Encoding.")
    return json_body.parse_object(_read_body(most_bytes))


def _read_body(most_bytes: int) -> bytes:
    request.max_content_length = most_bytes
    try:
        raw = request.get_data(cache=False)
    except RequestEntityTooLarge as exc:
        raise BodyTooLarge(max_bytes=most_bytes) from exc
    # A chunked body is cut off at the limit without a word (werkzeug LimitedStream.readall).
    if request.content_length is None and len(raw) >= most_bytes:
        raise BodyTooLarge(max_bytes=most_bytes)
    return raw


def _refuse_unknown(name: str) -> NoReturn:
    shown = json_body.shown(name)
    raise InvalidInput(f"{shown} is not a known parameter.", field=shown)

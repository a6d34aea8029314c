"""What schemathesis is told of this API; loaded by it, see scripts/fuzz_api.py.

A made-up company id that is valid becomes one of a few, and a made-up target of webhooks one on
this machine: sessions meet again what earlier requests did to them, and nothing goes elsewhere.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Mapping
from typing import Any

import schemathesis
from schemathesis import Case, CheckContext, HookContext, Response

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_URL = re.compile(r"https?:", re.IGNORECASE)
_ENDING = ("/connect", "/disconnect", "/logout", "/sessions/{company_id}")
"""Calls that end what a session is doing; kept companies are spared them."""
_NUMBER = "+5511987654321"
_EXPECTED_503 = frozenset({"busy", "send-unconfirmed", "too-many-streams"})


@schemathesis.hook
def before_call(context: HookContext, case: Case[Any], kwargs: dict[str, Any]) -> None:
    """Keep what is valid within the few companies and on this machine."""
    del context, kwargs
    meta = case.meta
    is_valid = meta is not None and meta.generation.mode.is_positive
    for part in (case.path_parameters, case.query, case.body):
        if not isinstance(part, dict):
            continue
        company_id = part.get("company_id")
        if isinstance(company_id, str) and _UUID.fullmatch(company_id):
            companies = os.environ["FUZZ_COMPANIES"].split(",")
            if not case.path.endswith(_ENDING):
                companies += os.environ["FUZZ_KEPT_COMPANIES"].split(",")
            part["company_id"] = companies[zlib.crc32(company_id.encode()) % len(companies)]
        url, to = part.get("url"), part.get("to")
        if isinstance(url, str) and (_URL.match(url) or (is_valid and _is_even(url))):
            part["url"] = os.environ["FUZZ_TARGET"]
        media = part.get("media")
        if isinstance(media, dict) and isinstance(media.get("url"), str):
            media["url"] = os.environ["FUZZ_TARGET"]
        if isinstance(to, str) and is_valid and _is_even(to):
            part["to"] = _NUMBER


def _is_even(text: str) -> bool:
    return zlib.crc32(text.encode()) % 2 == 0


@schemathesis.check
def only_expected_unavailability(
    ctx: CheckContext, response: Response, case: Case[Any]
) -> bool | None:
    """503 is documented for every call, yet here the database and the engines are up."""
    del ctx
    if response.status_code == 503:
        code = error_code(response.content)
        assert code in _EXPECTED_503, f"{case.method} {case.path}: 503 {code}"  # noqa: S101
    return None


@schemathesis.check
def errors_keep_secrets(ctx: CheckContext, response: Response, case: Case[Any]) -> bool | None:
    """No answer repeats the key, or shows the inside of the program."""
    del ctx
    content = response.content
    assert b"Traceback" not in content, f"{case.method} {case.path} shows a stack trace"  # noqa: S101
    secret = os.environ.get("FUZZ_API_KEY", "").encode()
    assert not secret or secret not in content, f"{case.method} {case.path} repeats the key"  # noqa: S101
    return None


def error_code(content: bytes) -> str | None:
    """Return the code of an error body, None when it is not one."""
    try:
        body = json.loads(content)
    except ValueError:
        return None
    error = body.get("error") if isinstance(body, Mapping) else None
    return str(error.get("code")) if isinstance(error, Mapping) else None

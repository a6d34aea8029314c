"""What the database, its gateway or the network answered, as errors of this product.

The one place that knows HTTP numbers, SQLSTATEs and PostgREST's codes.

Source:
    https://docs.postgrest.org/en/stable/references/errors.html
    https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
from postgrest.exceptions import APIError

from crm_whatsapp.domain.errors import StoreRejected, StoreUnavailable

MIGRATE_HINT = "Run: python -m crm_whatsapp migrate"
KEY_HINT = "Check SUPABASE_SERVICE_ROLE_KEY: it must be the service_role or an sb_secret_ key."
URL_HINT = "Check SUPABASE_URL."

_PASSING_STATUSES = frozenset({408, 425, 429})
_PASSING_CODES = (
    "PGRST000",  # PostgREST cannot connect to Postgres
    "PGRST001",  # ... or lost the connection
    "PGRST002",  # ... or cannot read the schema yet
    "PGRST003",  # ... or has no free connection
    "08",  # connection exception
    "25006",  # read-only: a standby, or Supabase out of disk
    "40",  # serialisation failure, deadlock
    "53",  # out of connections, memory or disk
    "55P03",  # lock not available
    "57",  # statement timeout, shutdown, starting up
    "58",  # I/O error on the server
    "XX",  # internal error
)
_NOT_MIGRATED_CODES = frozenset(
    {
        "PGRST202",  # no such function
        "PGRST204",  # no such column
        "PGRST205",  # no such table
        "42P01",  # no such table
        "42703",  # no such column
        "42883",  # no such function
    }
)
_DENIED = "42501"


@contextmanager
def translated() -> Iterator[None]:
    """Turn what the HTTP client and postgrest-py raise into errors of this product."""
    try:
        yield
    except httpx.TimeoutException as exc:
        raise StoreUnavailable("The database did not answer in time.") from exc
    except httpx.UnsupportedProtocol as exc:
        raise StoreRejected(f"The database has no usable address. {URL_HINT}") from exc
    except httpx.HTTPError as exc:
        raise StoreUnavailable(
            f"The database cannot be reached: {exc or type(exc).__name__}."
        ) from exc
    except (APIError, ValueError) as exc:  # a 2xx whose body is not PostgREST's
        raise StoreUnavailable(f"Something other than the database answered. {URL_HINT}") from exc


def check_answer(response: httpx.Response) -> None:
    """Raise for an answer that is not a success; the response hook of the HTTP client.

    A hook, because postgrest-py's APIError no longer knows the HTTP status, and a gateway's
    refusal carries nothing else.

    Raises:
        StoreUnavailable: trying again later can help.
        StoreRejected: it cannot; the message says what to do.
    """
    if response.is_success:
        return
    response.read()
    body = _object(response)
    code = str(body.get("code") or "")
    text = str(body.get("message") or response.reason_phrase or "no reason given").rstrip(".")
    what = response.request.url.path.rsplit("/", 1)[-1]
    facts = {"status": response.status_code, "sql_state": code}
    if _is_passing(response.status_code, code):
        raise StoreUnavailable(f"The database could not do {what}: {text}.", **facts)
    hint = _hint(response.status_code, code)
    raise StoreRejected(f"The database refused {what}: {text}. {hint}".rstrip(), **facts)


def _is_passing(status: int, code: str) -> bool:
    if code.startswith(_PASSING_CODES):
        return True
    return status in _PASSING_STATUSES or status >= 500


def _hint(status: int, code: str) -> str:
    if code == _DENIED:
        return f"{KEY_HINT} If it is, the tables lack their grants. {MIGRATE_HINT}"
    if code in _NOT_MIGRATED_CODES:
        return MIGRATE_HINT
    if code.startswith("PGRST3") or status in (401, 403):
        return KEY_HINT
    if status == 404 or 300 <= status < 400:  # a mistyped host answers or redirects
        return URL_HINT
    return ""


def _object(response: httpx.Response) -> Mapping[str, Any]:
    try:
        body = json.loads(response.content)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}

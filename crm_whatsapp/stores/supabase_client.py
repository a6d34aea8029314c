"""The Supabase client, made so that many threads can share it, and how calls are made on it."""

import ipaddress
import time
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
from supabase import Client, ClientOptions, SupabaseException
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, stop_after_delay
from tenacity.wait import wait_random

from crm_whatsapp.domain.errors import ConfigurationError, StoreRejected, StoreUnavailable
from crm_whatsapp.stores.database_errors import check_answer, translated

_MOST_CONNECTIONS = 8
_IDLE_SECONDS = 20.0  # below what gateways allow, so that a reused connection is seldom a dead one
_REPEAT_UNTIL_SECONDS = 1.0

Answer = TypeVar("Answer")

SupabaseClient = Client
"""For those who only pass it on: nobody else imports supabase."""

CallListener = Callable[[str, str, float], None]
"""Hears of each HTTP call: the function or table, its outcome, and how many seconds it took.

The outcome is ok, unavailable (trying again can help) or rejected.
"""


class _ToldClient(httpx.Client):
    """Tells a listener how each call went. A call that is repeated is told twice."""

    def __init__(self, listener: CallListener, **options: Any) -> None:
        super().__init__(**options)
        self._listener = listener

    def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        """Send as httpx does; the answer's body has been read when this returns."""
        begun = time.monotonic()
        outcome = "unavailable"
        try:
            response = super().send(request, **options)
            outcome = "ok"
            return response
        except StoreRejected:
            outcome = "rejected"
            raise
        finally:
            call = request.url.path.rsplit("/", 1)[-1]
            self._listener(call, outcome, time.monotonic() - begun)


def make_client(
    url: str, key: str, timeout_seconds: float, *, on_call: CallListener | None = None
) -> Client:
    """Return a client over HTTP/1.1 that refuses what is not a success, see database_errors.

    supabase-py's own HTTP/2 client is not safe across threads. A loopback address is reached
    directly, whatever proxy the environment names.

    Args:
        key: the service_role JWT or an sb_secret_ key.
        timeout_seconds: for connecting, for a free connection, and between two bytes.
        on_call: hears of every call, on the thread that makes it.

    Raises:
        ConfigurationError: the address or the key is not usable.
    """
    http = _ToldClient(
        on_call or _nobody,
        http2=False,
        timeout=httpx.Timeout(timeout_seconds),
        limits=httpx.Limits(
            max_connections=_MOST_CONNECTIONS,
            max_keepalive_connections=_MOST_CONNECTIONS,
            keepalive_expiry=_IDLE_SECONDS,
        ),
        trust_env=not _is_loopback(url),
        event_hooks={"response": [check_answer]},
    )
    options = ClientOptions(
        schema="public",
        auto_refresh_token=False,
        persist_session=False,
        postgrest_client_retry=False,  # SafeCalls repeats, and only what may be repeated
        httpx_client=http,
    )
    try:
        client = Client.create(url, key, options)
        _ = client.postgrest  # made on first use, which two threads must not share
    except (SupabaseException, ValueError) as exc:
        http.close()
        raise ConfigurationError(
            f"SUPABASE_URL or SUPABASE_SERVICE_ROLE_KEY is not usable: {exc}."
        ) from exc
    return client


def close_client(client: Client) -> None:
    """Close the connections."""
    client.postgrest.aclose()


class DatabaseCalls:
    """Calls of SQL functions and queries, with errors translated."""

    def __init__(self, client: Client, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._client = client
        self._sleep = sleep

    @property
    def client(self) -> Client:
        """The client, to build a query for `repeat` on."""
        return self._client

    def once(self, function: str, params: dict[str, Any]) -> Any:
        """Call a SQL function once: its answer may get lost, and a repetition would count."""
        with translated():
            return self._client.rpc(function, params).execute().data

    def repeatable(self, function: str, params: dict[str, Any]) -> Any:
        """Call a SQL function that does nothing when it is repeated; twice if the first fails."""
        return self.repeat(lambda: self.once(function, params))

    def repeat(self, call: Callable[[], Answer]) -> Answer:
        """Make the call, and once more when it failed quickly for a passing reason."""
        attempts = Retrying(
            retry=retry_if_exception_type(StoreUnavailable),
            stop=stop_after_attempt(2) | stop_after_delay(_REPEAT_UNTIL_SECONDS),
            wait=wait_random(0.05, 0.25),
            sleep=self._sleep,
            reraise=True,
        )
        return attempts(call)


def _nobody(call: str, outcome: str, seconds: float) -> None:
    """Hear nothing."""


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

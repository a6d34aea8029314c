"""Posts deliveries to the addresses that were registered for them."""

import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpcore
import structlog

from crm_whatsapp import __version__
from crm_whatsapp.domain.errors import InvalidInput
from crm_whatsapp.domain.webhooks import Answer
from crm_whatsapp.outbound.address_guard import AddressGuard, split_url
from crm_whatsapp.outbound.guarded_network import (
    AddressRefused,
    GuardedBackend,
    NameUnknown,
    Resolver,
)

log = structlog.get_logger(__name__)

_USER_AGENT = f"crm-whatsapp/{__version__}"
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class SenderLimits:
    """What one request may cost.

    Attributes:
        connect_seconds: for the name, the connection and TLS together, each.
        total_seconds: for everything from the lookup to the last byte of the answer.
        keepalive_seconds: how long an idle connection is kept; below what targets keep theirs
            (Node.js: 5 s), or requests would run into connections that are just being closed.
        answer_bytes: how much of an answer's body is read; the rest is dropped.
        connections: open at the same time, at least one for each sending thread.
    """

    connect_seconds: float
    total_seconds: float
    keepalive_seconds: float
    connections: int
    answer_bytes: int = 16_384


class HttpWebhookSender:
    """The WebhookSender of the service. Safe to share between threads.

    Proxies of the environment are ignored on purpose: behind a proxy it is the proxy that
    resolves, and the address guard would judge nothing.
    """

    def __init__(
        self, guard: AddressGuard, limits: SenderLimits, resolver: Resolver | None = None
    ) -> None:
        self._limits = limits
        self._backend = GuardedBackend(guard, resolver)
        self._pool = httpcore.ConnectionPool(
            ssl_context=httpcore.default_ssl_context(),
            max_connections=limits.connections,
            keepalive_expiry=limits.keepalive_seconds,
            retries=0,
            network_backend=self._backend,
        )

    def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Post once; what the target does or fails to do becomes the answer."""
        begun = time.monotonic()
        try:
            parts = split_url(url)
        except InvalidInput as refusal:
            return _no_answer(refusal.message, begun)
        host = parts.hostname or ""
        target = httpcore.URL(
            scheme=parts.scheme,
            host=host,
            port=parts.port or _DEFAULT_PORTS[parts.scheme],
            target=(parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
        )
        sent = {
            "Host": parts.netloc,
            "User-Agent": _USER_AGENT,
            "Accept": "*/*",
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **headers,
        }
        deadline = begun + self._limits.total_seconds
        try:
            with self._backend.request(deadline=deadline, is_plain=parts.scheme == "http"):
                return self._exchange(target, sent, body, begun)
        except Exception as error:  # noqa: BLE001 - whatever the other side made happen
            return _no_answer(self._explain(error, host), begun)

    def close(self) -> None:
        """Close the idle connections."""
        self._pool.close()

    def _exchange(
        self, url: httpcore.URL, headers: dict[str, str], body: bytes, begun: float
    ) -> Answer:
        limits = self._limits
        timeout = {
            "connect": limits.connect_seconds,
            "pool": limits.total_seconds,
            "read": limits.total_seconds,
            "write": limits.total_seconds,
        }
        with self._pool.stream(
            b"POST",
            url,
            headers=list(headers.items()),
            content=body,
            extensions={"timeout": timeout},
        ) as response:
            read = 0
            for chunk in response.iter_stream():
                read += len(chunk)
                if read >= limits.answer_bytes:
                    break
        return Answer(
            status_code=response.status,
            retry_after_seconds=_retry_after(response.headers),
            error=_complaint(response.status),
            took_seconds=time.monotonic() - begun,
        )

    def _explain(self, error: Exception, host: str) -> str:
        """Return what went wrong, without anything that the target could have made up."""
        for kinds, explain in _EXPLANATIONS:
            if isinstance(error, kinds):
                return explain(error, self._limits)
        log.exception("a delivery failed in an unexpected way", host=host)
        return f"unexpected: {type(error).__name__}"


def _no_answer(error: str, begun: float) -> Answer:
    return Answer(
        status_code=None,
        retry_after_seconds=None,
        error=error,
        took_seconds=time.monotonic() - begun,
    )


def _complaint(status: int) -> str | None:
    if 200 <= status < 300:
        return None
    if 300 <= status < 400:
        return f"answered {status}; redirects are not followed"
    return f"answered {status}"


def _retry_after(headers: list[tuple[bytes, bytes]]) -> float | None:
    """Return the seconds that the Retry-After header asks for (RFC 9110, 10.2.3)."""
    raw = next((value for name, value in headers if name.lower() == b"retry-after"), b"")
    text = raw.decode("latin-1").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def _why_not_connected(error: Exception, limits: SenderLimits) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not valid: {cause.verify_message}"
        if isinstance(cause, ssl.SSLError):
            return f"TLS failed: {cause.reason or 'no reason given'}"
        if isinstance(cause, OSError) and cause.strerror:
            return f"no connection: {cause.strerror}"
        cause = cause.__cause__ or cause.__context__
    return "no connection"


_EXPLANATIONS: tuple[
    tuple[tuple[type[Exception], ...], Callable[[Exception, SenderLimits], str]], ...
] = (
    (
        (AddressRefused,),
        lambda *_: (
            "the host resolves to an address that is not allowed "
            "(see WEBHOOK_ALLOWED_NETWORKS and WEBHOOK_ALLOW_HTTP)"
        ),
    ),
    ((NameUnknown,), lambda error, _: str(error)),
    (
        (httpcore.ConnectTimeout,),
        lambda _, limits: f"no connection within {limits.connect_seconds:g} s",
    ),
    (
        (httpcore.TimeoutException,),
        lambda _, limits: f"no whole answer within {limits.total_seconds:g} s",
    ),
    ((httpcore.ConnectError,), _why_not_connected),
    ((httpcore.NetworkError,), lambda *_: "the connection broke off"),
    ((httpcore.RemoteProtocolError,), lambda *_: "the answer broke off or was not HTTP"),
)

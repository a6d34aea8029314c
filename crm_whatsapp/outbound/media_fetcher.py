"""Fetches attachments from addresses that callers name, and from nowhere else.

What such an address answers is told as far as it is the caller's own: a host that may not be
spoken to, and a name that does not exist, get one and the same refusal, so that nobody learns from
here what there is in this service's own network.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import httpcore
import structlog

from crm_whatsapp import __version__
from crm_whatsapp.domain.errors import CrmWhatsappError, InvalidInput
from crm_whatsapp.domain.media import MediaAddressRefused, MediaTooLarge, MediaUnreachable
from crm_whatsapp.outbound.address_guard import MEDIA_NETWORKS, AddressGuard, split_url
from crm_whatsapp.outbound.guarded_network import (
    AddressRefused,
    GuardedBackend,
    NameUnknown,
    Resolver,
)

log = structlog.get_logger(__name__)

_FIELD = "media.url"
_DEFAULT_PORTS = {"http": 80, "https": 443}
_REFUSAL = (
    "media.url leads to no address that attachments may be fetched from: its host does not exist "
    f"or is not public (see {MEDIA_NETWORKS})."
)
_HEADERS = {
    "User-Agent": f"crm-whatsapp/{__version__}",
    "Accept": "*/*",
    "Accept-Encoding": "identity",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchLimits:
    """What one fetch may cost.

    connect_seconds: for the name, the connection and TLS together, each.
    total_seconds: for everything from the lookup to the last byte.
    connections: open at the same time.
    """

    connect_seconds: float
    total_seconds: float
    connections: int


class HttpMediaFetcher:
    """The MediaFetcher of the service. Safe to share between threads.

    Proxies of the environment are ignored, as in HttpWebhookSender: behind one it is the proxy
    that resolves, and the guard would judge nothing. Redirects are not followed.
    """

    def __init__(
        self, guard: AddressGuard, limits: FetchLimits, resolver: Resolver | None = None
    ) -> None:
        self._guard = guard
        self._limits = limits
        self._backend = GuardedBackend(guard, resolver)
        self._pool = httpcore.ConnectionPool(
            ssl_context=httpcore.default_ssl_context(),
            max_connections=limits.connections,
            max_keepalive_connections=0,
            retries=0,
            network_backend=self._backend,
        )

    def check(self, url: str) -> None:
        """See MediaFetcher."""
        try:
            split_url(url)
        except InvalidInput as refusal:
            raise InvalidInput(f"media.{refusal.message}", field=_FIELD) from refusal
        try:
            self._guard.check_url(url)
        except InvalidInput as refusal:
            raise MediaAddressRefused(_REFUSAL, field=_FIELD) from refusal

    def fetch(self, url: str, take: Callable[[bytes], None], *, most_bytes: int) -> None:
        """See MediaFetcher."""
        self.check(url)
        parts = split_url(url)
        host = parts.hostname or ""
        target = httpcore.URL(
            scheme=parts.scheme,
            host=host,
            port=parts.port or _DEFAULT_PORTS[parts.scheme],
            target=(parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
        )
        deadline = time.monotonic() + self._limits.total_seconds
        try:
            with self._backend.request(deadline=deadline, is_plain=parts.scheme == "http"):
                self._exchange(target, {"Host": parts.netloc, **_HEADERS}, take, most_bytes)
        except CrmWhatsappError:
            raise
        except (AddressRefused, NameUnknown):
            raise MediaAddressRefused(_REFUSAL, field=_FIELD) from None
        except Exception as error:
            raise MediaUnreachable(f"media.url: {self._explain(error, host)}.") from error

    def close(self) -> None:
        """Close what is open."""
        self._pool.close()

    def _exchange(
        self,
        url: httpcore.URL,
        headers: dict[str, str],
        take: Callable[[bytes], None],
        most_bytes: int,
    ) -> None:
        limits = self._limits
        timeout = {
            "connect": limits.connect_seconds,
            "pool": limits.connect_seconds,
            "read": limits.total_seconds,
            "write": limits.total_seconds,
        }
        with self._pool.stream(
            b"GET", url, headers=list(headers.items()), extensions={"timeout": timeout}
        ) as response:
            _check_head(response, most_bytes)
            received = 0
            for chunk in response.iter_stream():
                received += len(chunk)
                if received > most_bytes:
                    raise _too_large(most_bytes)
                take(chunk)

    def _explain(self, error: Exception, host: str) -> str:
        """Return what went wrong, without anything that the other side could have made up."""
        if isinstance(error, httpcore.ConnectTimeout | httpcore.PoolTimeout):
            return f"no connection within {self._limits.connect_seconds:g} s"
        if isinstance(error, httpcore.TimeoutException):
            return f"no whole answer within {self._limits.total_seconds:g} s"
        if isinstance(error, httpcore.ConnectError):
            return "no connection, or its certificate is not valid"
        if isinstance(error, httpcore.NetworkError | httpcore.RemoteProtocolError):
            return "the answer broke off or was not HTTP"
        log.error("a fetch failed in an unexpected way", host=host, error=type(error).__name__)
        return "the answer could not be read"


def _check_head(response: httpcore.Response, most_bytes: int) -> None:
    """Refuse what can be seen to be no file before its first byte."""
    if 300 <= response.status < 400:
        raise MediaUnreachable(
            f"media.url answered {response.status}, and redirects are not followed. "
            "Send the address of the file itself."
        )
    if response.status != 200:
        raise MediaUnreachable(f"media.url answered {response.status} instead of 200.")
    if _header(response, b"content-encoding") not in (b"", b"identity"):
        raise MediaUnreachable(
            "media.url answered with a compressed body though none was asked for."
        )
    length = _header(response, b"content-length")
    if length.isdigit() and int(length[:20]) > most_bytes:
        raise _too_large(most_bytes)


def _header(response: httpcore.Response, wanted: bytes) -> bytes:
    values = [value.strip() for name, value in response.headers if name.lower() == wanted]
    return b",".join(values).lower()


def _too_large(most_bytes: int) -> MediaTooLarge:
    return MediaTooLarge(
        f"The attachment at media.url has more than {most_bytes} bytes.",
        field=_FIELD,
        max_bytes=most_bytes,
    )

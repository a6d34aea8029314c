"""Which addresses may be spoken to: public ones, and those of networks the operator allows.

A URL from outside must not make this service knock at doors that only it can reach: its own
loopback, the machines beside it, the cloud's metadata server (CWE-918). Names are therefore judged
by what they resolve to at the moment of connecting, see guarded_network: a name that pointed to a
public address when it was registered may point elsewhere a second later.

Source: IANA IPv4 and IPv6 Special-Purpose Address Registries. Python's `is_global` alone does not
do: it takes multicast, 6to4, NAT64 and IPv4-compatible forms of private addresses as global.
"""

import ipaddress
import re
import socket
from collections.abc import Sequence
from urllib.parse import SplitResult, urlsplit

from crm_whatsapp.domain.errors import ConfigurationError, InvalidInput

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

WEBHOOK_NETWORKS = "WEBHOOK_ALLOWED_NETWORKS"
MEDIA_NETWORKS = "MEDIA_ALLOWED_NETWORKS"

_MOST_URL_LENGTH = 2048
_PLAIN = re.compile(r"[\x21-\x7e]+")
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_NEVER: tuple[Network, ...] = (
    ipaddress.IPv4Network("192.0.0.0/24"),  # IETF protocol assignments
    ipaddress.IPv4Network("168.63.129.16/32"),  # Azure's own machines, behind a public address
    ipaddress.IPv4Network("192.88.99.0/24"),  # 6to4 relays, withdrawn
    ipaddress.IPv6Network("2001::/23"),  # IETF protocol assignments, Teredo among them
    ipaddress.IPv6Network("2002::/16"),  # 6to4: carries any IPv4 address
    ipaddress.IPv6Network("3fff::/20"),  # documentation
)


class AddressGuard:
    """Tells which addresses and URLs may be used. Safe to share between threads."""

    def __init__(
        self,
        allowed: Sequence[Network] = (),
        *,
        allows_http: bool = False,
        setting: str = WEBHOOK_NETWORKS,
    ) -> None:
        """Allow public addresses and these networks.

        Args:
            allows_http: without TLS, too, to public addresses; to allowed networks it always is.
            setting: the variable that names these networks, for refusals.
        """
        self._allowed = tuple(allowed)
        self._allows_http = allows_http
        self._setting = setting

    def permits(self, address: Address, *, is_plain: bool = False) -> bool:
        """Tell whether a connection to the address may be made; is_plain: without TLS."""
        actual = _actual(address)
        if self._is_allowed(actual):
            return True
        return _is_public(actual) and (self._allows_http or not is_plain)

    def check_url(self, url: str) -> None:
        """Look at what can be seen of a URL without resolving its name.

        Raises:
            InvalidInput: it will never be spoken to; the message says why.
        """
        parts = split_url(url)
        is_plain = parts.scheme == "http"
        address = _literal(parts.hostname or "")
        if address is not None:
            if self.permits(address, is_plain=is_plain):
                return
            if self.permits(address):
                raise _refused("must begin with https:// (see WEBHOOK_ALLOW_HTTP)")
            raise _refused(f"names an address that is not public (see {self._setting})")
        if is_plain and not self._allows_http and not self._allowed:
            raise _refused(
                "must begin with https:// (see WEBHOOK_ALLOW_HTTP and WEBHOOK_ALLOWED_NETWORKS)"
            )

    def _is_allowed(self, address: Address) -> bool:
        return any(address in network for network in self._allowed)


def parse_networks(text: str, setting: str = WEBHOOK_NETWORKS) -> tuple[Network, ...]:
    """Read "127.0.0.0/8, 10.0.0.0/8, fd00::/8"; single addresses are networks of one.

    Args:
        setting: the variable with the text, for the refusal.
    Raises:
        ConfigurationError: one of them is not a network.
    """
    networks = []
    for word in filter(None, (word.strip() for word in text.split(","))):
        try:
            networks.append(ipaddress.ip_network(word))
        except ValueError as exc:
            raise ConfigurationError(
                f"{setting}: {word[:64]!r} is not a network such as 10.0.0.0/8"
            ) from exc
    return tuple(networks)


def split_url(url: str) -> SplitResult:
    """Return the parts of an http or https URL.

    Raises:
        InvalidInput: it is not one, or holds what parsers disagree about; it is never repeated,
            because URLs of webhooks often carry a token.
    """
    if len(url) > _MOST_URL_LENGTH:
        raise _refused(f"is longer than {_MOST_URL_LENGTH} characters")
    if not _PLAIN.fullmatch(url) or "\\" in url:
        raise _refused("must be written in plain ASCII, without spaces and backslashes")
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname or ""
    except ValueError as exc:
        raise _refused("is not a URL") from exc
    if parts.scheme not in ("http", "https"):
        raise _refused("must begin with https://")
    if "@" in parts.netloc:
        raise _refused("must not carry a user name or password")
    if port == 0 or not (_HOST.fullmatch(host) or _is_ipv6(host)):
        raise _refused("must name a host, such as https://crm.example.com/hooks")
    if parts.fragment or url.endswith("#"):
        raise _refused("must not have a fragment")
    return parts


def parse_address(text: str) -> Address:
    """Return the address; a zone index is dropped.

    Raises:
        ValueError: it is none.
    """
    return ipaddress.ip_address(text.partition("%")[0])


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return "%" not in host


def _literal(host: str) -> Address | None:
    """Return the address that a host spells out, 127.1 and 0x7f000001 included; None for names."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):  # RFC 6761, 6.3
        return ipaddress.IPv4Address("127.0.0.1")
    try:
        found = socket.getaddrinfo(name, None, flags=socket.AI_NUMERICHOST)
        return parse_address(str(found[0][4][0]))
    except (OSError, UnicodeError, ValueError):
        return None


def _actual(address: Address) -> Address:
    """Return the IPv4 address that is reached where an IPv6 address stands for one."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def _is_public(address: Address) -> bool:
    if not address.is_global or address.is_multicast:
        return False
    if any(address in network for network in _NEVER):
        return False
    return isinstance(address, ipaddress.IPv4Address) or address in _GLOBAL_UNICAST


def _refused(why: str) -> InvalidInput:
    return InvalidInput(f"url {why}.", field="url")

"""Which addresses and URLs may be spoken to."""

import ipaddress

import pytest

from crm_whatsapp.domain.errors import ConfigurationError, InvalidInput
from crm_whatsapp.outbound.address_guard import AddressGuard, parse_address, parse_networks

PUBLIC = [
    "8.8.8.8",
    "1.1.1.1",
    "2606:4700:4700::1111",
    "2a00:1450:4001:80b::200e",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
]
REFUSED = [
    # private, loopback, link-local, carrier-grade NAT, this network, unspecified
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",
    "168.63.129.16",
    "100.64.0.1",
    "0.0.0.0",  # noqa: S104 - refused here
    "0.1.2.3",
    # multicast, reserved, broadcast, documentation, benchmarking, protocol assignments
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "192.0.2.1",
    "198.51.100.1",
    "203.0.113.1",
    "198.18.0.1",
    "192.0.0.8",
    "192.0.0.170",
    "192.88.99.1",
    # the same of IPv6
    "::",
    "::1",
    "fe80::1",
    "fe80::1%eth0",
    "fc00::1",
    "fd00:ec2::254",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
    "2001:db8::1",
    "3fff::1",
    "5f00::1",
    "100::1",
    # IPv4 in the clothes of IPv6: mapped, compatible, translated, 6to4, NAT64, Teredo
    "::ffff:10.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:0:10.0.0.1",
    "::10.0.0.1",
    "::127.0.0.1",
    "::8.8.8.8",
    "2002:0a00:0001::",
    "2002:7f00:0001::1",
    "2002:0808:0808::",
    "64:ff9b::a00:1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::808:808",
    "2001::1",
    "2001:0:4136:e378:8000:63bf:f5ff:fffe",
]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_permitted_with_tls_alone(address: str) -> None:
    guard = AddressGuard()
    assert guard.permits(parse_address(address))
    assert not guard.permits(parse_address(address), is_plain=True)
    assert AddressGuard(allows_http=True).permits(parse_address(address), is_plain=True)


@pytest.mark.parametrize("address", REFUSED)
def test_all_others_are_refused(address: str) -> None:
    assert not AddressGuard(allows_http=True).permits(parse_address(address))


def test_no_address_outside_of_the_public_ranges_passes() -> None:
    """Walk through IPv4 in steps that hit every /16, and hold it to the list of the registry."""
    special = [
        ipaddress.ip_network(it)
        for it in (
            "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 "
            "192.168.0.0/16 198.18.0.0/15 224.0.0.0/4 240.0.0.0/4"
        ).split()
    ]
    guard = AddressGuard()
    for high in range(0, 0x1_0000):
        address = ipaddress.IPv4Address((high << 16) + 0x1234)
        expected = not any(address in network for network in special)
        assert guard.permits(address) is expected, address
        mapped = ipaddress.IPv6Address(0xFFFF_0000_0000 + int(address))
        assert guard.permits(mapped) is expected, mapped


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("64:ff9b::a01:203", True),
        ("fd00::5", True),
        ("127.0.0.1", False),
        ("192.168.1.1", False),
    ],
)
def test_allowed_networks_are_permitted_with_and_without_tls(address: str, expected: bool) -> None:
    guard = AddressGuard(parse_networks("10.0.0.0/8, fd00::/8"))
    assert guard.permits(parse_address(address)) is expected
    assert guard.permits(parse_address(address), is_plain=True) is expected


@pytest.mark.parametrize("text", ["10.0.0.1/8", "ten", "10.0.0.0/33", "::/129", "10.0.0.0/8;::1"])
def test_what_is_no_network_is_named(text: str) -> None:
    with pytest.raises(ConfigurationError, match="WEBHOOK_ALLOWED_NETWORKS"):
        parse_networks(text)


@pytest.mark.parametrize(
    "url",
    [
        "https://crm.example.com/hooks",
        "https://crm.example.com",
        "https://crm.example.com:8443/hooks?token=abc&x=%20y",
        "https://xn--bcher-kva.example/",
        "https://8.8.8.8/",
        "https://[2606:4700:4700::1111]:8443/",
    ],
)
def test_usable_urls(url: str) -> None:
    AddressGuard().check_url(url)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("ftp://crm.example.com/", "https"),
        ("file:///etc/passwd", "https"),
        ("gopher://crm.example.com/", "https"),
        ("crm.example.com/hooks", "https"),
        ("//crm.example.com/hooks", "https"),
        ("https://", "host"),
        ("https:///hooks", "host"),
        ("https://crm.example.com:0/", "host"),
        ("https://crm.example.com:99999/", "URL"),
        ("https://crm.example.com:x/", "URL"),
        ("https://[::1", "URL"),
        ("https://[fe80::1%25eth0]/", "host"),
        ("https://user:secret@crm.example.com/", "password"),
        ("https://crm.example.com@10.0.0.1/", "password"),
        ("https://crm.example.com\\@10.0.0.1/", "ASCII"),
        ("https://crm.example.com/a b", "ASCII"),
        ("https://crm.example.com/\r\nX-Evil: 1", "ASCII"),
        ("https://bücher.example/", "ASCII"),
        ("https://crm.example.com/#part", "fragment"),
        ("https://crm.example.com/#", "fragment"),
        ("https://crm_%41.example.com/", "host"),
        ("https://" + "a" * 3000, "longer"),
        ("https://127.0.0.1/", "not public"),
        ("https://169.254.169.254/latest/meta-data", "not public"),
        ("https://[::1]/", "not public"),
        ("https://[::ffff:10.0.0.1]/", "not public"),
        ("https://127.1/", "not public"),
        ("https://2130706433/", "not public"),
        ("https://0x7f000001/", "not public"),
        ("https://0177.0.0.1/", "not public"),
        ("https://localhost/", "not public"),
        ("https://LOCALHOST:8443/", "not public"),
        ("https://crm.localhost./", "not public"),
        ("https://0/", "not public"),
        ("http://crm.example.com/", "https://"),
        ("http://8.8.8.8/", "https://"),
    ],
)
def test_urls_that_are_refused_and_not_repeated(url: str, why: str) -> None:
    with pytest.raises(InvalidInput, match=why) as refusal:
        AddressGuard().check_url(url)
    assert refusal.value.details["field"] == "url"
    assert "secret" not in refusal.value.message


def test_plain_http_where_it_is_allowed() -> None:
    guard = AddressGuard(parse_networks("10.0.0.0/8"))
    guard.check_url("http://10.1.2.3:8080/hooks")
    guard.check_url("http://crm.internal/hooks")  # judged when it is resolved
    with pytest.raises(InvalidInput):
        guard.check_url("http://8.8.8.8/")
    AddressGuard(allows_http=True).check_url("http://8.8.8.8/")

"""The settings of attachments: unusable ones are named before anything starts."""

import ipaddress

import pytest

from crm_whatsapp.bootstrap.media_wiring import large_body_terms
from crm_whatsapp.config import Settings, load_settings
from crm_whatsapp.domain.errors import ConfigurationError
from crm_whatsapp.media_settings import media_address_guard
from crm_whatsapp.web.large_bodies import MOST_BODY_BYTES
from crm_whatsapp.web.services import LargeBodyTerms


def settings(monkeypatch: pytest.MonkeyPatch, **values: str) -> Settings:
    required = {
        "SUPABASE_URL": "https://abc.supabase.co",
        "SUPABASE_SERVICE_ROLE_KEY": "sb_secret_0123456789",
        "SESSIONS_DIR": "/var/lib/crm-whatsapp",
    }
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in {**required, **values}.items():
        monkeypatch.setenv(name, value)
    return load_settings()


def test_only_named_networks_are_fetched_from_beside_public_addresses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inner, public = ipaddress.ip_address("10.1.2.3"), ipaddress.ip_address("8.8.8.8")
    webhooks_only = settings(monkeypatch, WEBHOOK_ALLOWED_NETWORKS="10.0.0.0/8")
    assert not media_address_guard(webhooks_only).permits(inner)
    assert media_address_guard(webhooks_only).permits(public, is_plain=True)
    allowed = settings(monkeypatch, MEDIA_ALLOWED_NETWORKS="10.1.2.0/24")
    assert media_address_guard(allowed).permits(inner, is_plain=True)


def test_a_network_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = settings(monkeypatch, MEDIA_ALLOWED_NETWORKS="10.0.0.0/8,everything")
    with pytest.raises(ConfigurationError, match="MEDIA_ALLOWED_NETWORKS: 'everything'"):
        media_address_guard(bad)


def test_bodies_are_bounded_by_what_may_be_in_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert large_body_terms(settings(monkeypatch)) == LargeBodyTerms()
    small = large_body_terms(settings(monkeypatch, MEDIA_BASE64_MAX_MB="1", MEDIA_IN_FLIGHT="2"))
    assert (small.content_bytes, small.at_once) == (1024 * 1024, 2)
    assert MOST_BODY_BYTES == 23_418_197

"""Settings of users and browsers that are refused before anything runs."""

from typing import Any

import pytest

from crm_whatsapp.config import Settings
from crm_whatsapp.domain.api_keys import Scope
from crm_whatsapp.domain.errors import ConfigurationError
from crm_whatsapp.user_settings import (
    check_user_settings,
    cors_origins,
    embed_origins,
    role_scopes,
)


def settings(**values: Any) -> Settings:
    return Settings(
        supabase_url="https://abc.supabase.co",
        supabase_service_role_key="sb_secret_0123456789",
        sessions_dir="/var/lib/crm-whatsapp",
        **values,
    )


def test_the_defaults_are_good() -> None:
    check_user_settings(settings())
    assert cors_origins(settings()) == frozenset()
    roles = role_scopes(settings())
    assert roles[""] == roles["admin"] == frozenset(Scope)
    assert roles["agent"] == {Scope.READ, Scope.SEND}
    assert roles["viewer"] == {Scope.READ}


def test_who_is_removed_from_the_table_is_out_within_a_minute_streams_included() -> None:
    defaults = settings()
    assert defaults.user_membership_cache_seconds + defaults.sse_heartbeat_seconds <= 60


def test_origins_are_taken_as_they_are() -> None:
    text = "https://crm.example.com, http://127.0.0.1:3000,http://[::1]:8080"
    assert cors_origins(settings(cors_origins=text)) == {
        "https://crm.example.com",
        "http://127.0.0.1:3000",
        "http://[::1]:8080",
    }


def test_pages_around_the_embed_page_have_tls_or_are_of_this_machine() -> None:
    text = "https://crm.example.com,http://127.0.0.1:3000, http://localhost:8080"
    assert embed_origins(settings()) == frozenset()
    assert embed_origins(settings(embed_origins=text)) == {
        "https://crm.example.com",
        "http://127.0.0.1:3000",
        "http://localhost:8080",
    }


@pytest.mark.parametrize(
    ("origin", "why"),
    [
        ("http://crm.example.com", "https"),
        ("http://127.0.0.1.example.com", "https"),
        ("http://localhost.example.com", "https"),
        ("http://10.0.0.1", "https"),
        ("http://[::1]:8080", "IPv6"),
        ("https://[2001:db8::1]", "IPv6"),
        ("*", "not an origin"),
        ("https://*.example.com", "not an origin"),
        ("https://crm.example.com/", "not an origin"),
        ("https://a.example 'unsafe-inline'", "not an origin"),
        ("https://a.example; script-src *", "not an origin"),
        ("'self'", "not an origin"),
    ],
)
def test_what_may_not_hold_the_embed_page_is_refused(origin: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match="EMBED_ORIGINS") as refusal:
        check_user_settings(settings(embed_origins=origin))
    assert why in refusal.value.message


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "null",
        "https://*.example.com",
        "crm.example.com",
        "https://crm.example.com/",
        "https://crm.example.com/app",
        "https://CRM.example.com",
        "https://crm.example.com:443",
        "http://crm.example.com:80",
        "https://a@crm.example.com",
        "https://crm.example.com:99999",
        "https://crm.example.com:",
        "https://",
        "ftp://crm.example.com",
        "https://crm.example.com?x=1",
        "https://a.example https://b.example",
    ],
)
def test_what_no_browser_would_send_is_refused(origin: str) -> None:
    with pytest.raises(ConfigurationError, match="CORS_ORIGINS"):
        check_user_settings(settings(cors_origins=origin))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("user_membership_stale_seconds", 44.0),
        ("user_company_claim", "user_metadata.company_id"),
        ("user_company_claim", "app_metadata."),
        ("user_company_claim", "a b"),
        ("user_role_claim", "user_metadata.role"),
        ("user_role_claim", "."),
        ("user_role_scopes", "admin"),
        ("user_role_scopes", "[]"),
        ("user_role_scopes", '{"admin": "manage"}'),
        ("user_role_scopes", '{"admin": ["everything"]}'),
        ("user_role_scopes", '{"admin": [1]}'),
        ("user_role_scopes", '{"admin": [["read"]]}'),
        ("user_role_scopes", "[" * 100_000),
        ("supabase_jwt_secret", "short"),
        ("supabase_jwt_secret", "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE"),
    ],
)
def test_a_bad_value_is_refused_by_its_name_and_not_repeated(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=name.upper()) as refusal:
        check_user_settings(settings(**{name: value}))
    if "secret" in name:
        assert value not in refusal.value.message
        assert value not in repr(settings(**{name: value}))

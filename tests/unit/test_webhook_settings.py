"""What the environment may say of webhooks, and how it is refused."""

import base64

import pytest

from crm_whatsapp.config import Settings
from crm_whatsapp.domain.errors import ConfigurationError
from crm_whatsapp.domain.notices import NoticeKind
from crm_whatsapp.webhook_settings import check_webhook_settings, environment_target

SECRET = "whsec_" + base64.b64encode(bytes(32)).decode()


def settings(monkeypatch: pytest.MonkeyPatch, **values: str) -> Settings:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    given = {
        "SUPABASE_URL": "https://abc.supabase.co",
        "SUPABASE_SERVICE_ROLE_KEY": "sb_secret_0123456789",
        "SESSIONS_DIR": "/var/lib/crm-whatsapp",
        **values,
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    return Settings()


def test_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    check_webhook_settings(settings(monkeypatch))
    assert environment_target(settings(monkeypatch)) is None


def test_everything_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    target = environment_target(
        settings(
            monkeypatch,
            WEBHOOK_URL="http://10.0.0.5:9000/hooks?token=1",
            WEBHOOK_SECRET=SECRET,
            WEBHOOK_EVENTS="session.status, message.received",
            WEBHOOK_ALLOWED_NETWORKS="10.0.0.0/8",
        )
    )
    assert target is not None
    assert target.url == "http://10.0.0.5:9000/hooks?token=1"
    assert target.kinds == {NoticeKind.STATUS, NoticeKind.MESSAGE}
    assert target.secret == SECRET


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WEBHOOK_URL", "http://token-1234.example.com/"),
        ("WEBHOOK_URL", "https://10.0.0.5/token-1234"),
        ("WEBHOOK_URL", "https://me:token-1234@crm.example.com/"),
        ("WEBHOOK_SECRET", "token-1234"),
        ("WEBHOOK_EVENTS", "session.status,session.nothing"),
        ("WEBHOOK_ALLOWED_NETWORKS", "10.0.0.0/8,everything"),
        ("WEBHOOK_HOLD_SECONDS", "15"),
    ],
)
def test_what_is_not_usable_is_named_and_kept_secret(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    with pytest.raises(ConfigurationError, match=name) as refusal:
        check_webhook_settings(settings(monkeypatch, **{name: value}))
    assert "token-1234" not in refusal.value.message

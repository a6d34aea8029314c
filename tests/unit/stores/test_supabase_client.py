"""The client and its calls: what is repeated, what never is, and which way it goes."""

import pytest

from crm_whatsapp.domain.errors import ConfigurationError, StoreRejected, StoreUnavailable
from crm_whatsapp.stores.supabase_client import DatabaseCalls, close_client, make_client


class Flaky:
    """Fails with these errors, then answers."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "answer"


@pytest.fixture
def calls() -> DatabaseCalls:
    client = make_client("http://127.0.0.1:9", "sb_secret_x", 1.0)
    return DatabaseCalls(client, sleep=lambda seconds: None)


def test_a_passing_failure_is_repeated_once(calls: DatabaseCalls) -> None:
    flaky = Flaky(StoreUnavailable())
    assert calls.repeat(flaky) == "answer"
    assert flaky.calls == 2


def test_a_second_failure_is_told(calls: DatabaseCalls) -> None:
    flaky = Flaky(StoreUnavailable("first"), StoreUnavailable("second"))
    with pytest.raises(StoreUnavailable, match="second"):
        calls.repeat(flaky)
    assert flaky.calls == 2


def test_a_refusal_is_not_repeated(calls: DatabaseCalls) -> None:
    flaky = Flaky(StoreRejected())
    with pytest.raises(StoreRejected):
        calls.repeat(flaky)
    assert flaky.calls == 1


def test_nobody_listening_is_unavailable(calls: DatabaseCalls) -> None:
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        calls.once("whatsapp_tick_v1", {})


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://localhost:9", "http://[::1]:9"])
def test_loopback_is_reached_without_the_proxy(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    client = make_client(url, "sb_secret_x", 1.0)
    assert client.postgrest.session.trust_env is False
    close_client(client)


def test_other_addresses_honour_the_proxy() -> None:
    client = make_client("https://project.example", "sb_secret_x", 1.0)
    assert client.postgrest.session.trust_env is True
    close_client(client)


@pytest.mark.parametrize(("url", "key"), [("", "k"), ("project.example", "k"), ("https://x", "")])
def test_settings_that_cannot_work_are_named(url: str, key: str) -> None:
    with pytest.raises(ConfigurationError, match="SUPABASE_"):
        make_client(url, key, 1.0)

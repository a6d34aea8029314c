"""Secrets in the form of Standard Webhooks."""

import base64
from datetime import timedelta

import pytest

from crm_whatsapp.domain.errors import InvalidInput, StorageError
from crm_whatsapp.service.webhook_secrets import SigningSecrets, check_secret, new_secret
from tests.unit.service.fakes import NOON


def secret_of(size: int) -> str:
    return "whsec_" + base64.b64encode(bytes(range(size))).decode()


def test_fresh_secrets_are_usable_and_differ() -> None:
    made = {check_secret(new_secret()) for _ in range(10)}
    assert len(made) == 10
    assert all(len(base64.b64decode(it.removeprefix("whsec_"))) == 32 for it in made)


@pytest.mark.parametrize("size", [24, 25, 32, 64])
def test_usable_secrets(size: int) -> None:
    assert check_secret(secret_of(size)) == secret_of(size)
    check_secret(secret_of(size).rstrip("="))


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "whsec_",
        "hunter2",
        secret_of(23),
        secret_of(65),
        secret_of(32).removeprefix("whsec_"),
        secret_of(32) + "\n",
        "whsec_" + "ä" * 40,
        "whsec_" + "-_" * 20,
    ],
)
def test_other_secrets_are_refused_and_not_repeated(secret: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        check_secret(secret)
    assert len(secret) < 10 or secret not in refusal.value.message


def test_the_secret_before_a_change_signs_for_a_while() -> None:
    old, new = new_secret(), new_secret()
    both = SigningSecrets(current=old).replaced(new, NOON + timedelta(days=1))
    assert both.valid(NOON) == (new, old)
    assert both.valid(NOON + timedelta(days=1)) == (new,)
    assert SigningSecrets.of_text(both.as_text()) == both
    assert both.replaced(new, NOON) == both
    assert old not in repr(both)


def test_text_that_holds_none() -> None:
    good = new_secret()
    for text in ("", "nothing", f"{good} {good}", f"{good} {good} soon", f"{good} x 17"):
        with pytest.raises(StorageError) as refusal:
            SigningSecrets.of_text(text)
        assert refusal.value.__cause__ is None
        assert good not in refusal.value.message

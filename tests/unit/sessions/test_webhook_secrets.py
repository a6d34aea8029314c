"""Signing secrets at rest: sealed for one webhook, or in a file of their own."""

import base64
import os
from pathlib import Path

import pytest

from crm_whatsapp.domain.errors import StorageError
from crm_whatsapp.domain.snapshots import KeyMissing, KeyRefused
from crm_whatsapp.domain.webhooks import SealedSecret
from crm_whatsapp.sessions.key_ring import KeyRing, generate_key_entry
from crm_whatsapp.sessions.webhook_secrets import KeyRingVault, WebhookSecretFile

SECRET = "whsec_" + base64.b64encode(bytes(32)).decode()
FIRST, SECOND = generate_key_entry("k1"), generate_key_entry("k2")


def vault(*entries: str) -> KeyRingVault:
    return KeyRingVault(KeyRing.parse(",".join(entries)))


class TestVault:
    def test_what_is_sealed_is_opened_and_never_stored_readable(self) -> None:
        sealed = vault(FIRST).seal("w1", SECRET)
        assert sealed.key_id == "k1"
        assert SECRET not in sealed.value
        assert SECRET[10:30].encode() not in base64.b64decode(sealed.value)
        assert vault(FIRST).open("w1", sealed) == SECRET
        assert vault(FIRST).seal("w1", SECRET) != sealed

    def test_a_new_first_key_opens_and_reseals(self) -> None:
        old = vault(FIRST).seal("w1", SECRET)
        both = vault(SECOND, FIRST)
        assert both.open("w1", old) == SECRET
        assert not both.is_current(old)
        assert both.is_current(both.seal("w1", SECRET))

    def test_one_webhook_cannot_have_the_secret_of_another(self) -> None:
        sealed = vault(FIRST).seal("w1", SECRET)
        with pytest.raises(KeyRefused):
            vault(FIRST).open("w2", sealed)

    @pytest.mark.parametrize("entries", [(), (SECOND,)])
    def test_without_its_key_it_stays_shut(self, entries: tuple[str, ...]) -> None:
        sealed = vault(FIRST).seal("w1", SECRET)
        without = vault(*entries) if entries else KeyRingVault(None)
        with pytest.raises(KeyMissing, match="webhook"):
            without.open("w1", sealed)

    @pytest.mark.parametrize("value", ["", "AAAA", "not base64!", "é", SECRET])
    def test_what_was_altered_is_refused(self, value: str) -> None:
        with pytest.raises(KeyRefused):
            vault(FIRST).open("w1", SealedSecret(key_id="k1", value=value))

    def test_without_keys_it_is_kept_as_it_is(self) -> None:
        plain = KeyRingVault(None)
        sealed = plain.seal("w1", SECRET)
        assert sealed == SealedSecret(key_id=None, value=SECRET)
        assert plain.is_current(sealed)
        assert vault(FIRST).open("w1", sealed) == SECRET
        assert not vault(FIRST).is_current(sealed)


class TestFile:
    def test_it_is_kept_for_the_service_alone(self, tmp_path: Path) -> None:
        file = WebhookSecretFile(tmp_path)
        assert file.find() is None
        file.keep(SECRET)
        path = Path(file.place)
        assert path == tmp_path / "webhook-secret"
        assert path.stat().st_mode & 0o777 == 0o600
        path.chmod(0o644)
        assert file.find() == SECRET
        assert path.stat().st_mode & 0o777 == 0o600

    @pytest.mark.parametrize("content", [b"", b"hunter2", b"\xff" * 50, b"whsec_" + b"A" * 9000])
    def test_a_damaged_file_is_named_and_left(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "webhook-secret"
        path.write_bytes(content)
        with pytest.raises(StorageError, match="webhook-secret"):
            WebhookSecretFile(tmp_path).find()
        assert path.read_bytes() == content

    def test_something_else_of_that_name(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "webhook-secret")
        with pytest.raises(StorageError):
            WebhookSecretFile(tmp_path).find()

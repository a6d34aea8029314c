"""A proxy's password lies nowhere in the clear, and in no copied session folder at all."""

import shutil
import stat
from pathlib import Path

import pytest

from crm_whatsapp.domain.errors import InvalidInput, StorageError
from crm_whatsapp.sessions.proxy_vault import EncryptedProxyVault

COMPANY = "3b1bee0c-cbee-4de1-88f1-d6e890f4c995"
URL = "socks5://clerk:proxy-password-58d1@proxy.example:1080"


def test_what_is_kept_comes_back_and_is_not_readable(tmp_path: Path) -> None:
    vault = EncryptedProxyVault(tmp_path)
    assert vault.find(COMPANY) is None
    vault.put(COMPANY, URL)
    assert EncryptedProxyVault(tmp_path).find(COMPANY) == URL
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.parent.name for path in files} == {".proxies"}
    for path in files:
        assert b"proxy-password" not in path.read_bytes()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / ".proxies").stat().st_mode) == 0o700
    vault.remove(COMPANY)
    vault.remove(COMPANY)
    assert vault.find(COMPANY) is None


def test_a_copied_file_opens_under_its_own_key_alone(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for root in (ours, theirs):
        root.mkdir()
        EncryptedProxyVault(root).put(COMPANY, URL)
    shutil.copy(ours / ".proxies" / COMPANY, theirs / ".proxies" / COMPANY)
    with pytest.raises(StorageError, match="cannot be decrypted") as refusal:
        EncryptedProxyVault(theirs).find(COMPANY)
    assert "proxy-password" not in str(refusal.value)


@pytest.mark.parametrize("name", [COMPANY, "key"])
def test_a_link_in_its_place_is_refused(tmp_path: Path, name: str) -> None:
    vault = EncryptedProxyVault(tmp_path)
    vault.put(COMPANY, URL)
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / ".proxies" / name).rename(elsewhere)
    (tmp_path / ".proxies" / name).symlink_to(elsewhere)
    with pytest.raises(StorageError, match="not a regular file"):
        vault.find(COMPANY)


@pytest.mark.parametrize("company_id", ["../key", "key", "..", f"{COMPANY}/x"])
def test_what_is_no_company_is_no_path(tmp_path: Path, company_id: str) -> None:
    with pytest.raises(InvalidInput):
        EncryptedProxyVault(tmp_path).find(company_id)

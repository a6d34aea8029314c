"""The identity of the service stays with its folder."""

import logging
import stat
import uuid
from pathlib import Path

import pytest

from crm_whatsapp.domain.errors import StorageError
from crm_whatsapp.sessions.owner_id import load_owner_id


def test_it_is_made_once(tmp_path: Path) -> None:
    owner_id = load_owner_id(tmp_path)
    assert str(uuid.UUID(owner_id)) == owner_id
    assert load_owner_id(tmp_path) == owner_id
    assert stat.S_IMODE((tmp_path / "owner-id").stat().st_mode) == 0o600


@pytest.mark.parametrize("content", [b"", b"\xff", b"x" * 1000, b"not-a-uuid\n", b"\x00" * 36])
def test_a_damaged_one_is_replaced_with_a_warning(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "owner-id").write_bytes(content)
    with caplog.at_level(logging.WARNING):
        owner_id = load_owner_id(tmp_path)
    assert "owner-id is damaged" in caplog.text
    assert load_owner_id(tmp_path) == owner_id


def test_a_folder_in_its_place_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "owner-id").mkdir()
    with pytest.raises(StorageError):
        load_owner_id(tmp_path)


def test_a_missing_root_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        load_owner_id(tmp_path / "nothing")

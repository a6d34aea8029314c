"""The service key that is made when none is set."""

import logging
import stat
from pathlib import Path

import pytest

from crm_whatsapp.domain.errors import StorageError
from crm_whatsapp.sessions.service_key import load_service_key


def test_it_is_made_once(tmp_path: Path) -> None:
    made = load_service_key(tmp_path)
    assert made.made
    assert len(made.key) >= 43
    assert made.path == tmp_path / "api-key"
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o600
    again = load_service_key(tmp_path)
    assert (again.key, again.made) == (made.key, False)


def test_it_is_not_shown_by_accident(tmp_path: Path) -> None:
    made = load_service_key(tmp_path)
    assert made.key not in repr(made)


def test_a_key_of_the_operator_is_taken_and_closed_to_others(tmp_path: Path) -> None:
    path = tmp_path / "api-key"
    path.write_text("an-operators-own-key-1234\n")
    path.chmod(0o644)
    assert load_service_key(tmp_path).key == "an-operators-own-key-1234"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "content", [b"", b"short", b"\xff" * 40, b"two words of sixteen", b"x" * 5000]
)
def test_an_unusable_one_is_replaced_with_a_warning(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "api-key").write_bytes(content)
    with caplog.at_level(logging.WARNING):
        made = load_service_key(tmp_path)
    assert made.made
    assert "no usable key" in caplog.text
    assert load_service_key(tmp_path).key == made.key


def test_a_folder_in_its_place_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "api-key").mkdir()
    with pytest.raises(StorageError):
        load_service_key(tmp_path)

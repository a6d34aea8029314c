"""The pepper and the keys last known, on disk."""

import os
import threading
from pathlib import Path

import pytest

from crm_whatsapp.domain.errors import StorageError
from crm_whatsapp.sessions.api_key_files import KeyBookFile, load_pepper


def test_the_pepper_is_made_once_for_the_service_alone(tmp_path: Path) -> None:
    pepper = load_pepper(tmp_path)
    path = tmp_path / "api-key-pepper"
    assert len(pepper) >= 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_pepper(tmp_path) == pepper
    assert list(tmp_path.iterdir()) == [path]


def test_its_mode_is_brought_back(tmp_path: Path) -> None:
    pepper = load_pepper(tmp_path)
    (tmp_path / "api-key-pepper").chmod(0o644)
    assert load_pepper(tmp_path) == pepper
    assert (tmp_path / "api-key-pepper").stat().st_mode & 0o777 == 0o600


def test_the_command_line_and_the_service_make_one_together(tmp_path: Path) -> None:
    found: list[str] = []
    barrier = threading.Barrier(8)

    def make() -> None:
        barrier.wait(30)
        found.append(load_pepper(tmp_path))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 8
    assert len(set(found)) == 1


@pytest.mark.parametrize("content", [b"", b"short\n", b"\xff" * 64, b"two words " * 8, b"x" * 600])
def test_a_damaged_pepper_is_never_replaced(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "api-key-pepper"
    path.write_bytes(content)
    with pytest.raises(StorageError, match="backup"):
        load_pepper(tmp_path)
    assert path.read_bytes() == content


def test_links_and_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("a pepper that somebody else has put there, 0123456789")
    (tmp_path / "api-key-pepper").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError):
        load_pepper(tmp_path)
    (tmp_path / "api-key-pepper").unlink()
    (tmp_path / "api-key-pepper").mkdir()
    with pytest.raises(StorageError):
        load_pepper(tmp_path)


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="api-key-pepper"):
        load_pepper(tmp_path / "absent")


def test_the_keys_last_known(tmp_path: Path) -> None:
    file = KeyBookFile(tmp_path)
    assert file.find() is None
    file.keep('{"keys": []}')
    file.keep('{"keys": [1]}')
    assert file.find() == '{"keys": [1]}'
    path = tmp_path / "api-keys.json"
    assert path.stat().st_mode & 0o777 == 0o600
    path.unlink()
    os.mkfifo(path)
    assert file.find() is None

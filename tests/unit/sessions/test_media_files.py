"""The files of attachments: private, whole, and gone."""

import stat
from pathlib import Path

import pytest

from crm_whatsapp.domain.errors import StorageError
from crm_whatsapp.sessions.media_files import LocalMediaFiles


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_is_private_while_it_lasts_and_gone_afterwards(tmp_path: Path) -> None:
    files = LocalMediaFiles(tmp_path)
    files.clear()
    with files.new() as file:
        assert (mode(file.path.parent), mode(file.path)) == (0o700, 0o600)
        with file.content() as content:
            assert bytes(content) == b""
        file.write(b"ab")
        file.write(b"c")
        with file.content() as content:
            assert bytes(content) == b"abc"
        assert file.path.read_bytes() == b"abc"
    assert list(file.path.parent.iterdir()) == []


def test_it_is_gone_after_an_error_and_when_somebody_else_removed_it(tmp_path: Path) -> None:
    files = LocalMediaFiles(tmp_path)
    files.clear()
    with pytest.raises(RuntimeError), files.new() as file:
        raise RuntimeError
    assert not file.path.exists()
    with files.new() as file:
        file.path.unlink()


def test_a_start_removes_what_was_left(tmp_path: Path) -> None:
    files = LocalMediaFiles(tmp_path)
    files.clear()
    (tmp_path / ".media" / "left").write_bytes(b"x")
    files.clear()
    assert list((tmp_path / ".media").iterdir()) == []


def test_a_disk_that_refuses_is_told_as_such(tmp_path: Path) -> None:
    files = LocalMediaFiles(tmp_path / "absent")
    with pytest.raises(StorageError, match="No such file"), files.new():
        pass
    with pytest.raises(StorageError, match="No such file"):
        files.clear()

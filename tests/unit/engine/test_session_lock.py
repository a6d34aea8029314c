"""The lock on one company's session."""

import stat
from pathlib import Path

import pytest

from crm_whatsapp.engine.session_lock import SessionLock


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "c-1.lock"
    first, second = SessionLock(path), SessionLock(path)
    assert first.try_acquire()
    assert not second.try_acquire()
    first.release()
    first.release()
    assert second.try_acquire()
    second.release()
    assert path.exists(), "never removed"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        SessionLock(tmp_path / "missing" / "lock").try_acquire()

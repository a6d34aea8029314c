"""A sealed store is whole to the bit, or said not to be."""

import random
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from crm_whatsapp.domain.folders import Credentials, FolderState
from crm_whatsapp.sessions.session_folders import LocalSessionFolders
from crm_whatsapp.sessions.store_log import settle_stores
from tests.unit.sessions.real_stores import JID, fresh_store

COMPANY = "3b1bee0c-cbee-4de1-88f1-d6e890f4c995"


@pytest.fixture
def folders(tmp_path: Path) -> LocalSessionFolders:
    made = LocalSessionFolders(tmp_path)
    made.prepare_root()
    made.prepare(COMPANY)
    fresh_store(made.store_path(COMPANY), one_time_keys=10)
    made.write_credentials(
        Credentials(
            company_id=COMPANY,
            jid=JID,
            lid=None,
            push_name="Ana",
            platform="android",
            paired_at=datetime(2026, 1, 8, tzinfo=UTC),
            epoch=1,
        )
    )
    return made


def stop_cleanly(folders: LocalSessionFolders) -> Path:
    path = folders.store_path(COMPANY)
    assert settle_stores([path], 5.0) == []
    return path


def test_what_a_clean_stop_left_is_valid(folders: LocalSessionFolders) -> None:
    stop_cleanly(folders)
    assert folders.inspect(COMPANY).state is FolderState.VALID


def test_a_flipped_bit_anywhere_is_found(folders: LocalSessionFolders) -> None:
    path = stop_cleanly(folders)
    whole = path.read_bytes()
    seed = random.randrange(2**32)  # noqa: S311
    places = random.Random(seed)  # noqa: S311
    for _ in range(200):
        bit = places.randrange(len(whole) * 8)
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        assert folders.inspect(COMPANY).state is FolderState.CORRUPT, f"bit {bit}, seed {seed}"
    path.write_bytes(whole)
    assert folders.inspect(COMPANY).state is FolderState.VALID


def test_a_start_takes_the_seal_off(folders: LocalSessionFolders) -> None:
    path = stop_cleanly(folders)
    folders.keep_before_start(COMPANY)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("update whatsmeow_device set push_name = 'Bia'")
    assert folders.inspect(COMPANY).state is FolderState.VALID


@pytest.mark.parametrize("content", [b"", b"rubbish", b"\xff" * 64, b"0" * 5000])
def test_a_damaged_seal_is_damage(folders: LocalSessionFolders, content: bytes) -> None:
    path = stop_cleanly(folders)
    path.with_name("store.sha256").write_bytes(content)
    assert folders.inspect(COMPANY).state is FolderState.CORRUPT

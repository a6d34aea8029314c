"""An exported session is read with its passphrase, or says what is wrong with it."""

import hashlib
import os
import pickle
import stat
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crm_whatsapp.domain.errors import InvalidInput, StorageError
from crm_whatsapp.domain.folders import Credentials
from crm_whatsapp.domain.snapshots import SnapshotDamaged, StoreCopy
from crm_whatsapp.sessions.session_archive import (
    ScryptCost,
    WrongPassphrase,
    read_archive,
    write_archive,
)
from crm_whatsapp.sessions.snapshot_cipher import pack_copy
from tests.unit.sessions.processes import lines, running

COPY = StoreCopy(
    credentials=Credentials(
        company_id="3b1bee0c-cbee-4de1-88f1-d6e890f4c995",
        jid="5511999990001:3@s.whatsapp.net",
        lid=None,
        push_name="Loja",
        platform=None,
        paired_at=datetime(2026, 3, 1, 12, tzinfo=UTC),
        epoch=7,
    ),
    database=b"SQLite format 3\x00" + bytes(64),
)
WITHOUT_EPOCH = replace(COPY, credentials=replace(COPY.credentials, epoch=0))
PASSPHRASE = "correct horse é battery"
CHEAP = ScryptCost(log2_n=4, r=1, p=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "loja.session"


@pytest.fixture
def written(path: Path) -> bytes:
    write_archive(path, COPY, PASSPHRASE, cost=CHEAP)
    return path.read_bytes()


def test_a_session_comes_back(path: Path) -> None:
    write_archive(path, COPY, PASSPHRASE)
    assert read_archive(path, PASSPHRASE) == WITHOUT_EPOCH
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == [path.name]


def test_the_format_is_the_documented_one(written: bytes) -> None:
    assert written[:12] == b"CRMWASES\x01\x04\x01\x01"
    assert int.from_bytes(written[52:60], "big") == len(written) - 60
    derived = hashlib.scrypt(PASSPHRASE.encode(), salt=written[12:44], n=16, r=1, p=1, dklen=40)
    assert derived[32:] == written[44:52]
    packed = AESGCM(derived[:32]).decrypt(written[60:72], written[72:], written[:60])
    assert packed == pack_copy(COPY)


def test_the_cost_is_not_cheap_unless_asked_for(path: Path) -> None:
    write_archive(path, COPY, PASSPHRASE)
    assert path.read_bytes()[9:12] == bytes([16, 8, 2])


def test_nothing_of_it_is_readable(written: bytes) -> None:
    for clear in (b"SQLite", b"5511999990001", b"Loja", b"3b1bee0c"):
        assert clear not in written


def test_the_spelling_of_an_accent_does_not_matter(path: Path, written: bytes) -> None:
    assert read_archive(path, PASSPHRASE.replace("é", "e\u0301")) == WITHOUT_EPOCH


@pytest.mark.parametrize("passphrase", ["", PASSPHRASE + " ", PASSPHRASE.upper()])
def test_a_wrong_passphrase_is_said(path: Path, written: bytes, passphrase: str) -> None:
    with pytest.raises(WrongPassphrase, match="does not fit") as caught:
        read_archive(path, passphrase)
    assert PASSPHRASE not in str(caught.value)


@pytest.mark.parametrize("passphrase", ["", "short", "e\u0301" * 11])
def test_a_short_passphrase_is_refused(path: Path, passphrase: str) -> None:
    with pytest.raises(InvalidInput, match="at least 12 characters"):
        write_archive(path, COPY, passphrase)
    assert not path.exists()


def test_every_flipped_bit_is_noticed(path: Path, written: bytes) -> None:
    """The costs, which may grow by a flip, have tests of their own."""
    for position in range(len(written)):
        if position in range(9, 12):
            continue
        for bit in range(8):
            altered = bytearray(written)
            altered[position] ^= 1 << bit
            path.write_bytes(altered)
            with pytest.raises((SnapshotDamaged, WrongPassphrase)):
                read_archive(path, PASSPHRASE)


@pytest.mark.parametrize(
    "cost",
    [
        b"\x00\x08\x01",
        b"\x19\x01\x01",
        b"\x10\x00\x01",
        b"\x10\x08\x00",
        b"\x15\x08\x01",
        b"\xff\xff\xff",
    ],
)
def test_altered_costs_are_refused_before_they_cost(
    path: Path, written: bytes, cost: bytes
) -> None:
    path.write_bytes(written[:9] + cost + written[12:])
    with pytest.raises(SnapshotDamaged, match="out of range"):
        read_archive(path, PASSPHRASE)


@pytest.mark.parametrize("cost", [b"\x05\x01\x01", b"\x04\x02\x01", b"\x04\x01\x02"])
def test_altered_costs_give_another_key(path: Path, written: bytes, cost: bytes) -> None:
    path.write_bytes(written[:9] + cost + written[12:])
    with pytest.raises(WrongPassphrase, match="header was altered"):
        read_archive(path, PASSPHRASE)


def test_every_cut_is_said(path: Path, written: bytes) -> None:
    for length in range(len(written)):
        path.write_bytes(written[:length])
        with pytest.raises(SnapshotDamaged, match=r"is cut off|is not an exported session"):
            read_archive(path, PASSPHRASE)
    path.write_bytes(written[:40])
    with pytest.raises(SnapshotDamaged, match="is cut off"):
        read_archive(path, PASSPHRASE)
    path.write_bytes(written + b"\x00")
    with pytest.raises(SnapshotDamaged, match="is longer"):
        read_archive(path, PASSPHRASE)


def test_a_newer_format_is_named(path: Path, written: bytes) -> None:
    path.write_bytes(written[:8] + b"\x02" + written[9:])
    with pytest.raises(SnapshotDamaged, match="format 2"):
        read_archive(path, PASSPHRASE)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(content=st.binary(max_size=200))
def test_another_file_is_said(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(SnapshotDamaged, match=r"is not an exported session|is cut off"):
        read_archive(path, PASSPHRASE)


def test_what_cannot_be_read_is_a_storage_error(path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"):
        read_archive(path, PASSPHRASE)
    path.mkdir()
    with pytest.raises(StorageError):
        read_archive(path, PASSPHRASE)
    path.rmdir()
    with pytest.raises(StorageError, match="No such file"):
        write_archive(path / "x", COPY, PASSPHRASE, cost=CHEAP)
    os.mkfifo(path)
    with pytest.raises(StorageError, match="not a regular file"):
        read_archive(path, PASSPHRASE)


def test_a_file_is_never_overwritten(path: Path, written: bytes) -> None:
    with pytest.raises(StorageError, match="exists already"):
        write_archive(path, COPY, PASSPHRASE, cost=CHEAP)
    assert path.read_bytes() == written
    path.unlink()
    path.symlink_to("nowhere")
    with pytest.raises(StorageError, match="exists already"):
        write_archive(path, COPY, PASSPHRASE, cost=CHEAP)
    assert os.listdir(path.parent) == [path.name]


RACER = """
import pickle, sys
from pathlib import Path
from crm_whatsapp.domain.errors import StorageError
from crm_whatsapp.sessions.session_archive import ScryptCost, write_archive
copy = pickle.loads(bytes.fromhex(sys.argv[2]))
print("ready", flush=True)
sys.stdin.readline()
try:
    write_archive(Path(sys.argv[1]), copy, "correct horse battery", cost=ScryptCost(log2_n=4))
except StorageError as error:
    print("refused", flush=True)
else:
    print("written", flush=True)
"""


def test_of_two_at_once_one_writes(path: Path) -> None:
    content = pickle.dumps(COPY).hex()
    with running(RACER, path, content) as one, running(RACER, path, content) as two:
        for racer in (one, two):
            assert lines(racer, 1) == ["ready"]
        for racer in (one, two):
            assert racer.stdin is not None
            racer.stdin.write("\n")
            racer.stdin.flush()
        assert sorted(lines(one, 1) + lines(two, 1)) == ["refused", "written"]
    assert os.listdir(path.parent) == [path.name]
    assert read_archive(path, "correct horse battery") == WITHOUT_EPOCH

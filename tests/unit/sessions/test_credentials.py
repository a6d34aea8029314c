"""creds.json: what is written reads back, and nothing damaged passes for valid."""

import json
import os
import stat
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crm_whatsapp.domain.errors import InvalidInput, StorageError
from crm_whatsapp.domain.folders import Credentials
from crm_whatsapp.sessions.credentials import (
    CredentialsCorrupt,
    CredentialsForeign,
    parse_credentials,
    read_credentials,
    render_credentials,
    write_credentials,
)
from tests.unit.sessions.processes import lines, run, running
from tests.unit.sessions.store_files import JID, LID

COMPANY = "3b1bee0c-cbee-4de1-88f1-d6e890f4c995"
OTHER = "11111111-2222-4333-8444-555555555555"
SAVED = Credentials(
    company_id=COMPANY,
    jid=JID,
    lid=LID,
    push_name="Ação 🤝",
    platform="android",
    paired_at=datetime(2026, 3, 1, 12, tzinfo=UTC),
    epoch=7,
)


def record(**changes: object) -> dict[str, object]:
    return json.loads(render_credentials(SAVED)) | changes


def test_written_credentials_read_back(tmp_path: Path) -> None:
    write_credentials(tmp_path, SAVED)
    assert read_credentials(tmp_path, COMPANY) == SAVED
    assert stat.S_IMODE((tmp_path / "creds.json").stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["creds.json"]


def test_no_file_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_credentials(tmp_path, COMPANY)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"\x00" * 400, "NUL"),
        (b'{"format_version": 1', "not JSON"),
        (b"[1]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"[" * 60_000, "not JSON"),
        (b"\xff\xfe{}", "UTF-8"),
        (json.dumps(record()).encode("utf-16"), "NUL"),
        (b'{"epoch": NaN}', "not JSON"),
        (b'{"epoch": ' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"epoch": 1, "epoch": 1}', "twice"),
        (json.dumps(record(padding="x" * 70_000)).encode(), "larger than 65536"),
        (b" " * 1_100_000, "larger than 1048576"),
    ],
)
def test_rubbish_is_corrupt_with_a_reason(content: bytes, reason: str) -> None:
    with pytest.raises(CredentialsCorrupt, match=reason):
        parse_credentials(content, COMPANY)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format_version": 2}, "newer release"),
        ({"format_version": 0}, "unknown format"),
        ({"format_version": True}, "format_version"),
        ({"format_version": "1"}, "format_version"),
        ({"company_id": OTHER}, "another company"),
        ({"company_id": COMPANY.upper()}, "another company"),
        ({"company_id": None}, "company_id"),
        ({"jid": "5511999990001"}, "jid"),
        ({"jid": "123@g.us"}, "jid"),
        ({"jid": JID + "\n"}, "jid"),
        ({"jid": "٣٣٣٣٣٣:1@s.whatsapp.net"}, "jid"),
        ({"jid": None}, "jid"),
        ({"lid": "123@s.whatsapp.net"}, "lid"),
        ({"push_name": 5}, "push_name"),
        ({"push_name": "a\x00b"}, "push_name"),
        ({"push_name": "\ud800"}, "push_name"),
        ({"push_name": "x" * 600}, "push_name"),
        ({"platform": []}, "platform"),
        ({"paired_at": "2026-03-01T12:00:00"}, "time zone"),
        ({"paired_at": "yesterday"}, "paired_at"),
        ({"paired_at": "0001-01-01T00:00:00+14:00"}, "paired_at"),
        ({"paired_at": 1772366400}, "paired_at"),
        ({"epoch": -1}, "epoch"),
        ({"epoch": 1.0}, "epoch"),
        ({"epoch": 2**63}, "epoch"),
    ],
)
def test_a_field_of_the_wrong_kind_is_corrupt(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(CredentialsCorrupt, match=reason):
        parse_credentials(json.dumps(record(**changes)).encode(), COMPANY)


@pytest.mark.parametrize("name", sorted(record()))
def test_a_missing_field_is_corrupt(name: str) -> None:
    partial = record()
    del partial[name]
    with pytest.raises(CredentialsCorrupt, match=name):
        parse_credentials(json.dumps(partial).encode(), COMPANY)


def test_fields_of_a_later_release_are_ignored() -> None:
    content = json.dumps(record(added_later={"x": 1})).encode()
    assert parse_credentials(content, COMPANY) == SAVED


@pytest.mark.parametrize("padding", [0, 200_000])
def test_baileys_credentials_are_foreign(padding: int) -> None:
    content = json.dumps({"noiseKey": {}, "me": {"id": JID}, "padding": "x" * padding}).encode()
    with pytest.raises(CredentialsForeign, match="Baileys"):
        parse_credentials(content, COMPANY)


def test_only_a_regular_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "creds.json"
    elsewhere = tmp_path / "elsewhere.json"
    elsewhere.write_bytes(render_credentials(SAVED))
    path.symlink_to(elsewhere)
    with pytest.raises(CredentialsCorrupt, match="regular file"):
        read_credentials(tmp_path, COMPANY)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(CredentialsCorrupt, match="regular file"):
        read_credentials(tmp_path, COMPANY)
    path.unlink()
    path.mkdir()
    with pytest.raises(CredentialsCorrupt, match="regular file"):
        read_credentials(tmp_path, COMPANY)


@given(content=st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_arbitrary_bytes_are_corrupt(content: bytes) -> None:
    with pytest.raises(CredentialsCorrupt):
        parse_credentials(content, COMPANY)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(name=st.sampled_from(sorted(record())), value=JSON_VALUES)
@settings(max_examples=200, deadline=None)
def test_a_field_of_any_value_is_read_strictly_or_refused(name: str, value: object) -> None:
    content = json.dumps(record(**{name: value})).encode()
    try:
        read = parse_credentials(content, COMPANY)
    except (CredentialsCorrupt, CredentialsForeign):
        return
    assert parse_credentials(render_credentials(read), COMPANY) == read
    assert (read.company_id, type(read.epoch)) == (COMPANY, int)


@given(cut=st.integers(min_value=0, max_value=len(render_credentials(SAVED)) - 3))
@settings(max_examples=100, deadline=None)
def test_a_truncated_file_is_corrupt(cut: int) -> None:
    with pytest.raises(CredentialsCorrupt):
        parse_credentials(render_credentials(SAVED)[:cut], COMPANY)


@given(name=st.none() | st.text(st.characters(), max_size=600))
@settings(max_examples=200, deadline=None)
def test_whatever_name_a_stranger_chose_reads_back(name: str | None) -> None:
    rendered = render_credentials(replace(SAVED, push_name=name, platform=name))
    assert parse_credentials(rendered, COMPANY).jid == SAVED.jid


def test_credentials_that_would_not_read_back_are_not_written(tmp_path: Path) -> None:
    write_credentials(tmp_path, SAVED)
    with pytest.raises(InvalidInput, match="jid"):
        write_credentials(tmp_path, replace(SAVED, jid="nobody"))
    assert read_credentials(tmp_path, COMPANY) == SAVED


def test_a_refusing_disk_leaves_the_old_file(tmp_path: Path) -> None:
    write_credentials(tmp_path, SAVED)
    (tmp_path / ".creds.json.tmp").mkdir()
    with pytest.raises(StorageError):
        write_credentials(tmp_path, replace(SAVED, epoch=8))
    assert read_credentials(tmp_path, COMPANY) == SAVED


FULL_DISK = """
import resource, sys
from pathlib import Path
from crm_whatsapp.domain.errors import StorageError
from crm_whatsapp.sessions.durable_file import write_durably
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    write_durably(Path(sys.argv[1]), b"n" * 5000)
except StorageError as error:
    print(error.message)
"""


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    write_credentials(tmp_path, SAVED)
    assert "File too large" in run(FULL_DISK, tmp_path / "creds.json")
    assert read_credentials(tmp_path, COMPANY) == SAVED
    assert os.listdir(tmp_path) == ["creds.json"]


WRITER = """
import sys
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from crm_whatsapp.domain.folders import Credentials
from crm_whatsapp.sessions.credentials import write_credentials
for number in count(1):
    write_credentials(Path(sys.argv[1]), Credentials(
        company_id=sys.argv[2], jid="5511999990001:3@s.whatsapp.net", lid=None,
        push_name="x" * (number % 500), platform=None, paired_at=datetime.now(UTC), epoch=number))
    print(number, flush=True)
"""


@pytest.mark.parametrize("writes", [1, 3, 20, 50])
def test_a_killed_writer_leaves_a_whole_file(tmp_path: Path, writes: int) -> None:
    with running(WRITER, tmp_path, COMPANY) as process:
        seen = lines(process, writes)
        process.kill()
        process.wait(timeout=30)
    assert read_credentials(tmp_path, COMPANY).epoch >= int(seen[-1])
    write_credentials(tmp_path, SAVED)
    assert os.listdir(tmp_path) == ["creds.json"]

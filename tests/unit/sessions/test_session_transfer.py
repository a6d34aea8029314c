"""One session as a file: out of one SESSIONS_DIR, into another, never over something."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from crm_whatsapp.cli import main
from crm_whatsapp.domain.folders import Credentials, FolderState
from crm_whatsapp.sessions.session_folders import LocalSessionFolders
from tests.unit.sessions.real_stores import JID, fresh_store

COMPANY = "3b1bee0c-cbee-4de1-88f1-d6e890f4c995"
OTHER = "9d6f2061-60e5-4e93-a0df-f55dd5c3d40c"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "passphrase"
    path.write_text("a passphrase that is long enough\n")
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalSessionFolders:
    folders = LocalSessionFolders(tmp_path / "here")
    folders.prepare_root()
    folders.prepare(COMPANY)
    fresh_store(folders.store_path(COMPANY), one_time_keys=10)
    folders.write_credentials(
        Credentials(
            company_id=COMPANY,
            jid=JID,
            lid=None,
            push_name="Ana",
            platform="android",
            paired_at=datetime(2026, 1, 8, tzinfo=UTC),
            epoch=3,
        )
    )
    monkeypatch.setenv("SESSIONS_DIR", str(folders.root))
    return folders


def test_a_session_moves_to_another_folder_whole(
    here: LocalSessionFolders, tmp_path: Path, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "session.crmwa"
    arguments = ["--company", COMPANY, "--passphrase-file", str(secret), str(file)]
    assert main(["export", *arguments]) == 0
    there = LocalSessionFolders(tmp_path / "there")
    there.prepare_root()
    monkeypatch.setenv("SESSIONS_DIR", str(there.root))

    assert main(["import", *arguments]) == 0

    source, moved = here.inspect(COMPANY), there.inspect(COMPANY)
    assert moved.state is FolderState.VALID
    assert source.credentials is not None
    assert moved.credentials is not None
    assert moved.credentials.jid == source.credentials.jid


def test_an_existing_session_is_only_replaced_when_asked(
    here: LocalSessionFolders, tmp_path: Path, secret: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "session.crmwa"
    arguments = ["--company", COMPANY, "--passphrase-file", str(secret), str(file)]
    main(["export", *arguments])

    assert main(["import", *arguments]) == 1
    assert "--replace" in capsys.readouterr().err

    assert main(["import", "--replace", *arguments]) == 0
    assert here.inspect(COMPANY).state is FolderState.VALID
    assert list((here.root / "quarantine").iterdir())


def test_a_device_is_not_given_to_two_companies(
    here: LocalSessionFolders, tmp_path: Path, secret: Path
) -> None:
    file = tmp_path / "session.crmwa"
    common = ["--passphrase-file", str(secret), str(file)]
    main(["export", "--company", COMPANY, *common])

    assert main(["import", "--company", OTHER, *common]) == 1
    assert here.inspect(OTHER).state is FolderState.MISSING


def test_a_wrong_passphrase_writes_nothing(
    here: LocalSessionFolders,
    tmp_path: Path,
    secret: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "session.crmwa"
    main(["export", "--company", COMPANY, "--passphrase-file", str(secret), str(file)])
    secret.write_text("another passphrase, long enough")

    assert (
        main(
            [
                "import",
                "--replace",
                "--company",
                COMPANY,
                "--passphrase-file",
                str(secret),
                str(file),
            ]
        )
        == 1
    )
    assert "passphrase" in capsys.readouterr().err
    assert here.inspect(COMPANY).state is FolderState.VALID


def test_a_file_is_never_overwritten(
    here: LocalSessionFolders, tmp_path: Path, secret: Path
) -> None:
    file = tmp_path / "session.crmwa"
    file.write_bytes(b"something of mine")
    arguments = ["--company", COMPANY, "--passphrase-file", str(secret), str(file)]

    assert main(["export", *arguments]) == 1
    assert file.read_bytes() == b"something of mine"


def test_new_keys_are_usable_and_differ(capsys: pytest.CaptureFixture[str]) -> None:
    from crm_whatsapp.sessions.key_ring import KeyRing

    main(["new-key"])
    main(["new-key"])
    first, second = capsys.readouterr().out.split()
    assert first != second
    assert len(KeyRing.parse(f"{first},{second}").key_ids) == 2


def test_rotation_without_keys_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SESSIONS_DIR", str(tmp_path))
    monkeypatch.setenv("SUPABASE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("SUPABASE_SERVICE_ROLE_KEY", "sb_secret_x")
    monkeypatch.delenv("SNAPSHOT_ENCRYPTION_KEYS", raising=False)

    assert main(["rotate-keys"]) == 1
    assert "SNAPSHOT_ENCRYPTION_KEYS" in capsys.readouterr().err

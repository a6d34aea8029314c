import base64
import fcntl
import hashlib
import json
import os
import shutil
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crm_whatsapp import cli
from crm_whatsapp.domain.errors import EngineError, InvalidInput, StorageError, WrongState
from crm_whatsapp.domain.folders import FolderState
from crm_whatsapp.engine.empty_store_process import make_empty_store
from crm_whatsapp.engine.session_lock import SessionLock
from crm_whatsapp.sessions.baileys_credentials import parse_creds
from crm_whatsapp.sessions.baileys_import import BaileysImport
from crm_whatsapp.sessions.baileys_json import as_bytes, find_creds
from crm_whatsapp.sessions.curve25519 import is_signed_by, public_key_of
from crm_whatsapp.sessions.session_folders import LocalSessionFolders
from tests.unit.sessions import store_files
from tests.unit.sessions.baileys_sessions import (
    JID,
    LID,
    buffer,
    creds,
    key_pair,
    sign,
    write_folder,
)

COMPANY = "3b1bee0c-cbee-4de1-88f1-d6e890f4c995"
FUZZ = settings(max_examples=500, deadline=None)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store of the real neonize."""
    path = tmp_path_factory.mktemp("template") / "store.db"
    make_empty_store(path)
    return path


@pytest.fixture
def folders(tmp_path: Path) -> LocalSessionFolders:
    return LocalSessionFolders(tmp_path / "sessions")


@pytest.fixture
def moving_in(folders: LocalSessionFolders, template: Path) -> BaileysImport:
    return BaileysImport(
        folders,
        make_empty_store=lambda path: shutil.copyfile(template, path),
        session_lock=SessionLock,
    )


def rows(path: Path, table: str) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(path)) as db:
        db.row_factory = sqlite3.Row
        return [dict(row) for row in db.execute(f"select * from {table}")]  # noqa: S608


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_folder_becomes_a_store_of_whatsmeow(
    moving_in: BaileysImport, folders: LocalSessionFolders, tmp_path: Path
) -> None:
    source = write_folder(tmp_path / "old")
    before = contents(source)

    report = moving_in.run(source, COMPANY)

    found = folders.inspect(COMPANY)
    assert found.state is FolderState.VALID
    assert found.credentials is not None
    assert (found.credentials.jid, found.credentials.lid) == (JID, LID)
    assert (found.credentials.push_name, found.credentials.platform) == ("Loja", "android")
    [device] = rows(folders.store_path(COMPANY), "whatsmeow_device")
    session = parse_creds(json.loads((source / "creds.json").read_text()))
    assert device["noise_key"] == session.noise_key
    assert device["adv_key"] == session.adv_secret
    assert (device["registration_id"], device["signed_pre_key_id"]) == (211, 1)
    [identity] = rows(folders.store_path(COMPANY), "whatsmeow_identity_keys")
    assert identity["their_id"] == "123456789012345_1:0"
    assert identity["identity"] == session.account_signature_key
    assert rows(folders.store_path(COMPANY), "whatsmeow_lid_map") == [
        {"lid": "123456789012345", "pn": "5511999990001"}
    ]
    assert contents(source) == before
    assert (report.one_time_keys, report.unusable_keys) == (3, 0)
    assert {path.name for path in report.folder.iterdir()} == {"store.db", "creds.json"}
    assert not list((folders.root / ".incoming").iterdir())


def test_one_time_keys_come_along_and_numbers_are_not_given_out_twice(
    moving_in: BaileysImport, folders: LocalSessionFolders, tmp_path: Path
) -> None:
    source = write_folder(tmp_path / "old", creds(nextPreKeyId=31, firstUnuploadedPreKeyId=7))
    (source / "pre-key-6.json").write_text("{")
    (source / "pre-key-9.json").write_text(json.dumps({"private": buffer(bytes(32))}))

    report = moving_in.run(source, COMPANY)

    assert (report.one_time_keys, report.unusable_keys) == (2, 2)
    keys = rows(folders.store_path(COMPANY), "whatsmeow_pre_keys")
    assert [(key["key_id"], key["uploaded"]) for key in keys] == [(5, 1), (7, 0), (31, 0)]


def test_a_session_without_a_hidden_id_moves_in(
    moving_in: BaileysImport, folders: LocalSessionFolders, tmp_path: Path
) -> None:
    source = write_folder(tmp_path / "old", creds(me={"id": JID}))
    assert moving_in.run(source, COMPANY).lid is None
    [identity] = rows(folders.store_path(COMPANY), "whatsmeow_identity_keys")
    assert identity["their_id"] == "5511999990001:0"
    assert folders.inspect(COMPANY).state is FolderState.VALID


def test_a_hidden_id_gets_the_number_of_the_device_that_baileys_dropped() -> None:
    session = parse_creds(creds(me={"id": JID, "lid": "123456789012345@lid"}))
    assert session.lid == LID


def as_text(record: dict[str, Any]) -> Any:
    return [{"id": 1, "session_id": "x", "data": json.dumps(record)}]


DUMPS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "the object itself": lambda record: record,
    "under creds": lambda record: {"creds": record, "keys": {}},
    "under data as text": lambda record: {"data": json.dumps(record)},
    "under session, twice text": lambda record: {"session": json.dumps(json.dumps(record))},
    "a row of a table": as_text,
    "a document of a collection": lambda record: {"rows": [{"_id": "creds", "value": record}]},
    "twice the same": lambda record: [record, {"creds": json.dumps(record)}],
}


@pytest.mark.parametrize("shape", DUMPS)
def test_a_dump_moves_in(moving_in: BaileysImport, tmp_path: Path, shape: str) -> None:
    dump = tmp_path / "dump.json"
    dump.write_text(json.dumps(DUMPS[shape](creds())))
    assert moving_in.run(dump, COMPANY).jid == JID


def test_bytes_in_every_spelling() -> None:
    content = bytes(range(250, 256)) + b"\x00"
    text = base64.b64encode(content).decode()
    numbers = list(content)
    for value in (
        text,
        text.rstrip("="),
        numbers,
        {"type": "Buffer", "data": text},
        {"type": "Buffer", "data": numbers},
        {"data": numbers},
        {str(index): number for index, number in enumerate(numbers)},
    ):
        assert as_bytes(value) == content, value
    for value in (None, True, 5, "ä", [256], [True], [-1], {}, {"0": 1, "2": 3}, {"data": {}}):
        assert as_bytes(value) is None, value


def test_public_keys_may_carry_the_type_byte() -> None:
    record = creds()
    public = as_bytes(record["noiseKey"]["public"])
    assert public is not None
    record["noiseKey"]["public"] = buffer(b"\x05" + public)
    assert parse_creds(record).jid == JID


def test_signatures_of_curve25519() -> None:
    for _ in range(4):  # both signs of x
        private = os.urandom(32)
        signature = sign(private, b"message")
        public = public_key_of(private)
        assert is_signed_by(public, b"message", signature)
        assert not is_signed_by(public, b"massage", signature)
        assert not is_signed_by(public_key_of(os.urandom(32)), b"message", signature)
    assert not is_signed_by((2**255 - 20).to_bytes(32, "little"), b"", bytes(64))


HALF: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "fresh": (lambda it: [it.pop(name) for name in ("me", "account")], "never paired"),
    "no me": (lambda it: it.pop("me"), "never paired"),
    "me without id": (lambda it: it["me"].pop("id"), "never paired"),
    "no account": (lambda it: it.pop("account"), "never paired"),
    "no device signature": (lambda it: it["account"].pop("deviceSignature"), "deviceSignature"),
    "no signature key": (lambda it: it["account"].pop("accountSignatureKey"), "SignatureKey"),
    "no noise key": (lambda it: it.update(noiseKey={}), "noiseKey.private is missing"),
    "no signed key": (lambda it: it.pop("signedPreKey"), "signedPreKey is missing"),
    "no adv secret": (lambda it: it.pop("advSecretKey"), "advSecretKey"),
    "short adv secret": (lambda it: it.update(advSecretKey="AAAA"), "3 bytes instead of 32"),
    "no registration id": (lambda it: it.pop("registrationId"), "registrationId"),
    "registration id true": (lambda it: it.update(registrationId=True), "registrationId"),
    "key id too high": (lambda it: it["signedPreKey"].update(keyId=2**24), "keyId"),
    "phone, not device": (lambda it: it["me"].update(id="5511999990001@s.whatsapp.net"), "me.id"),
    "group": (lambda it: it["me"].update(id="123@g.us"), "me.id"),
    "lid of a number": (lambda it: it["me"].update(lid=JID), "me.lid"),
    "other noise key": (
        lambda it: it["noiseKey"].update(private=buffer(os.urandom(32))),
        "noiseKey: the public key is not that of the private key",
    ),
    "other signed key": (
        lambda it: it["signedPreKey"].update(keyPair=key_pair(os.urandom(32))),
        "signedPreKey.signature",
    ),
    "identity of another pairing": (
        lambda it: _other_identity(it),
        "different pairings",
    ),
    "other details": (
        lambda it: it["account"].update(details=base64.b64encode(b"\x08\x02").decode()),
        "different pairings",
    ),
    "other device signature": (
        lambda it: it["account"].update(deviceSignature=base64.b64encode(bytes(64)).decode()),
        "account.deviceSignature",
    ),
}


def _other_identity(record: dict[str, Any]) -> None:
    identity = os.urandom(32)
    record["signedIdentityKey"] = key_pair(identity)
    public = as_bytes(record["signedPreKey"]["keyPair"]["public"])
    assert public is not None
    record["signedPreKey"]["signature"] = buffer(sign(identity, b"\x05" + public))


@pytest.mark.parametrize("half", HALF)
def test_half_sessions_are_refused(
    moving_in: BaileysImport, folders: LocalSessionFolders, tmp_path: Path, half: str
) -> None:
    record = creds()
    spoil, expected = HALF[half]
    spoil(record)
    source = write_folder(tmp_path / "old", record)
    with pytest.raises(InvalidInput, match=expected):
        moving_in.run(source, COMPANY)
    assert not folders.root.exists()


def test_a_file_that_is_being_written_says_to_stop_baileys(
    moving_in: BaileysImport, tmp_path: Path
) -> None:
    for text in ("", json.dumps(creds())[:-200], "[" * 100_000):
        with pytest.raises(InvalidInput, match="stop it first"):
            moving_in.run(write_folder(tmp_path / "old", text), COMPANY)
    row = tmp_path / "row.json"
    row.write_text(json.dumps({"creds": json.dumps(creds())[:-200]}))
    with pytest.raises(InvalidInput, match="stop it first"):
        moving_in.run(row, COMPANY)


def test_other_sources_are_recognised(moving_in: BaileysImport, tmp_path: Path) -> None:
    def refusal(path: Path) -> str:
        with pytest.raises(InvalidInput) as caught:
            moving_in.run(path, COMPANY)
        return caught.value.message

    webjs = tmp_path / ".wwebjs_auth"
    (webjs / "session-shop" / "Default").mkdir(parents=True)
    for path in (webjs, webjs / "session-shop"):
        assert "whatsapp-web.js" in refusal(path)
        assert "QR code" in refusal(path)
    archive = tmp_path / "RemoteAuth-shop.zip"
    archive.write_bytes(b"PK\x03\x04rest")
    assert "whatsapp-web.js" in refusal(archive)
    store = tmp_path / "neonize" / "shop.sqlite3"
    store_files.write_store(store, store_files.device_values())
    for path in (store.parent, store):
        assert "needs no conversion" in refusal(path)
    own = tmp_path / "session"
    write_folder(own, {"format_version": 1, "company_id": COMPANY})
    assert "of this service already" in refusal(own)
    for name in ("a", "b"):
        write_folder(tmp_path / "many" / name)
    assert "holds 2 Baileys sessions" in refusal(tmp_path / "many")
    two = tmp_path / "two.json"
    two.write_text(json.dumps([creds(), creds(registrationId=1)]))
    assert "2 different" in refusal(two)
    (tmp_path / "empty").mkdir()
    assert "no creds.json" in refusal(tmp_path / "empty")
    other = tmp_path / "other.json"
    other.write_text('{"name": "package"}')
    assert "no creds object" in refusal(other)
    assert "does not exist" in refusal(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    assert "neither" in refusal(tmp_path / "pipe")
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises((InvalidInput, StorageError)):
        moving_in.run(loop, COMPANY)
    with pytest.raises(InvalidInput, match="--company"):
        moving_in.run(write_folder(tmp_path / "good"), "shop")


def test_links_lead_to_the_source(moving_in: BaileysImport, tmp_path: Path) -> None:
    real = write_folder(tmp_path / "real")
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    (mounted / "creds.json").symlink_to(real / "creds.json")
    assert moving_in.run(mounted, COMPANY).jid == JID


def test_a_dry_run_writes_nothing(
    moving_in: BaileysImport, folders: LocalSessionFolders, tmp_path: Path
) -> None:
    source = write_folder(tmp_path / "old")
    report = moving_in.run(source, COMPANY, dry_run=True)
    assert report.dry_run
    assert report.jid == JID
    assert not folders.root.exists()

    moving_in.run(source, COMPANY)
    before = contents(tmp_path)
    with pytest.raises(WrongState, match="--replace"):
        moving_in.run(source, COMPANY, dry_run=True)
    assert moving_in.run(source, COMPANY, replace=True, dry_run=True).occupant_aside
    assert contents(tmp_path) == before


def test_a_session_that_is_there_is_never_overwritten(
    moving_in: BaileysImport, folders: LocalSessionFolders, tmp_path: Path
) -> None:
    source = write_folder(tmp_path / "old")
    first = moving_in.run(source, COMPANY)
    before = contents(first.folder)

    with pytest.raises(WrongState, match="--replace"):
        moving_in.run(source, COMPANY)
    assert contents(first.folder) == before

    second = moving_in.run(source, COMPANY, replace=True)
    assert second.set_aside is not None
    assert contents(second.set_aside) == before
    assert folders.inspect(COMPANY).state is FolderState.VALID


def test_a_damaged_or_foreign_folder_counts_as_a_session(
    moving_in: BaileysImport, folders: LocalSessionFolders, tmp_path: Path
) -> None:
    source = write_folder(tmp_path / "old")
    folder = folders.session_path(COMPANY)
    for damaged in ("{", json.dumps(creds())):
        shutil.rmtree(folder, ignore_errors=True)
        write_folder(folder, damaged)
        with pytest.raises(WrongState, match="--replace"):
            moving_in.run(source, COMPANY)
    with pytest.raises(InvalidInput, match="own folder"):
        moving_in.run(folder, COMPANY, replace=True)


def test_what_an_aborted_pairing_left_makes_room(
    moving_in: BaileysImport, folders: LocalSessionFolders, template: Path, tmp_path: Path
) -> None:
    folders.prepare(COMPANY)
    shutil.copyfile(template, folders.store_path(COMPANY))
    moving_in.run(write_folder(tmp_path / "old"), COMPANY)
    assert folders.inspect(COMPANY).state is FolderState.VALID


def test_a_device_belongs_to_one_company(moving_in: BaileysImport, tmp_path: Path) -> None:
    source = write_folder(tmp_path / "old")
    moving_in.run(source, COMPANY)
    with pytest.raises(WrongState, match=COMPANY):
        moving_in.run(source, str(uuid.uuid4()))


def test_a_company_with_a_client_is_refused(
    moving_in: BaileysImport, folders: LocalSessionFolders, tmp_path: Path
) -> None:
    folders.prepare_root()
    client = SessionLock(folders.lock_path(COMPANY))
    assert client.try_acquire()
    source = write_folder(tmp_path / "old")
    for dry_run in (False, True):
        with pytest.raises(WrongState, match="has a client"):
            moving_in.run(source, COMPANY, dry_run=dry_run)
    client.release()
    assert moving_in.run(source, COMPANY).jid == JID


@contextmanager
def service_lock(folders: LocalSessionFolders) -> Iterator[None]:
    folders.prepare_root()
    with (folders.root / ".locks" / "service.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_beside_a_running_service_sessions_are_added_but_not_replaced(
    moving_in: BaileysImport, folders: LocalSessionFolders, tmp_path: Path
) -> None:
    source = write_folder(tmp_path / "old")
    with service_lock(folders):
        assert moving_in.run(source, COMPANY).service_runs
        with pytest.raises(WrongState, match="Stop it before"):
            moving_in.run(source, COMPANY, replace=True)
    assert not moving_in.run(source, COMPANY, replace=True).service_runs


def test_a_failure_half_way_leaves_everything_as_it_was(
    folders: LocalSessionFolders, moving_in: BaileysImport, tmp_path: Path
) -> None:
    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise EngineError("no neonize")

    def make_unknown(path: Path) -> None:
        with closing(sqlite3.connect(path)) as db:
            db.execute("create table whatsmeow_device (jid text)")

    source = write_folder(tmp_path / "old")
    first = moving_in.run(source, COMPANY)
    before = contents(first.folder)
    for maker, error in ((fail, EngineError), (make_unknown, StorageError)):
        broken = BaileysImport(folders, make_empty_store=maker, session_lock=SessionLock)
        with pytest.raises(error):
            broken.run(source, COMPANY, replace=True)
        assert contents(first.folder) == before
        assert not list((folders.root / ".incoming").iterdir())


def test_what_a_killed_import_left_is_removed_by_the_next(
    moving_in: BaileysImport, folders: LocalSessionFolders, tmp_path: Path
) -> None:
    leftover = folders.root / ".incoming" / f"{COMPANY}-dead"
    leftover.mkdir(parents=True)
    (leftover / "store.db").write_bytes(b"keys")
    moving_in.run(write_folder(tmp_path / "old"), COMPANY)
    assert not leftover.exists()


def test_an_unusable_neonize_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "neonize").mkdir()
    (tmp_path / "neonize" / "__init__.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(EngineError, match="no library"):
        make_empty_store(tmp_path / "store.db")


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40) | st.just(JID)
)
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["noiseKey", "signedIdentityKey", "me", "id", "type", "data", "0"])
            | st.text(max_size=8),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@st.composite
def altered_creds(draw: st.DrawFn) -> dict[str, Any]:
    """A whole session in which one to three values, anywhere, are others or gone."""
    record = creds()
    for _ in range(draw(st.integers(1, 3))):
        container: Any = record
        while True:
            name = draw(st.sampled_from(sorted(container)))
            inner = container[name]
            if isinstance(inner, dict) and inner and draw(st.booleans()):
                container = inner
                continue
            if draw(st.booleans()) and len(container) > 1:
                del container[name]
            else:
                container[name] = draw(JSON)
            break
    return record


@FUZZ
@given(altered_creds())
def test_altered_creds_are_refused_or_whole(record: dict[str, Any]) -> None:
    try:
        session = parse_creds(record)
    except InvalidInput as refusal:
        assert refusal.message
        return
    assert session.jid == JID
    assert {len(key) for key in (session.noise_key, session.identity_key)} == {32}
    assert len(session.account_signature) == 64


@FUZZ
@given(JSON)
def test_any_json_is_searched_without_a_crash(value: Any) -> None:
    for record in find_creds(value):
        with pytest.raises(InvalidInput):
            parse_creds(record)


@FUZZ
@given(
    st.binary(max_size=200)
    | JSON.map(lambda value: json.dumps(value).encode())
    | altered_creds().map(lambda value: json.dumps(value).encode())
    | st.builds(
        lambda at, bit: _flipped(json.dumps(creds()).encode(), at, bit),
        st.integers(0, 10_000),
        st.integers(0, 7),
    )
    | st.integers(0, 2_000).map(lambda length: json.dumps(creds()).encode()[:length]),
    st.booleans(),
)
def test_the_command_never_ends_in_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes, as_folder: bool
) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzz"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    path = folder / ("creds.json" if as_folder else "dump.json")
    path.write_bytes(raw)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SESSIONS_DIR", str(folder / "sessions"))
        source = str(folder if as_folder else path)
        code = cli.main(["import-baileys", source, "--company", COMPANY, "--dry-run"])
    assert code in (0, 1)
    assert path.read_bytes() == raw
    assert not (folder / "sessions").exists()


def _flipped(raw: bytes, at: int, bit: int) -> bytes:
    changed = bytearray(raw)
    changed[at % len(raw)] ^= 1 << bit
    return bytes(changed)


def test_the_command_says_what_it_did_and_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = str(write_folder(tmp_path / "old"))
    arguments = ["import-baileys", source, "--company", COMPANY.upper()]
    monkeypatch.delenv("SESSIONS_DIR", raising=False)
    assert cli.main(arguments) == 1
    assert "SESSIONS_DIR is not set" in capsys.readouterr().err
    monkeypatch.setenv("SESSIONS_DIR", "sessions")
    assert cli.main(arguments) == 1
    assert "absolute" in capsys.readouterr().err

    monkeypatch.setenv("SESSIONS_DIR", str(tmp_path / "sessions"))
    assert cli.main([*arguments, "--dry-run"]) == 0
    assert "nothing was written" in capsys.readouterr().out
    assert cli.main(arguments) == 0
    said = capsys.readouterr().out
    assert JID in said
    assert "must not run" in said
    assert (tmp_path / "sessions" / f"session-{COMPANY}" / "store.db").is_file()

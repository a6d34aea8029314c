"""Damaged, foreign and full storage: said clearly, nothing overwritten, the others run on."""

import json
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from deployment import Deployment

from service_process import wait_for

pytestmark = pytest.mark.e2e


def contents(path: Path) -> dict[str, bytes]:
    """Return every file at or below the path."""
    if path.is_file():
        return {".": path.read_bytes()}
    return {
        str(item.relative_to(path)): item.read_bytes()
        for item in sorted(path.rglob("*"))
        if item.is_file()
    }


def corrupt_store(folder: Path) -> None:
    (folder / "store.db").write_bytes(b"this is not a database " * 500)


def cut_off_store(folder: Path) -> None:
    whole = (folder / "store.db").read_bytes()
    (folder / "store.db").write_bytes(whole[: len(whole) // 2 + 100])


def missing_store(folder: Path) -> None:
    (folder / "store.db").unlink()


def broken_credentials(folder: Path) -> None:
    whole = (folder / "creds.json").read_bytes()
    (folder / "creds.json").write_bytes(whole[: len(whole) // 2])


def empty_credentials(folder: Path) -> None:
    (folder / "creds.json").write_bytes(b"")


def credentials_of_another_company(folder: Path) -> None:
    saved = json.loads((folder / "creds.json").read_text())
    saved["company_id"] = str(uuid.uuid4())
    (folder / "creds.json").write_text(json.dumps(saved))


def baileys(folder: Path) -> None:
    (folder / "store.db").unlink()
    key = {"type": "Buffer", "data": "AAAA"}
    (folder / "creds.json").write_text(
        json.dumps({"noiseKey": {"private": key, "public": key}, "registrationId": 7})
    )
    (folder / "pre-key-1.json").write_text("{}")


def file_in_place_of_the_folder(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("I am not a folder")


CORRUPT = ("failed", "store-corrupt", "contact-support")
DAMAGES: dict[Callable[[Path], None], tuple[str, str, str]] = {
    corrupt_store: CORRUPT,
    cut_off_store: CORRUPT,
    missing_store: CORRUPT,
    broken_credentials: CORRUPT,
    empty_credentials: CORRUPT,
    credentials_of_another_company: CORRUPT,
    baileys: ("failed", "store-foreign", "connect"),
    file_in_place_of_the_folder: ("failed", "storage-unavailable", "contact-support"),
}


def test_damaged_folders_are_named_and_left_as_they_are(deployment: Deployment) -> None:
    """All kinds of damage in one service, at start-up and by polls, beside healthy sessions."""
    seeded = deployment.seed(len(DAMAGES) + 3)
    companies = list(seeded)
    damaged = dict(zip(companies, DAMAGES, strict=False))
    healthy = companies[len(DAMAGES) :]
    before: dict[str, dict[str, bytes]] = {}
    for company_id, damage in damaged.items():
        folder = deployment.folders.session_path(company_id)
        damage(folder)
        before[company_id] = contents(folder)

    service = deployment.start()
    deployment.await_all_connected(healthy, 30)
    for company_id, damage in damaged.items():
        expected = DAMAGES[damage]
        shown = deployment.await_status(company_id, expected[0], reason=expected[1])
        assert (shown["user_action"], shown["is_connected"]) == (expected[2], False), damage
        row = deployment.await_row(company_id, status=expected[0], reason=expected[1])
        assert row["message"] == shown["message"], damage
        for _ in range(3):
            assert service.status(company_id)["reason"] == expected[1], damage
        if damage is not file_in_place_of_the_folder:
            service.post("restore", company_id=company_id)
            deployment.await_status(company_id, expected[0], reason=expected[1])

    for company_id, damage in damaged.items():
        folder = deployment.folders.session_path(company_id)
        assert contents(folder) == before[company_id], damage
        assert not deployment.phones.counters(seeded[company_id]).get("logins"), damage
    assert not (deployment.sessions_dir / "quarantine").exists()
    for company_id in healthy:
        assert service.status(company_id)["status"] == "connected"
        assert deployment.phones.counters(seeded[company_id])["logins"] == 1
    assert not deployment.engine_deaths()


def test_a_folder_of_whatsapp_web_js_is_set_aside_only_by_a_click(deployment: Deployment) -> None:
    company_id = str(uuid.uuid4())
    folder = deployment.folders.session_path(company_id)
    for name in ("Default", "Crashpad"):
        (folder / name).mkdir(parents=True)
        (folder / name / "data").write_text(name)
    before = contents(folder)
    service = deployment.start()
    assert service.status(company_id)["user_action"] == "connect"
    info = service.request("GET", f"/api/whatsapp/session-info?company_id={company_id}").json()
    assert info["session"]["status"] == "foreign"
    assert info["persistence"]["will_survive_restart"] is False
    assert contents(folder) == before

    deployment.pair(company_id)
    (aside,) = (deployment.sessions_dir / "quarantine").iterdir()
    assert contents(aside) == before


@pytest.fixture
def small_disk(deployment: Deployment) -> Iterator[Path]:
    """SESSIONS_DIR on a file system of 8 MiB of its own; needs the right to mount."""
    root = deployment.sessions_dir
    root.mkdir(mode=0o700, parents=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=8m,mode=0700", "tmpfs", str(root)]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system: {mounted.stderr.strip()}")
    try:
        yield root
    finally:
        deployment.end()
        subprocess.run(["umount", "-l", str(root)], check=True)


def fill(path: Path) -> None:
    """Write until there is not one byte left."""
    with path.open("wb", buffering=0) as file:
        for size in (65_536, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def test_a_full_disk_is_told_and_costs_no_session(small_disk: Path, deployment: Deployment) -> None:
    seeded = deployment.seed(3)
    companies = list(seeded)
    service = deployment.start(SYNC_INTERVAL_SECONDS="1")
    deployment.await_all_connected(companies, 30)
    saved = {
        item: (deployment.folders.session_path(item) / "creds.json").read_bytes()
        for item in companies
    }
    ballast = small_disk / "ballast"
    fill(ballast)

    # The disk is looked at once a second, so a look from before may still be told.
    assert wait_for(lambda: service.request("GET", "/readyz").status == 503, 20)
    storage = service.readiness()["checks"][0]
    assert (storage["name"], storage["ok"]) == ("storage", False), storage
    for company_id in companies:
        assert service.status(company_id)["status"] == "connected"
    service.post("disconnect", company_id=companies[0])
    assert service.status(companies[0])["reason"] == "stopped"

    ballast.unlink()
    assert wait_for(lambda: service.request("GET", "/readyz").status == 200, 20)
    deployment.await_row(companies[0], 20, status="disconnected", reason="stopped")
    assert service.post("connect", company_id=companies[0], method="qr").status == 202
    deployment.await_all_connected(companies, 30)
    for company_id, content in saved.items():
        now = (deployment.folders.session_path(company_id) / "creds.json").read_bytes()
        assert json.loads(now)["jid"] == json.loads(content)["jid"]
        assert deployment.phones.counters(seeded[company_id])["pairings"] == 0


def test_a_pairing_on_a_full_disk_names_the_storage(
    small_disk: Path, deployment: Deployment
) -> None:
    service = deployment.start()
    fill(small_disk / "ballast")
    company_id = str(uuid.uuid4())
    service.post("connect", company_id=company_id, method="qr")

    def settled() -> bool:
        return service.status(company_id)["status"] in ("failed", "disconnected")

    assert wait_for(settled, 20), service.status(company_id)
    shown = service.status(company_id)
    assert (shown["status"], shown["reason"]) == ("failed", "storage-unavailable"), shown
    assert shown["user_action"] == "contact-support"

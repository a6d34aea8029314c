"""A session that Baileys paired moves in: connected without a scan, and heard on both sides."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from baileys_bot import BaileysBot
from deployment import Deployment

from service_process import API, REPOSITORY, wait_for

pytestmark = pytest.mark.e2e

FRIEND = "5511988887777"
STRANGER = "5511977776666"
REPLACED = 440  # DisconnectReason.connectionReplaced of Baileys


def test_a_session_of_baileys_moves_in_and_sends_and_receives(
    deployment: Deployment, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    old, company_id = tmp_path / "baileys", str(uuid.uuid4())
    with BaileysBot(deployment.sandbox, old) as bot:
        jid = pair(deployment, bot)
        bot.send(f"{FRIEND}@s.whatsapp.net", "from Baileys")
        deployment.phones.call("messages", {"jid": jid, "from": FRIEND, "text": "to Baileys"})
        bot.wait("message", text="to Baileys")
    before = fingerprint(old)

    tried = import_baileys(deployment, old, company_id, "--dry-run")
    assert tried.returncode == 0, tried.stderr
    assert not deployment.sessions_dir.exists()
    done = import_baileys(deployment, old, company_id)

    assert done.returncode == 0, done.stderr
    assert jid in done.stdout
    assert "must not run" in done.stdout
    assert fingerprint(old) == before
    assert_private(deployment.folders.session_path(company_id))

    deployment.start()
    deployment.await_status(company_id, "connected")
    counters = deployment.phones.counters(jid)
    assert (counters["pairings"], counters["max_simultaneous"]) == (1, 1)
    for name, number in (("friend", FRIEND), ("stranger", STRANGER)):
        record_property(f"retries_from_a_{name}", assert_receives(deployment, jid, number))
        assert_sends(deployment, company_id, number)
    assert deployment.engine_deaths() == []

    with BaileysBot(deployment.sandbox, old) as bot:  # somebody starts the old program again
        bot.wait("open")
        deployment.await_status(company_id, "disconnected", reason="stream-replaced")


def test_a_dump_moves_in_beside_a_running_service_and_a_running_bot(
    deployment: Deployment, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    service = deployment.start()
    old, company_id = tmp_path / "baileys", str(uuid.uuid4())
    with BaileysBot(deployment.sandbox, old) as bot:
        jid = pair(deployment, bot)
        done = import_baileys(deployment, dump_of(old, tmp_path / "row.json"), company_id)
        assert done.returncode == 0, done.stderr
        assert "next status poll" in done.stdout

        deployment.first_poll(company_id)
        deployment.await_status(company_id, "connected")
        bot.wait("closed", code=REPLACED)

        assert service.status(company_id)["status"] == "connected"
        assert deployment.phones.counters(jid)["pairings"] == 1
        assert_sends(deployment, company_id, FRIEND)
        # The keys that WhatsApp still hands out for it were not in the dump.
        retries = assert_receives(deployment, jid, STRANGER)
        record_property("retries_without_one_time_keys", retries)

    for more in ((), ("--replace",)):
        again = import_baileys(deployment, old, company_id, *more)
        assert again.returncode == 1
        assert "client" in again.stderr
    other = import_baileys(deployment, old, str(uuid.uuid4()))
    assert other.returncode == 1
    assert company_id in other.stderr


def test_a_session_is_replaced_when_asked_and_the_old_one_is_kept(
    deployment: Deployment, tmp_path: Path
) -> None:
    old = tmp_path / "baileys"
    [company_id] = deployment.seed(1)
    with BaileysBot(deployment.sandbox, old) as bot:
        jid = pair(deployment, bot)

    refused = import_baileys(deployment, old, company_id)
    assert refused.returncode == 1
    assert "--replace" in refused.stderr
    done = import_baileys(deployment, old, company_id, "--replace")

    assert done.returncode == 0, done.stderr
    [aside] = (deployment.sessions_dir / "quarantine").iterdir()
    assert str(aside) in done.stdout
    assert (aside / "creds.json").is_file()
    deployment.start()
    deployment.await_status(company_id, "connected")
    assert deployment.phones.counters(jid)["pairings"] == 1


def test_a_company_that_was_logged_out_moves_in_and_connects(
    deployment: Deployment, tmp_path: Path
) -> None:
    service = deployment.start()
    old, company_id = tmp_path / "baileys", str(uuid.uuid4())
    deployment.pair(company_id)
    assert service.post("logout", company_id=company_id).status in (200, 202)
    deployment.await_status(company_id, "logged_out")
    with BaileysBot(deployment.sandbox, old) as bot:
        jid = pair(deployment, bot)

    def moved_in() -> bool:  # the client of the old session takes a moment to end
        done = import_baileys(deployment, old, company_id)
        assert done.returncode == 0 or "client" in done.stderr, done.stderr
        return done.returncode == 0

    assert wait_for(moved_in, 20)
    assert service.status(company_id)["status"] == "logged_out"
    assert service.post("connect", company_id=company_id, method="qr").status in (200, 202)
    deployment.await_status(company_id, "connected")
    assert deployment.phones.counters(jid)["pairings"] == 1


def pair(deployment: Deployment, bot: BaileysBot) -> str:
    """Link the bot to a new phone; return its jid when it has logged in and settled."""
    begun = deployment.phones.last_event()
    jid = deployment.phones.scan(bot.wait("qr")["qr"])
    bot.wait("open")
    deployment.phones.await_event(begun, type="pre-keys", jid=jid)
    assert wait_for(lambda: any(bot.folder.glob("pre-key-*.json")), 10)
    return jid


def dump_of(folder: Path, path: Path) -> Path:
    """Write what an export of a table looks like: creds as a text within a row."""
    creds: list[str] = []

    def whole() -> bool:  # Baileys writes in place: a reader may see half a file
        creds[:] = [(folder / "creds.json").read_text()]
        return creds[0].endswith("}")

    assert wait_for(whole, 10)
    path.write_text(json.dumps([{"id": 7, "session": "shop", "creds": creds[0]}]))
    return path


def import_baileys(
    deployment: Deployment, source: Path, company_id: str, *more: str
) -> subprocess.CompletedProcess[str]:
    """Run the operator's command; it needs SESSIONS_DIR and nothing else of the service."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        "SESSIONS_DIR": str(deployment.sessions_dir),
    }
    command = [sys.executable, "-m", "crm_whatsapp", "import-baileys", str(source)]
    return subprocess.run(
        [*command, "--company", company_id, *more],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def fingerprint(folder: Path) -> dict[str, tuple[str, int]]:
    """Return what is in the folder: name -> hash and time of the last change."""
    return {
        path.name: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in sorted(folder.iterdir())
    }


def assert_private(folder: Path) -> None:
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.name for path in folder.iterdir()} == {"store.db", "creds.json"}
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def assert_sends(deployment: Deployment, company_id: str, number: str) -> None:
    """The phone reads what the company sends."""
    text = f"to {number}"
    answer = deployment.service.post(
        "messages/send", company_id=company_id, to=f"+{number}", type="text", text=text
    )
    assert answer.status == 200, f"{API}/messages/send: {answer.content!r}"

    def read() -> bool:
        return text in [entry["text"] for entry in deployment.phones.call("messages?after=0")]

    assert wait_for(read, 20), f"{number} did not read {text!r}"


def assert_receives(deployment: Deployment, jid: str, number: str) -> int:
    """The company's device says that it has read what a phone sent; return after how many retries.

    It asks again for what it cannot decrypt, with keys for a new session.
    """
    begun = deployment.phones.last_event()
    body = {"jid": jid, "from": number, "text": f"from {number}"}
    sent = deployment.phones.call("messages", body)["id"]

    def events(kind: str, matches: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
        return [item for item in deployment.phones.events(begun, type=kind) if matches(item)]

    def delivered() -> bool:
        return bool(
            events("receipt", lambda item: sent in item["ids"] and item["receipt"] != "retry")
        )

    assert wait_for(delivered, 30), deployment.phones.events(begun)
    assert events("retry-given-up", lambda item: item["jid"] == jid) == []
    assert events("message-error", lambda item: True) == []
    return len(events("receipt", lambda item: sent in item["ids"] and item["receipt"] == "retry"))

"""The log of a whole life: what an operator looks for is in it, and nothing that must not be."""

from __future__ import annotations

import json
import re
import uuid
from typing import Any

import pytest
from deployment import Deployment

from service_process import wait_for

pytestmark = pytest.mark.e2e

SNAPSHOT_KEY = "a2V5LW9mLXRoZS1sb2ctdGVzdC0wMTIzNDU2Nzg5YWI="
BODY_OUT = "the price is confidential-4711"
BODY_IN = "my card ends in confidential-0815"
METRICS_TOKEN = "metrics-token-5d1e7c33"
WEBHOOK_SECRET = "whsec_c2VjcmV0LW9mLXRoZS1sb2ctdGVzdC0wMTIz"
WEBHOOK_PATH_TOKEN = "hook-path-token-91ab"
ALERT_PASSWORD = "alert-password-77f0"
PROXY_PASSWORD = "proxy-password-3c9f"
ORIGIN = {"timestamp", "level", "event", "instance"}


class Life:
    """A service that lives through everything that is logged, and what it was entrusted with."""

    def __init__(self, deployment: Deployment, level: str) -> None:
        self.deployment = deployment
        self.level = level
        self.secrets: dict[str, str] = {}
        self.personal: dict[str, str] = {}

    def live(self) -> None:
        world = self.deployment
        world.settings |= {
            "LOG_LEVEL": self.level,
            "SNAPSHOT_ENCRYPTION_KEYS": f"log1:{SNAPSHOT_KEY}",
            "KEEPALIVE_INTERVAL_SECONDS": "1",
            "SYNC_INTERVAL_SECONDS": "1",
            "METRICS_TOKEN": METRICS_TOKEN,
            "WEBHOOK_URL": f"http://127.0.0.1:9/{WEBHOOK_PATH_TOKEN}",
            "WEBHOOK_SECRET": WEBHOOK_SECRET,
            "WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8",
            "ALERT_URLS": f"json://operator:{ALERT_PASSWORD}@127.0.0.1:9/",
        }
        self.secrets |= {
            "the database key": world.stack.service_key,
            "the snapshot key": SNAPSHOT_KEY,
            "the token of metrics": METRICS_TOKEN,
            "the webhook's secret": WEBHOOK_SECRET.removeprefix("whsec_"),
            "the secret part of the webhook's address": WEBHOOK_PATH_TOKEN,
            "the alert channel's password": ALERT_PASSWORD,
        }
        by_qr, by_code, seeded = self._first_run()
        self.secrets["the service key"] = world.service.api_key
        world.service.terminate()
        self._second_run(by_qr, by_code, seeded)
        world.service.terminate()

    def _first_run(self) -> tuple[str, str, str]:
        world = self.deployment
        (seeded,) = world.seed(1)
        self._know(world.folders.inspect(seeded).credentials)
        world.start()
        world.await_all_connected([seeded])
        by_qr, by_code = str(uuid.uuid4()), str(uuid.uuid4())
        answer = world.service.post("connect", company_id=by_qr, method="qr")
        assert answer.status in (200, 202), answer.content
        qr = world.qr(by_qr)
        self.secrets["the QR text"] = qr
        for part in qr.split(","):  # the keys it is made of
            if len(part) > 20:
                self.secrets[f"a part of the QR text {part[:4]}"] = part
        self.personal["the first number"] = world.phones.scan(qr).split(":")[0]
        world.await_status(by_qr, "connected")
        number = str(world.phones.call("phones", {})["number"])
        self.personal["the second number"] = number
        answer = world.service.post(
            "connect", company_id=by_code, method="pairing_code", phone_number=f"+{number}"
        )
        assert answer.status == 202, answer.content
        code = world.pairing_code(by_code)
        self.secrets["the pairing code"] = code
        self.secrets["the pairing code without its dash"] = code.replace("-", "")
        world.phones.call("pair-code", {"code": code, "number": number})
        world.await_status(by_code, "connected")
        for company_id in (by_qr, by_code):
            assert wait_for(lambda c=company_id: world.folders.has_credentials(c), 10)
            self._know(world.folders.inspect(company_id).credentials)
        self._talk(by_qr)
        return by_qr, by_code, seeded

    def _know(self, credentials: Any) -> None:
        self.personal[f"the device {credentials.jid[-20:]}"] = credentials.jid.split(":")[0]

    def _talk(self, company_id: str) -> None:
        world = self.deployment
        friend = str(world.phones.call("phones", {})["number"])
        self.personal["the friend's number"] = friend
        self.personal |= {"what was sent": BODY_OUT, "what was received": BODY_IN}
        answer = world.service.post(
            "messages/send", company_id=company_id, to=f"+{friend}", type="text", text=BODY_OUT
        )
        assert answer.status == 200, answer.content
        jid = world.folders.inspect(company_id).credentials
        assert jid is not None
        world.phones.call("messages", {"jid": jid.jid, "from": friend, "text": BODY_IN})
        counters = world.phones.counters
        assert wait_for(lambda: counters(jid.jid)["acks_sent"] > 0, 20), counters(jid.jid)

    def _second_run(self, by_qr: str, by_code: str, seeded: str) -> None:
        world = self.deployment
        world.start()
        world.await_all_connected([by_qr, by_code, seeded])
        made = world.service.post("keys", name="log test", company_id=by_qr, scopes=["read"])
        assert made.status == 201, made.content
        company_key = made.json()["key"]
        self.secrets["a company's key"] = company_key.rsplit("_", 1)[-1]
        path = f"/api/whatsapp/status?company_id={by_qr}"
        assert world.service.request("GET", path, key=company_key).status == 200
        bearer = {"Authorization": f"Bearer {METRICS_TOKEN}"}
        assert world.service.request("GET", "/metrics", headers=bearer).status == 200
        self.secrets["the proxy's password"] = PROXY_PASSWORD
        proxied = str(uuid.uuid4())
        world.service.post(
            "connect",
            company_id=proxied,
            method="qr",
            proxy=f"http://someone:{PROXY_PASSWORD}@127.0.0.1:9",
        )
        bad = world.service.request("GET", f"/api/whatsapp/status?company_id={by_qr}", key="wrong")
        self.secrets["a wrong key"] = "wrong-key-presented-7f3a"
        assert bad.status == 401
        world.service.request(
            "GET", f"/api/whatsapp/status?company_id={by_qr}", key="wrong-key-presented-7f3a"
        )
        world.phones.call("cut", {"jid": "*"})
        world.await_all_connected([by_qr, by_code, seeded])
        world.phones.call("unlink", {"jid": self._jid(seeded)})
        world.await_status(seeded, "logged_out")
        assert world.service.post("disconnect", company_id=by_code).status == 200
        assert wait_for(
            lambda: all(
                line in world.log()
                for line in ("Health check complete. Checked", "Session sync complete:")
            ),
            20,
        )

    def _jid(self, company_id: str) -> str:
        credentials = self.deployment.folders.inspect(company_id).credentials
        assert credentials is not None
        return credentials.jid


def test_the_log_of_a_whole_life(deployment: Deployment) -> None:
    life = Life(deployment, "INFO")
    life.live()
    text = deployment.log()
    lines = [json.loads(line) for line in text.splitlines()]  # every line is one JSON object
    assert len(lines) > 30

    assert_no_trace(text, life.secrets | life.personal)
    nameless = [line for line in lines if not line.keys() >= ORIGIN]
    # Before SESSIONS_DIR is locked, an instance has no name.
    assert not [line for line in nameless if line.get("logger") != "gunicorn.error"], nameless[:3]
    assert not [line for line in nameless if not line.keys() >= ORIGIN - {"instance"}]
    about_a_session = [line for line in lines if "session status changed" in line["event"]]
    assert about_a_session and all(line["company_id"] for line in about_a_session)
    for wanted in (
        r"Restoring session\.\.\.",
        r"Session restored",
        r"Session restoration complete: 3 restored, 0 failed",
        r"Health check complete\. Checked \d+ sessions\.",
        r"Session sync complete: \d+ checked, \d+ updated",
        r"Session [0-9a-f-]{36} appears disconnected, updating status",
        r"Shutdown complete: \d+ of \d+ sessions preserved cleanly",
    ):
        assert re.search(f'"event": "{wanted}"', text), wanted


def test_not_even_debug_tells_a_secret(deployment: Deployment) -> None:
    life = Life(deployment, "DEBUG")
    life.live()
    text = deployment.log()
    assert '"level": "debug"' in text
    assert_no_trace(text, life.secrets)


def assert_no_trace(text: str, unwanted: dict[str, str]) -> None:
    """Fail with what was found, and in which line, without repeating the secret itself."""
    assert len(unwanted) > 3
    for what, secret in unwanted.items():
        assert len(secret) >= 6, what
        for line in text.splitlines():
            assert secret not in line, f"{what} is in: {line.replace(secret, '<HERE>')[:600]}"

"""The deployed service among strangers: those who write its tables, its folder and its log."""

from __future__ import annotations

import json
import re
import socket
import uuid
from collections.abc import Callable

import psycopg
import pytest
from deployment import Deployment
from figures import Series

from service_process import API, wait_for

pytestmark = pytest.mark.e2e

LAST_BIGINT = 2**63 - 1
STEERS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
OPEN_FOLDER = "can be written by every user of this machine"


def write_rows(deployment: Deployment, sql: str, *values: object) -> None:
    """Write to the tables as somebody with the database's key does."""
    with psycopg.connect(deployment.stack.db_url, autocommit=True) as connection:
        connection.execute(sql.encode(), values)


def test_rows_of_somebody_else_hold_up_no_company(deployment: Deployment) -> None:
    forged, other = deployment.seed(2)
    unheard_of = str(uuid.uuid4())
    service = deployment.start(SYNC_INTERVAL_SECONDS="1")
    deployment.await_all_connected([forged, other])
    deployment.await_row(forged, status="connected")
    write_rows(
        deployment,
        "update public.whatsapp_connections set version = %s where company_id = %s",
        LAST_BIGINT,
        forged,
    )
    write_rows(
        deployment,
        "insert into public.whatsapp_connections (company_id, desired_state, status, reason, "
        "message, jid, push_name, version) values (%s, 'run', 'connected', 'no-such-reason', "
        "%s, 'not a jid', %s, %s)",
        unheard_of,
        "\u202e\x1b[2K<script>alert(1)</script>",
        "x" * 1_000_000,
        LAST_BIGINT,
    )
    with pytest.raises(psycopg.errors.CheckViolation):
        write_rows(deployment, "update public.whatsapp_connections set desired_state = 'garbage'")

    assert wait_for(lambda: "a version that was not counted here" in deployment.log(), 30)
    assert service.post("disconnect", company_id=other).status == 200
    deployment.await_row(other, 30, status="disconnected", desired_state="stop")
    assert service.status(unheard_of)["status"] == "disconnected"
    assert service.status(forged)["status"] == "connected"
    journal = next(it for it in service.readiness()["checks"] if it["name"] == "journal")
    assert (journal["ok"], journal["held_in_memory"], journal["lost"]) == (True, 0, 0)


def test_companies_that_nobody_has_leave_nothing_behind(deployment: Deployment) -> None:
    service = deployment.start()
    calls: list[Callable[[str], tuple[str, str, object]]] = [
        lambda company: ("GET", f"{API}/status?company_id={company}", None),
        lambda company: ("GET", f"{API}/qr?company_id={company}", None),
        lambda company: ("GET", f"{API}/session-info?company_id={company}", None),
        lambda company: ("POST", f"{API}/restore", {"company_id": company}),
        lambda company: ("POST", f"{API}/logout", {"company_id": company}),
        lambda company: ("GET", f"/dashboard/companies/{company}", None),
        lambda company: ("GET", f"/{company}", None),
    ]

    def ask_all() -> None:
        for call in calls:
            method, path, body = call(str(uuid.uuid4()))
            assert service.request(method, path, body).status < 500

    def series() -> set[Series]:
        names = ("whatsapp_http_", "whatsapp_session")
        return {item for item in deployment.metrics() if item[0].startswith(names)}

    ask_all()
    series()
    before = series()
    entries = sorted(path.name for path in deployment.sessions_dir.iterdir())
    for _ in range(40):
        ask_all()

    assert series() == before
    assert sorted(path.name for path in deployment.sessions_dir.iterdir()) == entries
    assert deployment.rows("select company_id from public.whatsapp_connections") == []
    assert service.request("GET", f"{API}/active-sessions").json()["count"] == 0


@pytest.mark.parametrize("mode", [0o755, 0o1777])
def test_a_folder_that_others_can_write_is_told(deployment: Deployment, mode: int) -> None:
    deployment.sessions_dir.mkdir()
    deployment.sessions_dir.chmod(mode)
    deployment.start()
    assert (OPEN_FOLDER in deployment.log()) is bool(mode & 0o002)


@pytest.mark.parametrize("style", ["json", "console"])
def test_what_strangers_send_stays_on_its_line_of_the_log(
    deployment: Deployment, style: str
) -> None:
    service = deployment.start(LOG_FORMAT=style, LOG_LEVEL="DEBUG")
    forged = '{"level": "error", "event": "all is lost"}'
    for request in (
        f"GET /\r\n{forged}\x1b[2K HTTP/1.1\r\n\r\n",
        f"BR\x1b[31mEW /%0a{forged}\u2028 HTTP/1.1\r\nHost: x\r\n\r\n",
        f"GET /dashboard/%0A%1b%c2%9b{forged.replace(' ', '%20')} HTTP/1.1\r\nHost: x\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: x\r\nX\x9b-{forged}: 1\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1{forged}\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
            connection.sendall(request.encode())
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
    service.terminate()

    lines = deployment.log().splitlines()
    assert lines
    assert not [line for line in lines if line.startswith('{"level": "error"')]
    if style == "json":
        text = "\n".join(line for line in lines if line.startswith("{"))
        assert not STEERS.search(text)
        assert all(json.loads(line) for line in text.split("\n"))

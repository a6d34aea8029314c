"""Users of several companies on the deployed service: the CRM's own table decides."""

import contextlib
import http.client
import json
import time
import urllib.request
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from deployment import Deployment

from local_supabase import LocalSupabase
from membership_table import MembershipTable
from service_process import API, wait_for

pytestmark = pytest.mark.e2e

ACME = str(uuid.uuid4())
BOLT = str(uuid.uuid4())
COMA = str(uuid.uuid4())


@pytest.fixture
def crm(stack: LocalSupabase) -> Iterator[MembershipTable]:
    """The CRM's table and function; a working database is left to the next test."""
    with contextlib.ExitStack() as ending:
        table = ending.enter_context(MembershipTable(stack.db_url))
        ending.callback(database_returns, stack)
        yield table


def database_returns(stack: LocalSupabase) -> None:
    if stack.running()["postgrest"] is None:
        stack.start_postgrest()
    stack.thaw_postgrest()


def start(deployment: Deployment, **settings: str) -> None:
    deployment.start(
        USER_COMPANY_SOURCE="membership",
        SUPABASE_JWT_SECRET=deployment.stack.jwt_secret,
        **settings,
    )


def token(deployment: Deployment, user: str, **claims: Any) -> str:
    """Return the token of a user, which says nothing of companies."""
    now = int(time.time())
    usual = {"sub": user, "aud": "authenticated", "iat": now, "exp": now + 3600}
    return deployment.stack.token("authenticated", **{**usual, **claims})


def call(
    deployment: Deployment, text: str, path: str, body: dict[str, Any] | None = None
) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", deployment.service.port, timeout=30)
    headers = {"Authorization": f"Bearer {text}", "Content-Type": "application/json"}
    try:
        method = "GET" if body is None else "POST"
        sent = json.dumps(body) if body else None
        connection.request(method, f"{API}/{path}", body=sent, headers=headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def poll(deployment: Deployment, text: str, company_id: str) -> int:
    return call(deployment, text, f"status?company_id={company_id}")[0]


def membership_check(deployment: Deployment) -> dict[str, Any]:
    checks = deployment.service.readiness()["checks"]
    found: dict[str, Any] = next(check for check in checks if check["name"] == "membership")
    return found


def lookups(deployment: Deployment) -> float:
    """Return how often the function was asked, as the service counts it."""
    figures = deployment.service.request("GET", "/metrics").content.decode()
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in figures.splitlines()
        if line.startswith("whatsapp_database_calls_total") and "whatsapp_memberships_v1" in line
    )


def test_a_user_reaches_the_companies_of_the_table_each_in_its_role(
    deployment: Deployment, crm: MembershipTable
) -> None:
    start(deployment)
    user = str(uuid.uuid4())
    crm.add(user, ACME, "admin")
    crm.add(user, BOLT, "viewer")
    mine = token(deployment, user, app_metadata={"company_id": COMA, "whatsapp_role": "admin"})
    connect = {"method": "qr"}

    assert [poll(deployment, mine, company) for company in (ACME, BOLT, COMA)] == [200, 200, 403]
    assert call(deployment, mine, "connect", {"company_id": ACME, **connect})[0] == 202
    assert call(deployment, mine, "connect", {"company_id": BOLT, **connect})[0] == 403
    assert call(deployment, mine, "connect", {"company_id": COMA, **connect})[0] == 403
    for company in (BOLT, COMA):
        assert deployment.service.post("connect", company_id=company, method="qr").status == 202
    sessions = call(deployment, mine, "active-sessions")[1]["sessions"]
    assert {row["company_id"] for row in sessions} == {ACME, BOLT}
    report = call(deployment, mine, "report")[1]
    assert (report["company_id"], report["sessions"]["total"]) == (None, 2)
    for company in (ACME, BOLT, COMA):
        deployment.await_row(company, 30.0)
    assert rows_of(deployment, mine) == {ACME, BOLT}
    assert poll(deployment, token(deployment, str(uuid.uuid4())), ACME) == 403
    assert membership_check(deployment)["ok"] is True
    for _ in range(50):
        assert poll(deployment, mine, ACME) == 200
    assert lookups(deployment) <= 4  # the check at the start, two users, and a renewal
    assert mine not in deployment.log()


def rows_of(deployment: Deployment, text: str) -> set[str]:
    """Return the companies whose rows a user reads in the database."""
    stack = deployment.stack
    request = urllib.request.Request(  # noqa: S310 - loopback only
        f"{stack.url}/rest/v1/whatsapp_connections?select=company_id",
        headers={"apikey": stack.anon_key, "Authorization": f"Bearer {text}"},
    )
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(request, timeout=30) as answer:
        return {row["company_id"] for row in json.load(answer)}


def test_who_is_removed_is_out_and_so_are_their_streams(
    deployment: Deployment, crm: MembershipTable
) -> None:
    start(deployment, USER_MEMBERSHIP_CACHE_SECONDS="1", SSE_HEARTBEAT_SECONDS="0.2")
    user = str(uuid.uuid4())
    crm.add(user, ACME, "admin")
    crm.add(user, BOLT, "viewer")
    text = token(deployment, user)
    with listening(deployment, text, f"?company_id={BOLT}") as stays:
        with listening(deployment, text, f"?company_id={ACME}") as one:
            with listening(deployment, text) as both:
                crm.remove(user, ACME)
                until_the_end(both)
            until_the_end(one)
        assert wait_for(lambda: poll(deployment, text, ACME) == 403, 30.0)
        assert poll(deployment, text, BOLT) == 200
        assert rows_of(deployment, text) <= {BOLT}
        assert stays.read1(4096)  # a sign of life: this company is still theirs
    crm.add(user, ACME, "viewer")
    assert wait_for(lambda: poll(deployment, text, ACME) == 200, 30.0)


@contextlib.contextmanager
def listening(
    deployment: Deployment, text: str, query: str = ""
) -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", deployment.service.port, timeout=30)
    try:
        headers = {"Authorization": f"Bearer {text}"}
        connection.request("GET", f"{API}/events{query}", headers=headers)
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        assert answer.read1(4096)
        yield answer
    finally:
        connection.close()


def until_the_end(stream: http.client.HTTPResponse) -> None:
    """Read until the service hangs up; the socket's timeout is the deadline between two signs."""
    deadline = time.monotonic() + 60
    with contextlib.suppress(http.client.IncompleteRead, ConnectionError):
        while stream.read1(4096):
            assert time.monotonic() < deadline, "the stream goes on"


def test_without_the_database_members_are_let_in_for_a_while_and_then_nobody_is_judged(
    deployment: Deployment, crm: MembershipTable, stack: LocalSupabase
) -> None:
    start(
        deployment,
        USER_MEMBERSHIP_CACHE_SECONDS="1",
        USER_MEMBERSHIP_STALE_SECONDS="12",
        USER_MEMBERSHIP_RETRY_SECONDS="1",
        SSE_HEARTBEAT_SECONDS="0.2",
        DATABASE_TIMEOUT_SECONDS="3",
    )
    user, late, stranger = (str(uuid.uuid4()) for _ in range(3))
    crm.add(user, ACME)
    crm.add(late, ACME)
    text, unseen = token(deployment, user), token(deployment, late)
    foreign = token(deployment, stranger)
    with listening(deployment, text) as stream:
        assert poll(deployment, text, ACME) == 200
        assert poll(deployment, foreign, ACME) == 403
        stack.stop_postgrest(kill=True)
        seen: list[int] = []

        def is_over() -> bool:
            seen.append(poll(deployment, text, ACME))
            return seen[-1] == 503

        status, body = call(deployment, unseen, f"status?company_id={ACME}")
        assert (status, body["error"]["code"]) == (503, "membership-unknown")
        assert wait_for(is_over, 60.0)
        assert set(seen) == {200, 503}
        assert wait_for(lambda: poll(deployment, foreign, ACME) == 503, 60.0)
        until_the_end(stream)
    assert deployment.service.status(ACME)["status"] == "disconnected"  # keys work on

    crm.remove(user, ACME)
    stack.start_postgrest()
    assert wait_for(lambda: poll(deployment, unseen, ACME) == 200, 60.0)
    assert wait_for(lambda: poll(deployment, text, ACME) == 403, 60.0)
    assert poll(deployment, foreign, ACME) == 403
    assert "Traceback" not in deployment.log()


def test_a_function_that_nobody_replaced_is_told_and_calls_nobody_a_stranger(
    deployment: Deployment, stack: LocalSupabase
) -> None:
    start(deployment, SYNC_INTERVAL_SECONDS="1", USER_MEMBERSHIP_RETRY_SECONDS="0.2")
    user = str(uuid.uuid4())
    text = token(deployment, user)

    assert wait_for(lambda: "shipped" in membership_check(deployment)["detail"], 30.0)
    assert deployment.service.readiness()["degraded"] is True
    assert "memberships_not_usable" in deployment.log()
    status, body = call(deployment, text, f"status?company_id={ACME}")
    assert (status, body["error"]["code"]) == (503, "membership-unknown")

    with MembershipTable(stack.db_url) as crm:
        crm.add(user, ACME)
        assert wait_for(lambda: membership_check(deployment)["ok"], 30.0)
        assert wait_for(lambda: poll(deployment, text, ACME) == 200, 30.0)
        crm.database.execute(
            b"grant execute on function public.whatsapp_companies_of_user_v1(uuid) to anon"
        )
        assert wait_for(lambda: "revoke" in membership_check(deployment)["detail"], 30.0)
        crm.database.execute(b"drop function public.whatsapp_companies_of_user_v1(uuid)")
        assert wait_for(lambda: "missing" in membership_check(deployment)["detail"], 30.0)


def test_where_tokens_decide_the_function_is_not_asked(
    deployment: Deployment, crm: MembershipTable
) -> None:
    deployment.start(SUPABASE_JWT_SECRET=deployment.stack.jwt_secret)
    user = str(uuid.uuid4())
    crm.add(user, BOLT)
    text = token(deployment, user, app_metadata={"company_id": ACME})
    assert (poll(deployment, text, ACME), poll(deployment, text, BOLT)) == (200, 403)
    assert lookups(deployment) == 0
    assert all(c["name"] != "membership" for c in deployment.service.readiness()["checks"])

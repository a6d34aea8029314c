"""Users of the CRM on the deployed service: shared secret, published keys, and a real browser."""

import http.client
import json
import time
import urllib.request
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from crm_site import KeyEndpoint, crm_pages, serving
from cryptography.hazmat.primitives.asymmetric import ec
from deployment import Deployment
from selenium.webdriver.support.ui import WebDriverWait

from service_process import API, wait_for
from tests.browser.conftest import chromium, chromium_process  # noqa: F401 - fixtures
from tests.unit.web.token_mint import EC_KEY, RSA_KEY, encode, jwk, token

pytestmark = pytest.mark.e2e

ACME = str(uuid.uuid4())
BOLT = str(uuid.uuid4())
USER = str(uuid.uuid4())
DEADLINE_SECONDS = 60


def shared_token(deployment: Deployment, company_id: str = ACME, **claims: Any) -> str:
    """Return a token as the local Supabase signs it."""
    now = int(time.time())
    usual = {
        "sub": USER,
        "aud": "authenticated",
        "exp": now + 3600,
        "iat": now,
        "app_metadata": {"company_id": company_id},
    }
    return deployment.stack.token("authenticated", **{**usual, **claims})


def call(
    deployment: Deployment, text: str, path: str, body: dict[str, Any] | None = None
) -> tuple[int, Any]:
    """Call with a token and without any key; return the HTTP status and the body."""
    method = "GET" if body is None else "POST"
    service = deployment.service
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
    headers = {"Authorization": f"Bearer {text}", "Content-Type": "application/json"}
    try:
        sent = json.dumps(body) if body else None
        connection.request(method, f"{API}/{path}", body=sent, headers=headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def poll(deployment: Deployment, text: str, company_id: str = ACME) -> int:
    return call(deployment, text, f"status?company_id={company_id}")[0]


def test_a_token_opens_its_company_here_and_its_row_in_the_database(
    deployment: Deployment,
) -> None:
    stack = deployment.stack
    deployment.start(SUPABASE_JWT_SECRET=stack.jwt_secret)
    mine = shared_token(deployment)

    assert poll(deployment, mine) == 200
    assert poll(deployment, mine, BOLT) == 403
    assert poll(deployment, stack.service_key) == 401
    assert poll(deployment, stack.anon_key) == 401
    assert poll(deployment, stack.token("service_role", sub=USER, aud="authenticated")) == 401
    assert poll(deployment, shared_token(deployment, is_anonymous=True)) == 401
    status, _ = call(deployment, mine, "connect", {"company_id": ACME, "method": "qr"})
    assert status == 202
    assert call(deployment, mine, "connect", {"company_id": BOLT, "method": "qr"})[0] == 403
    row = deployment.await_row(ACME, 30.0)
    assert row["user_id"] == USER
    request = urllib.request.Request(  # noqa: S310 - loopback only
        f"{stack.url}/rest/v1/whatsapp_connections?select=company_id",
        headers={"apikey": stack.anon_key, "Authorization": f"Bearer {mine}"},
    )
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    assert json.loads(direct.open(request, timeout=30).read()) == [{"company_id": ACME}]
    assert mine not in deployment.log()
    assert stack.jwt_secret not in deployment.log()


def test_published_keys_rotate_and_outlive_the_endpoint(deployment: Deployment) -> None:
    endpoint = KeyEndpoint()
    endpoint.keys = [jwk(EC_KEY, "ec-1"), jwk(RSA_KEY, "rsa-1")]
    newer = ec.generate_private_key(ec.SECP256R1())
    with serving(endpoint.find) as url:
        # Nothing but keys is at this address: the database is away for the whole test.
        deployment.start(SUPABASE_URL=url, USER_KEYS_MISS_SECONDS="1")
        usual = {"iss": f"{url}/auth/v1", "app_metadata": {"company_id": ACME}}
        assert endpoint.asked == 0
        assert poll(deployment, token(**usual)) == 200
        assert poll(deployment, token(RSA_KEY, "RS256", "rsa-1", **usual)) == 200
        assert poll(deployment, token(**usual), BOLT) == 403
        assert endpoint.asked == 1
        assert poll(deployment, token(newer, key_id="ec-2", **usual)) == 401
        assert poll(deployment, token(**{**usual, "iss": "https://evil.example/auth/v1"})) == 401

        endpoint.keys = [jwk(newer, "ec-2")]
        renewed = token(newer, key_id="ec-2", **usual)
        assert wait_for(lambda: poll(deployment, renewed) == 200, 30.0)
        assert poll(deployment, token(**usual)) == 401

        endpoint.is_away = True
        asked = endpoint.asked
        assert poll(deployment, token(newer, key_id="ec-2", session_id="b", **usual)) == 200
        stranger = token(key_id="made-up", **usual)
        assert wait_for(lambda: poll(deployment, stranger) == 503, 30.0)
        for _ in range(50):
            assert poll(deployment, token(key_id="made-up", **usual)) in (401, 503)
        assert endpoint.asked <= asked + 30  # once a second, whatever is asked for


def test_an_event_stream_ends_with_its_token(deployment: Deployment) -> None:
    deployment.start(
        SUPABASE_JWT_SECRET=deployment.stack.jwt_secret,
        SSE_HEARTBEAT_SECONDS="0.5",
        USER_TOKEN_LEEWAY_SECONDS="0.1",
    )
    ends_at = int(time.time()) + 4
    text = shared_token(deployment, exp=ends_at)
    connection = http.client.HTTPConnection("127.0.0.1", deployment.service.port, timeout=30)
    connection.request("GET", f"{API}/events", headers={"Authorization": f"Bearer {text}"})
    answer = connection.getresponse()
    assert answer.status == 200
    try:
        while answer.read1(4096):
            assert time.time() < ends_at + 30
    except (http.client.IncompleteRead, ConnectionError):
        pass  # the service hung up
    finally:
        connection.close()
    assert time.time() >= ends_at
    assert poll(deployment, text) == 401


@pytest.fixture
def crm() -> Iterator[str]:
    """The origin of the CRM's page."""
    with crm_pages() as origin:
        yield origin


def await_text(browser: Any, selector: str, wanted: str) -> None:
    def seen(_: Any) -> bool:
        return bool(wanted in browser.find_element("css selector", selector).text)

    page = browser.find_element("css selector", "body").text
    WebDriverWait(browser, DEADLINE_SECONDS, poll_frequency=0.1).until(
        seen, f"{selector} never said {wanted}; at first the page was {page!r}"
    )


def sign_in(browser: Any, deployment: Deployment, text: str) -> None:
    crm = {"url": deployment.service.url, "companyId": ACME, "token": text}
    browser.execute_script("window.signIn(arguments[0])", crm)


def try_call(browser: Any, path: str, **options: Any) -> Any:
    script = "window.tryCall(arguments[0], arguments[1]).then(arguments[2])"
    return browser.execute_async_script(script, path, options)


def test_the_button_works_in_a_page_that_has_only_the_users_token(
    deployment: Deployment,
    crm: str,
    chromium: Any,  # noqa: F811 - the fixture
) -> None:
    deployment.start(SUPABASE_JWT_SECRET=deployment.stack.jwt_secret, CORS_ORIGINS=crm)
    assert deployment.service.url != crm
    chromium.get(f"{crm}/crm_page.html")
    sign_in(chromium, deployment, shared_token(deployment))
    await_text(chromium, "#status", "disconnected")

    chromium.find_element("css selector", "#connect").click()
    await_text(chromium, "#status", "awaiting_scan")
    await_text(chromium, "#log", "qr until 20")  # X-Expires-At is shown to the page
    WebDriverWait(chromium, DEADLINE_SECONDS).until(
        lambda _: chromium.execute_script("return document.getElementById('qr').naturalWidth > 0"),
        "no picture",
    )
    deployment.phones.scan(deployment.qr(ACME))
    await_text(chromium, "#status", "connected")

    assert deployment.await_row(ACME, 30.0, status="connected")["user_id"] == USER
    assert try_call(chromium, f"status?company_id={BOLT}") == 403
    assert try_call(chromium, "keys") == 403
    key = {"X-API-Key": deployment.service.api_key}
    path = f"status?company_id={ACME}"
    assert try_call(chromium, path, headers=key) == "blocked: TypeError"
    chromium.execute_script("window.crm.token = 'a.b.c'")
    await_text(chromium, "#status", "error 401 unauthorized")


def test_a_page_of_another_origin_learns_nothing(
    deployment: Deployment,
    crm: str,
    chromium: Any,  # noqa: F811 - the fixture
) -> None:
    deployment.start(
        SUPABASE_JWT_SECRET=deployment.stack.jwt_secret, CORS_ORIGINS="https://crm.example.com"
    )
    chromium.get(f"{crm}/crm_page.html")
    sign_in(chromium, deployment, shared_token(deployment))
    await_text(chromium, "#status", "Failed to fetch")

    chromium.find_element("css selector", "#connect").click()

    assert try_call(chromium, f"status?company_id={ACME}") == "blocked: TypeError"
    assert deployment.service.status(ACME)["reason"] == "never-connected"


def test_a_flood_of_forged_tokens_is_answered_401(deployment: Deployment) -> None:
    deployment.start(SUPABASE_JWT_SECRET=deployment.stack.jwt_secret)
    good = shared_token(deployment)
    head, body, signature = good.split(".")
    forged = [
        f"{encode({'alg': 'none', 'typ': 'JWT'})}.{body}.",
        f"{encode({'alg': 'HS512', 'typ': 'JWT'})}.{body}.{signature}",
        f"{head}.{encode({'role': 'authenticated'})}.{signature}",
        f"{head}.{body}.{signature[:-2]}",
        f"{encode(b'[' * 5000)}.{body}.{signature}",
        "x" * 7000,
        "..",
    ]
    for text in forged * 20:
        assert poll(deployment, text) == 401
    assert poll(deployment, good) == 200
    assert "Traceback" not in deployment.log()

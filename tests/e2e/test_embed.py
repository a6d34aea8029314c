"""The embed page of the deployed service, in a page of a CRM, down to the phone."""

import time
import uuid
from typing import Any

import pytest
from deployment import Deployment
from selenium.webdriver.support.ui import WebDriverWait

from tests.browser.conftest import chromium, chromium_process  # noqa: F401 - fixtures
from tests.browser.crm_pages import crm_pages

pytestmark = pytest.mark.e2e

ACME = str(uuid.uuid4())
NUMBER = "5511900000104"
DEADLINE_SECONDS = 60


def user_token(deployment: Deployment, **claims: Any) -> str:
    """Return a token as the local Supabase signs it."""
    now = int(time.time())
    usual = {
        "sub": str(uuid.uuid4()),
        "aud": "authenticated",
        "exp": now + 3600,
        "iat": now,
        "app_metadata": {"company_id": ACME},
    }
    return deployment.stack.token("authenticated", **{**usual, **claims})


def find(browser: Any, selector: str) -> Any:
    return browser.find_element("css selector", selector)


def await_text(browser: Any, selector: str, wanted: str) -> None:
    last = [""]

    def seen(_: Any) -> bool:
        last[0] = find(browser, selector).text
        return wanted in last[0]

    WebDriverWait(browser, DEADLINE_SECONDS, poll_frequency=0.1).until(
        seen, f"{selector} never said {wanted}"
    )


def await_shown(browser: Any, selector: str) -> None:
    WebDriverWait(browser, DEADLINE_SECONDS, poll_frequency=0.1).until(
        lambda _: find(browser, selector).is_displayed(), f"{selector} was never shown"
    )


def test_a_clerk_links_a_phone_in_the_frame_and_stays_in_when_the_token_ends(
    deployment: Deployment,
    chromium: Any,  # noqa: F811 - the fixture
) -> None:
    with crm_pages(ACME) as crm:
        deployment.start(
            SUPABASE_JWT_SECRET=deployment.stack.jwt_secret,
            EMBED_ORIGINS=crm.origin,
            USER_TOKEN_LEEWAY_SECONDS="0.1",
            SSE_HEARTBEAT_SECONDS="0.5",
        )
        crm.service, crm.token = deployment.service.url, user_token(deployment)
        assert crm.service != crm.origin
        chromium.get(crm.origin)
        chromium.switch_to.frame(find(chromium, "#whatsapp"))
        await_text(chromium, "#headline", "No phone is linked yet")
        await_shown(chromium, "#connect")

        find(chromium, "#connect").click()
        await_shown(chromium, "#qr-image")
        deployment.phones.scan(deployment.qr(ACME))
        await_text(chromium, "#badge", "Connected")
        row = deployment.await_row(ACME, 30.0, status="connected")
        assert find(chromium, "#phone").text == row["phone_number"]

        # The next token is there in time for a click that the old one is too old for.
        ends_at = int(time.time()) + 3
        script = """
            const send = (token) => window.frames[0].postMessage(
                {type: "whatsapp-session", token, company_id: window.crm.companyId}, "*");
            window.crm.token = window.crm.next = arguments[1];
            send(arguments[0]);
        """
        chromium.switch_to.default_content()
        chromium.execute_script(script, user_token(deployment, exp=ends_at), user_token(deployment))
        wanted = "return window.crm.heard.some((it) => it.type === 'whatsapp-token-wanted')"
        WebDriverWait(chromium, DEADLINE_SECONDS, poll_frequency=0.1).until(
            lambda _: chromium.execute_script(wanted) and time.time() > ends_at + 0.2,
            "no token was asked for",
        )
        chromium.switch_to.frame(find(chromium, "#whatsapp"))
        find(chromium, "#disconnect").click()
        find(chromium, "#disconnect-dialog button[value=disconnect]").click()
        await_text(chromium, "#badge", "Not connected")
        find(chromium, "#restore").click()
        await_text(chromium, "#badge", "Connected")
    assert crm.token not in deployment.log()


def test_a_clerk_links_a_phone_by_code(
    deployment: Deployment,
    chromium: Any,  # noqa: F811 - the fixture
) -> None:
    deployment.phones.call("phones", {"number": NUMBER})
    with crm_pages(ACME) as crm:
        deployment.start(SUPABASE_JWT_SECRET=deployment.stack.jwt_secret, EMBED_ORIGINS=crm.origin)
        crm.service, crm.token = deployment.service.url, user_token(deployment)
        chromium.get(crm.origin)
        chromium.switch_to.frame(find(chromium, "#whatsapp"))
        await_shown(chromium, "#connect")
        find(chromium, "input[value=pairing_code]").click()
        find(chromium, "#phone-number").send_keys(f"+{NUMBER}\n")
        await_shown(chromium, "#code-value")
        code = find(chromium, "#code-value").text
        deployment.phones.call("pair-code", {"code": code, "number": NUMBER})
        await_text(chromium, "#badge", "Connected")
        assert NUMBER in find(chromium, "#phone").text

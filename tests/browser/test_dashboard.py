"""The dashboard as a clerk uses it."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest

from crm_whatsapp.domain.connection import (
    Connection,
    PairingMethod,
    Reason,
    Status,
    UserAction,
)
from crm_whatsapp.service.event_stream import EventStream
from crm_whatsapp.service.steady_clock import SteadyClock
from tests.browser.conftest import SANDBOX_PHONE_URL
from tests.unit.web.fakes import (
    QR_TEXT,
    SERVICE_KEY,
    STREAM_LIMITS,
    FakeServices,
    connected,
)

COMPANY = "3b1bee0c-cbee-4de1-88f1-d6e890f4c995"
DEADLINE_SECONDS = 20
pytestmark = pytest.mark.browser


def wait_for(chromium: Any, what: str, condition: Callable[[], Any]) -> Any:
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.support.ui import WebDriverWait

    wait = WebDriverWait(
        chromium,
        DEADLINE_SECONDS,
        poll_frequency=0.05,
        ignored_exceptions=[StaleElementReferenceException],
    )
    return wait.until(lambda _: condition(), f"{what} did not happen in {DEADLINE_SECONDS} s")


def find(chromium: Any, selector: str) -> Any:
    return chromium.find_element("css selector", selector)


def text_of(chromium: Any, selector: str) -> str:
    return str(find(chromium, selector).text)


def is_shown(chromium: Any, selector: str) -> bool:
    return bool(find(chromium, selector).is_displayed())


def sign_in(chromium: Any, url: str) -> None:
    chromium.get(url)
    find(chromium, "#api-key").send_keys(SERVICE_KEY)
    find(chromium, "main button[type=submit]").click()
    wait_for(chromium, "leaving the login page", lambda: "login" not in chromium.current_url)


def open_company(chromium: Any, site: str, company_id: str = COMPANY) -> None:
    sign_in(chromium, f"{site}/dashboard/companies/{company_id}")
    wait_for(
        chromium,
        "the first status",
        lambda: text_of(chromium, "#badge") not in ("", "Loading…"),
    )


def await_live(chromium: Any) -> None:
    wait_for(chromium, "the stream", lambda: is_shown(chromium, "#live"))


def assert_clean_console(chromium: Any) -> None:
    entries = [
        entry for entry in chromium.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")
    ]
    assert entries == []


def test_list_of_companies(chromium: Any, site: str, services: FakeServices) -> None:
    services.sessions.connections[COMPANY] = connected(COMPANY, "5511987654321", "Padaria Sol")

    sign_in(chromium, site)
    wait_for(chromium, "the list", lambda: "1 of 1" in text_of(chromium, "#summary"))
    assert "Padaria Sol" in text_of(chromium, "#companies")
    assert "+5511987654321" in text_of(chromium, "#companies")
    assert text_of(chromium, "#companies .badge") == "Connected"

    find(chromium, "#open-id").send_keys("not-a-uuid\n")
    assert "36 characters" in text_of(chromium, "#open-error")
    find(chromium, "#companies a").click()
    wait_for(chromium, "the page of the company", lambda: COMPANY in chromium.current_url)
    assert_clean_console(chromium)


def test_linking_by_qr_code(chromium: Any, site: str, services: FakeServices) -> None:
    open_company(chromium, site)
    assert text_of(chromium, "#headline") == "No phone is linked yet"
    assert not is_shown(chromium, "#test-panel")

    find(chromium, "#connect-form button").click()
    wait_for(chromium, "the QR code", lambda: is_shown(chromium, "#qr-image"))
    wait_for(
        chromium,
        "the picture to load",
        lambda: chromium.execute_script(
            "return document.getElementById('qr-image').naturalWidth > 0"
        ),
    )
    link = find(chromium, "#sandbox-link").get_attribute("href")
    assert link == f"{SANDBOX_PHONE_URL}/?qr={quote(QR_TEXT, safe='')}"
    assert "This code works for" in text_of(chromium, "#expiry-text")

    chromium.refresh()
    wait_for(chromium, "the QR code after a reload", lambda: is_shown(chromium, "#qr-image"))
    services.sessions.connections[COMPANY] = connected(COMPANY, "5511987654321", "Padaria Sol")
    wait_for(chromium, "the page to see it", lambda: text_of(chromium, "#badge") == "Connected")
    assert not is_shown(chromium, "#scan-panel")
    assert is_shown(chromium, "#test-panel")
    assert_clean_console(chromium)


def test_qr_code_renews_itself(chromium: Any, site: str, services: FakeServices) -> None:
    services.sessions.code_lifetime = timedelta(seconds=2)
    open_company(chromium, site)
    find(chromium, "#connect-form button").click()
    wait_for(chromium, "the QR code", lambda: is_shown(chromium, "#qr-image"))
    first = find(chromium, "#sandbox-link").get_attribute("href")

    wait_for(
        chromium,
        "the next code",
        lambda: find(chromium, "#sandbox-link").get_attribute("href") != first,
    )
    assert_clean_console(chromium)


def test_linking_by_pairing_code(chromium: Any, site: str, services: FakeServices) -> None:
    open_company(chromium, site)
    find(chromium, "input[value=pairing_code]").click()
    find(chromium, "#phone-number").send_keys("+55 11 98765-4321")
    find(chromium, "#connect-form button").click()
    wait_for(chromium, "the code", lambda: text_of(chromium, "#code-value") == "K7QX-4MPN")
    assert not is_shown(chromium, "#qr-image")
    assert not is_shown(chromium, "#sandbox")

    find(chromium, "#cancel").click()
    wait_for(chromium, "the form again", lambda: is_shown(chromium, "#connect-panel"))
    assert ("disconnect", COMPANY, {}) in services.sessions.calls
    assert not is_shown(chromium, "#restore")


def test_bad_phone_number_is_explained_beside_the_field(chromium: Any, site: str) -> None:
    open_company(chromium, site)
    find(chromium, "input[value=pairing_code]").click()
    find(chromium, "#phone-number").send_keys("12\n")

    wait_for(
        chromium, "the explanation", lambda: "country code" in text_of(chromium, "#phone-error")
    )
    assert find(chromium, "#phone-number").get_attribute("aria-invalid") == "true"
    assert chromium.switch_to.active_element.get_attribute("id") == "phone-number"


def test_disconnect_reconnect_and_log_out(chromium: Any, site: str, services: FakeServices) -> None:
    services.sessions.connections[COMPANY] = connected(COMPANY, "5511987654321", "Padaria Sol")
    open_company(chromium, site)

    find(chromium, "#disconnect").click()
    wait_for(chromium, "the disconnect", lambda: text_of(chromium, "#badge") == "Not connected")
    assert chromium.switch_to.active_element.get_attribute("id") == "headline"
    find(chromium, "#restore").click()
    wait_for(chromium, "the restore", lambda: text_of(chromium, "#badge") == "Connecting")
    services.sessions.connections[COMPANY] = connected(COMPANY, "5511987654321", "Padaria Sol")
    wait_for(chromium, "the connection", lambda: text_of(chromium, "#badge") == "Connected")

    find(chromium, "#logout").click()
    assert is_shown(chromium, "#logout-dialog")
    find(chromium, "#logout-dialog button[value=cancel]").click()
    assert ("logout", COMPANY, {}) not in services.sessions.calls
    find(chromium, "#logout").click()
    find(chromium, "#logout-dialog button[value=logout]").click()
    wait_for(chromium, "the logout", lambda: text_of(chromium, "#badge") == "Logged out")
    assert is_shown(chromium, "#connect-panel")
    assert_clean_console(chromium)


def test_test_message(chromium: Any, site: str, services: FakeServices) -> None:
    services.sessions.connections[COMPANY] = connected(COMPANY, "5511987654321", "Padaria Sol")
    open_company(chromium, site)

    find(chromium, "#test-to").send_keys("+5511911112222")
    find(chromium, "#test-form button").click()
    wait_for(chromium, "the message", lambda: "Sent" in text_of(chromium, "#test-result"))
    assert services.messaging.sent == [
        (COMPANY, "+5511911112222", "Hello! This is a test message.")
    ]
    assert_clean_console(chromium)


@pytest.mark.parametrize("status", [Status.FAILED, Status.BANNED, Status.CONNECTING])
def test_retry_is_counted_down(
    chromium: Any, site: str, services: FakeServices, status: Status
) -> None:
    services.sessions.connections[COMPANY] = Connection(
        company_id=COMPANY,
        status=status,
        reason=Reason.WHATSAPP_UNREACHABLE,
        user_action=UserAction.WAIT,
        message="No route to WhatsApp.",
        retry_at=datetime.now(UTC) + timedelta(minutes=5),
    )
    open_company(chromium, site)

    wait_for(chromium, "the countdown", lambda: "min" in text_of(chromium, "#retry"))
    assert is_shown(chromium, "#connect-panel") is (status is Status.FAILED)


def test_server_away_and_back(chromium: Any, site: str, services: FakeServices) -> None:
    services.sessions.connections[COMPANY] = replace(
        connected(COMPANY, "5511987654321", "Padaria Sol"),
        status=Status.CONNECTING,
        reason=Reason.NETWORK_LOST,
    )
    open_company(chromium, site)
    await_live(chromium)
    services.go_away()
    wait_for(chromium, "the warning", lambda: "starting" in text_of(chromium, "#notice"))
    assert not is_shown(chromium, "#live")
    services.sessions.connections[COMPANY] = connected(COMPANY, "5511987654321", "Padaria Sol")
    services.come_back()
    wait_for(chromium, "the warning to go", lambda: not is_shown(chromium, "#notice"))
    await_live(chromium)
    assert text_of(chromium, "#badge") == "Connected"


def test_changes_show_without_a_poll(chromium: Any, site: str, services: FakeServices) -> None:
    open_company(chromium, site)
    await_live(chromium)
    services.sessions.calls.clear()
    services.sessions.connections[COMPANY] = connected(COMPANY, "5511987654321", "Padaria Sol")
    wait_for(chromium, "the change", lambda: text_of(chromium, "#badge") == "Connected")
    services.sessions.disconnect(COMPANY)
    wait_for(chromium, "the next", lambda: text_of(chromium, "#badge") == "Not connected")

    assert [name for name, _, _ in services.sessions.calls] == ["disconnect"]
    assert_clean_console(chromium)


@pytest.mark.parametrize("method", PairingMethod)
def test_a_pairing_begun_elsewhere_shows_its_code(
    chromium: Any, site: str, services: FakeServices, method: PairingMethod
) -> None:
    open_company(chromium, site)
    await_live(chromium)
    services.sessions.calls.clear()
    services.sessions.connect(
        COMPANY, method=method, user_id=None, phone_number=None, fresh=False, proxy=None
    )
    shown = "#qr-image" if method is PairingMethod.QR else "#code-value"
    wait_for(chromium, "the code", lambda: is_shown(chromium, shown))

    told = [name for name, _, _ in services.sessions.calls]
    assert told == ["connect", "code"] if method is PairingMethod.QR else ["connect"]
    chromium.refresh()
    wait_for(chromium, "the code after a reload", lambda: is_shown(chromium, shown))
    assert_clean_console(chromium)


def test_the_list_follows_without_a_poll(chromium: Any, site: str, services: FakeServices) -> None:
    names = {f"{number:08}-cbee-4de1-88f1-d6e890f4c995": f"Loja {number}" for number in range(30)}
    for company_id, name in names.items():
        services.sessions.connections[company_id] = connected(company_id, "5511987654321", name)
    sign_in(chromium, site)
    await_live(chromium)
    wait_for(chromium, "the list", lambda: "30 of 30" in text_of(chromium, "#summary"))
    services.sessions.calls.clear()
    for company_id in list(names)[:10]:
        services.sessions.connections[company_id] = replace(
            services.sessions.connections[company_id],
            status=Status.CONNECTING,
            reason=Reason.NETWORK_LOST,
        )

    wait_for(chromium, "the changes", lambda: "20 of 30" in text_of(chromium, "#summary"))
    assert services.sessions.calls == []
    services.sessions.connections[COMPANY] = connected(COMPANY, "5511911112222", "Nova")
    wait_for(chromium, "a new one", lambda: "21 of 31" in text_of(chromium, "#summary"))
    assert_clean_console(chromium)


def test_without_streams_the_page_polls(chromium: Any, site: str, services: FakeServices) -> None:
    services.events = EventStream(replace(STREAM_LIMITS, streams=0), SteadyClock())
    services.sessions.connections[COMPANY] = replace(
        connected(COMPANY, "5511987654321", "Padaria Sol"),
        status=Status.CONNECTING,
        reason=Reason.NETWORK_LOST,
    )
    open_company(chromium, site)
    services.sessions.connections[COMPANY] = connected(COMPANY, "5511987654321", "Padaria Sol")
    wait_for(chromium, "the poll", lambda: text_of(chromium, "#badge") == "Connected")
    assert not is_shown(chromium, "#live")
    assert not is_shown(chromium, "#notice")


def test_a_hidden_page_gives_its_stream_back(
    chromium: Any, site: str, services: FakeServices
) -> None:
    open_company(chromium, site)
    await_live(chromium)
    page = chromium.current_window_handle
    chromium.switch_to.new_window("tab")
    try:
        wait_for(chromium, "the end of the stream", lambda: services.events.open_streams == 0)
        services.sessions.connections[COMPANY] = connected(COMPANY, "5511987654321", "Sol")
    finally:
        chromium.close()
        chromium.switch_to.window(page)
    wait_for(chromium, "what was missed", lambda: text_of(chromium, "#badge") == "Connected")
    await_live(chromium)
    assert services.events.figures.resyncs == 0


def test_everything_fits_a_phone(chromium: Any, site: str, services: FakeServices) -> None:
    services.sessions.connections[COMPANY] = connected(COMPANY, "5511987654321", "Padaria Sol")
    chromium.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True},
    )
    open_company(chromium, site)
    for path in ("/dashboard", f"/dashboard/companies/{COMPANY}"):
        chromium.get(f"{site}{path}")
        wait_for(chromium, "the data", lambda: "Padaria Sol" in text_of(chromium, "main"))
        width = chromium.execute_script("return document.documentElement.scrollWidth")
        assert width <= 360, path


def test_api_documentation_works_offline(chromium: Any, site: str) -> None:
    chromium.get(f"{site}/api/whatsapp/docs")

    wait_for(
        chromium,
        "Swagger UI",
        lambda: "/api/whatsapp/connect" in text_of(chromium, "#swagger-ui"),
    )
    assert_clean_console(chromium)

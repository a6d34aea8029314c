"""The embed page in a frame of a CRM, as a clerk uses it and as a stranger would like to."""

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from crm_site import serving
from flask import request

from crm_whatsapp.domain.connection import Connection, Reason, Status, UserAction
from crm_whatsapp.domain.errors import (
    CrmWhatsappError,
    PairingConflict,
    RateLimited,
    ServiceBusy,
)
from crm_whatsapp.web.app_factory import WebServices, WebSettings, create_app
from crm_whatsapp.web.auth import PresentedCredentials, Principal
from crm_whatsapp.web.dashboard_session import SESSION_COOKIE
from tests.browser.conftest import serving_app
from tests.browser.crm_pages import CrmPages, crm_pages
from tests.browser.test_dashboard import find, is_shown, sign_in, text_of, wait_for
from tests.unit.web.fakes import FakeServices, connected
from tests.unit.web.token_mint import COMPANY, EC_KEY, KeyList, jwk, project, token

FOREIGN = "11111111-2222-4333-8444-555555555555"
pytestmark = pytest.mark.browser


class Project(FakeServices):
    """A service with users, some of whose tokens are not taken any more."""

    def __init__(self) -> None:
        super().__init__()
        self.project = project(KeyList(jwk(EC_KEY, "ec-1")))
        self.withdrawn: set[str] = set()
        self.requests: list[tuple[str, str, str]] = []  # address, Authorization, Cookie

    def authenticate(self, presented: PresentedCredentials) -> Principal | None:
        if presented.bearer_token in self.withdrawn:
            return None
        return self.project.authenticate(presented) or self.authenticator.authenticate(presented)

    def find_principal(self, principal_id: str) -> Principal | None:
        who = (self.project, self.authenticator)
        return next(filter(None, (one.find_principal(principal_id) for one in who)), None)

    def provide(self) -> WebServices | None:
        found = super().provide()
        return None if found is None else replace(found, authenticator=self)

    def note_request(self) -> None:
        headers = request.headers
        called = headers.get("Authorization", ""), headers.get("Cookie", "")
        self.requests.append((request.url, *called))

    def bearers(self) -> list[str]:
        """Return the tokens that the API was shown, in order."""
        return [shown.removeprefix("Bearer ") for _, shown, _ in self.requests if shown]


@pytest.fixture
def services() -> Project:
    return Project()


@pytest.fixture
def crm() -> Iterator[CrmPages]:
    """A CRM whose pages may hold the frame."""
    with crm_pages(COMPANY) as pages:
        pages.token = token()
        yield pages


@pytest.fixture
def site(services: Project, crm: CrmPages) -> Iterator[str]:
    """The service that allows the CRM to hold its page; yields its origin."""
    settings = WebSettings(
        secret_key="a-secret-of-the-tests", embed_origins=frozenset({crm.origin})
    )
    app = create_app(services.provide, settings)
    app.before_request(services.note_request)
    with serving_app(services, app) as origin:
        crm.service = origin
        yield origin


def enter(chromium: Any, crm: CrmPages) -> None:
    """Open the CRM's page and go into its frame."""
    chromium.get(crm.origin)
    into_frame(chromium)


def into_frame(chromium: Any) -> None:
    chromium.switch_to.default_content()
    chromium.switch_to.frame(find(chromium, "#whatsapp"))


def open_page(chromium: Any, crm: CrmPages) -> None:
    """Go into the frame and wait for the status and for what may be done."""
    enter(chromium, crm)
    wait_for(
        chromium, "the first status", lambda: text_of(chromium, "#badge") not in ("", "Loading…")
    )
    wait_for(
        chromium,
        "the controls",
        lambda: any(is_shown(chromium, part) for part in CONTROLS),
    )


CONTROLS = ("#connect-panel", "#scan-panel", "#disconnect", "#restore", "#viewer")


def of_crm(chromium: Any, script: str, *arguments: Any) -> Any:
    """Run a script in the page around the frame, and come back into the frame."""
    chromium.switch_to.default_content()
    try:
        return chromium.execute_script(script, *arguments)
    finally:
        chromium.switch_to.frame(find(chromium, "#whatsapp"))


def heard(chromium: Any, kind: str) -> list[dict[str, Any]]:
    """Return what the page around has been told of this kind."""
    script = "return window.crm.heard.filter((message) => message.type === arguments[0])"
    found: list[dict[str, Any]] = of_crm(chromium, script, kind)
    return found


def await_badge(chromium: Any, text: str) -> None:
    wait_for(chromium, text, lambda: text_of(chromium, "#badge") == text)


def test_the_page_of_the_guide_links_a_phone_by_qr_code(
    chromium: Any, site: str, crm: CrmPages, services: Project
) -> None:
    open_page(chromium, crm)
    assert text_of(chromium, "#headline") == "No phone is linked yet"
    find(chromium, "#connect").click()
    wait_for(
        chromium,
        "the picture",
        lambda: chromium.execute_script(
            "return document.getElementById('qr-image').naturalWidth > 0"
        ),
    )
    assert "This code works for" in text_of(chromium, "#expiry-text")
    assert text_of(chromium, "#steps [aria-current]") == "Use it on the phone"
    services.sessions.connections[COMPANY] = connected(COMPANY, "5511987654321", "Padaria Sol")
    await_badge(chromium, "Connected")

    assert not is_shown(chromium, "#scan-panel")
    assert text_of(chromium, "#phone") == "+5511987654321"
    assert text_of(chromium, "#push-name") == "Padaria Sol"
    told = heard(chromium, "whatsapp-status")
    assert [message["status"] for message in told][-2:] == ["awaiting_scan", "connected"]
    assert {message["origin"] for message in told} == {site}
    assert told[-1]["is_connected"] is True
    assert services.sessions.calls[-1][0] != "disconnect"


def test_the_frame_is_as_high_as_its_content(chromium: Any, site: str, crm: CrmPages) -> None:
    open_page(chromium, crm)

    def fits() -> bool:
        script = "return [innerHeight, document.body.offsetHeight]"
        height, wanted = chromium.execute_script(script)
        return bool(height == wanted)

    wait_for(chromium, "the height", fits)
    before = chromium.execute_script("return innerHeight")
    find(chromium, "#connect").click()
    wait_for(chromium, "the QR code", lambda: is_shown(chromium, "#qr-image"))
    wait_for(chromium, "the new height", fits)
    assert chromium.execute_script("return innerHeight") != before


def test_a_code_that_runs_out_is_replaced(
    chromium: Any, site: str, crm: CrmPages, services: Project
) -> None:
    services.sessions.code_lifetime = timedelta(seconds=2)
    open_page(chromium, crm)
    find(chromium, "#connect").click()
    wait_for(chromium, "the QR code", lambda: is_shown(chromium, "#qr-image"))
    first = find(chromium, "#qr-image").get_attribute("src")
    wait_for(
        chromium, "the next", lambda: find(chromium, "#qr-image").get_attribute("src") != first
    )
    services.sessions.connections[COMPANY] = Connection(
        company_id=COMPANY,
        reason=Reason.PAIRING_EXPIRED,
        message='The code was not used in time. Click "Connect WhatsApp" for a new one.',
    )
    wait_for(
        chromium,
        "the end",
        lambda: text_of(chromium, "#headline") == "The code was not used in time",
    )
    assert is_shown(chromium, "#connect-panel")


def test_linking_by_pairing_code_and_cancelling(
    chromium: Any, site: str, crm: CrmPages, services: Project
) -> None:
    open_page(chromium, crm)
    find(chromium, "input[value=pairing_code]").click()
    find(chromium, "#phone-number").send_keys("12\n")
    wait_for(
        chromium, "the explanation", lambda: "country code" in text_of(chromium, "#phone-error")
    )
    find(chromium, "#phone-number").clear()
    find(chromium, "#phone-number").send_keys("+55 11 98765-4321\n")
    wait_for(chromium, "the code", lambda: text_of(chromium, "#code-value") == "K7QX-4MPN")
    assert not is_shown(chromium, "#qr-image")
    find(chromium, "#cancel").click()
    wait_for(chromium, "the form", lambda: is_shown(chromium, "#connect-panel"))
    assert ("disconnect", COMPANY, {}) in services.sessions.calls
    assert text_of(chromium, "#headline") == "No phone is linked yet"


def test_disconnecting_asks_first_and_reconnecting_needs_no_scan(
    chromium: Any, site: str, crm: CrmPages, services: Project
) -> None:
    services.sessions.connections[COMPANY] = connected(COMPANY, "5511987654321", "Padaria Sol")
    open_page(chromium, crm)
    find(chromium, "#disconnect").click()
    find(chromium, "#disconnect-dialog button[value=cancel]").click()
    assert ("disconnect", COMPANY, {}) not in services.sessions.calls
    find(chromium, "#disconnect").click()
    find(chromium, "#disconnect-dialog button[value=disconnect]").click()
    await_badge(chromium, "Not connected")
    assert chromium.switch_to.active_element.get_attribute("id") == "headline"
    find(chromium, "#restore").click()
    await_badge(chromium, "Connecting")
    assert text_of(chromium, "#disconnect") == "Stop trying"
    assert heard(chromium, "whatsapp-status")[-1]["reason"] == "restoring"
    assert_console_but_for_the_probe(chromium)


def test_linking_again_replaces_what_is_saved(
    chromium: Any, site: str, crm: CrmPages, services: Project
) -> None:
    services.sessions.connections[COMPANY] = connected(COMPANY, "5511987654321", "Padaria Sol")
    services.sessions.disconnect(COMPANY)
    open_page(chromium, crm)
    assert not is_shown(chromium, "#connect")
    find(chromium, "#connect-panel summary").click()
    assert is_shown(chromium, "#replaces")
    find(chromium, "#connect").click()
    wait_for(chromium, "the QR code", lambda: is_shown(chromium, "#qr-image"))
    (arguments,) = [it for name, _, it in services.sessions.calls if name == "connect"]
    assert arguments["fresh"] is True


def assert_console_but_for_the_probe(chromium: Any) -> None:
    """Chromium itself writes a line for each answer above 399; one is expected."""
    entries = [
        entry["message"]
        for entry in chromium.get_log("browser")
        if entry["level"] in ("SEVERE", "WARNING") and "/pairing-code?" not in entry["message"]
    ]
    assert entries == []


def test_a_refused_token_is_replaced_and_the_click_goes_on(
    chromium: Any, site: str, crm: CrmPages, services: Project
) -> None:
    open_page(chromium, crm)
    newer = token(session_id="newer")
    of_crm(chromium, "window.crm.next = arguments[0]", newer)
    services.withdrawn.add(crm.token)
    find(chromium, "#connect").click()
    wait_for(chromium, "the QR code", lambda: is_shown(chromium, "#qr-image"))

    assert "refreshSession" in of_crm(chromium, "return window.crm.asked")
    assert heard(chromium, "whatsapp-token-wanted")[0]["why"] == "refused"
    assert [name for name, _, _ in services.sessions.calls].count("connect") == 1
    assert services.bearers()[-1] == newer


def test_a_token_is_replaced_before_it_ends(
    chromium: Any, site: str, crm: CrmPages, services: Project
) -> None:
    now = int(time.time())
    crm.token = token(iat=now - 3570, exp=now + 30)
    open_page(chromium, crm)
    wait_for(chromium, "the question", lambda: heard(chromium, "whatsapp-token-wanted"))
    assert heard(chromium, "whatsapp-token-wanted")[0]["why"] == "expiring"
    newer = token(session_id="newer")
    of_crm(chromium, "window.crm.token = arguments[0]", newer)
    wait_for(chromium, "the newer token", lambda: services.bearers()[-1] == newer)

    assert "refreshSession" not in of_crm(chromium, "return window.crm.asked")
    assert not is_shown(chromium, "#notice")


def test_a_token_that_is_refused_while_another_is_asked_for_is_asked_for_at_once(
    chromium: Any, site: str, crm: CrmPages, services: Project
) -> None:
    """The CRM goes on with a token that is about to end, until it is told that it has."""
    now = int(time.time())
    crm.token = token(iat=now - 3570, exp=now + 30)
    open_page(chromium, crm)
    wait_for(
        chromium,
        "some questions, with growing pauses",
        lambda: len(heard(chromium, "whatsapp-token-wanted")) >= 2,
    )
    newer = token(session_id="newer")
    of_crm(chromium, "window.crm.next = arguments[0]", newer)
    services.withdrawn.add(crm.token)
    find(chromium, "#connect").click()
    wait_for(chromium, "the QR code", lambda: is_shown(chromium, "#qr-image"))

    assert heard(chromium, "whatsapp-token-wanted")[-1]["why"] == "refused"
    assert services.bearers()[-1] == newer


def test_nothing_but_the_token_of_the_user_travels_and_not_in_an_address(
    chromium: Any, site: str, crm: CrmPages, services: Project
) -> None:
    """Also where somebody is signed in to the dashboard, whose cookie opens everything."""
    sign_in(chromium, f"{site}/dashboard")
    assert SESSION_COOKIE in {cookie["name"] for cookie in chromium.get_cookies()}
    services.requests.clear()
    open_page(chromium, crm)
    find(chromium, "#connect").click()
    wait_for(chromium, "the QR code", lambda: is_shown(chromium, "#qr-image"))

    called = [it for it in services.requests if it[0].startswith(f"{site}/api/")]
    assert len(called) >= 4
    assert {(shown, cookie) for _, shown, cookie in called} == {(f"Bearer {crm.token}", "")}
    assert not [address for address, _, _ in services.requests if crm.token in address]
    kept = "return [localStorage.length, sessionStorage.length, document.cookie]"
    assert chromium.execute_script(kept) == [0, 0, ""]


MESSAGE = "{type: 'whatsapp-session', token: arguments[0], company_id: arguments[1]}"


def stranger_token() -> str:
    """Return a good token of a user of another company."""
    return token(app_metadata={"company_id": FOREIGN}, session_id="stranger")


def await_warning(chromium: Any) -> None:
    """Wait until the page has said that it ignores a message."""
    lines: list[str] = []

    def is_said() -> bool:
        lines.extend(entry["message"] for entry in chromium.get_log("browser"))
        return any("ignored from" in line for line in lines)

    wait_for(chromium, "the warning", is_said)


def test_a_message_of_another_window_is_ignored(
    chromium: Any, site: str, crm: CrmPages, services: Project
) -> None:
    """Its origin is good, it is just not the page around."""
    open_page(chromium, crm)
    script = f"""
        const other = document.body.appendChild(document.createElement("iframe"));
        const send = other.contentWindow.Function("m", "parent.frames[0].postMessage(m, '*')");
        send({MESSAGE});
    """
    of_crm(chromium, script, stranger_token(), FOREIGN)
    await_warning(chromium)
    find(chromium, "#connect").click()
    wait_for(chromium, "the QR code", lambda: is_shown(chromium, "#qr-image"))

    assert set(services.bearers()) == {crm.token}


def test_a_message_of_another_origin_is_ignored(
    chromium: Any, site: str, crm: CrmPages, services: Project
) -> None:
    open_page(chromium, crm)
    script = f"""
        const init = {{origin: arguments[2], source: window.parent, data: {MESSAGE}}};
        window.dispatchEvent(new MessageEvent("message", init));
    """
    for origin in ("https://evil.example", "null", f"{crm.origin}.evil.example", site):
        chromium.execute_script(script, stranger_token(), FOREIGN, origin)
        await_warning(chromium)
    with serving(lambda path: (200, "text/html", SHOUTING.encode())) as stranger:
        add = "document.body.appendChild(document.createElement('iframe')).src = arguments[0]"
        address = f"{stranger}/#{stranger_token()},{FOREIGN}"
        of_crm(chromium, add, address)
        await_warning(chromium)
    find(chromium, "#connect").click()
    wait_for(chromium, "the QR code", lambda: is_shown(chromium, "#qr-image"))

    assert set(services.bearers()) == {crm.token}


SHOUTING = """<!doctype html><title>x</title><script>
const [token, company_id] = location.hash.slice(1).split(",");
parent.frames[0].postMessage({type: "whatsapp-session", token, company_id}, "*");
</script>"""


def test_pages_of_other_origins_cannot_hold_it(
    chromium: Any, site: str, crm: CrmPages, services: Project
) -> None:
    """Not by themselves, and not around a page of the CRM that may."""
    for address in (f"{site}/embed/connect", crm.origin):
        page = f"<!doctype html><title>x</title><iframe src='{address}'></iframe>"
        with serving(lambda path, page=page: (200, "text/html", page.encode())) as stranger:  # type: ignore[misc]
            assert stranger != crm.origin
            chromium.get(stranger)
            lines: list[str] = []

            def is_refused(lines: list[str] = lines) -> bool:
                lines.extend(entry["message"] for entry in chromium.get_log("browser"))
                return any("frame-ancestors" in line for line in lines)

            wait_for(chromium, "the refusal", is_refused)
    assert services.bearers() == []


def test_no_other_page_of_the_service_stands_in_a_frame(
    chromium: Any, site: str, crm: CrmPages
) -> None:
    open_page(chromium, crm)
    add = "document.body.appendChild(document.createElement('iframe')).src = arguments[0]"
    of_crm(chromium, add, f"{site}/dashboard/login")
    lines: list[str] = []

    def is_refused() -> bool:
        lines.extend(entry["message"] for entry in chromium.get_log("browser"))
        return any("dashboard/login" in line or "frame-ancestors" in line for line in lines)

    wait_for(chromium, "the refusal", is_refused)


def test_by_itself_the_page_does_nothing(chromium: Any, site: str, services: Project) -> None:
    chromium.get(f"{site}/embed/connect")
    wait_for(chromium, "the hint", lambda: "Open the CRM" in text_of(chromium, "#notice"))
    script = f"window.postMessage({MESSAGE}, '*')"
    chromium.execute_script(script, token(), COMPANY)
    assert chromium.execute_script("return document.getElementById('badge').hidden") is True
    assert services.bearers() == []


def test_who_may_only_read_sees_the_status_and_whom_to_ask(
    chromium: Any, site: str, crm: CrmPages, services: Project
) -> None:
    services.sessions.connections[COMPANY] = connected(COMPANY, "5511987654321", "Padaria Sol")
    crm.token = token(app_metadata={"company_id": COMPANY, "whatsapp_role": "agent"})
    open_page(chromium, crm)
    wait_for(chromium, "the hint", lambda: "not change it" in text_of(chromium, "#viewer"))
    assert text_of(chromium, "#badge") == "Connected"
    assert not is_shown(chromium, "#disconnect")
    services.sessions.connections[COMPANY] = Connection(
        company_id=COMPANY,
        status=Status.AWAITING_SCAN,
        reason=Reason.PAIRING,
        user_action=UserAction.SCAN,
    )
    await_badge(chromium, "Waiting for the phone")
    assert not is_shown(chromium, "#scan-panel")
    assert not is_shown(chromium, "#connect-panel")
    assert not is_shown(chromium, "#notice")


def test_a_user_of_another_company_is_told_so(
    chromium: Any, site: str, crm: CrmPages, services: Project
) -> None:
    crm.company_id = FOREIGN
    enter(chromium, crm)
    wait_for(chromium, "the refusal", lambda: "does not reach" in text_of(chromium, "#notice"))
    assert text_of(chromium, "#headline") == "WhatsApp cannot be shown here"
    assert heard(chromium, "whatsapp-error")[0]["code"] == "forbidden"
    assert not any(is_shown(chromium, part) for part in CONTROLS)
    assert services.sessions.calls == []


def test_another_company_begins_anew(
    chromium: Any, site: str, crm: CrmPages, services: Project
) -> None:
    services.sessions.connections[COMPANY] = connected(COMPANY, "5511987654321", "Padaria Sol")
    services.sessions.connections[FOREIGN] = connected(FOREIGN, "5511900000000", "Oficina Lua")
    open_page(chromium, crm)
    assert text_of(chromium, "#push-name") == "Padaria Sol"
    script = f"window.crm.choose(arguments[1], arguments[0]); frames[0].postMessage({MESSAGE}, '*')"
    of_crm(chromium, script, stranger_token(), FOREIGN)
    into_frame(chromium)
    wait_for(chromium, "the other", lambda: text_of(chromium, "#push-name") == "Oficina Lua")
    assert text_of(chromium, "#phone") == "+5511900000000"


@pytest.mark.parametrize("sent", [{"token": 7}, {"token": "a b"}, {"company_id": "x"}, {}])
def test_a_message_that_makes_no_sense_is_answered(
    chromium: Any, site: str, crm: CrmPages, sent: dict[str, Any]
) -> None:
    open_page(chromium, crm)
    message = {"type": "whatsapp-session", "token": crm.token, **sent}
    of_crm(chromium, "window.frames[0].postMessage(arguments[0], '*')", message)
    wait_for(chromium, "the answer", lambda: heard(chromium, "whatsapp-error"))
    wanted = "access token" if "token" in sent else "UUID"
    assert wanted in heard(chromium, "whatsapp-error")[0]["message"]
    assert wanted in text_of(chromium, "#notice")


@pytest.mark.parametrize(
    "refusal", [ServiceBusy(), RateLimited("Too many codes.", retry_after_seconds=2)], ids=type
)
def test_retry_after_is_waited_for(
    chromium: Any, site: str, crm: CrmPages, services: Project, refusal: CrmWhatsappError
) -> None:
    open_page(chromium, crm)
    services.sessions.failure = refusal
    find(chromium, "#connect").click()
    wait_for(chromium, "the pause", lambda: "try again in" in text_of(chromium, "#hold"))
    assert not find(chromium, "#connect").is_enabled()
    assert text_of(chromium, "#notice") == refusal.message
    services.sessions.failure = None
    wait_for(chromium, "the end of it", lambda: find(chromium, "#connect").is_enabled())
    wait_for(chromium, "a clean page", lambda: not is_shown(chromium, "#notice"))
    find(chromium, "#connect").click()
    wait_for(chromium, "the QR code", lambda: is_shown(chromium, "#qr-image"))


def test_errors_say_what_to_do(chromium: Any, site: str, crm: CrmPages, services: Project) -> None:
    services.sessions.connections[COMPANY] = replace(
        connected(COMPANY, "5511987654321", "Padaria Sol"),
        status=Status.FAILED,
        reason=Reason.ENGINE_CRASH,
        user_action=UserAction.CONTACT_SUPPORT,
        message="This session repeatedly ended the WhatsApp engine.",
    )
    open_page(chromium, crm)
    assert text_of(chromium, "#headline") == "The connection stopped unexpectedly"
    assert "Tell whoever runs this service" in text_of(chromium, "#guidance")
    assert text_of(chromium, "#reason") == "engine-crash"
    assert not find(chromium, "#connect-panel").get_property("open")
    services.sessions.failure = PairingConflict()
    find(chromium, "#restore").click()
    wait_for(
        chromium,
        "the words of the server",
        lambda: PairingConflict().message in text_of(chromium, "#notice"),
    )


def test_the_service_goes_away_and_comes_back(
    chromium: Any, site: str, crm: CrmPages, services: Project
) -> None:
    services.sessions.connections[COMPANY] = connected(COMPANY, "5511987654321", "Padaria Sol")
    open_page(chromium, crm)
    wait_for(chromium, "the stream", lambda: services.events.open_streams == 1)
    services.go_away()
    wait_for(chromium, "the warning", lambda: "starting" in text_of(chromium, "#notice"))
    services.come_back()
    wait_for(chromium, "the warning to go", lambda: not is_shown(chromium, "#notice"))


@pytest.mark.parametrize("width", [320, 768])
def test_every_state_fits_a_narrow_page(
    chromium: Any, site: str, crm: CrmPages, services: Project, width: int
) -> None:
    chromium.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 740, "deviceScaleFactor": 2, "mobile": True},
    )
    open_page(chromium, crm)

    def assert_fits(state: str) -> None:
        script = "return [document.documentElement.scrollWidth, innerWidth]"
        wide, room = chromium.execute_script(script)
        assert wide <= room <= width, state

    assert_fits("nothing linked")
    find(chromium, "#connect").click()
    wait_for(chromium, "the QR code", lambda: is_shown(chromium, "#qr-image"))
    assert_fits("QR code")
    find(chromium, "#cancel").click()
    wait_for(chromium, "the form", lambda: is_shown(chromium, "#connect-panel"))
    find(chromium, "input[value=pairing_code]").click()
    find(chromium, "#phone-number").send_keys("+5511987654321\n")
    wait_for(chromium, "the code", lambda: is_shown(chromium, "#code-value"))
    assert_fits("pairing code")
    name = "Padaria e Confeitaria Nossa Senhora da Conceicao do Sul Ltda"
    services.sessions.connections[COMPANY] = connected(COMPANY, "5511987654321", name)
    await_badge(chromium, "Connected")
    assert_fits("connected")
    find(chromium, "#disconnect").click()
    assert_fits("the question")


def test_everything_is_within_reach_of_the_keyboard(
    chromium: Any, site: str, crm: CrmPages
) -> None:
    from selenium.webdriver import ActionChains, Keys

    open_page(chromium, crm)
    ActionChains(chromium).send_keys(Keys.TAB, Keys.ARROW_DOWN).perform()
    assert find(chromium, "input[value=pairing_code]").is_selected()
    ActionChains(chromium).send_keys(Keys.TAB, "+5511987654321", Keys.TAB, Keys.ENTER).perform()
    wait_for(chromium, "the code", lambda: is_shown(chromium, "#code-value"))
    assert chromium.switch_to.active_element.get_attribute("id") == "headline"

"""The report page as whoever runs the service sees it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from crm_whatsapp.domain.connection import Connection, DesiredState, Reason, Status
from crm_whatsapp.domain.decisions import become
from crm_whatsapp.domain.reports import (
    CompanyUptime,
    EngineSummary,
    Report,
    ReportHistory,
    SnapshotCover,
    Trouble,
)
from tests.browser.test_dashboard import (
    assert_clean_console,
    find,
    is_shown,
    sign_in,
    text_of,
    wait_for,
)
from tests.unit.web.fakes import FakeServices

pytestmark = pytest.mark.browser

NAMES = ["Padaria Sol", "Bella Bakery", "Farmácia Central", "Auto Peças Silva"]


def trouble(number: int, reason: Reason) -> Trouble:
    connection = become(
        Connection(
            company_id=f"{number:08x}-cbee-4de1-88f1-d6e890f4c995",
            desired_state=DesiredState.RUN,
            push_name=NAMES[number % len(NAMES)] if number else None,
        ),
        reason,
    )
    return Trouble(connection=connection, since=datetime.now(UTC) - timedelta(hours=number + 1))


def lively_report() -> Report:
    """Return what a fleet of some size looks like on an ordinary day."""
    now = datetime.now(UTC)
    since = now - timedelta(hours=24)
    troubles = (
        trouble(1, Reason.ENGINE_CRASH),
        trouble(2, Reason.TEMPORARY_BAN),
        trouble(3, Reason.PHONE_UNLINKED),
        trouble(0, Reason.PHONE_UNLINKED),
        trouble(5, Reason.WHATSAPP_UNREACHABLE),
    )
    return Report(
        generated_at=now,
        since=since,
        total=128,
        should_run=121,
        by_status={
            **dict.fromkeys(Status, 0),
            Status.CONNECTED: 116,
            Status.CONNECTING: 1,
            Status.FAILED: 1,
            Status.BANNED: 1,
            Status.LOGGED_OUT: 2,
            Status.DISCONNECTED: 7,
        },
        history=ReportHistory(
            since=since,
            until=now,
            succeeded=243,
            failed=6,
            p50_seconds=0.84,
            p95_seconds=2.31,
            companies=121,
            average_percent=98.7361,
            worst=tuple(
                CompanyUptime(
                    company_id=item.connection.company_id,
                    percent=percent,
                    connected_seconds=864 * percent,
                    wanted_seconds=86_400.0,
                )
                for item, percent in zip(troubles, (12.5, 61.2, 87.5, 95.83, 99.9999), strict=True)
            ),
            snapshot_companies=119,
            oldest_snapshot_at=None,
        ),
        history_problem=None,
        snapshots=SnapshotCover(enabled=True, covered=119, without=2, oldest_seconds=19 * 86_400),
        troubles=troubles,
        engines=EngineSummary(total=3, running=3, deaths=1, memory_mb=243.7),
        database_problem=None,
        names={item.connection.company_id: item.connection.push_name or "" for item in troubles},
    )


def open_report(chromium: Any, site: str) -> None:
    sign_in(chromium, f"{site}/dashboard/report")
    wait_for(chromium, "the report", lambda: is_shown(chromium, "#report"))


def test_the_report_shows_the_present_and_the_past(
    chromium: Any, site: str, services: FakeServices
) -> None:
    services.reports.answer = lively_report()
    sign_in(chromium, site)
    find(chromium, ".menu a[href='/dashboard/report']").click()
    wait_for(chromium, "the report", lambda: is_shown(chromium, "#report"))

    assert text_of(chromium, "#connected") == "116 of 121 connected"
    assert text_of(chromium, "#uptime") == "98.73 %"
    assert text_of(chromium, "#restores") == "97.59 %"
    assert "243 of 249 succeeded in the last 24 hours" in text_of(chromium, "#restores-note")
    assert "Half took up to 0.8 s, 95 % up to 2.3 s" in text_of(chromium, "#restores-note")
    assert text_of(chromium, "#snapshots") == "119 of 121"
    assert "2 sessions have no copy" in text_of(chromium, "#snapshots-note")
    assert "19 days ago" in text_of(chromium, "#snapshots-note")
    assert text_of(chromium, "#engines") == "3 of 3"
    assert "1 has ended unasked" in text_of(chromium, "#engines-note")
    problems = text_of(chromium, "#problems")
    assert "Bella Bakery" in problems
    assert "WhatsApp has suspended this number for a while. Continues by itself." in problems
    assert "Somebody of the company has to link the phone again." in problems
    assert "99.99 %" in text_of(chromium, "#worst"), "never rounded up to all of it"
    assert not is_shown(chromium, "#history-notice")
    assert find(chromium, ".menu [aria-current]").text == "Report"

    find(chromium, "#problems a").click()
    wait_for(chromium, "the company", lambda: "/dashboard/companies/" in chromium.current_url)
    assert_clean_console(chromium)


def test_the_window_can_be_chosen_and_is_remembered(
    chromium: Any, site: str, services: FakeServices
) -> None:
    services.reports.answer = lively_report()
    open_report(chromium, site)
    find(chromium, "#window input[value='168'] + span").click()
    wait_for(chromium, "the week", lambda: (168, None) in services.reports.asked)
    wait_for(chromium, "it to be shown", lambda: "7 days" in text_of(chromium, "#uptime-note"))
    services.reports.asked.clear()
    chromium.refresh()
    wait_for(chromium, "the report again", lambda: is_shown(chromium, "#report"))
    assert services.reports.asked[0] == (168, None)
    assert_clean_console(chromium)


def test_without_the_database_the_present_is_shown_and_the_past_is_not_made_up(
    chromium: Any, site: str, services: FakeServices
) -> None:
    services.reports.answer = replace(
        lively_report(), history=None, history_problem="The database did not answer in time."
    )
    open_report(chromium, site)
    assert "did not answer in time" in text_of(chromium, "#history-notice")
    assert text_of(chromium, "#uptime") == "Not known"
    assert text_of(chromium, "#restores") == "Not known"
    assert text_of(chromium, "#connected") == "116 of 121 connected"
    assert not is_shown(chromium, "#worst-part")
    assert_clean_console(chromium)


def test_an_empty_service_has_an_empty_report(
    chromium: Any, site: str, services: FakeServices
) -> None:
    answer = services.reports.answer
    services.reports.answer = replace(
        answer,
        history_problem=None,
        history=replace(
            lively_report().history,  # type: ignore[type-var]
            succeeded=0, failed=0, companies=0, average_percent=None, worst=(),
        ),
    )  # fmt: skip
    open_report(chromium, site)
    assert text_of(chromium, "#connected") == "0 of 0 connected"
    assert text_of(chromium, "#uptime") == "\N{EN DASH}"
    assert text_of(chromium, "#snapshots") == "Off"
    assert "No session should run" in text_of(chromium, "#problems-note")
    assert_clean_console(chromium)


def test_a_company_sees_its_own_report_without_the_engines(
    chromium: Any, site: str, services: FakeServices
) -> None:
    company_id = "3b1bee0c-cbee-4de1-88f1-d6e890f4c995"
    services.authenticator.add_key("a-company-key-0123456789", company_id=company_id)
    services.reports.answer = lively_report()
    chromium.get(f"{site}/dashboard/report")
    find(chromium, "#api-key").send_keys("a-company-key-0123456789\n")
    wait_for(chromium, "the report", lambda: is_shown(chromium, "#report"))
    assert services.reports.asked[0] == (24, frozenset({company_id}))
    assert not is_shown(chromium, "#engines-tile")
    assert_clean_console(chromium)


@pytest.mark.parametrize("width", [320, 360, 768])
def test_the_report_fits_a_phone(
    chromium: Any, site: str, services: FakeServices, width: int
) -> None:
    services.reports.answer = lively_report()
    chromium.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 740, "deviceScaleFactor": 2, "mobile": True},
    )
    open_report(chromium, site)
    assert chromium.execute_script("return document.documentElement.scrollWidth") <= width

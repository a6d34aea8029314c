"""The page of a wired service waits for nothing that a disk or a network may hold up."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from crm_whatsapp.bootstrap.wiring import Parts, build
from crm_whatsapp.config import Settings
from crm_whatsapp.domain.connection import Connection, DesiredState, Reason, Status
from tests.unit.service.fakes import DEADLINE_SECONDS, NOON

COMPANY = "3b1bee0c-cbee-4de1-88f1-d6e890f4c995"


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    made = build(
        Settings(
            supabase_url="http://127.0.0.1:9",
            supabase_service_role_key="sb_secret_of_the_tests",
            sessions_dir=tmp_path / "sessions",
        )
    )
    yield made
    made.fleet.shutdown(5.0)
    made.webhooks.sender.close()
    made.journal.close()


def values(page: bytes) -> dict[tuple[str, str], float]:
    """Return the series with at most one label, by name and the label's value."""
    return {
        (sample.name, next(iter(sample.labels.values()), "")): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
        if len(sample.labels) < 2
    }


def record(parts: Parts) -> None:
    """Record that the company's session has failed."""
    before = Connection(company_id=COMPANY)
    after = Connection(
        company_id=COMPANY,
        desired_state=DesiredState.RUN,
        status=Status.FAILED,
        reason=Reason.CONNECT_FAILURE,
        version=1,
    )
    parts.recorder.record(before, after, "ConnectFailed", NOON)


def test_what_is_recorded_is_counted_and_waits_for_the_database(parts: Parts) -> None:
    record(parts)

    told = values(parts.metrics.render("")[0])

    assert told["whatsapp_session_transitions_total", "failed"] == 1
    assert told["whatsapp_journal_pending", "transition"] == 1
    assert told["whatsapp_journal_sent_total", "transition"] == 0
    assert told["whatsapp_metrics_failures_total", ""] == 0


def test_a_disk_that_refuses_is_told(parts: Parts) -> None:
    parts.journal.close()
    record(parts)

    told = values(parts.metrics.render("")[0])

    assert told["whatsapp_journal_held", "transition"] == 1
    assert told["whatsapp_metrics_failures_total", ""] == 0


def test_the_page_waits_for_no_write_that_is_under_way(parts: Parts) -> None:
    """Locks that are held while the disk or the database answers: here, for ever."""
    pages: list[bytes] = []
    scrape = threading.Thread(target=lambda: pages.append(parts.metrics.render("")[0]), daemon=True)
    with ExitStack() as held:
        for lock in (
            parts.journal._lock,
            parts.recorder._lock,
            parts.write_behind._changed,
            parts.alerts.memory._lock,
            parts.webhooks.registry._turn,
        ):
            held.enter_context(lock)
        scrape.start()
        scrape.join(DEADLINE_SECONDS)
        assert pages, "the page waits for a lock"

    assert values(pages[0])["whatsapp_metrics_failures_total", ""] == 0

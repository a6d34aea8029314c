"""What happens to a session is counted as it is told to people."""

from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry

from crm_whatsapp.domain import events
from crm_whatsapp.domain.connection import Status
from crm_whatsapp.service.metrics.session_meter import SessionMeter
from tests.unit.service.pod import COMPANY, OTHER, Pod

MakePod = Callable[..., Pod]


class Metered:
    """A pod whose transitions are counted."""

    def __init__(self, pod: Pod) -> None:
        self.pod = pod
        self.registry = CollectorRegistry()
        self.meter = SessionMeter(self.registry, pod.clock)
        pod.recorder.listen(self.meter.take)

    def value(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0

    def connect(self, company_id: str = COMPANY) -> int:
        """Restore a saved session by a poll; return its generation."""
        self.pod.folders.save(company_id)
        self.pod.manager.status(company_id)
        return self.pod.await_status(Status.CONNECTED, company_id).generation

    def emit(self, event: events.EngineEvent) -> None:
        self.pod.fleet.emit(event)
        self.pod.settle(event.company_id)


@pytest.fixture
def metered(pod: Pod) -> Metered:
    return Metered(pod)


def test_every_status_and_what_alerts_look_at_is_there_from_the_start(metered: Metered) -> None:
    told = {
        (sample.name, *sample.labels.values())
        for family in metered.registry.collect()
        for sample in family.samples
    }

    assert {("whatsapp_session_transitions_total", status.value) for status in Status} <= told
    assert ("whatsapp_session_restores_total", "succeeded", "online") in told
    assert ("whatsapp_session_restores_total", "failed", "whatsapp-unreachable") in told
    assert ("whatsapp_session_logouts_total", "phone-unlinked") in told
    assert ("whatsapp_session_reconnects_total", "engine-died") in told


def test_a_restore_is_timed_from_its_order_until_it_is_connected(metered: Metered) -> None:
    pod = metered.pod
    pod.fleet.answer_starts = False
    pod.folders.save(COMPANY)
    pod.manager.status(COMPANY)
    pod.fleet.await_order("start", COMPANY, 1)
    pod.clock.advance(4.0)

    pod.fleet.connected(COMPANY, 1)
    pod.await_status(Status.CONNECTED)

    assert (
        metered.value("whatsapp_session_restores_total", outcome="succeeded", reason="online") == 1
    )
    assert metered.value("whatsapp_session_restore_duration_seconds_sum") == 4.0
    assert metered.value("whatsapp_session_restore_duration_seconds_bucket", le="2.5") == 0
    assert metered.value("whatsapp_session_restore_duration_seconds_bucket", le="5.0") == 1


def test_each_attempt_that_fails_counts_with_its_reason(metered: Metered) -> None:
    pod = metered.pod
    pod.fleet.answer_starts = False
    pod.folders.save(COMPANY)
    pod.manager.status(COMPANY)
    for generation in (1, 2):
        pod.fleet.await_order("start", COMPANY, generation)
        metered.emit(
            events.ClientEnded(
                company_id=COMPANY, generation=generation, detail="no route", unreachable=True
            )
        )
        pod.clock.advance(60.0)
        pod.manager.sweep()
        pod.settle()

    assert (
        metered.value(
            "whatsapp_session_restores_total", outcome="failed", reason="whatsapp-unreachable"
        )
        == 2
    )
    assert metered.value("whatsapp_session_restore_duration_seconds_count") == 0


def test_a_restore_that_a_person_stops_is_no_failure(metered: Metered) -> None:
    pod = metered.pod
    pod.fleet.answer_starts = False
    pod.folders.save(COMPANY)
    pod.manager.status(COMPANY)
    pod.fleet.await_order("start", COMPANY, 1)

    pod.manager.disconnect(COMPANY)
    pod.settle()

    assert (
        metered.value("whatsapp_session_restores_total", outcome="cancelled", reason="stopped") == 1
    )


def test_a_lost_link_counts_when_it_is_back_under_what_lost_it(metered: Metered) -> None:
    generation = metered.connect()
    lost = events.ClientDisconnected(company_id=COMPANY, generation=generation)
    metered.emit(lost)
    assert metered.value("whatsapp_session_reconnects_total", cause="network-lost") == 0

    metered.pod.fleet.connected(COMPANY, generation)
    metered.pod.await_status(Status.CONNECTED)
    metered.pod.settle()

    assert metered.value("whatsapp_session_reconnects_total", cause="network-lost") == 1


def test_an_engine_that_died_is_told_apart_from_other_restores(metered: Metered) -> None:
    generation = metered.connect()

    metered.emit(
        events.EngineDied(
            company_id=COMPANY, generation=generation, suspect=False, detail="SIGKILL"
        )
    )
    metered.pod.await_status(Status.CONNECTED)
    metered.pod.settle()

    assert metered.value("whatsapp_session_reconnects_total", cause="engine-died") == 1


def test_a_session_that_was_asked_to_go_is_not_lost(metered: Metered) -> None:
    metered.connect()
    metered.pod.manager.disconnect(COMPANY)
    metered.pod.settle()
    metered.pod.manager.restore(COMPANY)
    metered.pod.await_status(Status.CONNECTED)
    metered.pod.settle()

    assert _sum(metered, "whatsapp_session_reconnects_total") == 0


def test_a_logout_counts_once(metered: Metered) -> None:
    generation = metered.connect()

    metered.emit(
        events.LoggedOut(company_id=COMPANY, generation=generation, on_connect=False, code=0)
    )
    metered.pod.settle()

    assert metered.value("whatsapp_session_logouts_total", reason="phone-unlinked") == 1
    assert _sum(metered, "whatsapp_session_reconnects_total") == 0


def test_every_line_of_the_history_counts_once(metered: Metered) -> None:
    metered.connect()
    metered.connect(OTHER)
    metered.pod.manager.disconnect(OTHER)
    metered.pod.settle(OTHER)

    assert _sum(metered, "whatsapp_session_transitions_total") == len(metered.pod.journal.written)


def test_time_connected_adds_up_over_sessions_and_reconnects(metered: Metered) -> None:
    metered.connect()
    metered.pod.clock.advance(100.0)
    metered.connect(OTHER)
    metered.pod.clock.advance(10.0)
    assert metered.meter.uptimes() == {COMPANY: 110.0, OTHER: 10.0}
    assert metered.meter.seconds_connected() == 120.0

    metered.pod.manager.disconnect(COMPANY)
    metered.pod.settle()
    metered.pod.clock.advance(5.0)

    assert metered.meter.uptimes() == {OTHER: 15.0}
    assert metered.meter.seconds_connected() == 125.0


def test_a_company_that_is_forgotten_leaves_nothing_behind(metered: Metered) -> None:
    metered.connect()
    counted = _sum(metered, "whatsapp_session_transitions_total")

    metered.pod.delete()

    assert metered.meter.uptimes() == {}
    assert metered.meter._restoring == {}
    assert metered.meter._lost_by == {}
    written = [item for item in metered.pod.journal.written if item.event != "forgotten"]
    assert _sum(metered, "whatsapp_session_transitions_total") == len(written) > counted


def test_what_an_earlier_process_left_connected_is_not_up(make_pod: MakePod) -> None:
    earlier = make_pod().start(restores=False)
    earlier.folders.save(COMPANY)
    earlier.manager.status(COMPANY)
    earlier.await_status(Status.CONNECTED)
    earlier.end()

    pod = make_pod(earlier)
    pod.fleet.answer_starts = False
    metered = Metered(pod)
    pod.start()
    pod.fleet.await_order("start", COMPANY, 1)

    assert metered.meter.uptimes() == {}
    pod.fleet.connected(COMPANY, 1)
    pod.await_status(Status.CONNECTED)
    pod.settle()
    assert _sum(metered, "whatsapp_session_reconnects_total") == 0


def _sum(metered: Metered, name: str) -> float:
    return sum(
        sample.value
        for family in metered.registry.collect()
        for sample in family.samples
        if sample.name == name
    )

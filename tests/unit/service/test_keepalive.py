"""Probes: each live session at its own time, and none that is not live."""

import pytest

from crm_whatsapp.domain import events
from crm_whatsapp.domain.connection import ClientPhase
from crm_whatsapp.service.keepalive import Keepalive
from tests.unit.service.pod import COMPANY, OTHER, Pod

INTERVAL_SECONDS = 800.0


@pytest.fixture
def keepalive(pod: Pod) -> Keepalive:
    pod.connect_saved()
    pod.connect_saved(OTHER)
    return Keepalive(
        manager=pod.manager,
        fleet=pod.fleet,
        clock=pod.clock,
        interval_seconds=INTERVAL_SECONDS,
    )


def probes(pod: Pod) -> list[tuple[str, int]]:
    return [
        (company, generation) for name, company, generation in pod.fleet.orders if name == "probe"
    ]


def test_the_first_probe_comes_one_interval_after_the_login(pod: Pod, keepalive: Keepalive) -> None:
    assert keepalive.check() == 0
    pod.clock.advance(INTERVAL_SECONDS * 0.87)
    assert keepalive.check() == 0
    pod.clock.advance(INTERVAL_SECONDS * 0.26)
    assert keepalive.check() == 2
    assert sorted(probes(pod)) == sorted([(COMPANY, 1), (OTHER, 1)])
    assert keepalive.check() == 0


def test_over_a_long_time_each_is_probed_once_an_interval(pod: Pod, keepalive: Keepalive) -> None:
    for _ in range(600):
        keepalive.check()
        pod.clock.advance(INTERVAL_SECONDS / 60)
    assert 8 <= len([item for item in probes(pod) if item[0] == COMPANY]) <= 11


def test_a_new_client_gets_its_own_time(pod: Pod, keepalive: Keepalive) -> None:
    keepalive.check()
    pod.clock.advance(INTERVAL_SECONDS * 0.8)
    pod.fleet.emit(events.HandoverRequested(company_id=COMPANY, generation=1))
    pod.await_connection(
        lambda item: item.generation == 2 and item.client is ClientPhase.LIVE, "the new client"
    )
    keepalive.check()
    pod.clock.advance(INTERVAL_SECONDS * 0.4)
    keepalive.check()
    assert probes(pod) == [(OTHER, 1)]


def test_what_is_not_live_is_left_alone(pod: Pod, keepalive: Keepalive) -> None:
    keepalive.check()
    pod.manager.disconnect(COMPANY)
    pod.settle()
    pod.clock.advance(INTERVAL_SECONDS * 2)
    assert keepalive.check() == 1
    assert probes(pod) == [(OTHER, 1)]

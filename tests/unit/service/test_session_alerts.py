"""Which sessions need a person."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from crm_whatsapp.domain.alerts import SESSION_KINDS, AlertKind, alert_key
from crm_whatsapp.domain.connection import (
    ClientPhase,
    Connection,
    DesiredState,
    Reason,
    Status,
    UserAction,
)
from crm_whatsapp.domain.decisions import become
from crm_whatsapp.domain.snapshots import SnapshotMeta
from crm_whatsapp.domain.status_words import WORDING
from crm_whatsapp.service.session_alerts import (
    outdated_sightings,
    session_sightings,
    snapshot_sightings,
)
from crm_whatsapp.service.snapshot_lag import snapshot_problem
from crm_whatsapp.service.snapshot_ledger import SnapshotState

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
COMPANY = "3b1bee0c-cbee-4de1-88f1-d6e890f4c995"


def connection(reason: Reason, **changes: object) -> Connection:
    wanted = Connection(
        company_id=COMPANY,
        desired_state=DesiredState.RUN,
        jid="5511987654321:1@s.whatsapp.net",
        phone_number="5511987654321",
        push_name="Bella",
    )
    return become(wanted, reason, **changes)  # type: ignore[arg-type]


EXPECTED: dict[Reason, AlertKind | None] = {
    Reason.PHONE_UNLINKED: AlertKind.LOGGED_OUT,
    Reason.LOGGED_OUT_BY_SERVER: AlertKind.LOGGED_OUT,
    Reason.TEMPORARY_BAN: AlertKind.BANNED,
    Reason.CONNECT_FAILURE: AlertKind.FAILED,
    Reason.STORE_CORRUPT: AlertKind.FAILED,
    Reason.STORE_FOREIGN: AlertKind.FAILED,
    Reason.STORAGE_UNAVAILABLE: AlertKind.FAILED,
    Reason.KEY_MISSING: AlertKind.FAILED,
    Reason.ENGINE_CRASH: AlertKind.FAILED,
    Reason.CREDENTIALS_MISSING: AlertKind.FAILED,
    Reason.STREAM_REPLACED: AlertKind.REPLACED,
    Reason.RESTORING: AlertKind.UNREACHABLE,
    Reason.NETWORK_LOST: AlertKind.UNREACHABLE,
    Reason.WHATSAPP_UNREACHABLE: AlertKind.UNREACHABLE,
}


@pytest.mark.parametrize("reason", list(WORDING))
def test_each_reason_calls_for_its_alert_or_none(reason: Reason) -> None:
    seen = session_sightings([connection(reason)], NOW)
    kinds = {alert.kind for alert in seen.present.values()}
    assert kinds == ({EXPECTED[reason]} if reason in EXPECTED else set())


@pytest.mark.parametrize("reason", list(WORDING))
def test_a_session_that_nobody_wants_is_no_alert(reason: Reason) -> None:
    stopped = replace(connection(reason), desired_state=DesiredState.STOP)
    seen = session_sightings([stopped], NOW)
    assert (seen.present, seen.unsure) == ({}, frozenset())


def test_the_alert_says_who_since_when_and_what_to_do() -> None:
    gone = connection(Reason.PHONE_UNLINKED, last_disconnected_at=NOW - timedelta(minutes=9))
    ((key, alert),) = session_sightings([gone], NOW).present.items()
    assert key == f"session-logged-out:{COMPANY}"
    assert (alert.company_id, alert.label) == (COMPANY, "Bella, …4321")
    assert alert.since == NOW - timedelta(minutes=9)
    assert (alert.user_action, alert.detail) == (UserAction.CONNECT, "phone-unlinked")


def test_a_retry_after_the_first_replacement_is_no_alert_yet() -> None:
    waiting = connection(Reason.STREAM_REPLACED, retry_at=NOW + timedelta(seconds=30))
    assert session_sightings([waiting], NOW).present == {}


def test_a_company_that_was_never_linked_is_no_alert() -> None:
    nobody = replace(connection(Reason.CREDENTIALS_MISSING), jid=None)
    assert session_sightings([nobody], NOW).present == {}


@pytest.mark.parametrize(
    "reason",
    [Reason.PAIRING, Reason.PAIRING_EXPIRED, Reason.HELD_ELSEWHERE, Reason.SERVICE_STOPPED],
)
def test_what_passes_says_neither_that_it_is_over_nor_that_it_is_not(reason: Reason) -> None:
    seen = session_sightings([connection(reason)], NOW)
    assert seen.unsure == {alert_key(kind, COMPANY) for kind in SESSION_KINDS}


def test_a_session_that_is_tried_again_may_still_be_what_it_was() -> None:
    seen = session_sightings([connection(Reason.RESTORING)], NOW)
    assert alert_key(AlertKind.FAILED, COMPANY) in seen.unsure
    assert alert_key(AlertKind.UNREACHABLE, COMPANY) not in seen.unsure


def test_a_connected_session_ends_all_of_them() -> None:
    seen = session_sightings([connection(Reason.ONLINE)], NOW)
    assert (seen.present, seen.unsure) == ({}, frozenset())


def test_an_outdated_client_is_one_alert_for_all() -> None:
    refused = [
        replace(
            connection(Reason.CLIENT_OUTDATED, failed_at=NOW - timedelta(minutes=number)),
            company_id=str(number),
        )
        for number in range(5)
    ]
    ((key, alert),) = outdated_sightings(refused, NOW).present.items()
    assert (key, alert.company_id) == ("client-outdated:", None)
    assert alert.detail.startswith("5 sessions")
    assert alert.since == NOW - timedelta(minutes=4)
    assert alert.user_action is UserAction.UPGRADE
    assert session_sightings(refused, NOW).present == {}


def online(client: ClientPhase = ClientPhase.LIVE) -> Connection:
    return connection(Reason.ONLINE, client=client, connected_since=NOW - timedelta(hours=2))


def test_a_running_session_that_no_snapshot_covers() -> None:
    seen = snapshot_sightings([online()], NOW, lambda item: "none was taken")
    assert [alert.detail for alert in seen.present.values()] == ["none was taken"]
    assert snapshot_sightings([online()], NOW, lambda item: None).present == {}


def test_a_session_that_is_away_leaves_open_whether_it_is_covered() -> None:
    away = [connection(Reason.NETWORK_LOST), replace(online(), client=ClientPhase.HANDOVER)]
    for item in away:
        seen = snapshot_sightings([item], NOW, lambda _: "not to be asked")
        assert seen.present == {}
        assert seen.unsure == {alert_key(AlertKind.SNAPSHOT_OLD, COMPANY)}


META = SnapshotMeta(
    company_id=COMPANY,
    epoch=1,
    seq=1,
    key_id="k",
    sha256="0" * 64,
    size_bytes=1,
    clean=False,
    created_at=NOW - timedelta(days=30),
)


@pytest.mark.parametrize(
    ("state", "behind_seconds", "expected"),
    [
        (SnapshotState(meta=META), 0.0, None),
        (SnapshotState(meta=META), 3600.0, None),
        (SnapshotState(meta=META), 5400.0, "changes are in none, for 1.5 hours"),
        (
            SnapshotState(meta=META, problem="The disk is full."),
            7200.0,
            "changes are in none, for 2.0 hours (The disk is full.)",
        ),
        (None, 0.0, "none was taken since it connected, for 2.0 hours"),
        (SnapshotState(), 0.0, "none was taken since it connected, for 2.0 hours"),
    ],
)
def test_what_counts_is_what_the_snapshot_has_missed_and_not_its_age(
    state: SnapshotState | None, behind_seconds: float, expected: str | None
) -> None:
    found = snapshot_problem(
        state,
        behind_seconds=behind_seconds,
        connected_since=NOW - timedelta(hours=2),
        now=NOW,
        bound_seconds=3600.0,
    )
    assert found == expected


def test_status_words_that_are_used_here_are_those_of_the_policy() -> None:
    assert WORDING[Reason.CREDENTIALS_MISSING].status is Status.DISCONNECTED

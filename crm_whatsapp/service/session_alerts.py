"""Which sessions need a person: read from the connections, without an effect on them."""

from collections.abc import Callable, Iterable
from datetime import datetime

from crm_whatsapp.domain.alerts import SESSION_KINDS, Alert, AlertKind, Sightings, alert_key
from crm_whatsapp.domain.connection import (
    ClientPhase,
    Connection,
    DesiredState,
    Reason,
    Status,
    UserAction,
)
from crm_whatsapp.service.alert_texts import company_label

_TRYING = (
    Reason.RESTORING,
    Reason.NETWORK_LOST,
    Reason.WHATSAPP_UNREACHABLE,
    Reason.CONNECT_FAILURE,
)
"""Why a session may be connecting. Not: held elsewhere, which is another instance's business."""

SnapshotProblem = Callable[[Connection], str | None]


def session_sightings(connections: Iterable[Connection], now: datetime) -> Sightings:
    """Return an alert for each session that is wanted and has come to a halt, or to no end."""
    present: dict[str, Alert] = {}
    unsure: set[str] = set()
    for connection in connections:
        if not _is_wanted(connection) or connection.is_connected:
            continue
        kind = kind_of(connection)
        if kind is not None:
            alert = _alert(connection, kind, now)
            present[alert.key] = alert
        if kind is None or kind is AlertKind.UNREACHABLE:
            unsure |= {alert_key(other, connection.company_id) for other in SESSION_KINDS}
    return Sightings(present=present, unsure=frozenset(unsure - present.keys()))


def kind_of(connection: Connection) -> AlertKind | None:
    """Return the kind of alert that the status of a wanted session calls for."""
    match connection.status:
        case Status.LOGGED_OUT if connection.reason is not Reason.LOGGED_OUT_BY_USER:
            return AlertKind.LOGGED_OUT
        case Status.BANNED:
            return AlertKind.BANNED
        case Status.FAILED if connection.reason is not Reason.CLIENT_OUTDATED:
            return AlertKind.FAILED
        case Status.CONNECTING if connection.reason in _TRYING:
            return AlertKind.UNREACHABLE
        case Status.DISCONNECTED if connection.reason is Reason.STREAM_REPLACED:
            return AlertKind.REPLACED if connection.retry_at is None else None
        case Status.DISCONNECTED if connection.reason is Reason.CREDENTIALS_MISSING:
            return AlertKind.FAILED if connection.jid is not None else None
    return None


def snapshot_sightings(
    connections: Iterable[Connection], now: datetime, problem_of: SnapshotProblem
) -> Sightings:
    """Return an alert for each running session that no snapshot covers.

    Args:
        problem_of: says why there is none of a connected session; None when there is one.
    """
    present: dict[str, Alert] = {}
    unsure: set[str] = set()
    for connection in connections:
        if not _is_wanted(connection):
            continue
        if not connection.is_connected or connection.client is not ClientPhase.LIVE:
            unsure.add(alert_key(AlertKind.SNAPSHOT_OLD, connection.company_id))
            continue
        problem = problem_of(connection)
        if problem is not None:
            alert = Alert(
                kind=AlertKind.SNAPSHOT_OLD,
                subject=connection.company_id,
                company_id=connection.company_id,
                label=company_label(connection),
                detail=problem,
                since=now,
            )
            present[alert.key] = alert
    return Sightings(present=present, unsure=frozenset(unsure))


def outdated_sightings(connections: Iterable[Connection], now: datetime) -> Sightings:
    """Return one alert for all sessions whose client WhatsApp refuses as too old."""
    refused = [
        item for item in connections if item.reason is Reason.CLIENT_OUTDATED and _is_wanted(item)
    ]
    if not refused:
        return Sightings()
    alert = Alert(
        kind=AlertKind.CLIENT_OUTDATED,
        detail=f"{len(refused)} sessions are refused so far",
        since=min(item.failed_at or now for item in refused),
        user_action=UserAction.UPGRADE,
    )
    return Sightings(present={alert.key: alert})


def _is_wanted(connection: Connection) -> bool:
    return connection.desired_state is DesiredState.RUN


def _alert(connection: Connection, kind: AlertKind, now: datetime) -> Alert:
    begun = connection.failed_at or connection.last_disconnected_at or now
    return Alert(
        kind=kind,
        subject=connection.company_id,
        company_id=connection.company_id,
        label=company_label(connection),
        detail=connection.reason.value,
        since=min(begun, now),
        user_action=connection.user_action,
    )

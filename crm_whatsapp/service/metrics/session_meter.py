"""What happens to sessions, counted from their transitions."""

import threading

from prometheus_client import CollectorRegistry, Counter, Histogram

from crm_whatsapp.domain import events
from crm_whatsapp.domain.connection import ClientPhase, Connection, DesiredState, Reason, Status
from crm_whatsapp.domain.ports import Clock
from crm_whatsapp.domain.restore_outcomes import CANCELLING, RestoreOutcome, outcome_of
from crm_whatsapp.domain.transitions import FORGOTTEN, Transition

_RESTORE_BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)

_ASKED_FOR = CANCELLING - {Reason.HELD_ELSEWHERE}
"""A session that leaves `connected` for one of these was not lost."""

_CAN_FAIL_BY = (
    Reason.WHATSAPP_UNREACHABLE,
    Reason.CONNECT_FAILURE,
    Reason.LOGGED_OUT_BY_SERVER,
    Reason.PHONE_UNLINKED,
    Reason.TEMPORARY_BAN,
    Reason.CLIENT_OUTDATED,
    Reason.STREAM_REPLACED,
    Reason.CREDENTIALS_MISSING,
    Reason.STORE_CORRUPT,
    Reason.STORE_FOREIGN,
    Reason.STORAGE_UNAVAILABLE,
    Reason.KEY_MISSING,
    Reason.ENGINE_CRASH,
)
_LOGOUTS = (Reason.PHONE_UNLINKED, Reason.LOGGED_OUT_BY_SERVER, Reason.LOGGED_OUT_BY_USER)

_RESTARTED_BY = {
    events.EngineDied.__name__: "engine-died",
    events.LoggedOut.__name__: Reason.LOGGED_OUT_BY_SERVER.value,
    events.TimerDue.__name__: "slow-handover",
}
"""Why a connected session is `restoring`: its reason alone does not tell."""
_CAUSES = (
    Reason.NETWORK_LOST.value,
    Reason.STREAM_REPLACED.value,
    Reason.TEMPORARY_BAN.value,
    _RESTARTED_BY[events.EngineDied.__name__],
)


class SessionMeter:
    """Listens to every recorded transition. Threads may share it.

    Counters that an alert looks at are there from the start: `increase()` does not see the first
    event of a series that appears with it.
    """

    def __init__(self, registry: CollectorRegistry, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._restoring: dict[str, float] = {}
        self._lost_by: dict[str, str] = {}
        self._up_since: dict[str, float] = {}
        self._seconds_up = 0.0
        self._transitions = Counter(
            "whatsapp_session_transitions",
            "Lines written to the history of sessions, by the status they tell.",
            ["to_status"],
            registry=registry,
        )
        self._logouts = Counter(
            "whatsapp_session_logouts",
            "Sessions whose link to the phone ended.",
            ["reason"],
            registry=registry,
        )
        self._reconnects = Counter(
            "whatsapp_session_reconnects",
            "Sessions that are connected again after they were lost unasked, by what lost them.",
            ["cause"],
            registry=registry,
        )
        self._restores = Counter(
            "whatsapp_session_restores",
            "Restores of saved sessions that ended: succeeded, failed or cancelled.",
            ["outcome", "reason"],
            registry=registry,
        )
        self._durations = Histogram(
            "whatsapp_session_restore_duration_seconds",
            "Time from the order to start a saved session until it is connected.",
            buckets=_RESTORE_BUCKETS,
            registry=registry,
        )
        self._make_series()

    def take(self, transition: Transition) -> None:
        """Count one transition; a listener of the recorder."""
        connection = transition.connection
        company_id = connection.company_id
        with self._lock:
            if transition.event == FORGOTTEN:
                self._end_uptime(company_id)
                self._restoring.pop(company_id, None)
                self._lost_by.pop(company_id, None)
                return
            self._transitions.labels(connection.status.value).inc()
            logged_out = connection.status is Status.LOGGED_OUT
            if logged_out and transition.from_status is not Status.LOGGED_OUT:
                self._logouts.labels(connection.reason.value).inc()
            self._follow_link(connection, transition.event)
            self._follow_restore(connection)

    def seconds_connected(self) -> float:
        """Return how long sessions have been connected since start, added up."""
        now = self._clock.monotonic()
        with self._lock:
            return self._seconds_up + sum(now - since for since in self._up_since.values())

    def uptimes(self) -> dict[str, float]:
        """Return for each connected session the seconds since it connected, by company."""
        now = self._clock.monotonic()
        with self._lock:
            return {company_id: now - since for company_id, since in self._up_since.items()}

    def _make_series(self) -> None:
        for status in Status:
            self._transitions.labels(status.value)
        for reason in _LOGOUTS:
            self._logouts.labels(reason.value)
        for cause in _CAUSES:
            self._reconnects.labels(cause)
        self._restores.labels(RestoreOutcome.SUCCEEDED.value, Reason.ONLINE.value)
        for reason in _CAN_FAIL_BY:
            self._restores.labels(RestoreOutcome.FAILED.value, reason.value)

    def _follow_link(self, connection: Connection, event: str) -> None:
        company_id = connection.company_id
        if connection.is_connected and connection.client is not ClientPhase.NONE:
            self._up_since.setdefault(company_id, self._clock.monotonic())
            cause = self._lost_by.pop(company_id, None)
            if cause is not None:
                self._reconnects.labels(cause).inc()
            return
        was_up = self._end_uptime(company_id)
        if connection.reason in _ASKED_FOR or connection.desired_state is DesiredState.STOP:
            self._lost_by.pop(company_id, None)
        elif was_up:
            self._lost_by[company_id] = _cause(connection.reason, event)
        if connection.status is Status.LOGGED_OUT:
            self._lost_by.pop(company_id, None)

    def _end_uptime(self, company_id: str) -> bool:
        since = self._up_since.pop(company_id, None)
        if since is None:
            return False
        self._seconds_up += self._clock.monotonic() - since
        return True

    def _follow_restore(self, connection: Connection) -> None:
        company_id, outcome = connection.company_id, outcome_of(connection.reason)
        if outcome is None:
            if connection.status is Status.CONNECTING:  # otherwise it waits for a poll to begin
                self._restoring.setdefault(company_id, self._clock.monotonic())
            return
        begun = self._restoring.pop(company_id, None)
        if begun is None:
            return
        self._restores.labels(outcome.value, connection.reason.value).inc()
        if outcome is RestoreOutcome.SUCCEEDED:
            self._durations.observe(self._clock.monotonic() - begun)


def _cause(reason: Reason, event: str) -> str:
    if reason is not Reason.RESTORING:
        return reason.value
    return _RESTARTED_BY.get(event, reason.value)

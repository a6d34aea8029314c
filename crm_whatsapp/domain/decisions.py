"""What a decision consists of, and the small steps all rules share."""

import hashlib
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from crm_whatsapp.domain.connection import (
    ClientPhase,
    Connection,
    DesiredState,
    Intent,
    PairingMethod,
    Reason,
    Status,
    UserAction,
)
from crm_whatsapp.domain.status_words import WORDING


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyLimits:
    """Every duration and budget of the policy, in seconds."""

    restore_timeout_seconds: float = 30.0
    engine_wait_seconds: float = 300.0
    reconnect_timeout_seconds: float = 30.0
    max_retries: int = 3
    retry_delay_seconds: float = 1.0
    backoff_cap_seconds: float = 300.0
    stable_after_seconds: float = 300.0
    failed_poll_interval_seconds: float = 300.0
    replaced_retry_seconds: float = 30.0
    default_ban_seconds: float = 86_400.0
    pairing_timeout_seconds: float = 180.0
    first_login_timeout_seconds: float = 60.0
    handover_timeout_seconds: float = 3.0
    logout_timeout_seconds: float = 15.0
    storage_retry_seconds: float = 60.0
    lease_retry_seconds: float = 15.0
    second_chance_window_seconds: float = 14 * 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """Something the runtime has to do after a decision."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartClient(Effect):
    """Start the saved session, in an isolation engine when it is suspected of crashing one."""

    generation: int
    isolated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StartPairing(Effect):
    """Open a pairing on an empty folder."""

    generation: int
    method: PairingMethod
    phone_number: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StopClient(Effect):
    """Stop the client of this generation; ClientStopped follows."""

    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SendLogout(Effect):
    """Ask WhatsApp to unlink; LogoutAnswered follows."""

    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeClient(Effect):
    """Make a round trip; ProbeAnswered or ProbeFailed follows."""

    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteCredentials(Effect):
    """Write creds.json from the device row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveCredentials(Effect):
    """Remove creds.json: the session may not be restored any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveFiles(Effect):
    """Remove the whole session folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantineFiles(Effect):
    """Set the session folder aside."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PutBackStore(Effect):
    """Replace the store by the copy taken before the last start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TombstoneSnapshots(Effect):
    """Take the snapshots out of use: the session they hold is dead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetCompany(Effect):
    """Remove every trace of the company's session, remote rows too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RaiseAlert(Effect):
    """Tell the operator. kind is a Reason's word."""

    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The connection as it now is, and what follows from it."""

    connection: Connection
    effects: tuple[Effect, ...] = ()

    @property
    def starts_client(self) -> bool:
        """Tell whether a client or a pairing is started by it."""
        return any(isinstance(effect, StartClient | StartPairing) for effect in self.effects)


def after(now: datetime, seconds: float) -> datetime:
    """Return the time so many seconds later, within what a datetime can hold."""
    return now + timedelta(seconds=min(seconds, 10 * 365 * 86_400))


def backoff_seconds(
    company_id: str, attempt: int, *, base_seconds: float, cap_seconds: float
) -> float:
    """Return base * 2^(attempt-1), capped, less up to a quarter of jitter.

    The jitter is a function of company and attempt: the policy stays pure, and companies that
    failed together do not come back together.

    Args:
        attempt: 1 for the first retry.
    """
    digest = hashlib.sha256(f"{company_id}:{attempt}".encode()).digest()
    share = int.from_bytes(digest[:4], "big") / 2**32
    full = min(cap_seconds, base_seconds * 2.0 ** min(max(attempt, 1) - 1, 30))
    return full * (1.0 - 0.25 * share)


def become(
    connection: Connection,
    reason: Reason,
    *,
    status: Status | None = None,
    user_action: UserAction | None = None,
    detail: str | None = None,
    **changes: Any,
) -> Connection:
    """Return the connection with status, message and action of this reason.

    Deadline, retry time, QR expiry and the degraded flag are cleared unless given: each belongs
    to the status before.
    """
    wording = WORDING[reason]
    fields: dict[str, Any] = {
        "retry_at": None,
        "status_deadline_at": None,
        "qr_expires_at": None,
        "degraded": False,
        "failed_at": None,
    }
    fields.update(changes)
    return replace(
        connection,
        status=status or wording.status,
        reason=reason,
        message=f"{wording.message} ({detail})" if detail else wording.message,
        user_action=user_action or wording.user_action,
        **fields,
    )


def start_restore(
    connection: Connection, now: datetime, limits: PolicyLimits, **changes: Any
) -> Decision:
    """Start the saved session as a new generation; a pairing that was to replace it is off."""
    generation = connection.generation + 1
    intent = Intent.NONE if connection.intent is Intent.PAIR else connection.intent
    started = become(
        connection,
        Reason.RESTORING,
        desired_state=DesiredState.RUN,
        intent=intent,
        client=ClientPhase.STARTING,
        generation=generation,
        connected_since=None,
        pairing_method=None,
        pairing_phone=None,
        status_deadline_at=after(now, limits.restore_timeout_seconds + limits.engine_wait_seconds),
        **changes,
    )
    isolated = started.engine_crashes > 0
    return Decision(
        connection=started, effects=(StartClient(generation=generation, isolated=isolated),)
    )


def second_chance(connection: Connection, now: datetime, limits: PolicyLimits) -> Decision:
    """Put the store of before the start back and start once more."""
    decision = start_restore(replace(connection, intent=Intent.NONE), now, limits)
    return replace(decision, effects=(PutBackStore(), *decision.effects))


def start_pairing(
    connection: Connection,
    now: datetime,
    limits: PolicyLimits,
    method: PairingMethod,
    phone_number: str | None,
) -> Decision:
    """Open a pairing as a new generation; what an earlier link left in the row is cleared."""
    generation = connection.generation + 1
    started = become(
        connection,
        Reason.PREPARING_PAIRING,
        desired_state=DesiredState.RUN,
        client=ClientPhase.PAIRING,
        generation=generation,
        pairing_method=method,
        pairing_phone=phone_number,
        jid=None,
        lid=None,
        phone_number=None,
        push_name=None,
        platform=None,
        restore_attempts=0,
        unreachable_attempts=0,
        replaced_retries=0,
        engine_crashes=0,
        second_chance_used=False,
        connected_since=None,
        status_deadline_at=after(now, limits.pairing_timeout_seconds),
    )
    effect = StartPairing(generation=generation, method=method, phone_number=phone_number)
    return Decision(connection=started, effects=(effect,))


def stop_client(connection: Connection) -> Decision:
    """Order the client to stop, unless there is none or it is stopping already."""
    if connection.client in (ClientPhase.NONE, ClientPhase.STOPPING):
        return Decision(connection=connection)
    stopping = replace(connection, client=ClientPhase.STOPPING)
    if connection.client is ClientPhase.HANDOVER:
        return Decision(connection=stopping)
    return Decision(connection=stopping, effects=(StopClient(generation=connection.generation),))


def settled(connection: Connection, now: datetime, limits: PolicyLimits) -> Connection:
    """Forget earlier failures when the session had been stable for long enough."""
    since = connection.connected_since
    if since is None or (now - since).total_seconds() < limits.stable_after_seconds:
        return connection
    return replace(
        connection,
        restore_attempts=0,
        unreachable_attempts=0,
        replaced_retries=0,
        engine_crashes=0,
    )

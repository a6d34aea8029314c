"""Alerts: what needs a person, and the words for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple, Protocol

from crm_whatsapp.domain.connection import UserAction


class AlertKind(StrEnum):
    """What an alert is about. Those of sessions come once a company, the others once a service."""

    LOGGED_OUT = "session-logged-out"  # the link to the phone is gone
    BANNED = "session-banned"  # WhatsApp suspended the account for a while
    FAILED = "session-failed"  # restoring was given up, or nothing is left to restore
    REPLACED = "session-replaced"  # twice in a row another client took the connection over
    UNREACHABLE = "session-unreachable"  # trying to connect for too long
    SNAPSHOT_OLD = "snapshot-old"  # connected, and no snapshot covers what is in the store
    SNAPSHOTS_OFF = "snapshots-off"  # no key is configured
    RESTORE_FAILURES = "restore-failures"  # too many restores fail
    ENGINES_DYING = "engines-dying"  # engine processes end unasked, again and again
    CLIENT_OUTDATED = "client-outdated"  # WhatsApp refuses this version
    DATABASE_AWAY = "database-away"  # Supabase cannot be reached, or refuses
    DISK_REFUSES = "disk-refuses"  # SESSIONS_DIR does not take what has to be written
    JOB_FAILING = "job-failing"  # a job has failed several times in a row
    WEBHOOKS_PARKED = "webhooks-parked"  # deliveries were given up


SESSION_KINDS = (
    AlertKind.LOGGED_OUT,
    AlertKind.BANNED,
    AlertKind.FAILED,
    AlertKind.REPLACED,
    AlertKind.UNREACHABLE,
)
"""The kinds that say why a session is not connected; a company has one of them at a time."""


class Severity(StrEnum):
    """How bad it is."""

    WARNING = "warning"  # some companies, or a protection that is missing
    CRITICAL = "critical"  # the service as a whole


class AlertState(StrEnum):
    """What a notice or a message says of its alerts."""

    OPEN = "open"
    RESOLVED = "resolved"


class AlertWording(NamedTuple):
    """How a kind is told.

    one, many: what follows the name of a session, or the number of sessions; of the service as a
        whole, `one` is a sentence of its own.
    over_one, over_many: the same once it is over.
    """

    severity: Severity
    one: str
    many: str
    over_one: str
    over_many: str
    what_to_do: str


_W, _X = Severity.WARNING, Severity.CRITICAL

WORDING: dict[AlertKind, AlertWording] = {
    AlertKind.LOGGED_OUT: AlertWording(
        _W,
        "was logged out",
        "were logged out",
        "is linked again, or not wanted any more",
        "are linked again, or not wanted any more",
        "The link is gone: somebody of the company scans again with Connect WhatsApp.",
    ),
    AlertKind.BANNED: AlertWording(
        _W,
        "was suspended by WhatsApp",
        "were suspended by WhatsApp",
        "is not suspended any more",
        "are not suspended any more",
        "Wait: they reconnect by themselves when the suspension ends. Do not pair them again. Look "
        "at what these companies have sent.",
    ),
    AlertKind.FAILED: AlertWording(
        _W,
        "could not be restored",
        "could not be restored",
        "is connected again, or not wanted any more",
        "are connected again, or not wanted any more",
        "Look the reason up in docs/operations.md (One company), mend it, and restore.",
    ),
    AlertKind.REPLACED: AlertWording(
        _W,
        "was taken over by another client, twice",
        "were taken over by another client, twice",
        "is connected again, or not wanted any more",
        "are connected again, or not wanted any more",
        "The same session runs somewhere else: an old machine, or a copy of SESSIONS_DIR. End that "
        "one, then restore.",
    ),
    AlertKind.UNREACHABLE: AlertWording(
        _W,
        "cannot reach WhatsApp",
        "cannot reach WhatsApp",
        "is connected again, or not wanted any more",
        "are connected again, or not wanted any more",
        "They retry by themselves. If it is all of them, look at the network of the machine and at "
        "HTTPS_PROXY; if it is one, at its proxy.",
    ),
    AlertKind.SNAPSHOT_OLD: AlertWording(
        _W,
        "has no snapshot that covers it",
        "have no snapshot that covers them",
        "has its snapshot again, or is not wanted any more",
        "have their snapshots again, or are not wanted any more",
        "Keep the disk: without it these companies scan again. Look for `no snapshot was taken` in "
        "the log.",
    ),
    AlertKind.SNAPSHOTS_OFF: AlertWording(
        _W,
        "Snapshots are off",
        "Snapshots are off",
        "Snapshots are on",
        "Snapshots are on",
        "Set SNAPSHOT_ENCRYPTION_KEYS (python -m crm_whatsapp new-key): until then a lost disk "
        "costs every company a scan.",
    ),
    AlertKind.RESTORE_FAILURES: AlertWording(
        _X,
        "Too many restores fail",
        "Too many restores fail",
        "Restores succeed again",
        "Restores succeed again",
        "Look at the reasons in GET /api/whatsapp/report. Most often it is the network, or an "
        "outage of WhatsApp.",
    ),
    AlertKind.ENGINES_DYING: AlertWording(
        _X,
        "Engines die again and again",
        "Engines die again and again",
        "No engine has died for a while",
        "No engine has died for a while",
        "Look for `engine_died` in the log, and for the kernel's out-of-memory killer (dmesg).",
    ),
    AlertKind.CLIENT_OUTDATED: AlertWording(
        _X,
        "WhatsApp refuses this version of the software",
        "WhatsApp refuses this version of the software",
        "WhatsApp accepts this version of the software",
        "WhatsApp accepts this version of the software",
        "Install a release with a newer neonize. Credentials are kept; nobody has to scan.",
    ),
    AlertKind.DATABASE_AWAY: AlertWording(
        _X,
        "The database cannot be used",
        "The database cannot be used",
        "The database answers again",
        "The database answers again",
        "Sessions go on, and changes wait on the disk. Look at Supabase's status page, and at the "
        "database check of /readyz.",
    ),
    AlertKind.DISK_REFUSES: AlertWording(
        _X,
        "SESSIONS_DIR does not take what has to be written",
        "SESSIONS_DIR does not take what has to be written",
        "SESSIONS_DIR can be written again",
        "SESSIONS_DIR can be written again",
        "Make space, or mend the disk, and do not restart before: what is only in memory would be "
        "lost.",
    ),
    AlertKind.JOB_FAILING: AlertWording(
        _W,
        "A job fails again and again",
        "Jobs fail again and again",
        "The job runs again",
        "The jobs run again",
        "Look at the jobs check of /readyz, and for `a job failed` in the log.",
    ),
    AlertKind.WEBHOOKS_PARKED: AlertWording(
        _W,
        "Webhook deliveries were given up",
        "Webhook deliveries were given up",
        "No given-up webhook deliveries are left",
        "No given-up webhook deliveries are left",
        "Mend the receiver, then have them redelivered.",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One thing that needs a person.

    Attributes:
        subject: tells alerts of one kind apart: a company_id, the name of a job; empty when there
            is one of its kind alone.
        label: who or what it is about, for people; holds no whole phone number.
        detail: more of it, for people; may be empty.
        since: when it began, as far as is known.
    """

    kind: AlertKind
    since: datetime
    subject: str = ""
    company_id: str | None = None
    label: str = ""
    detail: str = ""
    user_action: UserAction = UserAction.CONTACT_SUPPORT

    @property
    def key(self) -> str:
        """The same for the same trouble, over restarts too."""
        return alert_key(self.kind, self.subject)

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        return WORDING[self.kind].severity


def alert_key(kind: AlertKind, subject: str = "") -> str:
    """Return the key of an alert of this kind about this subject."""
    return f"{kind.value}:{subject}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sightings:
    """What is the case now.

    Attributes:
        present: by key, what needs a person.
        unsure: keys of which nobody can say at the moment whether they are over: a company that
            was logged out and is being paired again is neither.
    """

    present: Mapping[str, Alert] = field(default_factory=dict)
    unsure: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertMessage:
    """What is sent to people: plain text, without a whole phone number."""

    state: AlertState
    severity: Severity
    title: str
    body: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """A message on its way to one channel. id: of the message; each channel has a copy."""

    id: str
    channel: str
    message: AlertMessage
    written_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SendOutcome:
    """What came of one attempt. detail: why it failed, without anything secret."""

    sent: bool
    detail: str
    took_seconds: float


class AlertSender(Protocol):
    """Sends messages to people, through channels that the operator configured."""

    @property
    def channels(self) -> Sequence[str]:
        """The names of the channels; they hold nothing secret."""

    @property
    def problems(self) -> Sequence[str]:
        """What is wrong with the configuration, for people."""

    def check(self, channel: str) -> str | None:
        """Return why the channel's address cannot be used, None when it can; sends nothing."""

    def send(self, channel: str, message: AlertMessage) -> SendOutcome:
        """Send once, within the sender's time limit; raises nothing for what the channel does."""

    def stop(self) -> None:
        """End what is being sent; sends fail from now on."""

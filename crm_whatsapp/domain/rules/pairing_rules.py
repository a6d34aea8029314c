"""Rules for a pairing in progress."""

from dataclasses import replace
from datetime import datetime, timedelta

from crm_whatsapp.domain import events as ev
from crm_whatsapp.domain.connection import (
    ClientPhase,
    Connection,
    Reason,
)
from crm_whatsapp.domain.decisions import (
    Decision,
    PolicyLimits,
    TombstoneSnapshots,
    after,
    become,
    stop_client,
)
from crm_whatsapp.domain.jids import phone_number_of


def on_code_issued(
    connection: Connection,
    event: ev.QrIssued | ev.PairingCodeIssued,
    now: datetime,
    limits: PolicyLimits,
) -> Decision:
    """There is a code to show. The deadline of the whole pairing stays."""
    if connection.client is not ClientPhase.PAIRING or connection.jid is not None:
        return Decision(connection=connection)
    expires_at = now + timedelta(seconds=event.expires_in_seconds)
    shown = become(
        connection,
        Reason.PAIRING,
        qr_expires_at=expires_at,
        status_deadline_at=connection.status_deadline_at,
        last_event_at=now,
    )
    return Decision(connection=shown)


def on_pairing_succeeded(
    connection: Connection, event: ev.PairingSucceeded, now: datetime, limits: PolicyLimits
) -> Decision:
    """The phone agreed; the first login follows within a minute or is rebuilt."""
    if connection.client is not ClientPhase.PAIRING:
        return Decision(connection=connection)
    accepted = become(
        connection,
        Reason.FINISHING_PAIRING,
        jid=event.jid,
        lid=event.lid,
        phone_number=phone_number_of(event.jid),
        platform=event.platform,
        last_event_at=now,
        status_deadline_at=after(now, limits.first_login_timeout_seconds),
    )
    return Decision(connection=accepted, effects=(TombstoneSnapshots(),))


def on_pairing_ended(
    connection: Connection,
    event: ev.PairingFailed | ev.PairingExpired,
    now: datetime,
    limits: PolicyLimits,
) -> Decision:
    """No phone was linked; wait for the next click."""
    if connection.client is not ClientPhase.PAIRING or connection.jid is not None:
        return Decision(connection=connection)
    if isinstance(event, ev.PairingFailed):
        ended = become(
            connection, Reason.PAIRING_FAILED, detail=event.detail or None, last_event_at=now
        )
    else:
        ended = become(connection, Reason.PAIRING_EXPIRED, last_event_at=now)
    return stop_client(replace(ended, pairing_method=None, pairing_phone=None))

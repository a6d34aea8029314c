"""Messages and receipts on their way outside: each becomes a notice, once.

An engine that died, a link that dropped: WhatsApp may send a message again. It gets the same notice
id then, so whoever hears it twice knows. What was told a moment ago is not told again.
"""

import uuid
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import structlog

from crm_whatsapp.domain.inbound import (
    InboundEvent,
    MessageArrived,
    MessageType,
    ReceiptArrived,
)
from crm_whatsapp.domain.jids import phone_number_of
from crm_whatsapp.domain.notices import Notice, NoticeKind
from crm_whatsapp.domain.ports import Clock
from crm_whatsapp.service.notice_board import NoticeBoard
from crm_whatsapp.service.status_notices import iso_text

log = structlog.get_logger(__name__)

_NAMESPACE = uuid.UUID("6d2f8a3e-52c7-4a0b-9f3e-0c3c1f6b7a51")
"""Of the notices' ids. Never to be changed: a receiver tells repeats by them."""

_MEDIA = frozenset(
    {
        MessageType.IMAGE,
        MessageType.VIDEO,
        MessageType.AUDIO,
        MessageType.DOCUMENT,
        MessageType.STICKER,
    }
)


class Inbox:
    """Makes notices of what engines heard; called by one thread a company at a time.

    Args:
        taken: told of each event when it has been told outside, or will not be; the engine sends
            no more than a few without that.
        most_remembered: how many notices of a company are known not to be told again.
    """

    def __init__(
        self,
        *,
        notices: NoticeBoard,
        clock: Clock,
        taken: Callable[[str, int], None],
        most_remembered: int = 500,
    ) -> None:
        self._notices = notices
        self._clock = clock
        self._taken = taken
        self._most_remembered = most_remembered
        self._told: dict[str, OrderedDict[bytes, None]] = {}

    def take(self, event: InboundEvent) -> None:
        """Tell the outside, unless it has just been told the same."""
        try:
            if isinstance(event, MessageArrived | ReceiptArrived):
                notice_id = _notice_id(event)
                if self._is_new(event.company_id, notice_id):
                    self._notices.post(self._notice(event, notice_id))
        finally:
            self._taken(event.company_id, event.generation)

    def drop(self, event: InboundEvent) -> None:
        """Let an event go whose company is not known here any more."""
        log.warning("a message of an unknown company was dropped", company_id=event.company_id)
        self._taken(event.company_id, event.generation)

    def forget(self, company_id: str) -> None:
        """Forget what a deleted company was told."""
        self._told.pop(company_id, None)

    def _is_new(self, company_id: str, notice_id: uuid.UUID) -> bool:
        told = self._told.setdefault(company_id, OrderedDict())
        known = notice_id.bytes in told
        told[notice_id.bytes] = None
        told.move_to_end(notice_id.bytes)
        if len(told) > self._most_remembered:
            told.popitem(last=False)
        return not known

    def _notice(self, event: MessageArrived | ReceiptArrived, notice_id: uuid.UUID) -> Notice:
        now = self._clock.now()
        moment = _moment(event.sent_at_ms) or now
        message = isinstance(event, MessageArrived)
        return Notice(
            id=str(notice_id),
            kind=NoticeKind.MESSAGE if message else NoticeKind.RECEIPT,
            company_id=event.company_id,
            occurred_at=now,
            data=(
                _message_data(event, moment)
                if isinstance(event, MessageArrived)
                else _receipt_data(event, moment)
            ),
        )


def _notice_id(event: MessageArrived | ReceiptArrived) -> uuid.UUID:
    """Return the id that the same message, or receipt, always has.

    The sender is part of it: in a group, somebody else could choose the same message id, and so
    have a message of another taken for a repeat.
    """
    what = [event.company_id, event.chat, event.sender]
    if isinstance(event, MessageArrived):
        what += ["message", event.message_id]
    else:
        what += [event.receipt_type.value, *event.message_ids]
    return uuid.uuid5(_NAMESPACE, "\n".join(what))


def _message_data(event: MessageArrived, moment: datetime) -> dict[str, Any]:
    media = None
    if event.message_type in _MEDIA:
        media = {
            "mimetype": event.mimetype,
            "filename": event.filename,
            "size_bytes": event.size_bytes,
        }
    return {
        "message_id": event.message_id,
        "chat": event.chat,
        **_sender_data(event),
        "from_name": event.push_name,
        "is_group": event.is_group,
        "from_me": event.from_me,
        "timestamp": iso_text(moment),
        "type": event.message_type.value,
        "unknown_type": event.unknown_type,
        "text": event.text,
        "media": media,
        "reply_to": event.reply_to,
    }


def _receipt_data(event: ReceiptArrived, moment: datetime) -> dict[str, Any]:
    return {
        "message_ids": list(event.message_ids),
        "chat": event.chat,
        **_sender_data(event),
        "status": event.receipt_type.value,
        "timestamp": iso_text(moment),
    }


def _sender_data(event: InboundEvent) -> dict[str, Any]:
    return {
        "from": event.sender,
        "from_number": phone_number_of(event.sender),
        "from_lid": event.sender_lid,
    }


def _moment(milliseconds: int) -> datetime | None:
    """Return the time; None for 0 and for what no calendar holds."""
    if milliseconds <= 0:
        return None
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return None

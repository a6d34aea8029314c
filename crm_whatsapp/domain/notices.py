"""What the outside hears of: one notice for each thing that happened, whoever carries it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any


class NoticeKind(StrEnum):
    """The types of notices, as webhooks name them."""

    STATUS = "session.status"  # the session's status or its reason changed
    QR = "session.qr"  # a QR or pairing code to be shown; `method` tells which
    MESSAGE = "message.received"  # somebody wrote to the company
    RECEIPT = "message.status"  # a message of the company was delivered, read or played
    ALERT = "session.alert"  # something needs a person, or no longer does


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something that happened, told once or more often under the same id.

    Attributes:
        id: a UUID; who hears it twice knows it by that.
        company_id: None for a notice about the service as a whole.
        data: JSON values only. Holds QR texts and message bodies, so it is never shown or logged.
    """

    id: str
    kind: NoticeKind
    company_id: str | None
    occurred_at: datetime
    data: Mapping[str, Any] = field(repr=False)

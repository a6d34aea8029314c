"""What of a batch may share a call, so that no entry overtakes another one of its company."""

from collections.abc import Iterator, Sequence
from enum import StrEnum

from crm_whatsapp.domain.notices import Notice
from crm_whatsapp.domain.ports import JournalEntry
from crm_whatsapp.domain.transitions import FORGOTTEN


class EntryKind(StrEnum):
    """What may share a call."""

    TRANSITION = "transition"
    FORGOTTEN = "forgotten"  # alone: after all that came before it
    NOTICE = "notice"


def runs(batch: Sequence[JournalEntry]) -> Iterator[tuple[EntryKind, list[JournalEntry]]]:
    """Part a batch into runs of one kind. No entry overtakes another one of its company."""
    left = list(batch)
    while left:
        kind = kind_of(left[0])
        run: list[JournalEntry] = []
        rest: list[JournalEntry] = []
        blocked: set[str | None] = set()
        for entry in left:
            company_id = company_of(entry)
            if kind_of(entry) is kind and company_id not in blocked:
                run.append(entry)
            else:
                rest.append(entry)
                blocked.add(company_id)
        yield kind, run
        left = rest


def kind_of(entry: JournalEntry) -> EntryKind:
    """Tell what the entry may share a call with."""
    if isinstance(entry, Notice):
        return EntryKind.NOTICE
    return EntryKind.FORGOTTEN if entry.event == FORGOTTEN else EntryKind.TRANSITION


def company_of(entry: JournalEntry) -> str | None:
    """Return whose entry it is; None for a notice about the service as a whole."""
    return entry.company_id if isinstance(entry, Notice) else entry.connection.company_id

"""Takes notices that somebody outside wants from the notice board into the journal."""

from collections.abc import Callable

from crm_whatsapp.domain.notices import Notice, NoticeKind
from crm_whatsapp.domain.transitions import FORGOTTEN
from crm_whatsapp.service.recorder import Recorder

Wants = Callable[[NoticeKind, str | None], bool]

_PASSING = frozenset({NoticeKind.QR})
"""Worth nothing a minute later."""


class NoticeIntake:
    """A listener to the notice board.

    Status notices are not its business: the database queues them with their transitions. But it
    keeps no transition of a company that is forgotten.
    """

    def __init__(self, recorder: Recorder, *, wants: Wants, recorded: Callable[[], object]) -> None:
        """Wire it.

        Args:
            wants: tells, from memory, whether anybody wants notices of this kind and company.
            recorded: called after a notice was recorded.
        """
        self._recorder = recorder
        self._wants = wants
        self._recorded = recorded

    def take(self, notice: Notice) -> None:
        """Record the notice if somebody wants it; waits for one local write at most."""
        if notice.kind is NoticeKind.STATUS and notice.data.get("event") != FORGOTTEN:
            return
        if not self._wants(notice.kind, notice.company_id):
            return
        self._recorder.record_notice(notice, keep=notice.kind not in _PASSING)
        self._recorded()

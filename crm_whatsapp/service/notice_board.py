"""Where notices are posted, and passed on to everybody who carries them outside."""

from collections.abc import Callable

import structlog

from crm_whatsapp.domain.notices import Notice

log = structlog.get_logger(__name__)

NoticeListener = Callable[[Notice], None]


class NoticeBoard:
    """Passes each notice on, on the posting thread; listeners must not wait for anything."""

    def __init__(self) -> None:
        self._listeners: list[NoticeListener] = []

    def listen(self, listener: NoticeListener) -> None:
        """Have every notice passed on from now on; to be called while the service is wired."""
        self._listeners.append(listener)

    def post(self, notice: Notice) -> None:
        """Tell everybody. One listener that fails keeps the others from nothing."""
        for listener in self._listeners:
            try:
                listener(notice)
            except Exception:
                log.exception(
                    "a listener to notices failed",
                    company_id=notice.company_id,
                    kind=notice.kind.value,
                    notice_id=notice.id,
                )

"""An unpaired client: shows QR codes or asks for a pairing code until the phone agrees."""

from collections.abc import Callable

from crm_whatsapp.engine.call_desk import CallDesk
from crm_whatsapp.engine.event_translation import (
    FIRST_QR_SECONDS,
    NEXT_QR_SECONDS,
    PAIRING_CODE_SECONDS,
    Fields,
    ended_fields,
    translate_login_status,
)
from crm_whatsapp.engine.hosted_client import ClientOrder, Host, HostedClient, Phase

EXPIRY_MARGIN_SECONDS = 5.0
PAIR_PHONE_SECONDS = 20.0


class PairingClient(HostedClient):
    """Lives in a disposable engine: a QR channel that is left alone leaks a thread in Go."""

    def __init__(
        self, order: ClientOrder, host: Host, *, calls: CallDesk, phone_number: str | None
    ) -> None:
        super().__init__(order, host)
        self._calls = calls
        self._phone_number = phone_number
        self._codes_shown = 0
        self._over = False

    def qr_shown(self, text: str) -> None:
        self._leave_dialing(Phase.UNPAIRED)
        self._codes_shown += 1
        if self._phone_number is not None:
            if self._codes_shown == 1:
                self._ask_for_code(self._phone_number)
            return
        seconds = FIRST_QR_SECONDS if self._codes_shown == 1 else NEXT_QR_SECONDS
        self._host.report_event(self, "QrIssued", {"value": text, "expires_in_seconds": seconds})
        self._expire_after(seconds)

    def login_status_changed(self, word: str) -> None:
        translation = translate_login_status(word)
        if translation is not None:
            self._end_pairing(*translation)

    def _phase_with_device(self) -> Phase:
        return Phase.RECONNECTING

    def _gone_fields(self, error: str) -> Fields:
        return ended_fields(error)

    def _note(self, name: str) -> None:
        super()._note(name)
        if name in ("PairingSucceeded", "PairingFailed", "ClientOutdated"):
            self._over = True

    def _ask_for_code(self, phone_number: str) -> None:
        client = self._client
        if client is None:
            return

        def done(result: str | Exception) -> None:
            if isinstance(result, Exception):
                detail = f"No pairing code was given: {result}"
                self._end_pairing("PairingFailed", {"detail": detail})
                return
            self._host.report_event(
                self,
                "PairingCodeIssued",
                {"code": result, "expires_in_seconds": PAIRING_CODE_SECONDS},
            )
            self._expire_after(PAIRING_CODE_SECONDS)

        self._calls.call(
            self.company_id,
            _asker(client.request_pairing_code, phone_number),
            timeout_seconds=PAIR_PHONE_SECONDS,
            done=done,
        )

    def _expire_after(self, seconds: float) -> None:
        """Say that the codes ran out when whatsmeow does not say it itself."""
        shown = self._codes_shown

        def check() -> None:
            if self._phone_number is not None or shown == self._codes_shown:
                self._end_pairing("PairingExpired", {})

        self._host.alarm.ring_in(seconds + EXPIRY_MARGIN_SECONDS, check)

    def _end_pairing(self, name: str, fields: Fields) -> None:
        with self._state:
            over, self._over = self._over, True
        if not over:
            self._host.report_event(self, name, fields)


def _asker(ask: Callable[[str], str], phone_number: str) -> Callable[[], str]:
    return lambda: ask(phone_number)

"""One company's runtime: its connection, its mailbox and the code to be scanned."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from crm_whatsapp.domain import events
from crm_whatsapp.domain.connection import Connection, PairingMethod, Status
from crm_whatsapp.service.mailroom import Mailbox


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanCode:
    """What the phone has to scan (QR text) or to be told (pairing code)."""

    method: PairingMethod
    value: str
    expires_at: datetime

    def __repr__(self) -> str:
        return f"ScanCode({self.method}, expires_at={self.expires_at.isoformat()})"


class CompanyRuntime:
    """Read from any thread, changed only by its mailbox.

    retired: the company was forgotten; what is still in the mailbox is meant for its next life.
    """

    def __init__(self, connection: Connection) -> None:
        self.company_id = connection.company_id
        self.mailbox = Mailbox(connection.company_id)
        self.scan_code: ScanCode | None = None
        self.poll_posted = False
        self.retired = False
        self._connection = connection
        self._changed = threading.Condition()

    @property
    def connection(self) -> Connection:
        """The connection as of now."""
        return self._connection

    def set_connection(self, connection: Connection) -> None:
        """Replace the connection and wake whoever waits for a change."""
        with self._changed:
            self._connection = connection
            self._changed.notify_all()

    def wait_until(self, wanted: Callable[[Connection], bool], timeout_seconds: float) -> bool:
        """Wait for the connection to become as wanted; False when it did not in time."""
        with self._changed:
            return self._changed.wait_for(lambda: wanted(self._connection), timeout_seconds)

    def keep_scan_code(self, after: Connection, event: events.Event) -> ScanCode | None:
        """Keep the code of an event that brought one; drop it when there is nothing to scan.

        Returns:
            The code, if it is a new one.
        """
        if after.status is not Status.AWAITING_SCAN or after.qr_expires_at is None:
            self.scan_code = None
            return None
        if isinstance(event, events.QrIssued):
            method, value = PairingMethod.QR, event.value
        elif isinstance(event, events.PairingCodeIssued):
            method, value = PairingMethod.PAIRING_CODE, event.code
        else:
            return None
        self.scan_code = ScanCode(method=method, value=value, expires_at=after.qr_expires_at)
        return self.scan_code

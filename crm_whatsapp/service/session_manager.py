"""What the web asks of the sessions."""

from dataclasses import dataclass

from crm_whatsapp.domain import events
from crm_whatsapp.domain.connection import (
    ClientPhase,
    Connection,
    DesiredState,
    Intent,
    PairingMethod,
    Reason,
)
from crm_whatsapp.domain.decisions import (
    become,
)
from crm_whatsapp.domain.errors import (
    NothingSaved,
    NothingToScan,
    PairingConflict,
)
from crm_whatsapp.domain.session_policy import decide
from crm_whatsapp.service.company_runtime import ScanCode
from crm_whatsapp.service.session_runtimes import SessionRuntimes


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveSession:
    """A connection that should be running, and who runs it."""

    connection: Connection
    owner_id: str | None
    is_local: bool


class SessionManager(SessionRuntimes):
    """Answers status from memory and turns every request into a message."""

    def status(self, company_id: str) -> Connection:
        """Return the status; start a restore when the policy says that a poll does.

        Never waits for the disk's session files, WhatsApp or Supabase: one or two stats at most.
        """
        runtime = self._runtimes.get(company_id)
        if runtime is None:
            if not self.has_credentials(company_id):
                unknown = Connection(company_id=company_id)
                # Before start-up has looked everywhere, absence means nothing.
                return unknown if self._polls_may_start else become(unknown, Reason.RESTORING)
            runtime = self.runtime(company_id)
        connection = runtime.connection
        if connection.client is not ClientPhase.NONE or self._stopping:
            return connection
        poll = events.PollArrived(has_credentials=self.has_credentials(company_id))
        preview = decide(connection, poll, self._parts.clock.now(), self._parts.limits)
        if preview.connection == connection:
            return connection
        if self._polls_may_start and not runtime.poll_posted:
            runtime.poll_posted = True
            self.post(company_id, poll)
        return preview.connection

    def connect(
        self,
        company_id: str,
        *,
        method: PairingMethod = PairingMethod.QR,
        user_id: str | None = None,
        phone_number: str | None = None,
        fresh: bool = False,
        proxy: str | None = None,
    ) -> Connection:
        """Restore what is saved, or open a pairing.

        Args:
            phone_number: digits with country code, for a pairing code.
            fresh: set the saved session aside and pair anew.
            proxy: http, https or socks5 URL, kept for this company from the next start on.
        Raises:
            PairingConflict: a pairing of the other method is in progress.
            RateLimited: the company has begun too many pairings.
            ServiceStopping, ServiceBusy: try again.
        """

        def check(current: Connection) -> None:
            pairing = current.client is ClientPhase.PAIRING and current.jid is None
            if pairing and current.pairing_method is not method:
                raise PairingConflict(
                    f"A pairing by {current.pairing_method} is in progress. Finish it, or "
                    "disconnect first.",
                    method=current.pairing_method,
                )

        def request() -> events.ConnectRequested:
            event = events.ConnectRequested(
                has_credentials=self.has_credentials(company_id),
                method=method,
                phone_number=phone_number,
                user_id=user_id,
                fresh=fresh,
            )
            before = self.runtime(company_id).connection
            after = decide(before, event, self._parts.clock.now(), self._parts.limits).connection
            if _is_pairing(after) and not _is_pairing(before):
                self._parts.pairings.take(company_id)
            if proxy is not None:
                self._parts.proxies.put(company_id, proxy)
            return event

        return self.ask(company_id, request, check)

    def disconnect(self, company_id: str) -> Connection:
        """Stop the session and keep it stopped."""
        return self.ask(
            company_id,
            lambda: events.DisconnectRequested(has_credentials=self.has_credentials(company_id)),
        )

    def restore(self, company_id: str) -> Connection:
        """Ask for a restore now.

        Raises:
            NothingSaved: there is no saved session.
        """
        saved = self.has_credentials(company_id)
        runtime = self._runtimes.get(company_id)
        if not saved and (runtime is None or runtime.connection.client is ClientPhase.NONE):
            raise NothingSaved(user_action="connect")
        return self.ask(
            company_id,
            lambda: events.RestoreRequested(has_credentials=self.has_credentials(company_id)),
        )

    def logout(self, company_id: str) -> Connection:
        """Unlink at WhatsApp and remove what is saved; continues in the background."""
        if company_id not in self._runtimes and not self.has_credentials(company_id):
            return Connection(company_id=company_id)
        return self.ask(
            company_id,
            lambda: events.LogoutRequested(has_credentials=self.has_credentials(company_id)),
        )

    def delete(self, company_id: str) -> None:
        """Log out, best effort, and forget the company's session."""
        gone = company_id in self._forgotten and company_id not in self._runtimes
        if gone and not self.has_credentials(company_id):
            return
        self.ask(
            company_id,
            lambda: events.DeleteRequested(has_credentials=self.has_credentials(company_id)),
        )

    def qr(self, company_id: str) -> ScanCode:
        """Return the QR text to be scanned now. Raises NothingToScan."""
        return self._scan_code(company_id, PairingMethod.QR)

    def pairing_code(self, company_id: str) -> ScanCode:
        """Return the pairing code to be entered now. Raises NothingToScan."""
        return self._scan_code(company_id, PairingMethod.PAIRING_CODE)

    def active_sessions(self) -> list[ActiveSession]:
        """Return every connection that should be running."""
        return [
            ActiveSession(
                connection=connection,
                owner_id=self._parts.leases.owner_of(connection.company_id),
                is_local=connection.client is not ClientPhase.NONE,
            )
            for connection in self.connections()
            if connection.desired_state is DesiredState.RUN
        ]

    def _scan_code(self, company_id: str, method: PairingMethod) -> ScanCode:
        runtime = self._runtimes.get(company_id)
        code = runtime.scan_code if runtime else None
        if code is None or code.method is not method or code.expires_at <= self._parts.clock.now():
            connection = runtime.connection if runtime else Connection(company_id=company_id)
            raise NothingToScan(
                status=connection.status.value, user_action=connection.user_action.value
            )
        return code


def _is_pairing(connection: Connection) -> bool:
    """Tell whether a pairing is under way, or begins once the client of now has stopped."""
    unpaired = connection.client is ClientPhase.PAIRING and connection.jid is None
    return unpaired or connection.intent is Intent.PAIR

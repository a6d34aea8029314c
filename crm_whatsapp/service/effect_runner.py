"""Carries out what a decision asks for, outside the policy."""

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from crm_whatsapp.domain import decisions
from crm_whatsapp.domain.connection import Connection, Reason
from crm_whatsapp.domain.engines import EngineFleet, PairOrder, StartOrder
from crm_whatsapp.domain.errors import StorageError
from crm_whatsapp.domain.events import Event, LeaseDenied, StorageFailed
from crm_whatsapp.domain.folders import Credentials, FolderReport
from crm_whatsapp.domain.ports import Clock, ProxyVault, SessionFolders
from crm_whatsapp.service.lease_keeper import LeaseKeeper
from crm_whatsapp.service.session_opener import SessionOpener
from crm_whatsapp.service.snapshot_keeper import SnapshotKeeper

log = structlog.get_logger(__name__)

PostEvent = Callable[[str, Event], None]
Work = Callable[[Connection], None]
PostWork = Callable[[str, int, Work], None]
"""Runs the work in the company's mailbox, if that generation is still to be started then."""

AlertListener = Callable[[Connection, str], None]


@dataclass(frozen=True, slots=True)
class Collaborators:
    """What effects act upon."""

    folders: SessionFolders
    fleet: EngineFleet
    leases: LeaseKeeper
    clock: Clock
    proxies: ProxyVault
    opener: SessionOpener
    snapshots: SnapshotKeeper | None


class EffectRunner:
    """One method an effect. Runs in the company's mailbox; nothing in it waits for a network."""

    def __init__(self, collaborators: Collaborators) -> None:
        self._folders = collaborators.folders
        self._fleet = collaborators.fleet
        self._leases = collaborators.leases
        self._clock = collaborators.clock
        self._proxies = collaborators.proxies
        self._opener = collaborators.opener
        self._snapshots = collaborators.snapshots
        self._post: PostEvent = _unbound
        self._post_work: PostWork = _unbound
        self._alerts: list[AlertListener] = []

    def bind(self, post: PostEvent, post_work: PostWork) -> None:
        """Say where events and work that result from an effect go."""
        self._post = post
        self._post_work = post_work

    def on_alert(self, listener: AlertListener) -> None:
        """Have alerts passed on."""
        self._alerts.append(listener)

    def run(self, connection: Connection, effect: decisions.Effect) -> bool:
        """Carry out one effect; False, and a line in the log, when the disk refuses."""
        company_id = connection.company_id
        try:
            self._run(connection, effect)
            return True
        except StorageError as error:
            log.error(
                "the session folder refused an operation",
                company_id=company_id,
                effect=type(effect).__name__,
                detail=error.message,
            )
            return False

    def _when_permitted(self, company_id: str, generation: int, work: Work) -> None:
        """Do the work once the lease allows it; tell the policy when it does not."""
        self._leases.permit(
            company_id,
            granted=lambda: self._post_work(company_id, generation, self._guarded(work)),
            denied=lambda seconds: self._post(company_id, LeaseDenied(retry_after_seconds=seconds)),
        )

    def _guarded(self, work: Work) -> Work:
        """Return the work with a refusing disk told to the policy."""

        def guarded(connection: Connection) -> None:
            try:
                work(connection)
            except StorageError as error:
                self._refuse(connection.company_id, Reason.STORAGE_UNAVAILABLE, error.message)

        return guarded

    def _run(self, connection: Connection, effect: decisions.Effect) -> None:
        company_id = connection.company_id
        match effect:
            case decisions.StartClient(generation=generation, isolated=isolated):
                self._when_permitted(
                    company_id, generation, lambda current: self._open(current, isolated)
                )
            case decisions.StartPairing(generation=generation):
                self._when_permitted(company_id, generation, self._open_pairing)
            case decisions.StopClient(generation=generation):
                self._fleet.stop(company_id, generation)
            case decisions.SendLogout(generation=generation):
                self._fleet.logout(company_id, generation)
            case decisions.ProbeClient(generation=generation):
                self._fleet.probe(company_id, generation)
            case decisions.RaiseAlert(kind=kind):
                self._alert(connection, kind)
            case _:
                self._run_on_files(connection, effect)

    def _run_on_files(self, connection: Connection, effect: decisions.Effect) -> None:
        company_id = connection.company_id
        match effect:
            case decisions.WriteCredentials():
                self.write_credentials(connection)
            case decisions.PutBackStore():
                if not self._folders.put_back(company_id):
                    log.warning("no store of before the start to put back", company_id=company_id)
            case decisions.TombstoneSnapshots():
                if self._snapshots is not None:
                    self._snapshots.retire(company_id)
            case decisions.RemoveCredentials():
                self._folders.remove_credentials(company_id)
            case decisions.RemoveFiles():
                self._folders.remove(company_id)
            case decisions.QuarantineFiles(why=why):
                if self._folders.quarantine(company_id, why) is not None:
                    log.info("the old session folder was set aside", company_id=company_id)
            case _:
                raise TypeError(f"no one carries out {type(effect).__name__}")

    def _alert(self, connection: Connection, kind: str) -> None:
        log.warning(
            "a session needs attention",
            company_id=connection.company_id,
            kind=kind,
            detail=connection.message,
        )
        for listener in self._alerts:
            listener(connection, kind)

    def _open(self, connection: Connection, isolated: bool) -> None:
        """Have the folder made ready, from a snapshot if need be, and order the start."""
        company_id, generation = connection.company_id, connection.generation

        def start(current: Connection) -> None:
            self._fleet.start(
                StartOrder(
                    company_id=company_id,
                    generation=current.generation,
                    store_path=self._folders.store_path(company_id),
                    lock_path=self._folders.lock_path(company_id),
                    isolated=isolated,
                    proxy=self._proxies.find(company_id),
                )
            )

        self._opener.open(
            company_id,
            ready=lambda: self._post_work(company_id, generation, self._guarded(start)),
            refuse=lambda reason, detail: self._post_work(
                company_id, generation, lambda _: self._refuse(company_id, reason, detail)
            ),
            later=lambda work: self._post_work(company_id, generation, lambda _: work()),
        )

    def _open_pairing(self, connection: Connection) -> None:
        """Make an empty folder and order the pairing."""
        company_id = connection.company_id
        method = connection.pairing_method
        if method is None:
            return
        self._folders.prepare(company_id)
        self._folders.check_writable()
        self._fleet.pair(
            PairOrder(
                company_id=company_id,
                generation=connection.generation,
                store_path=self._folders.store_path(company_id),
                lock_path=self._folders.lock_path(company_id),
                method=method,
                phone_number=connection.pairing_phone,
                proxy=self._proxies.find(company_id),
            )
        )

    def write_credentials(self, connection: Connection) -> None:
        """Write creds.json when it is missing or tells something else than the connection.

        Raises:
            StorageError: the disk refuses; the device row in store.db still holds the session.
        """
        report = self._folders.inspect(connection.company_id, deep=False)
        wanted = self._credentials(connection, report)
        if wanted is not None and (report.needs_adoption or wanted != report.credentials):
            self._folders.write_credentials(wanted)

    def _credentials(self, connection: Connection, report: FolderReport) -> Credentials | None:
        jid = connection.jid
        if jid is None:
            return report.credentials
        known = report.credentials
        return Credentials(
            company_id=connection.company_id,
            jid=jid,
            lid=connection.lid,
            push_name=connection.push_name,
            platform=connection.platform or (known.platform if known else None),
            paired_at=known.paired_at if known and known.jid == jid else self._clock.now(),
            epoch=max(self._leases.epoch_of(connection.company_id), known.epoch if known else 0),
        )

    def _refuse(self, company_id: str, reason: Reason, detail: str) -> None:
        self._post(company_id, StorageFailed(reason=reason, detail=detail))


def _unbound(*_: object) -> None:
    raise RuntimeError("the effect runner is not bound to a session manager")

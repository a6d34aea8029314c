"""Moving in from Baileys: a session paired by it becomes one of ours, without a new scan.

What comes along: the device (its keys and the account's signature) and the one-time keys of a
multi-file folder. What stays behind: Signal sessions, sender keys and the keys of the app state.
Those are made anew: the first message of a peer with an old session is asked for again, once.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from crm_whatsapp.domain.company import parse_company_id
from crm_whatsapp.domain.errors import InvalidInput
from crm_whatsapp.domain.folders import Credentials
from crm_whatsapp.sessions import device_row as store
from crm_whatsapp.sessions.baileys_credentials import (
    MOST_PRE_KEY_ID,
    BaileysSession,
    parse_creds,
    parse_key_pair,
)
from crm_whatsapp.sessions.foreign_folders import BaileysSource, read_source
from crm_whatsapp.sessions.imported_store import write_device
from crm_whatsapp.sessions.session_folders import LocalSessionFolders
from crm_whatsapp.sessions.session_intake import (
    Lock,
    Place,
    SessionIntake,
    require_source_outside,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport:
    """What an import has done, or, as a dry run, would do.

    one_time_keys, unusable_keys: how many came along, how many were damaged and did not.
    occupant_aside: a session was there; it is, or would be, set aside.
    set_aside: where it went.
    """

    source: Path
    folder: Path
    jid: str
    lid: str | None
    push_name: str | None
    one_time_keys: int
    unusable_keys: int
    service_runs: bool
    occupant_aside: bool
    set_aside: Path | None
    dry_run: bool


def _utc_now() -> datetime:
    return datetime.now(UTC)


class BaileysImport:
    """Imports sessions of Baileys into SESSIONS_DIR."""

    def __init__(
        self,
        folders: LocalSessionFolders,
        *,
        make_empty_store: Callable[[Path], None],
        session_lock: Callable[[Path], Lock],
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        """Use these folders.

        Args:
            make_empty_store: makes a store without a device at a path.
            session_lock: returns the lock, not yet taken, for a lock file.
        """
        self._folders = folders
        self._intake = SessionIntake(folders, session_lock)
        self._make_empty_store = make_empty_store
        self._now = now

    def run(
        self, source: Path, company_id: str, *, replace: bool = False, dry_run: bool = False
    ) -> ImportReport:
        """Import one session; the source is only read.

        Args:
            replace: set a session that the company has already aside.
            dry_run: check everything, write nothing.

        Raises:
            InvalidInput: the source is not a paired Baileys session; says what it is.
            WrongState: the company has a session or a client, or the device another company.
            StorageError, EngineError: the disk or neonize refuses; nothing has changed.
        """
        company_id = parse_company_id(company_id, field="--company")
        found = read_source(source)
        require_source_outside(found.path, self._folders.session_path(company_id))
        session = _checked(found)
        pre_keys = _usable_pre_keys(found.pre_keys)
        with self._intake.hold(company_id, replace=replace, look_only=dry_run) as place:
            self._intake.require_new_device(place, session.jid)
            set_aside = None
            if not dry_run:
                set_aside = self._intake.install(place, self._builder(place, session, pre_keys))
        return ImportReport(
            source=found.path,
            folder=place.folder,
            jid=session.jid,
            lid=session.lid,
            push_name=session.push_name,
            one_time_keys=len(pre_keys),
            unusable_keys=len(found.pre_keys) - len(pre_keys),
            service_runs=place.service_runs,
            occupant_aside=place.occupant is not None,
            set_aside=set_aside,
            dry_run=dry_run,
        )

    def _builder(
        self, place: Place, session: BaileysSession, pre_keys: Mapping[int, bytes]
    ) -> Callable[[Path], Credentials]:
        def build(folder: Path) -> Credentials:
            path = folder / store.FILE_NAME
            self._make_empty_store(path)
            write_device(path, session, pre_keys)
            replaced = place.occupant.credentials if place.occupant else None
            return Credentials(
                company_id=place.company_id,
                jid=session.jid,
                lid=session.lid,
                push_name=session.push_name,
                platform=session.platform,
                paired_at=self._now(),
                epoch=replaced.epoch if replaced else 0,
            )

        return build


def _checked(source: BaileysSource) -> BaileysSession:
    try:
        return parse_creds(source.creds)
    except InvalidInput as exc:
        raise InvalidInput(f"{source.path} cannot move in. {exc.message}") from exc


def _usable_pre_keys(pairs: Mapping[int, Any]) -> dict[int, bytes]:
    usable: dict[int, bytes] = {}
    for number, pair in pairs.items():
        if number > MOST_PRE_KEY_ID:
            continue
        try:
            usable[number] = parse_key_pair(pair, f"pre-key-{number}")
        except InvalidInput:
            continue  # counted as unusable; only the first message of one peer would need it
    return usable

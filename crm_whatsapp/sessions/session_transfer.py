"""One session as an encrypted file: out of one SESSIONS_DIR and into another."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from crm_whatsapp.domain.company import parse_company_id
from crm_whatsapp.domain.folders import Credentials
from crm_whatsapp.sessions import device_row as store
from crm_whatsapp.sessions.session_archive import read_archive, write_archive
from crm_whatsapp.sessions.session_folders import LocalSessionFolders
from crm_whatsapp.sessions.session_intake import Lock, SessionIntake
from crm_whatsapp.sessions.store_copier import SqliteStoreCopier
from crm_whatsapp.sessions.store_fitness import check_copy


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferReport:
    """What was moved. set_aside: where the session went that was there before."""

    company_id: str
    jid: str
    path: Path
    service_runs: bool = False
    set_aside: Path | None = None


class SessionTransfer:
    """Exports and imports sessions; the file is encrypted with a passphrase."""

    def __init__(self, folders: LocalSessionFolders, session_lock: Callable[[Path], Lock]) -> None:
        self._folders = folders
        self._intake = SessionIntake(folders, session_lock)

    def export(self, company_id: str, path: Path, passphrase: str) -> TransferReport:
        """Write the session to a new file, also while it runs.

        Raises:
            StoreUnfit: there is no whole session to copy.
            InvalidInput: the passphrase is too short, or the company id is none.
            StorageError: the file exists already, or the disk refuses.
        """
        company_id = parse_company_id(company_id, field="--company")
        copy = SqliteStoreCopier(self._folders, pages=self._folders.pages).copy(company_id)
        write_archive(path, copy, passphrase)
        return TransferReport(company_id=company_id, jid=copy.credentials.jid, path=path)

    def load(
        self, path: Path, company_id: str, passphrase: str, *, replaces: bool
    ) -> TransferReport:
        """Put the session of a file into SESSIONS_DIR, for this company.

        Raises:
            WrongPassphrase, SnapshotDamaged: the file cannot be opened.
            StoreUnfit: what is in it is not a whole session.
            WrongState: the company has a session or a client, or the device another company.
            StorageError: the disk refuses; nothing has changed.
        """
        company_id = parse_company_id(company_id, field="--company")
        copy = read_archive(path, passphrase)
        check_copy(copy)
        moved = replace(copy.credentials, company_id=company_id, paired_at=datetime.now(UTC))

        def fill(folder: Path) -> Credentials:
            (folder / store.FILE_NAME).write_bytes(copy.database)
            return moved

        with self._intake.hold(company_id, replace=replaces, look_only=False) as place:
            self._intake.require_new_device(place, moved.jid)
            set_aside = self._intake.install(place, fill)
        return TransferReport(
            company_id=company_id,
            jid=moved.jid,
            path=place.folder,
            service_runs=place.service_runs,
            set_aside=set_aside,
        )

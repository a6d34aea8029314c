"""A snapshot becomes a session folder: built aside, checked, put in place by one rename."""

from crm_whatsapp.domain.folders import FolderState
from crm_whatsapp.domain.snapshots import StoreCopy
from crm_whatsapp.sessions.durable_file import refused, sync_folder
from crm_whatsapp.sessions.session_folders import LocalSessionFolders
from crm_whatsapp.sessions.store_copier import SqliteStoreCopier


class SnapshotInstaller:
    """The SessionInstaller of this machine; for a company without a client."""

    def __init__(self, folders: LocalSessionFolders) -> None:
        self._folders = folders
        self._staging = LocalSessionFolders(folders.root / ".incoming")
        self._builder = SqliteStoreCopier(self._staging)

    def install(self, copy: StoreCopy, *, epoch: int, reset_signal: bool = False) -> None:
        """Put the session in place of whatever is there; a damaged or older one is set aside.

        A kill in between leaves what was there, or nothing, or the whole session: never half of
        one. What is there is touched only once the new session is known to be good.

        Args:
            epoch: of the lease under which it is installed; creds.json gets it.
            reset_signal: leave out the Signal sessions: the client went on after the copy.
        Raises:
            StoreUnfit: the copy would not do as a store; nothing was changed.
            StorageError: the disk refuses.
        """
        company_id = copy.credentials.company_id
        self._staging.remove(company_id)  # what a killed installation left
        self._staging.prepare(company_id)
        self._builder.install(copy, epoch=epoch, reset_signal=reset_signal)
        self._make_room(company_id)
        folder = self._folders.session_path(company_id)
        try:
            self._staging.session_path(company_id).rename(folder)
            sync_folder(folder.parent)
        except OSError as exc:
            raise refused("put in place", folder, exc) from exc

    def _make_room(self, company_id: str) -> None:
        if self._folders.inspect(company_id, deep=False).state is FolderState.MISSING:
            self._folders.remove(company_id)  # what an aborted pairing left
        else:
            self._folders.quarantine(company_id, "replaced-by-snapshot")

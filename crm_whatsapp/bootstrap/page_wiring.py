"""Page records move on with the stores of running sessions."""

from crm_whatsapp.domain.connection import ClientPhase
from crm_whatsapp.jobs.job_board import Job
from crm_whatsapp.service.session_manager import SessionManager
from crm_whatsapp.sessions.session_folders import LocalSessionFolders

_NO_STORE_YET = frozenset({ClientPhase.NONE, ClientPhase.PAIRING})


def page_jobs(
    folders: LocalSessionFolders, manager: SessionManager, interval_seconds: float
) -> list[Job]:
    """Return what looks at the log of every running store."""

    def look() -> None:
        for connection in manager.connections():
            if connection.client not in _NO_STORE_YET:
                folders.pages.look(folders.session_path(connection.company_id))

    return [Job(name="page-records", interval_seconds=interval_seconds, function=look)]

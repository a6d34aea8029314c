"""The routes of what is saved: what it survives, and snapshots by hand."""

from flask import Response
from flask_openapi3.models.tag import Tag

from crm_whatsapp.domain.folders import FolderReport, FolderState
from crm_whatsapp.domain.snapshots import SnapshotMeta
from crm_whatsapp.web.auth import Scope, requires
from crm_whatsapp.web.json_answer import json_answer
from crm_whatsapp.web.request_context import current_principal, current_services
from crm_whatsapp.web.schemas import (
    BackupBody,
    CleanedUpBody,
    CleanUpRequest,
    CompanyRequest,
    ErrorBody,
    PersistenceBody,
    SessionFolderBody,
    SessionInfoBody,
    SnapshotBody,
    StorageBody,
)
from crm_whatsapp.web.strict_blueprint import StrictBlueprint

backups_api = StrictBlueprint(
    "backups_api",
    __name__,
    url_prefix="/api/whatsapp",
    abp_tags=[Tag(name="backups", description="What is saved of a session, and what it survives.")],
    abp_security=[{"api_key": []}, {"user_token": []}, {"dashboard": []}],
    abp_responses={400: ErrorBody, 401: ErrorBody, 403: ErrorBody, 503: ErrorBody},
)


@backups_api.get(
    "/session-info", summary="What is saved, and what it survives", responses={200: SessionInfoBody}
)
@requires(Scope.READ)
def get_session_info(query: CompanyRequest) -> Response:
    """Look at the storage, at the session folder and at the snapshots."""
    info = current_services().backups.info(query.company_id)
    return json_answer(
        SessionInfoBody(
            storage=StorageBody(
                valid=info.storage_valid,
                path=info.storage_path if current_principal().is_service else None,
                writable=info.storage_writable,
                detail=info.storage_detail,
            ),
            session=_folder(info.session),
            snapshots=[_snapshot(meta) for meta in info.snapshots],
            persistence=PersistenceBody(
                will_survive_restart=info.verdict.restart,
                will_survive_disk_loss=info.verdict.disk_loss,
                why=info.verdict.why,
            ),
        )
    )


@backups_api.post(
    "/backup-session",
    summary="Write a verified snapshot now",
    responses={200: BackupBody, 422: ErrorBody},
)
@requires(Scope.MANAGE)
def backup_session(body: CompanyRequest) -> Response:
    """Copy the session now, also when nothing has changed since the last copy."""
    meta = current_services().backups.backup(body.company_id)
    return json_answer(BackupBody(company_id=body.company_id, snapshot=_snapshot(meta)))


@backups_api.post(
    "/cleanup-backups", summary="Remove older snapshots", responses={200: CleanedUpBody}
)
@requires(Scope.MANAGE)
def cleanup_backups(body: CleanUpRequest) -> Response:
    """Keep the newest snapshots of one company; of every company with a service key."""
    if body.company_id is None:
        current_principal().require_service("Cleaning up the backups of every company")
    removed = current_services().backups.clean_up(body.company_id, body.keep)
    return json_answer(CleanedUpBody(removed=removed, kept=body.keep))


def _folder(report: FolderReport) -> SessionFolderBody:
    return SessionFolderBody(
        exists=report.state is not FolderState.MISSING,
        status=report.state,
        file_count=report.file_count,
        size_bytes=report.size_bytes,
        jid=report.credentials.jid if report.credentials else None,
        detail=report.detail,
    )


def _snapshot(meta: SnapshotMeta) -> SnapshotBody:
    return SnapshotBody(
        epoch=meta.epoch,
        seq=meta.seq,
        created_at=meta.created_at,
        size_bytes=meta.size_bytes,
        clean=meta.clean,
    )

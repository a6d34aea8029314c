"""Writes saved sessions of sandbox phones, as an earlier run would have left them."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from pathlib import Path

from crm_whatsapp.domain.folders import Credentials
from crm_whatsapp.sessions.session_folders import LocalSessionFolders
from sandbox.seed_stores import create_devices, write_store


def seed_saved_sessions(
    admin_url: str,
    sessions_dir: Path,
    count: int,
    *,
    with_credentials: bool = True,
    one_time_keys: int = 10,
) -> dict[str, str]:
    """Write so many session folders; return company id -> jid.

    Args:
        with_credentials: without them it looks as after a kill between pairing and creds.json.
        one_time_keys: in each store, 0 to 812; a real one has 812 after pairing.
    """
    folders = LocalSessionFolders(sessions_dir)
    sessions_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    folders.prepare_root()
    seeded: dict[str, str] = {}
    for device in create_devices(admin_url, count, one_time_keys=one_time_keys):
        company_id = str(uuid.uuid4())
        folders.prepare(company_id)
        write_store(folders.store_path(company_id), device)
        folders.store_path(company_id).chmod(0o600)  # as the service makes it
        if with_credentials:
            folders.write_credentials(
                Credentials(
                    company_id=company_id,
                    jid=device["jid"],
                    lid=device["lid"],
                    push_name=device.get("push_name"),
                    platform=device.get("platform"),
                    paired_at=datetime.now(UTC),
                    epoch=0,
                )
            )
        seeded[company_id] = device["jid"]
    return seeded

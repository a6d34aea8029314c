"""Keys are rotated while sessions run, and the old key can go afterwards."""

import os
import shutil
import subprocess
import sys

import pytest
from deployment import Deployment

from crm_whatsapp.sessions.key_ring import generate_key_entry
from service_process import REPOSITORY, wait_for

pytestmark = pytest.mark.e2e


def rotate(deployment: Deployment, keys: str) -> subprocess.CompletedProcess[str]:
    environment = deployment.environment(SNAPSHOT_ENCRYPTION_KEYS=keys)
    return subprocess.run(
        [sys.executable, "-m", "crm_whatsapp", "rotate-keys"],
        cwd=REPOSITORY,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def key_ids(deployment: Deployment) -> set[str]:
    rows = deployment.rows("select distinct key_id from public.whatsapp_session_snapshots")
    return {row["key_id"] for row in rows}


def test_rotation_with_sessions_running(deployment: Deployment) -> None:
    old, new = generate_key_entry("old"), generate_key_entry("new")
    seeded = deployment.seed(3)
    service = deployment.start(SNAPSHOT_ENCRYPTION_KEYS=old, SNAPSHOT_SCAN_SECONDS="1")
    deployment.await_all_connected(list(seeded))
    assert wait_for(
        lambda: len(deployment.rows("select 1 from public.whatsapp_session_snapshots")) >= 3, 20
    )

    service.terminate()
    both = f"{new},{old}"
    service = deployment.start(SNAPSHOT_ENCRYPTION_KEYS=both, SNAPSHOT_SCAN_SECONDS="1")
    deployment.await_all_connected(list(seeded))
    assert "old" in key_ids(deployment)

    done = rotate(deployment, both)

    assert done.returncode == 0, done.stderr
    assert key_ids(deployment) == {"new"}
    again = rotate(deployment, both)
    assert "0 snapshots rewrapped" in again.stdout
    assert deployment.connected_count() == 3

    service.terminate()
    shutil.rmtree(deployment.sessions_dir)
    deployment.start(SNAPSHOT_ENCRYPTION_KEYS=new)
    deployment.await_all_connected(list(seeded))
    for jid in seeded.values():
        assert deployment.phones.counters(jid)["max_simultaneous"] == 1


def test_rotation_says_which_snapshots_it_cannot_open(deployment: Deployment) -> None:
    seeded = deployment.seed(1)
    service = deployment.start(SNAPSHOT_ENCRYPTION_KEYS=generate_key_entry("lost"))
    deployment.await_all_connected(list(seeded))
    assert wait_for(lambda: key_ids(deployment) == {"lost"}, 20)
    service.terminate()

    done = rotate(deployment, generate_key_entry("other"))

    assert done.returncode == 1
    assert next(iter(seeded)) in done.stderr
    assert key_ids(deployment) == {"lost"}

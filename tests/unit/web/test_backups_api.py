"""What is saved, what it survives, and snapshots by hand."""

import pytest
from flask.testing import FlaskClient

from crm_whatsapp.domain.errors import CrmWhatsappError, NothingSaved, StoreUnavailable
from crm_whatsapp.domain.snapshots import KeyMissing, LeaseFenced, StoreUnfit
from crm_whatsapp.service.session_backups import SnapshotsOff, Verdict
from tests.unit.web.fakes import FakeServices, FakeSessionInfo, saved_folder, snapshot_of

API = "/api/whatsapp"
SNAPSHOT = {
    "epoch": 3,
    "seq": 2,
    "created_at": "2026-01-08T12:00:00Z",
    "size_bytes": 39_540,
    "clean": True,
}


def test_session_info_tells_what_is_saved_and_what_it_survives(
    client: FlaskClient, services: FakeServices, company: str
) -> None:
    services.backups.session_info = FakeSessionInfo(
        session=saved_folder(company),
        snapshots=[snapshot_of(company)],
        verdict=Verdict(restart=True, disk_loss=True, why="Both."),
    )

    body = client.get(f"{API}/session-info?company_id={company}").get_json()

    assert body["storage"] == {
        "valid": True,
        "path": "/srv/sessions",
        "writable": True,
        "detail": "",
    }
    assert body["session"] == {
        "exists": True,
        "status": "valid",
        "file_count": 2,
        "size_bytes": 204_800,
        "jid": "5511987654321:1@s.whatsapp.net",
        "detail": "",
    }
    assert body["snapshots"] == [SNAPSHOT]
    assert body["persistence"] == {
        "will_survive_restart": True,
        "will_survive_disk_loss": True,
        "why": "Both.",
    }


def test_a_backup_answers_with_the_snapshot_that_was_verified(
    client: FlaskClient, services: FakeServices, company: str
) -> None:
    answer = client.post(f"{API}/backup-session", json={"company_id": company})

    assert answer.status_code == 200
    assert answer.get_json() == {"company_id": company, "snapshot": SNAPSHOT}


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (SnapshotsOff(), 422, "snapshots-off"),
        (NothingSaved(), 422, "nothing-saved"),
        (StoreUnfit(), 422, "store-unfit"),
        (KeyMissing(), 422, "key-missing"),
        (LeaseFenced(), 409, "lease-fenced"),
        (StoreUnavailable(), 503, "database-unavailable"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_backup_that_was_not_written_says_why(
    client: FlaskClient,
    services: FakeServices,
    company: str,
    error: CrmWhatsappError,
    status: int,
    code: str,
) -> None:
    services.backups.raises = error

    answer = client.post(f"{API}/backup-session", json={"company_id": company})

    assert answer.status_code == status
    assert answer.get_json()["error"]["code"] == code


def test_old_backups_are_removed_for_one_company_or_for_all(
    client: FlaskClient, services: FakeServices, company: str
) -> None:
    one = client.post(f"{API}/cleanup-backups", json={"company_id": company})
    everyone = client.post(f"{API}/cleanup-backups", json={"keep": 5})

    assert one.get_json() == {"removed": 4, "kept": 3}
    assert everyone.get_json() == {"removed": 4, "kept": 5}
    assert services.backups.calls == [("clean_up", company), ("clean_up", None)]


@pytest.mark.parametrize("keep", [0, -1, "3", 1.5, 10_000, True])
def test_how_many_to_keep_must_make_sense(
    client: FlaskClient, services: FakeServices, keep: object
) -> None:
    answer = client.post(f"{API}/cleanup-backups", json={"keep": keep})

    assert answer.status_code == 400
    assert answer.get_json()["error"]["field"] == "keep"
    assert not services.backups.calls


def test_whole_numbers_may_be_written_with_a_point(
    client: FlaskClient, services: FakeServices, company: str
) -> None:
    body = f'{{"company_id": "{company}", "keep": 5.0}}'
    answer = client.post(
        f"{API}/cleanup-backups", data=body, headers={"Content-Type": "application/json"}
    )

    assert (answer.status_code, answer.get_json()["kept"]) == (200, 5)

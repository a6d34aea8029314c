"""What the guides claim is what the code does: words, routes, variables and links."""

import json
import re
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from crm_whatsapp.config import Settings
from crm_whatsapp.domain.alerts import WORDING as ALERT_WORDING
from crm_whatsapp.domain.alerts import AlertKind
from crm_whatsapp.domain.connection import UserAction
from crm_whatsapp.domain.errors import CrmWhatsappError
from crm_whatsapp.domain.status_words import WORDING
from crm_whatsapp.service.api_key_desk import TooManyKeys
from crm_whatsapp.service.session_backups import SnapshotsOff
from crm_whatsapp.service.webhook_desk import SetByEnvironment
from crm_whatsapp.web import errors as web_errors
from crm_whatsapp.web.app_factory import WebSettings, create_app
from crm_whatsapp.web.report_api import ReportBody
from crm_whatsapp.web.schemas import (
    ActiveSessionsBody,
    BackupBody,
    CleanedUpBody,
    SessionInfoBody,
    StatusBody,
)

REPOSITORY = Path(__file__).resolve().parents[2]
GUIDES = sorted(
    [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")], key=lambda path: path.name
)
EXAMPLE = REPOSITORY / ".env.example"
INTEGRATION = (REPOSITORY / "docs" / "integration.md").read_text()
API = (REPOSITORY / "docs" / "api.md").read_text()


def table_rows(text: str, heading: str) -> list[list[str]]:
    """Return the cells of every table whose first column has this heading."""
    rows = []
    inside = False
    for line in text.splitlines():
        if not line.startswith("|"):
            inside = False
        elif line.startswith(f"| {heading} |"):
            inside = True
        elif inside and not line.startswith("| ---"):
            rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return rows


def json_blocks(text: str) -> list[Any]:
    return [json.loads(block) for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL)]


def test_the_table_of_reasons_is_the_one_of_the_code() -> None:
    told = [
        (row[0].strip("`"), row[1].strip("`"), row[2].strip("`"), row[3])
        for row in table_rows(INTEGRATION, "reason")
    ]

    assert told == [
        (reason.value, wording.status.value, wording.user_action.value, wording.message)
        for reason, wording in WORDING.items()
    ]


def test_every_user_action_has_something_to_show() -> None:
    told = [row[0].strip("`") for row in table_rows(INTEGRATION, "`user_action`")]

    assert told == [action.value for action in UserAction]


def test_every_kind_of_alert_is_explained() -> None:
    operations = (REPOSITORY / "docs" / "operations.md").read_text()
    told = [(row[0].strip("`"), row[1]) for row in table_rows(operations, "alert")]

    assert told == [(kind.value, ALERT_WORDING[kind].severity.value) for kind in AlertKind]


def test_every_error_code_that_is_told_exists() -> None:
    def below(kind: type[CrmWhatsappError]) -> set[str]:
        return {kind.code}.union(*map(below, kind.__subclasses__()))

    loaded = {
        web_errors.Unauthorized.code,
        SnapshotsOff.code,
        SetByEnvironment.code,
        TooManyKeys.code,
    }
    assert loaded <= below(CrmWhatsappError)
    of_http = {"bad-request", "method-not-allowed", "body-too-large", "unsupported-media-type"}
    cells = chain.from_iterable(row[1:] for row in table_rows(INTEGRATION, "status"))
    told = set(re.findall(r"`([a-z]+(?:-[a-z]+)*)`", " ".join(cells)))

    assert told
    assert told <= below(CrmWhatsappError) | of_http


def test_every_route_of_the_api_is_described_and_no_other() -> None:
    app = create_app(lambda: None, WebSettings(secret_key="a-secret-of-the-tests"))
    routes = set()
    for rule in app.url_map.iter_rules():
        path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)
        is_reference = path.startswith(("/api/whatsapp/docs", "/api/whatsapp/openapi"))
        if path.startswith(("/api/", "/healthz", "/readyz", "/metrics")) and not is_reference:
            routes |= {f"{method} {path}" for method in rule.methods or () if method in METHODS}
    told = {re.findall(r"`([^`]+)`", row[0])[0] for row in table_rows(API, "call")}

    assert told == routes


METHODS = {"GET", "POST", "PUT", "PATCH", "DELETE"}


def test_the_examples_have_exactly_the_fields_of_the_answers() -> None:
    statuses = [item for item in json_blocks(API) if "is_connected" in item]
    (active,) = (item for item in json_blocks(API) if "sessions" in item and "count" in item)
    (info,) = (item for item in json_blocks(API) if "persistence" in item)

    assert statuses
    for example in statuses:
        assert list(example) == list(StatusBody.model_fields)
        StatusBody.model_validate(example)
        wording = WORDING[StatusBody.model_validate(example).reason]
        assert (example["status"], example["message"]) == (wording.status, wording.message)
    assert set(active["sessions"][0]) == set(
        ActiveSessionsBody.model_validate(active).sessions[0].model_dump()
    )
    (backup,) = (item for item in json_blocks(API) if "snapshot" in item)
    (cleaned,) = (item for item in json_blocks(API) if "removed" in item)
    (report,) = (item for item in json_blocks(API) if "generated_at" in item)
    assert report == ReportBody.model_validate(report).model_dump(mode="json")
    assert info == SessionInfoBody.model_validate(info).model_dump(mode="json")
    assert backup == BackupBody.model_validate(backup).model_dump(mode="json")
    assert cleaned == CleanedUpBody.model_validate(cleaned).model_dump(mode="json")


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.name)
def test_links_and_paths_lead_somewhere(path: Path) -> None:
    text = path.read_text()
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    for link in links:
        if not link.startswith(("http://", "https://", "mailto:")):
            assert (path.parent / link).exists(), f"{path.name} links to {link}"
    for named in re.findall(r"`((?:docs|scripts|crm_whatsapp|tests|migrations)/[\w./-]+)`", text):
        assert (REPOSITORY / named).exists(), f"{path.name} names {named}"


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.name)
def test_variables_that_a_guide_names_exist(path: Path) -> None:
    known = {name.upper() for name in Settings.model_fields}
    prefixes = ("SUPABASE_", "SESSION_", "SESSIONS_", "ENGINE_", "WHATSAPP_", "SEND_", "LEASE_")
    prefixes += ("SNAPSHOT_", "S3_", "ALERT_", "REPORT_", "SSE_", "WEBHOOK_")
    named = set(re.findall(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b", path.read_text()))

    assert {name for name in named if name.startswith(prefixes)} - known <= {"WHATSAPP_URL"}


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.name)
def test_make_targets_that_a_guide_names_exist(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))

    assert set(re.findall(r"`make ([a-z-]+)", path.read_text())) <= targets


@pytest.mark.parametrize("path", [*GUIDES, EXAMPLE], ids=lambda path: path.name)
def test_operator_commands_that_a_guide_names_exist(path: Path) -> None:
    source = (REPOSITORY / "crm_whatsapp" / "cli.py").read_text()
    commands = set(re.findall(r"add_parser\(\s*\"([a-z-]+)\"", source))

    assert set(re.findall(r"python -m crm_whatsapp ([a-z-]+)", path.read_text())) <= commands


def test_log_lines_that_the_operations_guide_quotes_are_logged() -> None:
    operations = (REPOSITORY / "docs" / "operations.md").read_text()
    source = "".join(path.read_text() for path in (REPOSITORY / "crm_whatsapp").rglob("*.py"))
    quoted = [
        *(row[0] for row in table_rows(operations, "line")),
        *(row[0] for row in table_rows(operations, "line or detail")),
    ]

    assert len(quoted) > 8
    for line in quoted:
        words = max(re.split(r"\d+|\.\.\.|[A-Z_]{6,}", line.strip("`")), key=len).strip()
        assert words in source, line

"""Rules, dashboard and guide speak of figures that the service has, in words Prometheus knows."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families

from crm_whatsapp.bootstrap.wiring import build
from crm_whatsapp.config import Settings
from crm_whatsapp.service.metrics.service_metrics import ServiceMetrics
from promtool import NoPromtool, find_promtool

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / "docs" / "operations"
RULES = FOLDER / "prometheus-rules.yml"
DASHBOARD = FOLDER / "grafana-dashboard.json"
GUIDE = (REPOSITORY / "docs" / "operations.md").read_text()

_NAME = re.compile(r"\b((?:whatsapp|process)_[a-z0-9_]+)(?:\{([^}]*)\})?")
_LABEL = re.compile(r"([a-z_]+)\s*(?:=~|!~|!=|=)\s*\"([^\"]*)\"")
_OF_PROMETHEUS = frozenset({"job", "instance", "le"})


@pytest.fixture(scope="module")
def promtool() -> Path:
    """The program. Only a developer's machine without apt may do without it, and says so."""
    try:
        return find_promtool()
    except NoPromtool as problem:
        if problem.can_be_had or os.environ.get("CI"):
            pytest.fail(str(problem))
        pytest.skip(f"the alert rules are NOT checked: {problem}")


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceMetrics]:
    """The figures of a service that was wired and not started."""
    parts = build(
        Settings(
            supabase_url="http://127.0.0.1:9",
            supabase_service_role_key="sb_secret_of_the_tests",
            sessions_dir=tmp_path_factory.mktemp("sessions"),
            alert_urls="json://127.0.0.1:9/alerts",
            metrics_company_label=True,
        )
    )
    parts.metrics.note_request("/api/whatsapp/status", "GET", 503, 0.01)
    parts.metrics.database.note("whatsapp_tick_v1", "ok", 0.01)
    yield parts.metrics
    parts.fleet.shutdown(5.0)
    parts.webhooks.sender.close()
    parts.journal.close()


@pytest.fixture(scope="module")
def page(metrics: ServiceMetrics) -> str:
    return metrics.render("")[0].decode()


@pytest.fixture(scope="module")
def families(page: str) -> list[Metric]:
    return list(text_string_to_metric_families(page))


@pytest.fixture(scope="module")
def exported(families: list[Metric]) -> dict[str, dict[str, set[str]]]:
    """Series name -> label -> the values that were seen."""
    found: dict[str, dict[str, set[str]]] = {}
    for family in families:
        suffix = "_total" if family.type == "counter" else ""
        found.setdefault(family.name + suffix, {})
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for name, value in sample.labels.items():
                labels.setdefault(name, set()).add(value)
    return found


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard_panels() -> list[dict[str, Any]]:
    board = json.loads(DASHBOARD.read_text())
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def dashboard_expressions() -> list[str]:
    board = json.loads(DASHBOARD.read_text())
    shown = [target["expr"] for panel in dashboard_panels() for target in panel["targets"]]
    return shown + [item["expr"] for item in board["annotations"]["list"] if "expr" in item]


def plain(expression: str) -> str:
    """Return what Grafana would send: its variables have values."""
    for name, value in (
        ("$__rate_interval", "1m"),
        ("$__range", "6h"),
        ("$job", "crm-whatsapp"),
        ("$instance", ".*"),
    ):
        expression = expression.replace(name, value)
    return expression


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def run(program: Path, *arguments: str, text: str | None = None) -> None:
    done = subprocess.run(
        [str(program), *arguments],
        cwd=REPOSITORY,
        input=text,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


# --- promtool -------------------------------------------------------------------------------------


def test_the_rules_are_valid(promtool: Path) -> None:
    run(promtool, "check", "rules", "--lint-fatal", str(RULES))


def test_each_alert_fires_when_it_should_and_not_otherwise(promtool: Path) -> None:
    run(promtool, "test", "rules", str(FOLDER / "prometheus-rules-test.yml"))


def test_the_page_is_as_prometheus_wants_it(promtool: Path, page: str) -> None:
    run(promtool, "check", "metrics", text=page)


def test_the_page_in_openmetrics_says_the_same(metrics: ServiceMetrics, page: str) -> None:
    strict, content_type = metrics.render("application/openmetrics-text;version=1.0.0")
    names = {
        sample.name for family in parse_openmetrics(strict.decode()) for sample in family.samples
    }

    assert content_type.startswith("application/openmetrics-text")
    assert strict.isascii()
    assert names == {
        sample.name for family in text_string_to_metric_families(page) for sample in family.samples
    }


def test_the_expressions_of_the_dashboard_are_valid(promtool: Path, tmp_path: Path) -> None:
    recorded = [
        {"record": f"dashboard:expression{number}", "expr": plain(expression)}
        for number, expression in enumerate(dashboard_expressions())
    ]
    group = {"groups": [{"name": "dashboard", "rules": recorded}]}
    path = tmp_path / "dashboard.yml"
    path.write_text(yaml.safe_dump(group))

    run(promtool, "check", "rules", str(path))


# --- what is spoken of exists ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "expression",
    [*(rule["expr"] for rule in rules()), *dashboard_expressions()],
    ids=lambda expression: " ".join(expression.split())[:80],
)
def test_every_figure_that_is_asked_for_is_exported_with_these_labels(
    expression: str, exported: dict[str, dict[str, set[str]]]
) -> None:
    asked = _NAME.findall(expression)
    assert asked or expression.startswith("up{")
    for name, matchers in asked:
        assert name in exported, name
        for label, wanted in _LABEL.findall(matchers):
            if label in _OF_PROMETHEUS:
                continue
            assert label in exported[name], f"{name} has no label {label}"
            known = exported[name][label]
            if label not in ("route", "method", "call", "status") or name == "whatsapp_sessions":
                assert set(wanted.split("|")) <= known, f"{name}{{{label}}} is one of {known}"


def test_labels_by_which_is_summed_exist(exported: dict[str, dict[str, set[str]]]) -> None:
    for expression in dashboard_expressions():
        labels = {label for item in _NAME.findall(expression) for label in exported[item[0]]}
        for by in re.findall(r"\bby \(([^)]*)\)", expression):
            wanted = {item.strip() for item in by.split(",")}
            assert wanted <= labels | _OF_PROMETHEUS, expression


def test_no_figure_names_a_company_a_phone_or_an_address(families: list[Metric]) -> None:
    """But for the one series that METRICS_COMPANY_LABEL asks for."""
    forbidden = {"company_id", "company", "jid", "phone", "url", "path"}
    named = {
        family.name
        for family in families
        for sample in family.samples
        if forbidden & sample.labels.keys()
    }

    assert named <= {"whatsapp_company_uptime_seconds"}


def test_the_table_of_figures_is_the_one_of_the_code(families: list[Metric]) -> None:
    told: dict[str, set[str]] = {}
    for name, labels in re.findall(r"^\| `(whatsapp_[a-z_]+)` \| ([^|]*)\|", GUIDE, re.MULTILINE):
        assert name not in told, f"{name} is told twice"
        told[name] = set(re.findall(r"`(\w+)`", labels))
    shown: dict[str, set[str]] = {}
    for family in families:
        ours = family.name.startswith("whatsapp_") and not family.name.endswith(
            ("_gcount", "_gsum", "_company_uptime_seconds")
        )
        if ours:
            name = family.name + ("_total" if family.type == "counter" else "")
            shown[name] = {key for it in family.samples for key in it.labels} - {"le"}

    assert told.keys() == shown.keys()
    for name, labels in shown.items():
        assert labels <= told[name], name
        assert labels == told[name] or name == "whatsapp_job_last_run_timestamp_seconds", name


# --- what people are told -------------------------------------------------------------------------


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_says_what_is_wrong_how_bad_it_is_and_what_to_do(rule: dict[str, Any]) -> None:
    told = rule["annotations"]
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert told["summary"]
    assert len(told["description"]) > len(told["summary"]) / 2
    guide, _, anchor = told["runbook_url"].partition("#")
    assert guide == "docs/operations.md"
    assert anchor in anchors(GUIDE), anchor
    assert f"`{rule['alert']}`" in GUIDE, "the runbook does not name the alert"


def test_every_alert_has_a_test() -> None:
    tested = (FOLDER / "prometheus-rules-test.yml").read_text()

    assert [rule["alert"] for rule in rules() if rule["alert"] not in tested] == []


def test_the_runbook_names_no_alert_that_does_not_exist() -> None:
    named = set(re.findall(r"`(Whatsapp[A-Z]\w+)`", GUIDE))

    assert named == {rule["alert"] for rule in rules()}


def test_the_dashboard_is_one_that_grafana_imports() -> None:
    board = json.loads(DASHBOARD.read_text())

    assert board["schemaVersion"] >= 39
    assert "id" not in board, "an id belongs to one Grafana"
    variables = {item["name"]: item for item in board["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    source = {"type": "prometheus", "uid": "${datasource}"}
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    for panel in dashboard_panels():
        assert panel["datasource"] == source, panel["title"]
        assert all(target["datasource"] == source for target in panel["targets"])
        assert all('job=~"$job"' in target["expr"] for target in panel["targets"])
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24


def test_no_two_panels_of_the_dashboard_overlap() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, f"{panel['title']} lies on {taken[x, y]}"
                taken[x, y] = panel["title"]

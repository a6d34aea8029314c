#!/usr/bin/env python3
"""Check a running deployment from outside, by its public API alone.

    WHATSAPP_API_KEY=... python scripts/verify_whatsapp.py --url https://whatsapp.example.com
    python scripts/verify_whatsapp.py --api-key-file /var/lib/crm-whatsapp/api-key --json
    python scripts/verify_whatsapp.py --restore 3b1bee0c-cbee-4de1-88f1-d6e890f4c995

Looks at the service and its key, the database and its migrations, the sessions folder, the
engines, jobs and snapshots, and polls every session, as a page refresh does, until its status has
settled; then says what each survives: nothing, a restart only, or the loss of the disk as well.
`--restore COMPANY` also stops that company's session and restores it: it is away for some
seconds. Exit code 0 when all is well, 1 when something is not. Needs Python alone.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

API = "/api/whatsapp"
REQUEST_SECONDS = 15.0
PAUSE_SECONDS = 1.0
NOBODY = "00000000-0000-4000-8000-000000000000"
OK, WARNING, FAILED = "ok", "warning", "FAILED"

UNLINKED = ("never-connected", "pairing-expired", "pairing-failed", "logged-out-by-user")
PASSING = ("restoring", "service-stopped", "logging-out")
ADVICE = {
    "connect": 'Open the company in the dashboard, press "Connect WhatsApp" and scan the code.',
    "scan": "Somebody has to scan the code that is on display now.",
    "retry": 'Press "Reconnect" in the dashboard, or POST /api/whatsapp/restore.',
    "wait": "It goes on trying. Look at the log for this company_id if it stays like this.",
    "upgrade": "Install a newer release: WhatsApp refuses this version of the library.",
    "contact-support": "See the runbook in docs/operations.md under this reason.",
}
CHECK_ADVICE = {
    "storage": "Give the service's user write access to SESSIONS_DIR, and look at the free space.",
    "database": "Check SUPABASE_URL and SUPABASE_SERVICE_ROLE_KEY; run "
    "`python -m crm_whatsapp migrate`.",
    "journal": "Look for 'journal' and 'refused' in the log; changes are kept until they are "
    "written.",
    "engines": "Engines are started again by themselves; look for 'engine' in the log.",
    "jobs": "Look for 'a job' in the log; with the database away, lease-renewal fails.",
    "snapshots": "Set SNAPSHOT_ENCRYPTION_KEYS (`python -m crm_whatsapp new-key`); when it is set, "
    "look for 'snapshot' in the log.",
}


class Unreachable(Exception):
    """No HTTP answer; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the result.

    advice: what to do about it.
    persistence: of a session, what it survives, as the service says; None when it does not.
    """

    name: str
    result: str
    detail: str
    advice: str = ""
    persistence: dict[str, Any] | None = None

    @property
    def survives(self) -> str:
        """Say in two words what the session survives; empty when that is not known."""
        if self.persistence is None:
            return ""
        restart = self.persistence.get("will_survive_restart") is True
        disk_loss = self.persistence.get("will_survive_disk_loss") is True
        return ("disk loss" if disk_loss else "restart only") if restart else "NOTHING"


@dataclass(slots=True, kw_only=True)
class Report:
    """Everything that was found."""

    url: str
    checks: list[Finding] = field(default_factory=list)
    sessions: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Tell whether nothing has failed."""
        return all(item.result != FAILED for item in [*self.checks, *self.sessions])

    def warn(self, name: str, detail: str, advice: str) -> None:
        """Note something that ought to be known and is no failure."""
        self.checks.append(Finding(name=name, result=WARNING, detail=detail, advice=advice))

    def check(self, name: str, ok: bool, detail: str, advice: str = "") -> bool:
        """Add a check; return whether it was passed."""
        result = OK if ok else FAILED
        self.checks.append(
            Finding(name=name, result=result, detail=detail, advice="" if ok else advice)
        )
        return ok


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to wherever it points."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class Service:
    """The deployment's public API."""

    def __init__(self, url: str, key: str | None) -> None:
        self.url = url.rstrip("/")
        self.key = key
        handlers: list[urllib.request.BaseHandler] = [_NoRedirects()]
        if is_loopback(self.url):
            handlers.append(urllib.request.ProxyHandler({}))
        self._opener = urllib.request.build_opener(*handlers)

    def get(self, path: str, **query: str) -> tuple[int, Any]:
        """Return status and body; a refusal is an answer. Raises Unreachable."""
        text = f"?{urllib.parse.urlencode(query)}" if query else ""
        return self._call("GET", f"{path}{text}", None)

    def post(self, path: str, **body: str) -> tuple[int, Any]:
        """The same, with a JSON body."""
        return self._call("POST", path, json.dumps(body).encode())

    def _call(self, method: str, path: str, data: bytes | None) -> tuple[int, Any]:
        headers = {"Accept": "application/json", "User-Agent": "verify-whatsapp"}
        if self.key:
            headers["X-API-Key"] = self.key
        if data is not None:
            headers["Content-Type"] = "application/json"
        request = urllib.request.Request(  # noqa: S310 - the scheme was checked by web_url
            self.url + path, data=data, headers=headers, method=method
        )
        try:
            with self._opener.open(request, timeout=REQUEST_SECONDS) as response:
                return response.status, _parse(response.read())
        except urllib.error.HTTPError as refusal:
            with refusal:
                target = refusal.headers.get("Location")
                if target is not None:
                    raise Unreachable(f"{self.url} redirects to {target}: use that.") from refusal
                return refusal.code, _parse(refusal.read())
        except (OSError, ValueError) as error:
            why = getattr(error, "reason", error)
            raise Unreachable(
                f"no answer from {self.url}{path.split('?')[0]}: {why}. Is the service running, "
                "and is --url right?"
            ) from error


def verify(
    service: Service, *, companies: list[str], restore: str | None, wait_seconds: float
) -> Report:
    """Check everything, in an order in which the first failure explains the later ones."""
    report = Report(url=service.url)
    deadline = time.monotonic() + wait_seconds
    try:
        if check_service(service, report) and check_key(service, report):
            check_readiness(service, report, deadline)
            check_sessions(service, report, companies, deadline)
            if restore is not None:
                check_restore(service, report, restore, wait_seconds)
    except Unreachable as error:
        report.check("service", False, str(error), "Look at the service's log.")
    return report


def check_service(service: Service, report: Report) -> bool:
    """Does it answer, and is it this product?"""
    status, body = service.get("/healthz")
    if status != 200 or not isinstance(body, dict) or body.get("status") != "ok":
        return report.check(
            "service", False, f"GET /healthz answered {status}", "Is this the right --url?"
        )
    _, document = service.get(f"{API}/openapi.json")
    release = document.get("info", {}).get("version") if isinstance(document, dict) else None
    report.check("service", True, f"answers, release {release or 'unknown'}")
    if service.url.startswith("http://") and not is_loopback(service.url):
        report.checks.append(
            Finding(
                name="transport",
                result=WARNING,
                detail="plain http: the key can be read on the way",
                advice="Use an https URL.",
            )
        )
    return True


def check_key(service: Service, report: Report) -> bool:
    """Is the key accepted? Waits for a service that is just starting."""
    if not service.key:
        return report.check(
            "key",
            False,
            "no key was given",
            "Set WHATSAPP_API_KEY, or --api-key-file SESSIONS_DIR/api-key.",
        )
    answers: list[tuple[int, Any]] = []

    def answered() -> bool:
        answers[:] = [service.get(f"{API}/active-sessions")]
        return answers[0][0] != 503

    wait_until(answered, time.monotonic() + 30)
    status, body = answers[0]
    if status == 503:
        advice = "Look for 'could not start' in the service's log."
        return report.check("service", False, _error(status, body), advice)
    if status == 401:
        return report.check(
            "key",
            False,
            "the service does not know this key",
            "Use the service's WHATSAPP_API_KEY; when none is set there, the key is in "
            "SESSIONS_DIR/api-key on its machine.",
        )
    return report.check("key", status == 200, "accepted" if status == 200 else _error(status, body))


def check_readiness(service: Service, report: Report, deadline: float) -> None:
    """What the service says of itself. Waits while it restores and asks the database first."""
    checks: dict[str, dict[str, Any]] = {}

    def settled() -> bool:
        status, body = service.get("/readyz")
        body = body.get("error", body) if isinstance(body, dict) else {}
        checks.clear()
        checks.update({item["name"]: item for item in body.get("checks", [])})
        if not checks:
            checks["readiness"] = {"ok": status == 200, "detail": _error(status, body)}
            return status != 503
        database = checks.get("database", {})
        known = database.get("schema") is not None or not database.get("ok")
        return known and checks.get("restore", {}).get("finished", True) is True

    wait_until(settled, deadline)
    for name, item in checks.items():
        ok, detail = bool(item["ok"]), str(item["detail"])
        if name == "database" and ok:
            ok = item.get("schema") is not None
            detail += f", migrated to {item['schema']}" if ok else ", but it has not answered yet"
        if name == "restore" and not item.get("finished", True):
            ok = False
        advice = CHECK_ADVICE.get(name, "")
        if name == "snapshots" and not ok and "written" not in item:
            # Off by configuration: sessions survive a restart, and whoever wants more is told.
            report.warn(name, detail, advice)
        else:
            report.check(name, ok, detail, advice)
    _, info = service.get(f"{API}/session-info", company_id=NOBODY)
    path = info.get("storage", {}).get("path") if isinstance(info, dict) else None
    if path:
        report.check("sessions folder", True, str(Path(path).parent))


def check_sessions(service: Service, report: Report, companies: list[str], deadline: float) -> None:
    """Poll every session until its status does not change by itself any more."""
    status, body = service.get(f"{API}/active-sessions")
    if status != 200:
        report.check("sessions", False, _error(status, body))
        return
    listed = [item["company_id"] for item in body["sessions"]]
    open_ids = sorted({*listed, *companies})
    if not open_ids:
        report.sessions.append(
            Finding(name="-", result=WARNING, detail="no company is connected yet")
        )
    last: dict[str, dict[str, Any]] = {}

    def settled() -> bool:
        for company_id in list(open_ids):
            code, shown = service.get(f"{API}/status", company_id=company_id)
            if code != 200:
                shown = {"status": "unknown", "message": _error(code, shown), "reason": str(code)}
            last[company_id] = shown
            if not _is_passing(shown):
                open_ids.remove(company_id)
        return not open_ids

    wait_until(settled, deadline)
    for company_id, shown in sorted(last.items()):
        report.sessions.append(_judge(service, company_id, shown))


def check_restore(service: Service, report: Report, company_id: str, wait_seconds: float) -> None:
    """Stop one session, see that polls leave it alone, restore it."""
    name = "stop and restore"
    _, before = service.get(f"{API}/status", company_id=company_id)
    if not (isinstance(before, dict) and before.get("is_connected")):
        advice = "Connect the company first, or choose one that is connected."
        report.check(name, False, f"{company_id} is not connected now", advice)
        return
    begun = time.monotonic()
    code, body = service.post(f"{API}/disconnect", company_id=company_id)
    if code != 200:
        report.check(name, False, f"disconnect: {_error(code, body)}")
        return
    _, stopped = service.get(f"{API}/status", company_id=company_id)
    stays = stopped.get("status") == "disconnected" and stopped.get("reason") == "stopped"
    try:
        code, body = service.post(f"{API}/restore", company_id=company_id)
    except Unreachable as error:
        code, body = 0, {"message": str(error)}
    if code != 202:
        advice = 'It is stopped now. Press "Reconnect" in the dashboard.'
        report.check(name, False, f"restore: {_error(code, body)}", advice)
        return
    last: dict[str, Any] = {}

    def back() -> bool:
        last.update(service.get(f"{API}/status", company_id=company_id)[1])
        fresh = last.get("last_connected_at") != before.get("last_connected_at")
        return bool(last.get("is_connected")) and fresh

    took = f"{time.monotonic() - begun:.1f} s" if wait_until(back, begun + wait_seconds) else ""
    same = last.get("phone_number") == before.get("phone_number")
    if took and stays and same:
        report.check(name, True, f"{company_id} came back in {took}, without a scan")
    elif not stays:
        detail = f"after disconnect the status was {stopped.get('status')}"
        report.check(name, False, detail, "Polls must not restore a stopped session.")
    else:
        detail = f"not connected again within {wait_seconds:g} s: {last.get('message')}"
        report.check(name, False, detail, ADVICE.get(str(last.get("user_action")), ""))


def wait_until(condition: Callable[[], bool], deadline: float) -> bool:
    """Ask at least once, then every second until the deadline."""
    while not condition():
        if time.monotonic() + PAUSE_SECONDS > deadline:
            return False
        time.sleep(PAUSE_SECONDS)
    return True


def is_loopback(url: str) -> bool:
    """Tell whether the URL leads to this machine."""
    host = urllib.parse.urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_passing(shown: dict[str, Any]) -> bool:
    return shown.get("status") == "connecting" or shown.get("reason") in PASSING


def _judge(service: Service, company_id: str, shown: dict[str, Any]) -> Finding:
    """Turn a settled status into a finding; a connected one must be saved as well."""
    status, reason = shown.get("status"), shown.get("reason")
    result, detail = FAILED, f"{status} ({reason}): {shown.get('message')}"
    advice = ADVICE.get(str(shown.get("user_action")), "")
    persistence = _persistence(service, company_id)
    if status == "awaiting_scan" or reason in UNLINKED:
        result = WARNING
    elif shown.get("is_connected"):
        told = persistence or {"why": "GET /session-info does not tell what it survives."}
        saved = told.get("will_survive_restart") is True
        detail = f"connected as {shown.get('phone_number')}"
        result, advice = (OK, "") if saved else (FAILED, str(told.get("why")))
        detail += "" if saved else ", but it would not survive a restart"
    elif _is_passing(shown) and shown.get("retry_at"):
        detail += f" Next attempt at {shown['retry_at']}."
    return Finding(
        name=company_id, result=result, detail=detail, advice=advice, persistence=persistence
    )


def _persistence(service: Service, company_id: str) -> dict[str, Any] | None:
    """Return what the service says that the session survives."""
    status, info = service.get(f"{API}/session-info", company_id=company_id)
    told = info.get("persistence") if status == 200 and isinstance(info, dict) else None
    return told if isinstance(told, dict) else None


def _parse(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return {}


def _error(status: int, body: Any) -> str:
    error = body.get("error", body) if isinstance(body, dict) else {}
    return f"answered {status} {error.get('code', '')} {error.get('message', '')}".strip()


def print_table(report: Report) -> None:
    """Print it for people."""
    print(f"{report.url}\n")
    for title, findings in (("Checks", report.checks), ("Sessions", report.sessions)):
        if not findings:
            continue
        width = max(len(item.name) for item in findings)
        survives = max(len(item.survives) for item in findings)
        column = max(survives, len("survives")) + 2 if survives else 0
        print(f"{title:{width + 13}}{'survives':{column}}".rstrip() if column else title)
        for item in findings:
            told = f"{item.survives:{column}}"
            print(f"  {item.name:{width}}  {item.result:7}  {told}{item.detail}")
            if item.advice:
                print(f"  {'':{width + 9 + column}}  -> {item.advice}")
        print()
    print("All is well." if report.ok else "Something is not well: see FAILED above.")


def print_json(report: Report) -> None:
    """Print it for programs."""
    content = {
        "ok": report.ok,
        "url": report.url,
        "checks": [_without_persistence(item) for item in report.checks],
        "sessions": [asdict(item) for item in report.sessions],
    }
    print(json.dumps(content, indent=2))


def _without_persistence(item: Finding) -> dict[str, Any]:
    return {name: value for name, value in asdict(item).items() if name != "persistence"}


def web_url(text: str) -> str:
    """Return the URL; refuse what is none."""
    parts = urllib.parse.urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise argparse.ArgumentTypeError(f"{text!r} is not an http or https URL")
    return text


def company(text: str) -> str:
    """Return the company's id; refuse what is none."""
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a company id") from None


def find_key(arguments: argparse.Namespace) -> str | None:
    """Return the key: from the command line, its file, the environment, or SESSIONS_DIR."""
    if arguments.api_key:
        return str(arguments.api_key)
    path = arguments.api_key_file
    if path is None and not os.environ.get("WHATSAPP_API_KEY"):
        folder = os.environ.get("SESSIONS_DIR")
        path = Path(folder, "api-key") if folder and Path(folder, "api-key").exists() else None
    if path is None:
        return os.environ.get("WHATSAPP_API_KEY", "").strip() or None
    try:
        return sys.stdin.readline().strip() if str(path) == "-" else path.read_text().strip()
    except OSError as error:
        raise SystemExit(f"verify_whatsapp: the key cannot be read: {error}") from error


def main() -> int:
    """Check, print, return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default_url = f"http://127.0.0.1:{os.environ.get('PORT') or 8000}"
    parser.add_argument("--url", type=web_url, default=default_url, help=f"default {default_url}")
    parser.add_argument("--api-key-file", type=Path, help="file that holds the key; - is stdin")
    parser.add_argument(
        "--api-key",
        help="the key itself; everybody on this machine can read it there, so prefer the file or "
        "the environment variable WHATSAPP_API_KEY",
    )
    parser.add_argument(
        "--company",
        type=company,
        action="append",
        default=[],
        metavar="COMPANY",
        help="check this company too, even if it is not meant to run; repeatable",
    )
    parser.add_argument(
        "--restore", type=company, metavar="COMPANY", help="prove one stop and restore"
    )
    parser.add_argument(
        "--wait", type=float, default=60.0, metavar="SECONDS", help="for passing states (60)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    report = verify(
        Service(arguments.url, find_key(arguments)),
        companies=arguments.company,
        restore=arguments.restore,
        wait_seconds=arguments.wait,
    )
    (print_json if arguments.json else print_table)(report)
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())

"""Who may call what: every route of the app, tried with every kind of credential.

    make access-matrix                     # print the table
    make access-matrix ARGS="--write"      # and put it into docs/access-matrix.md

Each cell was a request to a running service with keys and users made for it. A request that names a
company names "the company"; the columns say whose key or user asks.
"""

from __future__ import annotations

import argparse
import http.client
import inspect
import json
import re
import sys
import tempfile
import threading
import time
import typing
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import jwt
from flask import Flask
from pydantic import BaseModel
from werkzeug.routing import Rule

from crm_whatsapp.domain.api_keys import Scope, new_key_text
from crm_whatsapp.web.app_factory import WebSettings, create_app
from crm_whatsapp.web.auth import Access, CompanyKeeping, declared_access

API = "/api/whatsapp"
DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "access-matrix.md"
BEGIN, END = "<!-- made by make access-matrix -->", "<!-- end -->"
DEADLINE_SECONDS = 30.0

# What a request needs beside the company, by endpoint; a route that is missing answers 400, and
# that is an outcome that the document does not have.
BODIES: Mapping[str, Mapping[str, Any]] = {
    "session_api.connect": {"method": "qr"},
    "messages_api.send_message": {"type": "text", "to": "+5511987654321", "text": "Hello"},
    "webhooks_api.create_webhook": {"url": "https://127.0.0.1:9/hook"},
    "webhooks_api.change_webhook": {"enabled": True},
    "webhooks_api.redeliver": {"all_parked": True},
    "keys_api.create_key": {"name": "of the matrix", "scopes": ["manage"]},
}
# What a path may name by an id: how to make one.
THINGS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "webhook_id": ("/webhooks", {"url": "https://127.0.0.1:9/hook"}),
    "key_id": ("/keys", {"name": "of the matrix", "scopes": ["read"]}),
}
FILES: Mapping[str, str] = {
    "dashboard.get_asset": "dashboard.css",
    "documentation.get_docs_asset": "swagger-ui.css",
    "embed_page.get_asset": "embed.js",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer; of a stream the head alone."""

    status: int
    headers: Mapping[str, str]
    text: str

    def json(self) -> Any:
        """Return the body, parsed."""
        return json.loads(self.text)

    def cookies(self) -> str:
        """Return what a browser would send back."""
        return self.headers.get("Set-Cookie", "").split(";")[0]


class Undeclared(RuntimeError):
    """A route does not say who may call it, or how it keeps companies apart."""


class Unexpected(RuntimeError):
    """An answer is not what the walk relies on."""


class Door(Protocol):
    """The app, reached by HTTP or in this process."""

    def ask(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> Reply:
        """Make one request and follow no redirect."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """What a caller has.

    cookie: of a login with the same key, for pages. door: where they ask, if not at the usual one.
    """

    headers: Mapping[str, str]
    cookie: str = ""
    key: str = ""
    is_other: bool = False
    is_company: bool = False
    door: Door | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Users:
    """How users of the CRM are made.

    Attributes:
        secret: signs the tokens that say the company and the role themselves.
        member_door: the service where the CRM's table says both.
        member_secret: signs the tokens for there.
        belong: writes into that table: user, company, role.
    """

    secret: str
    member_door: Door
    member_secret: str
    belong: Callable[[str, str, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One method of one route, and one way to ask: about a company, or about all of them."""

    endpoint: str
    method: str
    template: str
    access: Access
    models: Mapping[str, type[BaseModel]]
    names_company: bool

    @property
    def subject(self) -> str:
        """Say whom a request is about."""
        if self.names_company:
            return "the company"
        if self.access.keeping is CompanyKeeping.BY_RESOURCE:
            return "the company's"
        if self.access.scope is None or self.access.keeping is CompanyKeeping.NOT_OF_COMPANIES:
            return "-"
        return "all"


def routes(app: Flask) -> Iterator[Route]:
    """Yield every route in the order of its path.

    Raises:
        Undeclared: one declares no access, or does not say how it keeps companies apart.
    """
    rules = sorted(
        app.url_map.iter_rules(), key=lambda rule: (rule.rule, sorted(rule.methods or ()))
    )
    for rule in rules:
        for method in sorted((rule.methods or set()) - {"OPTIONS", "HEAD"}):
            yield from _ways(app, rule, method)


def _ways(app: Flask, rule: Rule, method: str) -> Iterator[Route]:
    view = app.view_functions[rule.endpoint]
    access = declared_access(view)
    if access is None:
        raise Undeclared(f"{rule.endpoint} declares no access")
    models = _models(view)
    fields = [model.model_fields["company_id"] for model in models.values() if _has_company(model)]
    in_path = "company_id" in rule.arguments
    if access.scope is not None and not fields and access.keeping is None:
        raise Undeclared(f"{rule.endpoint} does not say how it keeps companies apart")
    common: dict[str, Any] = {
        "endpoint": rule.endpoint,
        "method": method,
        "template": rule.rule,
        "access": access,
        "models": models,
    }
    if fields or in_path:
        yield Route(**common, names_company=True)
    if not in_path and not any(item.is_required() for item in fields):
        yield Route(**common, names_company=False)


def _models(view: Callable[..., Any]) -> dict[str, type[BaseModel]]:
    hints = typing.get_type_hints(inspect.unwrap(view))
    return {
        name: hint
        for name, hint in hints.items()
        if name in ("path", "query", "body") and issubclass(hint, BaseModel)
    }


def _has_company(model: type[BaseModel]) -> bool:
    return "company_id" in model.model_fields


def url_map() -> Flask:
    """Return an app that knows its routes and runs nothing."""
    return create_app(lambda: None, WebSettings(secret_key=uuid.uuid4().hex))


@dataclass(slots=True)
class Town:
    """A service with a company, another one, and everybody who might ask.

    Attributes:
        company_id: the company that requests are about.
    """

    door: Door
    service_key: str
    users: Users | None = None
    company_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    other_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    credentials: dict[str, Credential] = field(default_factory=dict)
    things: dict[str, str] = field(default_factory=dict)

    def settle(self) -> None:
        """Make all keys, the bad ones too, and sign in with each while it is good."""
        soon = datetime.now(UTC) + timedelta(seconds=3)
        expired = self.credential(expires_at=soon.isoformat())
        revoked = self.credential()
        self.credentials = {
            "none": Credential(headers={}),
            "wrong": self.stranger({"X-API-Key": new_key_text()[1]}),
            "malformed": self.stranger({"Authorization": "Basic cHdkOnB3ZA==, Bearer"}),
            "expired": expired,
            "revoked": revoked,
        }
        self.settle_companies()
        for scope in Scope:
            rest = [item.value for item in Scope if item is not scope]
            self.credentials[f"service-{scope}"] = self.credential(scopes=rest)
            own = self.credential(scopes=rest, company_id=self.company_id)
            self.credentials[f"own-{scope}"] = own
        self.manage("DELETE", f"/keys/{_id_of(revoked)}")
        self.await_refusal(expired)

    def settle_companies(self) -> None:
        """Make the keys that are good."""
        self.credentials |= {
            "service": self.credential(),
            "own": self.credential(company_id=self.company_id),
            "other": self.credential(is_other=True, company_id=self.other_id),
        }
        if self.users is not None:
            self.credentials |= self.settle_users(self.users)

    def settle_users(self, users: Users) -> dict[str, Credential]:
        """Make users of each kind: of the company, of another one, and of both."""
        ended = time.time() - 3600
        claimed = {
            "user": self.user(users.secret, self.company_id, "admin"),
            "user-viewer": self.user(users.secret, self.company_id, "viewer"),
            "user-other": self.user(users.secret, self.other_id, "admin", is_other=True),
            "user-expired": self.user(users.secret, self.company_id, "admin", exp=ended),
        }
        both, other = str(uuid.uuid4()), str(uuid.uuid4())
        users.belong(both, self.company_id, "admin")
        users.belong(both, self.other_id, "viewer")
        users.belong(other, self.other_id, "admin")
        door = users.member_door
        return claimed | {
            "member": self.user(users.member_secret, door=door, sub=both),
            "member-other": self.user(users.member_secret, door=door, sub=other, is_other=True),
        }

    @staticmethod
    def user(
        secret: str,
        company_id: str | None = None,
        role: str | None = None,
        *,
        door: Door | None = None,
        is_other: bool = False,
        **claims: Any,
    ) -> Credential:
        """Sign a user in, as Supabase does."""
        now = time.time()
        usual = {
            "role": "authenticated",
            "aud": "authenticated",
            "sub": str(uuid.uuid4()),
            "iat": int(now) - 7200,
            "exp": int(now) + 3600,
            "app_metadata": {"company_id": company_id, "whatsapp_role": role},
        }
        token = jwt.encode({**usual, **claims}, secret, "HS256")
        return Credential(
            headers={"Authorization": f"Bearer {token}"},
            is_other=is_other,
            is_company=True,
            door=door,
        )

    def await_refusal(self, credential: Credential) -> None:
        """Wait until a key opens nothing any more."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        path = f"{API}/status?company_id={self.company_id}"
        while self.door.ask("GET", path, credential.headers).status != 401:
            if time.monotonic() > deadline:
                raise Unexpected("an expired key is still good")
            threading.Event().wait(0.1)

    def stranger(self, headers: Mapping[str, str]) -> Credential:
        """Return a credential that nobody gave out."""
        cookie = "crm_whatsapp_session=WyJub2JvZHkiLCJub2JvZHkiXQ.aR8f.c2lnbmVkIGJ5IG5vYm9keQ"
        return Credential(headers=headers, cookie=cookie, key=headers.get("X-API-Key", "?"))

    def credential(self, *, is_other: bool = False, **body: Any) -> Credential:
        """Make a key and sign in with it."""
        wanted = {"name": "of the matrix", "scopes": [item.value for item in Scope]} | body
        key = self.manage("POST", "/keys", wanted)["key"]
        cookie = sign_in(self.door, key).cookies()
        return Credential(
            headers={"X-API-Key": key},
            cookie=cookie,
            key=key,
            is_other=is_other,
            is_company="company_id" in body,
        )

    def manage(self, method: str, path: str, body: Any = None) -> Any:
        """Call the API with the configured key."""
        raw = None if body is None else json.dumps(body).encode()
        reply = self.door.ask(method, API + path, {"X-API-Key": self.service_key, **JSON}, raw)
        if reply.status >= 300:
            raise Unexpected(f"{method} {path}: {reply.status} {reply.text}")
        return reply.json()

    def path_values(self, route: Route, given: Mapping[str, str]) -> dict[str, str]:
        """Return what the path names: what is given, else things of the company."""
        values = {"company_id": self.company_id, "name": FILES.get(route.endpoint, "")}
        missing = [name for name in THINGS if name in route.template and name not in given]
        return values | {name: self.thing(name) for name in missing} | dict(given)

    def thing(self, name: str) -> str:
        """Return the id of a webhook or a key of the company; one that was removed is replaced."""
        if name not in self.things:
            path, body = THINGS[name]
            wanted = {**body, "company_id": self.company_id}
            self.things[name] = self.manage("POST", path, wanted)["id"]
        return self.things[name]

    def outcome(self, route: Route, name: str) -> str:
        """Try a route with a credential."""
        credential = self.credentials[self._column(route, name)]
        door = credential.door or self.door
        if route.endpoint == "dashboard.log_in":
            reply = sign_in(door, credential.key)
        else:
            reply = door.ask(*self.request(route, credential))
        outcome = _named(reply)
        if outcome == "yes" and route.method == "DELETE":
            self.things.clear()
        if outcome == "yes" and credential.is_other and route.access.scope is not None:
            if self.company_id in reply.text:
                raise Unexpected(f"{route.endpoint} shows a foreign company")
        if outcome == "yes" and credential.is_company and route.subject == "all":
            outcome = "own rows"
        return outcome

    def request(
        self, route: Route, credential: Credential, **path_values: str
    ) -> tuple[str, str, Mapping[str, str], bytes | None]:
        """Return method, path, headers and body of a request."""
        path = route.template
        for name, value in self.path_values(route, path_values).items():
            path = path.replace(f"<path:{name}>", value).replace(f"<{name}>", value)
        company_id = path_values.get("company_id", self.company_id)
        if route.names_company and _has_company(route.models.get("query", BaseModel)):
            path += f"?company_id={company_id}"
        body = None
        if "body" in route.models:
            wanted = dict(BODIES.get(route.endpoint, {}))
            if route.names_company and _has_company(route.models["body"]):
                wanted["company_id"] = company_id
            body = json.dumps(wanted).encode()
        headers = dict(credential.headers) | (JSON if body is not None else {})
        if route.access.is_page and "Authorization" not in credential.headers:
            headers = {"Cookie": credential.cookie} if credential.cookie else {}
            if route.method != "GET":
                headers["X-CSRF-Token"] = self._csrf_token(headers)
        return route.method, path, headers, body

    def _csrf_token(self, headers: Mapping[str, str]) -> str:
        page = self.door.ask("GET", "/dashboard", headers).text
        found = re.search(r'name="csrf-token" content="([^"]+)"', page)
        return found[1] if found else "none"

    @staticmethod
    def _column(route: Route, name: str) -> str:
        scope = route.access.scope
        return f"{name.removesuffix(' less')}-{scope or Scope.READ}" if "less" in name else name


JSON = {"Content-Type": "application/json"}
TABLE_DECIDES = {"USER_COMPANY_SOURCE": "membership"}
COLUMNS = (
    "none",
    "wrong",
    "malformed",
    "expired",
    "revoked",
    "service",
    "service less",
    "own",
    "own less",
    "other",
    "user",
    "user-viewer",
    "user-other",
    "user-expired",
    "member",
)
TITLES = (
    "route",
    "scope",
    "about",
    "nothing",
    "unknown key",
    "malformed",
    "expired",
    "revoked",
    "service key",
    "without the scope",
    "the company's key",
    "without the scope",
    "another company's key",
    "the company's user",
    "who may read",
    "another company's user",
    "expired",
    "a user of both",
)


def sign_in(door: Door, key: str) -> Reply:
    """Sign in to the dashboard with a key."""
    page = door.ask("GET", "/dashboard/login", {})
    token = re.search(r'name="csrf_token" value="([^"]+)"', page.text)
    if token is None:
        raise Unexpected(f"the sign-in page has no token: {page.status}")
    form = f"csrf_token={token[1]}&api_key={key}".encode()
    headers = {
        "Content-Type": "application/x-www-form-urlencoded",
        "Cookie": page.cookies(),
    }
    reply = door.ask("POST", "/dashboard/login", headers, form)
    cookies = re.split(r",\s*(?=crm_)", reply.headers.get("Set-Cookie", ""))
    session = next((part for part in cookies if part.startswith("crm_whatsapp_session=")), "")
    return Reply(status=reply.status, headers={"Set-Cookie": session}, text=reply.text)


def walk(town: Town, app: Flask) -> list[tuple[str, ...]]:
    """Try everything; return the rows of the table."""
    rows = []
    for route in routes(app):
        scope = route.access.scope.value if route.access.scope else "public"
        cells = tuple(town.outcome(route, name) for name in COLUMNS)
        shown = re.sub(r"<(?:path:)?(\w+)>", r"{\1}", route.template)
        rows.append((f"`{route.method} {shown}`", scope, route.subject, *cells))
    return rows


def markdown(rows: Sequence[tuple[str, ...]]) -> str:
    """Return the rows as a table."""
    lines = [TITLES, ("---",) * len(TITLES), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def documented() -> str:
    """Return the table that the document has."""
    text = DOCUMENT.read_text()
    return text[text.index(BEGIN) + len(BEGIN) : text.index(END)].strip() + "\n"


def write_document(table: str) -> None:
    """Put the table into the document."""
    text = DOCUMENT.read_text()
    before, after = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    DOCUMENT.write_text(f"{before}\n\n{table}\n{after}")


def _named(reply: Reply) -> str:
    if reply.status == 302 and "/dashboard/login" in reply.headers.get("Location", ""):
        return "login"
    if reply.status in (400, 401, 403, 405, 415) or reply.status == 500:
        return str(reply.status)
    return "yes"


def _id_of(credential: Credential) -> str:
    return credential.key.split("_")[1]


@dataclass(frozen=True, slots=True)
class HttpDoor:
    """A service on a port of this machine."""

    port: int

    def ask(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> Reply:
        """Make one request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_SECONDS)
        try:
            connection.request(method, path, body, dict(headers))
            response = connection.getresponse()
            found = dict(response.getheaders())
            cookies = response.msg.get_all("Set-Cookie") or []
            is_stream = "event-stream" in found.get("Content-Type", "")
            text = "" if is_stream else response.read().decode("utf-8", "replace")
            return Reply(
                status=response.status,
                headers={**found, "Set-Cookie": ", ".join(cookies)},
                text=text,
            )
        finally:
            connection.close()


def main() -> int:
    """Start everything, try everything, print the table."""
    from local_supabase import LocalSupabase
    from membership_table import MembershipTable
    from sandbox import Sandbox
    from service_process import UNLIMITED, ServiceProcess

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put it into docs/access-matrix.md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="access-matrix-") as name:
        folder = Path(name)
        with LocalSupabase.start(folder / "db") as stack, Sandbox.start(folder / "sb") as sandbox:
            environment = {
                "SUPABASE_URL": stack.url,
                "SUPABASE_SERVICE_ROLE_KEY": stack.service_key,
                "SUPABASE_JWT_SECRET": stack.jwt_secret,
                "API_KEY_PEPPER": "one pepper for both services of the matrix",
                "WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8",
                "SEND_CONNECT_WAIT_SECONDS": "0.1",
                "EMBED_ORIGINS": "https://crm.example.com",
                **UNLIMITED,
                **sandbox.env,
            }
            service, second = (
                ServiceProcess(
                    {**environment, **more, "SESSIONS_DIR": str(folder / name)},
                    folder / f"{name}.log",
                    ends_with_parent=True,
                )
                for name, more in (("first", {}), ("second", TABLE_DECIDES))
            )
            with MembershipTable(stack.db_url) as crm:
                users = Users(
                    secret=stack.jwt_secret,
                    member_door=HttpDoor(second.port),
                    member_secret=stack.jwt_secret,
                    belong=crm.add,
                )
                try:
                    service.start()
                    second.start()
                    rows = walk_town(HttpDoor(service.port), service.api_key, users)
                finally:
                    service.kill()
                    second.kill()
            table = markdown(rows)
    sys.stdout.write(table)
    if arguments.write:
        write_document(table)
    return 0


def walk_town(door: Door, service_key: str, users: Users) -> list[tuple[str, ...]]:
    """Return the rows of a service."""
    town = Town(door=door, service_key=service_key, users=users)
    town.settle()
    return walk(town, url_map())


if __name__ == "__main__":
    raise SystemExit(main())

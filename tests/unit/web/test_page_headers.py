"""Every page: what its headers forbid, and that it needs nothing of what they forbid."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from crm_whatsapp.web.app_factory import WebSettings, create_app
from crm_whatsapp.web.auth import declared_access
from tests.unit.web.fakes import SERVICE_KEY, FakeServices
from tests.unit.web.test_dashboard import form_token, log_in

ASSETS = {
    "dashboard.get_asset": "dashboard.css",
    "documentation.get_docs_asset": "swagger-ui.css",
    "embed_page.get_asset": "embed.js",
}
# Swagger UI sets style attributes; its scripts come from files like all others.
MAY_STYLE_INLINE = {"/api/whatsapp/docs"}
HOLDERS = frozenset({"https://crm.example.com", "http://127.0.0.1:3000"})
EMBED = "/embed/connect"


@pytest.fixture
def clerk(anonymous: FlaskClient) -> FlaskClient:
    """Somebody who is signed in to the dashboard."""
    assert log_in(anonymous).status_code == 303
    return anonymous


def answers(app: Flask, client: FlaskClient, company: str) -> Iterator[tuple[str, TestResponse]]:
    """Ask every GET route of the app, and for what makes error pages."""
    for rule in app.url_map.iter_rules():
        if "GET" not in (rule.methods or ()) or rule.endpoint == "events_api.get_events":
            continue
        path = rule.rule
        for argument in rule.arguments:
            value = ASSETS.get(rule.endpoint, company)
            path = re.sub(rf"<(?:\w+:)?{argument}>", value, path)
        yield path, client.get(path, headers={"Accept": "text/html"})
    for path in ("/dashboard/absent", "/dashboard/companies/not-a-uuid", "/dashboard/assets/x"):
        yield path, client.get(path, headers={"Accept": "text/html"})
    wrong = {"csrf_token": "wrong", "api_key": "x"}
    yield "/dashboard/login", client.post("/dashboard/login", data=wrong)


def pages(app: Flask, client: FlaskClient, company: str) -> dict[str, TestResponse]:
    return {
        f"{path} {answer.status_code}": answer
        for path, answer in answers(app, client, company)
        if answer.mimetype == "text/html"
    }


def policy_of(answer: TestResponse) -> dict[str, list[str]]:
    directives = answer.headers["Content-Security-Policy"].split(";")
    parts = [directive.split() for directive in directives if directive.strip()]
    return {part[0]: part[1:] for part in parts}


class InlineFinder(HTMLParser):
    """Finds what runs or styles from within a page, or comes from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if (tag == "script" and not given.get("src")) or tag in ("style", "base", "iframe"):
            self.found.append(tag)
        for name, value in attrs:
            target = (value or "").strip().lower()
            if name.startswith("on") or name == "style" or target.startswith("javascript:"):
                self.found.append(f"{tag} {name}")
            if name in ("src", "action") and re.match(r"(?:\w+:)?//", target):
                self.found.append(f"{tag} {name}={value}")


def test_the_walk_meets_the_pages(app: Flask, clerk: FlaskClient, company: str) -> None:
    met = {name.rpartition(" ")[0] for name in pages(app, clerk, company)}
    declared = {
        rule.rule.replace("<company_id>", company)
        for rule in app.url_map.iter_rules()
        if (access := declared_access(app.view_functions[rule.endpoint]))
        and access.is_page
        and "GET" in (rule.methods or ())
    }

    assert declared
    assert declared | {"/dashboard/login", "/api/whatsapp/docs", "/dashboard/absent"} <= met


def test_no_page_runs_what_is_not_ours_or_stands_in_a_frame(
    app: Flask, clerk: FlaskClient, company: str
) -> None:
    for name, page in pages(app, clerk, company).items():
        policy, headers = policy_of(page), page.headers
        assert policy["default-src"] == ["'none'"], name
        assert policy["script-src"] == ["'self'"], name
        assert policy["connect-src"] == ["'self'"], name
        assert policy["base-uri"] == ["'none'"], name
        assert policy["form-action"] == ["'self'"], name
        assert policy["frame-ancestors"] == ["'none'"], name
        inline = "'unsafe-inline'" in policy["style-src"]
        assert inline == (name.partition(" ")[0] in MAY_STYLE_INLINE), name
        assert "unsafe-eval" not in headers["Content-Security-Policy"], name
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin", name
        assert "camera=()" in headers["Permissions-Policy"], name
        assert headers["Cache-Control"] == "no-store", name


def test_every_answer_says_what_it_is_and_is_in_no_frame(
    app: Flask, clerk: FlaskClient, company: str
) -> None:
    for name, answer in answers(app, clerk, company):
        assert answer.headers["X-Content-Type-Options"] == "nosniff", name
        assert answer.headers["X-Frame-Options"] == "DENY", name
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"], name
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin", name
        assert answer.headers["Referrer-Policy"] == "same-origin", name
        assert len(answer.headers.getlist("Content-Security-Policy")) == 1, name


def test_no_page_needs_what_is_forbidden(app: Flask, clerk: FlaskClient, company: str) -> None:
    for name, page in pages(app, clerk, company).items():
        finder = InlineFinder()
        finder.feed(page.text)
        assert finder.found == [], name


@pytest.mark.parametrize("is_secure", [False, True])
def test_every_cookie_stays_with_this_site_and_out_of_scripts(
    services: FakeServices, company: str, is_secure: bool
) -> None:
    app = create_app(
        services.provide, WebSettings(secret_key="a-secret-of-the-tests", cookie_secure=is_secure)
    )
    client, base = app.test_client(), "https://localhost" if is_secure else "http://localhost"
    login_page = client.get("/dashboard/login", base_url=base)
    form = {"csrf_token": form_token(login_page), "api_key": SERVICE_KEY}
    signed_in = client.post("/dashboard/login", data=form, base_url=base)
    page = client.get("/dashboard", base_url=base)
    signed_out = client.post(
        "/dashboard/logout", data={"csrf_token": form_token(page)}, base_url=base
    )
    assert [signed_in.status_code, signed_out.status_code] == [303, 303]
    cookies = [
        cookie
        for answer in (login_page, signed_in, signed_out)
        for cookie in answer.headers.getlist("Set-Cookie")
    ]
    assert len(cookies) >= 3
    for cookie in cookies:
        name, words = cookie.partition("=")[0], {word.strip() for word in cookie.split(";")}
        is_removal = "Max-Age=0" in words
        assert is_removal or {"HttpOnly", "SameSite=Strict"} <= words, name
        assert is_removal or ("Secure" in words) == is_secure, name
        assert not any(word.startswith("Domain=") for word in words), name


def test_every_write_by_cookie_needs_the_form_token(
    app: Flask, clerk: FlaskClient, services: FakeServices, company: str
) -> None:
    """Also from a page of the same site, where SameSite does not help. Login is among them."""
    tried = 0
    services.sessions.calls.clear()
    for rule in app.url_map.iter_rules():
        path = re.sub(r"<[^>]+>", company, rule.rule)
        for method in (rule.methods or set()) - {"GET", "HEAD", "OPTIONS"}:
            tried += 1
            for token in (None, "wrong"):
                headers = {} if token is None else {"X-CSRF-Token": token}
                answer = clerk.open(path, method=method, json={}, headers=headers)
                assert answer.status_code == 403, (method, path, answer.text)
                if not path.startswith("/dashboard"):
                    assert answer.get_json()["error"]["code"] == "csrf-failed", (method, path)
    assert tried > 10
    assert services.sessions.calls == []


@pytest.fixture
def held(services: FakeServices) -> Flask:
    """The app of a service whose page may stand in frames."""
    settings = WebSettings(secret_key="a-secret-of-the-tests", embed_origins=HOLDERS)
    return create_app(services.provide, settings)


def test_the_embed_page_stands_in_frames_of_the_listed_origins_alone(held: Flask) -> None:
    for method in ("GET", "HEAD"):
        page = held.test_client().open(EMBED, method=method)
        policy = policy_of(page)

        assert page.status_code == 200
        assert "X-Frame-Options" not in page.headers
        assert policy["frame-ancestors"] == sorted(HOLDERS)
        assert len(page.headers.getlist("Content-Security-Policy")) == 1


def test_the_embed_page_runs_what_is_ours_and_leaves_no_way_to_markup(held: Flask) -> None:
    page = held.test_client().get(EMBED)
    policy, finder = policy_of(page), InlineFinder()
    finder.feed(page.text)

    assert finder.found == []
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == ["'none'"]
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == ["'self'"]
    assert policy["img-src"] == ["'self'", "blob:"]
    assert policy["require-trusted-types-for"] == ["'script'"]
    assert policy["trusted-types"] == ["'none'"]
    assert "camera=()" in page.headers["Permissions-Policy"]
    assert page.headers["Cache-Control"] == "no-store"
    assert page.headers["X-Content-Type-Options"] == "nosniff"


def test_the_embed_page_is_the_same_for_everybody_and_sets_no_cookie(held: Flask) -> None:
    stranger, visitor = held.test_client(), held.test_client()
    assert log_in(visitor).status_code == 303
    pages = [
        stranger.get(EMBED),
        visitor.get(EMBED),
        visitor.get(EMBED, headers={"X-API-Key": SERVICE_KEY, "Origin": "https://evil.example"}),
        stranger.get(f"{EMBED}?origin=https://evil.example&token=a.b.c"),
    ]

    assert len({page.text for page in pages}) == 1
    assert len({page.headers["Content-Security-Policy"] for page in pages}) == 1
    for page in pages:
        assert "Set-Cookie" not in page.headers
        assert "evil" not in page.text


def test_beside_the_embed_page_nothing_stands_in_a_frame(
    held: Flask, services: FakeServices, company: str
) -> None:
    visitor = held.test_client()
    assert log_in(visitor).status_code == 303
    met = dict(answers(held, visitor, company))
    assert met.pop(EMBED).status_code == 200
    met["post"] = visitor.post(EMBED)
    met["below"] = visitor.get(f"{EMBED}/x")
    met["absent"] = visitor.get("/embed/assets/embed_page.py")

    assert met["/embed/assets/embed.js"].status_code == 200
    assert met["absent"].status_code == 404
    for name, answer in met.items():
        assert answer.headers["X-Frame-Options"] == "DENY", name
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"], name


def test_without_origins_there_is_no_embed_page(anonymous: FlaskClient) -> None:
    for path in (EMBED, "/embed/assets/embed.js"):
        answer = anonymous.get(path, headers={"Accept": "text/html"})

        assert answer.status_code == 404
        assert "EMBED_ORIGINS" in answer.get_json()["error"]["message"]
        assert answer.headers["X-Frame-Options"] == "DENY"


def test_every_script_of_the_embed_page_is_served_beside_it(held: Flask) -> None:
    """Also where a proxy lets nobody reach the dashboard."""
    client = held.test_client()
    left, seen = set(re.findall(r'(?:src|href)="([^"]+)"', client.get(EMBED).text)), set()
    while left:
        path = left.pop()
        answer = client.get(path)
        assert answer.status_code == 200, path
        assert path.startswith("/embed/assets/")
        seen.add(path)
        imports = re.findall(r'^import .* from "\./([a-z_]+\.js)";$', answer.text, re.MULTILINE)
        left |= {f"/embed/assets/{name}" for name in imports} - seen
    assert {f"/embed/assets/{name}.js" for name in ("bridge", "api", "scan", "words")} <= seen

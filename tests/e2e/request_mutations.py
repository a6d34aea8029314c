"""Requests that are almost right: the same ones again for the same seed."""

from __future__ import annotations

import random

from hostile_requests import AUTH, JSON, KEY, OBJECT, STATUS, get, post
from raw_client import request

from service_process import API

_FORM = ("Content-Type", "application/x-www-form-urlencoded")
_SENT = b'{"company_id": "3b1bee0c-cbee-4de1-88f1-d6e890f4c995", "to": "1", "type": "text"}'
TEMPLATES = (
    get(),
    get(f"{API}/session-info?company_id=3b1bee0c-cbee-4de1-88f1-d6e890f4c995"),
    get("/healthz"),
    get("/dashboard/login", "Cookie: a=b; c=d", "Accept: text/html,*/*;q=0.8"),
    get("/dashboard/assets/api.js", "Range: bytes=0-10", 'If-None-Match: "x"'),
    get(f"{API}/webhooks", "Origin: https://crm.example.com", "Accept-Encoding: gzip"),
    request(
        "OPTIONS", STATUS, [("Origin", "https://a.b"), ("Access-Control-Request-Method", "GET")]
    ),
    request("DELETE", f"{API}/webhooks/0f8fad5b-d9cb-469f-a165-70867728950e", [AUTH]),
    request("POST", f"{API}/messages/send", [AUTH, JSON], _SENT),
    request("POST", f"{API}/webhooks", [AUTH, JSON], b'{"url": "x", "events": ["session.status"]}'),
    request("PATCH", f"{API}/webhooks/0f8fad5b-d9cb-469f-a165-70867728950e", [AUTH, JSON], b"{}"),
    request("POST", "/dashboard/login", [_FORM], b"csrf_token=a.b&api_key=" + KEY.encode()),
    post("Transfer-Encoding: chunked", body=b'3\r\n{"a\r\n5;x=y\r\n": 1}\r\n0\r\nX: y\r\n\r\n'),
    post(
        "Expect: 100-continue", f"Content-Length: {len(OBJECT)}", body=OBJECT.replace(b"3b", b"zz")
    ),
)
_PIECES = (
    b"\r\n",
    b"\n",
    b"\r",
    b"\x00",
    b" ",
    b"\t",
    b":",
    b"\xff",
    b"\r\n\r\n",
    b"0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Content-Length: 0\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 99999\r\n",
    b"Connection: close\r\n",
    b"Connection: keep-alive, upgrade\r\n",
    b"Expect: 100-continue\r\n",
    b"Content-Encoding: gzip\r\n",
    b"Host: b\r\n",
    b"HTTP/1.0",
    b"HTTP/2.0",
    b"%00",
    b"%ff",
    b"../",
    b"{",
    b"[",
    b'"',
    b"\\ud800",
    b"&",
    b"=",
    b"9" * 40,
    b"x" * 9000,
)


def mutated_request(seed: int, number: int) -> list[bytes]:
    """Return what to send, in one piece or in several."""
    dice = random.Random(f"{seed}:{number}")  # noqa: S311 - to be repeated, not to be secret
    data = dice.choice(TEMPLATES)
    for _ in range(dice.choice((1, 1, 1, 2, 3, 8))):
        data = _mutate(dice, data) or data
    if dice.random() < 0.2:
        cut = dice.randrange(len(data) + 1)
        return [data[:cut], data[cut:]]
    return [data]


def _mutate(dice: random.Random, data: bytes) -> bytes:
    begin = dice.randrange(len(data) + 1)
    end = min(len(data), begin + dice.choice((1, 1, 2, 5, 30)))
    kind = dice.randrange(7)
    if kind == 0:
        return data[:begin] + bytes([dice.randrange(256)]) + data[begin + 1 :]
    if kind == 1:
        return data[:begin] + data[end:]
    if kind == 2:
        return data[:end] + data[begin:end] * dice.choice((1, 1, 3, 200)) + data[end:]
    if kind == 3:
        return data[:begin] + dice.choice(_PIECES) + data[begin:]
    lines = data.split(b"\r\n")
    line = dice.randrange(len(lines))
    if kind == 4:
        lines.insert(line, dice.choice(_PIECES).strip(b"\r\n"))
    elif kind == 5:
        lines.insert(dice.randrange(len(lines)), lines.pop(line))
    else:
        return data[: dice.randrange(len(data)) + 1]
    return b"\r\n".join(lines)

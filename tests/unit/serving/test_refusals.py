"""What is answered to what is no request, and what the log says of it."""

import inspect
import json

import pytest
from gunicorn.http import errors  # type: ignore[import-untyped]

from crm_whatsapp.serving.refusals import HEAD_TOO_SLOW, RefusalLog, refusal_of

SECRET = "sent-by-a-stranger<script>"
OURS = (errors.InvalidResponseHeader, errors.InvalidResponseHeaderName)
WITH_TWO = {
    errors.LimitRequestLine: (9000, 8190),
}


def kinds() -> list[type[Exception]]:
    return [
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.ParseException) and kind not in OURS
    ]


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_every_error_of_the_parser_is_the_clients_and_its_words_are_not_repeated(
    kind: type[Exception],
) -> None:
    refusal = refusal_of(kind(*WITH_TWO.get(kind, (SECRET,))))

    assert refusal is not None
    assert 400 <= refusal.status < 500
    head, body = refusal.answer().split(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % refusal.status)
    assert b"Content-Length: %d\r\n" % len(body) in head
    assert SECRET.encode() not in body
    assert json.loads(body)["error"] == {"code": refusal.code, "message": refusal.message}


@pytest.mark.parametrize("error", [*(kind("x") for kind in OURS), ValueError("x"), OSError("x")])
def test_other_errors_are_ours(error: Exception) -> None:
    assert refusal_of(error) is None


def test_slowness_is_408() -> None:
    assert HEAD_TOO_SLOW.answer().startswith(b"HTTP/1.1 408 Request Timeout\r\n")


def test_a_flood_of_refusals_is_a_line_a_minute() -> None:
    lines: list[str] = []
    now = [100.0]
    log = RefusalLog(lines.append, clock=lambda: now[0])

    for _ in range(1000):
        log.note("bad-request")
    now[0] += 60
    log.note("request-timeout")

    assert [line.rpartition(": ")[2] for line in lines] == [
        "bad-request 1",
        "bad-request 999, request-timeout 1",
    ]

"""The limits of the deployed process: what its callers see of them, and what its metrics tell."""

from typing import Any
from uuid import uuid4

import pytest
from deployment import Deployment

from service_process import API, Answer, wait_for

pytestmark = pytest.mark.e2e


def statuses(answers: list[Answer]) -> list[int]:
    return [it.status for it in answers]


def test_callers_are_limited_and_told_when_to_come_again(deployment: Deployment) -> None:
    service = deployment.start(
        LIMIT_READS_PER_MINUTE="60",
        LIMIT_FAILED_LOGINS_PER_MINUTE="5",
        TRUSTED_PROXIES="1",
    )
    one, other = str(uuid4()), str(uuid4())

    def poll(company_id: str, **more: Any) -> Answer:
        return service.request("GET", f"{API}/status?company_id={company_id}", **more)

    assert wait_for(lambda: poll(one).status == 429, 30), "a minute's worth of polls is let in"
    refused = poll(one)
    assert refused.status == 429
    assert refused.json()["error"]["limit"] == "reads"
    assert refused.headers["Retry-After"] == "1"
    assert refused.headers["RateLimit-Policy"] == '"reads";q=60;w=60'
    assert refused.headers["RateLimit"] == '"reads";r=0;t=1'
    assert poll(other).status == 200
    assert wait_for(lambda: poll(one).status == 200, 30), "it is let in again"

    here = {"X-Forwarded-For": "192.0.2.1, 203.0.113.7"}
    there = {"X-Forwarded-For": "192.0.2.1, 203.0.113.8"}
    wrong = [poll(other, key="a-wrong-key-0123456789", headers=here) for _ in range(6)]
    assert statuses(wrong) == [401] * 5 + [429]
    assert int(wrong[-1].headers["Retry-After"]) in range(1, 13)
    assert poll(other, headers=here).status == 200
    assert poll(other, key="a-wrong-key-0123456789", headers=there).status == 401

    limited = deployment.metrics().by("whatsapp_http_limited_total", "limit")
    assert limited["failed-logins"] == 1
    assert limited["reads"] >= 2
    assert limited["pairings"] == 0


def test_pairings_are_limited_and_restores_are_not(deployment: Deployment) -> None:
    service = deployment.start(PAIRING_ATTEMPTS_PER_HOUR="2")
    company, other = str(uuid4()), str(uuid4())
    deployment.pair(company)  # the first
    for _ in range(3):
        assert service.post("disconnect", company_id=company).status == 200
        deployment.await_status(company, "disconnected")
        assert service.post("connect", company_id=company, method="qr").status in (200, 202)
        deployment.await_status(company, "connected")
    assert service.post("connect", company_id=company, method="qr", fresh=True).status == 202
    deployment.qr(company)  # the second
    for _ in range(3):
        assert service.post("connect", company_id=company, method="qr").status == 202
    assert service.post("disconnect", company_id=company).status == 200
    before = deployment.await_status(company, "disconnected")

    refused = service.post("connect", company_id=company, method="qr", fresh=True)

    assert refused.status == 429
    error = refused.json()["error"]
    assert error["code"] == "rate-limited"
    assert error["limit"] == "pairings"
    assert "The next try is possible in" in error["message"]
    assert 3_000 < int(refused.headers["Retry-After"]) <= 3_600
    assert service.status(company) == before
    assert service.post("connect", company_id=other, method="qr").status == 202
    assert deployment.metrics().by("whatsapp_http_limited_total", "limit")["pairings"] == 1

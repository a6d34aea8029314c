"""Answers of the database and its gateway: which may be tried again, and what they tell to do."""

from collections.abc import Callable

import httpx
import pytest
from postgrest.exceptions import APIError

from crm_whatsapp.domain.errors import StoreRejected, StoreUnavailable
from crm_whatsapp.stores.database_errors import check_answer, translated

REQUEST = httpx.Request("POST", "https://project.example/rest/v1/rpc/whatsapp_tick_v1")


def answer(status: int, body: object = None, text: str | None = None) -> httpx.Response:
    if text is not None:
        return httpx.Response(status, text=text, request=REQUEST)
    return httpx.Response(status, json=body, request=REQUEST)


def postgrest(status: int, code: str) -> httpx.Response:
    return answer(status, {"code": code, "message": "what happened", "hint": None, "details": None})


@pytest.mark.parametrize("status", [200, 201, 204, 206])
def test_a_success_passes(status: int) -> None:
    check_answer(answer(status, []))


@pytest.mark.parametrize(
    "response",
    [
        *(postgrest(503, code) for code in ("PGRST000", "PGRST001", "PGRST002")),
        postgrest(504, "PGRST003"),
        *(postgrest(500, code) for code in ("57P01", "57P03", "53300", "53100", "XX000")),
        *(postgrest(400, code) for code in ("40001", "40P01", "55P03", "57014", "25006", "08006")),
        answer(502, text="<html>Bad gateway</html>"),
        answer(520, text=""),
        answer(540, text="project paused"),
        answer(429, {"message": "slow down"}),
        answer(503, [1]),
        answer(500, text="[" * 5000),
    ],
)
def test_what_passes_by_itself_is_unavailable(response: httpx.Response) -> None:
    with pytest.raises(StoreUnavailable, match="whatsapp_tick_v1") as caught:
        check_answer(response)
    assert caught.value.details["status"] == response.status_code


@pytest.mark.parametrize(
    ("response", "hint"),
    [
        (postgrest(401, "42501"), "SUPABASE_SERVICE_ROLE_KEY"),
        (postgrest(403, "42501"), "python -m crm_whatsapp migrate"),
        (postgrest(404, "PGRST202"), "python -m crm_whatsapp migrate"),
        (postgrest(404, "PGRST205"), "python -m crm_whatsapp migrate"),
        (postgrest(404, "42P01"), "python -m crm_whatsapp migrate"),
        (postgrest(400, "42703"), "python -m crm_whatsapp migrate"),
        (postgrest(401, "PGRST301"), "SUPABASE_SERVICE_ROLE_KEY"),
        (answer(401, {"message": "Invalid API key"}), "SUPABASE_SERVICE_ROLE_KEY"),
        (answer(403, text="forbidden"), "SUPABASE_SERVICE_ROLE_KEY"),
        (answer(404, text="<html>nothing here</html>"), "SUPABASE_URL"),
        (answer(308, text=""), "SUPABASE_URL"),
        (postgrest(400, "22023"), "what happened"),
    ],
)
def test_what_stays_is_rejected_with_a_hint(response: httpx.Response, hint: str) -> None:
    with pytest.raises(StoreRejected, match=hint) as caught:
        check_answer(response)
    assert caught.value.permanent


def fail(error: Exception) -> Callable[[], None]:
    def call() -> None:
        raise error

    return call


@pytest.mark.parametrize(
    "error",
    [
        httpx.ConnectError("Connection refused"),
        httpx.ReadTimeout("timed out"),
        httpx.PoolTimeout("no connection"),
        httpx.RemoteProtocolError("Server disconnected"),
        httpx.ReadError(""),
        APIError({"message": "JSON could not be generated", "code": 200}),
        ValueError("not JSON"),
    ],
)
def test_transport_errors_are_unavailable(error: Exception) -> None:
    with pytest.raises(StoreUnavailable) as caught, translated():
        fail(error)()
    assert caught.value.__cause__ is error


def test_an_address_without_scheme_is_rejected() -> None:
    with pytest.raises(StoreRejected, match="SUPABASE_URL"), translated():
        fail(httpx.UnsupportedProtocol("no scheme"))()


def test_errors_of_this_product_pass_unchanged() -> None:
    with pytest.raises(StoreRejected, match="as it was"), translated():
        fail(StoreRejected("as it was"))()

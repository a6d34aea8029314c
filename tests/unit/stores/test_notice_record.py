"""Notices as text: what Postgres would refuse is left out, nothing is quoted in an error."""

import json
import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crm_whatsapp.domain.errors import InvalidInput
from crm_whatsapp.domain.notices import Notice, NoticeKind
from crm_whatsapp.stores.notice_record import MOST_BYTES, read_notice, write_notice

COMPANY = "3b1bee0c-cbee-4de1-88f1-d6e890f4c995"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def notice(**data: object) -> Notice:
    return Notice(
        id="00000000-0000-4000-8000-000000000001",
        kind=NoticeKind.MESSAGE,
        company_id=COMPANY,
        occurred_at=NOON,
        data=data,
    )


def test_a_notice_reads_back() -> None:
    written = notice(text="Ação 🤝", media=None, parts=[1, {"a": True}])
    assert read_notice(write_notice(written)) == written


def test_a_notice_about_the_service_has_no_company() -> None:
    written = Notice(
        id="1", kind=NoticeKind.ALERT, company_id=None, occurred_at=NOON, data={"alert": "x"}
    )
    assert read_notice(write_notice(written)) == written


@given(data=st.dictionaries(st.text(), JSON_VALUES, max_size=4))
def test_what_postgres_refuses_is_left_out(data: dict[str, object]) -> None:
    text = write_notice(notice(**{"body": data}))
    text.encode("utf-8")
    assert "\\u0000" not in text
    assert set(json.loads(text)) == {"id", "kind", "company_id", "occurred_at", "data"}
    read_notice(text)


@pytest.mark.parametrize("value", [math.nan, object(), b"bytes", {1, 2}])
def test_what_is_no_json_is_refused_without_being_quoted(value: object) -> None:
    with pytest.raises(InvalidInput) as refusal:
        write_notice(notice(text="a secret body", value=value))
    assert "secret" not in str(refusal.value)
    assert refusal.value.__cause__ is None


def test_a_notice_that_is_too_long_is_refused() -> None:
    with pytest.raises(InvalidInput, match="bytes"):
        write_notice(notice(text="x" * MOST_BYTES))


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "null", '{"id": 1}', '{"id":"1","kind":"from.the.future","company_id":null}'],
)
def test_what_is_no_notice_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        read_notice(text)

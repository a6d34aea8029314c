"""Connections as plain values: the lists are complete, reading never trusts them."""

import json
from dataclasses import fields
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crm_whatsapp.domain.connection import LOCAL_FIELDS, Connection, Reason, Status
from crm_whatsapp.domain.errors import InvalidInput
from crm_whatsapp.stores.connection_record import (
    JOURNAL_FIELDS,
    ROW_FIELDS,
    clean_text,
    read_record,
    read_time,
    write_record,
)

COMPANY = "3b1bee0c-cbee-4de1-88f1-d6e890f4c995"


def test_every_field_is_journalled_or_known_to_be_local() -> None:
    assert set(JOURNAL_FIELDS) | LOCAL_FIELDS == {field.name for field in fields(Connection)}
    assert set(JOURNAL_FIELDS) & LOCAL_FIELDS == set()


def test_a_written_record_is_plain_json_and_reads_back() -> None:
    connection = Connection(company_id=COMPANY, retry_at=datetime(2026, 1, 1, tzinfo=UTC))
    record = json.loads(json.dumps(write_record(connection, JOURNAL_FIELDS)))
    read = read_record(record)
    assert (read.connection, read.problems) == (connection, ())
    assert set(write_record(connection, ROW_FIELDS)) == set(ROW_FIELDS)


@pytest.mark.parametrize("status", list(Status))
def test_an_unknown_reason_becomes_one_that_fits_the_status(status: Status) -> None:
    read = read_record({"company_id": COMPANY, "status": status, "reason": "from-the-future"})
    assert read.connection.status is status
    assert len(read.problems) == 1
    assert read.connection.message


@pytest.mark.parametrize("reason", list(Reason))
def test_an_unknown_status_becomes_the_usual_one_of_its_reason(reason: Reason) -> None:
    read = read_record({"company_id": COMPANY, "status": "asleep", "reason": reason})
    assert (read.connection.reason, len(read.problems)) == (reason, 1)


@pytest.mark.parametrize("company_id", [None, 5, "", "x", "../../etc/passwd"])
def test_a_record_of_nobody_is_refused(company_id: object) -> None:
    with pytest.raises(InvalidInput):
        read_record({"company_id": company_id})


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "infinity",
        "-infinity",
        "0044-03-15 BC",
        "yesterday",
        5,
        True,
        "9999-12-31T23:59:59-23:00",
    ],
)
def test_what_is_no_time_is_none(raw: object) -> None:
    assert read_time(raw) is None


def test_times_come_in_any_zone() -> None:
    noon = datetime(2026, 3, 1, 12, 0, 0, 123400, tzinfo=UTC)
    for text in ("2026-03-01T12:00:00.1234+00:00", "2026-03-01T09:00:00.1234-03:00"):
        assert read_time(text) == noon


def test_text_is_cleaned_of_what_postgres_refuses() -> None:
    assert clean_text("a\x00b\ud800c🤝") == "ab?c🤝"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@given(record=st.dictionaries(st.sampled_from(JOURNAL_FIELDS), VALUES))
@settings(max_examples=200, deadline=None)
def test_any_record_of_a_company_reads_as_a_usable_connection(record: dict[str, object]) -> None:
    read = read_record({**record, "company_id": COMPANY})
    again = read_record(write_record(read.connection, JOURNAL_FIELDS))
    assert again.connection == read.connection
    assert again.problems == ()


@pytest.mark.parametrize("version", [2**62 + 1, 2**63 - 1, 10**400, -1, True, "7"])
def test_a_version_that_was_not_counted_here_is_none(version: object) -> None:
    read = read_record({"company_id": COMPANY, "version": version})
    assert read.connection.version == 0
    assert "version has the unknown value" in read.problems[0]

"""Company ids: one spelling, everything else is refused."""

import pytest

from crm_whatsapp.domain.company import parse_company_id
from crm_whatsapp.domain.errors import InvalidInput
from crm_whatsapp.domain.jids import parse_recipient, phone_number_of

UUID = "3b1bee0c-cbee-4de1-88f1-d6e890f4c995"


def test_the_canonical_spelling_is_lower_cased() -> None:
    assert parse_company_id(UUID.upper()) == UUID


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "../..",
        f"{{{UUID}}}",
        f"urn:uuid:{UUID}",
        UUID.replace("-", ""),
        f" {UUID}",
        f"{UUID}\n",
        UUID[:-1] + "\0",
        UUID[:-1] + "g",
        UUID[:-1] + "٣",
        "a" * 10_000,
        None,
        7,
        [UUID],
    ],
)
def test_everything_else_is_refused(raw: object) -> None:
    with pytest.raises(InvalidInput) as refusal:
        parse_company_id(raw)
    assert refusal.value.details["field"] == "company_id"


def test_phone_numbers_come_from_phone_jids_only() -> None:
    assert phone_number_of("5511900000001:12@s.whatsapp.net") == "+5511900000001"
    assert phone_number_of("5511900000001@s.whatsapp.net") == "+5511900000001"
    assert phone_number_of("123456789012345@lid") is None


@pytest.mark.parametrize(
    ("raw", "jid"),
    [
        ("+5511900000001", "5511900000001@s.whatsapp.net"),
        ("5511900000001", "5511900000001@s.whatsapp.net"),
        ("5511900000001:3@s.whatsapp.net", "5511900000001@s.whatsapp.net"),
        ("123456789012345@lid", "123456789012345@lid"),
        ("120363000000000001@g.us", "120363000000000001@g.us"),
    ],
)
def test_recipients(raw: str, jid: str) -> None:
    assert parse_recipient(raw) == jid


@pytest.mark.parametrize(
    "raw", ["", "abc", "+0123456789", "12", "1@evil.example", "+55 11 9", "٣" * 11]
)
def test_other_recipients_are_refused(raw: str) -> None:
    with pytest.raises(InvalidInput):
        parse_recipient(raw)

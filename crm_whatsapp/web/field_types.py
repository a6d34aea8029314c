"""The types of single request fields: what each one takes, and how a refusal reads."""

import re
from typing import Annotated
from urllib.parse import urlsplit

import phonenumbers
from pydantic import AfterValidator, BeforeValidator, Field, StrictInt, StrictStr
from pydantic_core import PydanticCustomError

from crm_whatsapp.domain.company import parse_company_id
from crm_whatsapp.domain.errors import InvalidInput

_PHONE_CHARACTERS = re.compile(r"\+?[0-9][0-9 ().-]{5,30}")
_CONTROLS = r"\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069"
"""Control characters, and marks that turn a line around where the text is shown."""
_CONTROL_CHARACTERS = re.compile(f"[{_CONTROLS}]")
_PROXY_SCHEMES = frozenset({"http", "https", "socks5"})


def _company_id(value: object) -> str:
    try:
        return parse_company_id(value)
    except InvalidInput as exc:
        raise PydanticCustomError("crm_company_id", "{reason}", {"reason": exc.message}) from exc


def _phone_number(value: str) -> str:
    """Return the digits of an E.164 number.

    Checks the length for the country, not the known ranges: those change more often than
    releases of this product.
    """
    if _PHONE_CHARACTERS.fullmatch(value):
        try:
            number = phonenumbers.parse("+" + value.removeprefix("+"), None)
        except phonenumbers.NumberParseException:
            number = None
        if number is not None and phonenumbers.is_possible_number(number):
            return phonenumbers.format_number(
                number, phonenumbers.PhoneNumberFormat.E164
            ).removeprefix("+")
    raise PydanticCustomError(
        "crm_phone_number",
        "phone_number must be an international number with country code, such as +5511987654321.",
    )


def _proxy_url(value: str) -> str:
    """Return the URL when it is one of a proxy; it holds a password, so it is never repeated."""
    try:
        parts = urlsplit(value)
        usable = (
            parts.scheme in _PROXY_SCHEMES
            and bool(parts.hostname)
            and parts.port != 0
            and parts.path in ("", "/")
            and not parts.query
            and not parts.fragment
            and re.search(r"[\s\x00-\x1f\x7f]", value) is None
        )
    except ValueError:
        usable = False
    if not usable:
        raise PydanticCustomError(
            "crm_proxy", "proxy must be an http, https or socks5 URL such as socks5://host:1080."
        )
    return value


def _no_nul(value: str) -> str:
    if "\x00" in value:
        raise PydanticCustomError("crm_nul", "text must not contain the character NUL.")
    return value


def _printable(value: str) -> str:
    if _CONTROL_CHARACTERS.search(value):
        raise PydanticCustomError("control_characters", "Control characters are not allowed")
    return value


def _whole(value: object) -> object:
    """Take 3.0 for 3, as JSON does: many programs know no other numbers."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


CompanyId = Annotated[
    str,
    BeforeValidator(_company_id),
    Field(
        description="The company, a canonical 36-character UUID.",
        min_length=36,
        max_length=36,
        json_schema_extra={"format": "uuid", "example": "3b1bee0c-cbee-4de1-88f1-d6e890f4c995"},
    ),
]
PhoneNumber = Annotated[
    StrictStr,
    Field(max_length=32, json_schema_extra={"pattern": f"^{_PHONE_CHARACTERS.pattern}$"}),
    AfterValidator(_phone_number),
]
ProxyUrl = Annotated[StrictStr, Field(max_length=2048), AfterValidator(_proxy_url)]
MessageText = Annotated[
    StrictStr,
    Field(min_length=1, max_length=65536, json_schema_extra={"pattern": r"^[^\x00]*$"}),
    AfterValidator(_no_nul),
]
ShortText = Annotated[
    StrictStr,
    Field(min_length=1, max_length=128, json_schema_extra={"pattern": f"^[^{_CONTROLS}]*$"}),
    AfterValidator(_printable),
]
WholeNumber = Annotated[StrictInt, BeforeValidator(_whole)]

"""Company ids: the only key under which anything is kept."""

import re

from crm_whatsapp.domain.errors import InvalidInput

_CANONICAL_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def parse_company_id(raw: object, *, field: str = "company_id") -> str:
    """Return the lower-cased canonical 36-character UUID.

    Other spellings that UUID parsers accept (braces, urn form, no dashes) are refused: the id
    becomes part of a folder name, so there must be one spelling of it.

    Raises:
        InvalidInput: for anything else; the offending value is not echoed.
    """
    if isinstance(raw, str) and len(raw) == 36:
        lowered = raw.lower()
        if _CANONICAL_UUID.fullmatch(lowered):
            return lowered
    raise InvalidInput(
        f"{field} must be a UUID such as 3b1bee0c-cbee-4de1-88f1-d6e890f4c995.", field=field
    )

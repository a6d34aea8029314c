"""Jids: `5511999999999:3@s.whatsapp.net` is device 3 of a number, `...@lid` hides the number."""

import re

from crm_whatsapp.domain.errors import InvalidInput

_NUMBER = re.compile(r"\+?([1-9][0-9]{6,14})")
_USER_JID = re.compile(r"([0-9]{5,20})(?::[0-9]{1,5})?@(s\.whatsapp\.net|lid)")
_GROUP_JID = re.compile(r"[0-9]{5,25}(?:-[0-9]{5,15})?@g\.us")


def phone_number_of(jid: str) -> str | None:
    """Return `+<digits>` of a phone-number jid; None for any other kind."""
    match = _USER_JID.fullmatch(jid)
    if match is None or match[2] != "s.whatsapp.net":
        return None
    return f"+{match[1]}"


def parse_recipient(raw: str, *, field: str = "to") -> str:
    """Return the jid for an E.164 number or a user, lid or group jid.

    Raises:
        InvalidInput: for anything else.
    """
    number = _NUMBER.fullmatch(raw)
    if number:
        return f"{number[1]}@s.whatsapp.net"
    user = _USER_JID.fullmatch(raw)
    if user:
        return f"{user[1]}@{user[2]}"
    if _GROUP_JID.fullmatch(raw):
        return raw
    raise InvalidInput(
        f"{field} must be a number with country code such as +5511999999999, or a jid.",
        field=field,
    )

"""creds.json: who is paired in a session folder. Its existence is the signal to restore.

It holds no key material. Format 1: format_version, company_id, jid, lid, push_name, platform,
paired_at, epoch. Fields may be added to format 1; unknown ones are ignored when reading.
"""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from crm_whatsapp.domain.errors import InvalidInput
from crm_whatsapp.domain.folders import Credentials
from crm_whatsapp.sessions.durable_file import NotAPlainFile, read_bounded, write_durably

FILE_NAME = "creds.json"
FORMAT_VERSION = 1
MOST_BYTES = 65_536

_READ_AT_MOST = 1_048_576  # enough to recognise the creds.json of Baileys, which grows
_MOST_TEXT = 512
_DEVICE_JID = re.compile(
    r"[0-9]{1,32}(?:\.[0-9]{1,3})?(?::[0-9]{1,5})?@(?:s\.whatsapp\.net|hosted)"
)
_DEVICE_LID = re.compile(r"[0-9]{1,32}(?:\.[0-9]{1,3})?(?::[0-9]{1,5})?@(?:lid|hosted\.lid)")


class CredentialsCorrupt(Exception):
    """creds.json is there and cannot be used; the text says why."""


class CredentialsForeign(Exception):
    """creds.json is the one of another library; the text says which."""


def is_device_jid(text: str) -> bool:
    """Tell whether it is the jid of a linked device as whatsmeow writes it (types/jid.go)."""
    return _DEVICE_JID.fullmatch(text) is not None


def is_device_lid(text: str) -> bool:
    """Tell whether it is the lid of a linked device."""
    return _DEVICE_LID.fullmatch(text) is not None


def read_credentials(folder: Path, company_id: str) -> Credentials:
    """Read and check creds.json.

    Raises:
        FileNotFoundError: there is none.
        CredentialsForeign: it belongs to Baileys.
        CredentialsCorrupt: anything else that is not ours, whole and of this company.
        OSError: it cannot be read.
    """
    try:
        raw = read_bounded(folder / FILE_NAME, _READ_AT_MOST)
    except (NotAPlainFile, IsADirectoryError) as exc:
        raise CredentialsCorrupt(f"{FILE_NAME} is not a regular file") from exc
    return parse_credentials(raw, company_id)


def parse_credentials(raw: bytes, company_id: str) -> Credentials:
    """Check the content of creds.json.

    Raises:
        CredentialsForeign, CredentialsCorrupt: as read_credentials.
    """
    if len(raw) > _READ_AT_MOST:
        raise CredentialsCorrupt(f"{FILE_NAME} is larger than {_READ_AT_MOST} bytes")
    record = _parse_object(raw)
    if "noiseKey" in record:
        raise CredentialsForeign("creds.json is the one of Baileys")
    if len(raw) > MOST_BYTES:
        raise CredentialsCorrupt(f"{FILE_NAME} is larger than {MOST_BYTES} bytes")
    return _Checked(record).credentials(company_id)


def write_credentials(folder: Path, credentials: Credentials) -> None:
    """Write creds.json atomically and durably, mode 0600.

    Raises:
        InvalidInput: these credentials could not be read back.
        StorageError: the disk refuses; an earlier file is as it was.
    """
    content = render_credentials(credentials)
    try:
        parse_credentials(content, credentials.company_id)
    except CredentialsCorrupt as exc:
        raise InvalidInput(f"The credentials cannot be saved: {exc}.") from exc
    write_durably(folder / FILE_NAME, content)


def render_credentials(credentials: Credentials) -> bytes:
    """Return the content of creds.json."""
    record = {
        "format_version": FORMAT_VERSION,
        "company_id": credentials.company_id,
        "jid": credentials.jid,
        "lid": credentials.lid,
        "push_name": _presentable(credentials.push_name),
        "platform": _presentable(credentials.platform),
        "paired_at": credentials.paired_at.astimezone(UTC).isoformat(),
        "epoch": credentials.epoch,
    }
    return json.dumps(record, indent=2, ensure_ascii=False).encode() + b"\n"


def _presentable(text: str | None) -> str | None:
    """Return a name a stranger chose, without what would make the file unreadable."""
    if text is None:
        return None
    printable = text.replace("\x00", "").encode("utf-8", "replace").decode()
    return printable[:_MOST_TEXT]


def _parse_object(raw: bytes) -> Mapping[str, Any]:
    if b"\x00" in raw:
        raise CredentialsCorrupt(f"{FILE_NAME} contains NUL bytes")
    try:
        record = json.loads(
            raw.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_constant
        )
    except UnicodeDecodeError as exc:
        raise CredentialsCorrupt(f"{FILE_NAME} is not UTF-8 text") from exc
    except (ValueError, RecursionError) as exc:
        what = "empty" if not raw.strip() else "not JSON"
        raise CredentialsCorrupt(f"{FILE_NAME} is {what}") from exc
    if not isinstance(record, dict):
        raise CredentialsCorrupt(f"{FILE_NAME} is not a JSON object")
    return record


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise CredentialsCorrupt(f"{FILE_NAME} names a field twice")
    return record


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


class _Checked:
    """The fields of a creds.json, each of the right type or refused."""

    def __init__(self, record: Mapping[str, Any]) -> None:
        self._record = record

    def credentials(self, company_id: str) -> Credentials:
        self._check_version()
        if self._text("company_id") != company_id:
            raise CredentialsCorrupt(f"{FILE_NAME} belongs to another company")
        jid, lid = self._text("jid"), self._text_or_none("lid")
        if not is_device_jid(jid):
            raise CredentialsCorrupt(f"jid in {FILE_NAME} is not that of a linked device")
        if lid is not None and not is_device_lid(lid):
            raise CredentialsCorrupt(f"lid in {FILE_NAME} is not that of a linked device")
        return Credentials(
            company_id=company_id,
            jid=jid,
            lid=lid,
            push_name=self._text_or_none("push_name"),
            platform=self._text_or_none("platform"),
            paired_at=self._time("paired_at"),
            epoch=self._count("epoch"),
        )

    def _check_version(self) -> None:
        version = self._count("format_version")
        if version > FORMAT_VERSION:
            raise CredentialsCorrupt(
                f"{FILE_NAME} has format {version}, which a newer release of this software reads"
            )
        if version != FORMAT_VERSION:
            raise CredentialsCorrupt(f"{FILE_NAME} has the unknown format {version}")

    def _text_or_none(self, name: str) -> str | None:
        return None if self._get(name) is None else self._text(name)

    def _text(self, name: str) -> str:
        value = self._get(name)
        if not isinstance(value, str):
            raise CredentialsCorrupt(f"{name} in {FILE_NAME} is not a text")
        if len(value) > _MOST_TEXT or "\x00" in value or not _encodable(value):
            raise CredentialsCorrupt(f"{name} in {FILE_NAME} is not a usable text")
        return value

    def _count(self, name: str) -> int:
        value = self._get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
            raise CredentialsCorrupt(f"{name} in {FILE_NAME} is not a whole number from 0")
        return value

    def _time(self, name: str) -> datetime:
        try:
            moment = datetime.fromisoformat(self._text(name))
            if moment.tzinfo is None:
                raise CredentialsCorrupt(f"{name} in {FILE_NAME} has no time zone")
            return moment.astimezone(UTC)
        except (ValueError, OverflowError) as exc:
            raise CredentialsCorrupt(f"{name} in {FILE_NAME} is not a time") from exc

    def _get(self, name: str) -> Any:
        if name not in self._record:
            raise CredentialsCorrupt(f"{name} is missing in {FILE_NAME}")
        return self._record[name]


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

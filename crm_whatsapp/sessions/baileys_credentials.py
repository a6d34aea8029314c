"""The creds object of Baileys: everything a linked device needs to log in, checked.

A session that passes logs in as far as this machine can know: its keys fit each other, and the
account has signed this device. Whether the phone still lists the device only WhatsApp can say.
"""

from dataclasses import dataclass, field
from typing import Any

from crm_whatsapp.domain.errors import InvalidInput
from crm_whatsapp.sessions.baileys_json import Record, as_bytes
from crm_whatsapp.sessions.credentials import is_device_jid, is_device_lid
from crm_whatsapp.sessions.curve25519 import (
    KEY_BYTES,
    SIGNATURE_BYTES,
    is_signed_by,
    public_key_of,
)

MOST_PRE_KEY_ID = 2**24 - 1

# What is signed at pairing, by whom; hosted accounts (WhatsApp's cloud) use the second of each.
# Source: whatsmeow pair.go, AdvAccountSignaturePrefix and following.
_ACCOUNT_PREFIXES = (b"\x06\x00", b"\x06\x05")
_DEVICE_PREFIXES = (b"\x06\x01", b"\x06\x06")
_KEY_TYPE = b"\x05"
_MOST_TEXT = 512
_NEVER_PAIRED = (
    "This session was never paired: {what}. There is nothing to move in; connect the company "
    "by QR code or pairing code instead."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BaileysSession:
    """A paired device. Keys are private keys of 32 bytes, signatures have 64.

    next_pre_key_id: the number that Baileys would give the next one-time key.
    first_unuploaded_pre_key_id: one-time keys from this number on are not known to WhatsApp.
    """

    jid: str
    lid: str | None
    push_name: str | None
    platform: str | None
    registration_id: int
    noise_key: bytes = field(repr=False)
    identity_key: bytes = field(repr=False)
    signed_pre_key: bytes = field(repr=False)
    signed_pre_key_id: int
    signed_pre_key_signature: bytes = field(repr=False)
    adv_secret: bytes = field(repr=False)
    adv_details: bytes = field(repr=False)
    account_signature: bytes = field(repr=False)
    account_signature_key: bytes = field(repr=False)
    device_signature: bytes = field(repr=False)
    next_pre_key_id: int
    first_unuploaded_pre_key_id: int


def parse_creds(creds: Record) -> BaileysSession:
    """Check a creds object.

    Raises:
        InvalidInput: it was never paired, lacks something, or its keys do not fit; says which.
    """
    me = creds.get("me")
    if not isinstance(me, dict) or not me.get("id"):
        raise InvalidInput(_NEVER_PAIRED.format(what="it names no account (`me` is missing)"))
    account = creds.get("account")
    if not isinstance(account, dict):
        raise InvalidInput(
            _NEVER_PAIRED.format(what="no phone has confirmed it (`account` is missing)")
        )
    jid = _jid(me.get("id"))
    signed = _object(creds, "signedPreKey")
    session = BaileysSession(
        jid=jid,
        lid=_lid(me.get("lid"), jid),
        push_name=_name(me.get("name")),
        platform=_name(creds.get("platform")),
        registration_id=_number(creds, "registrationId", 2**32 - 1),
        noise_key=_private_key(creds.get("noiseKey"), "noiseKey"),
        identity_key=_private_key(creds.get("signedIdentityKey"), "signedIdentityKey"),
        signed_pre_key=_private_key(signed.get("keyPair"), "signedPreKey.keyPair"),
        signed_pre_key_id=_number(signed, "keyId", MOST_PRE_KEY_ID, "signedPreKey."),
        signed_pre_key_signature=_blob(signed, "signature", SIGNATURE_BYTES, "signedPreKey."),
        adv_secret=_blob(creds, "advSecretKey", KEY_BYTES),
        adv_details=_blob(account, "details", None, "account."),
        account_signature=_blob(account, "accountSignature", SIGNATURE_BYTES, "account."),
        account_signature_key=_blob(account, "accountSignatureKey", KEY_BYTES, "account."),
        device_signature=_blob(account, "deviceSignature", SIGNATURE_BYTES, "account."),
        next_pre_key_id=_counter(creds.get("nextPreKeyId")),
        first_unuploaded_pre_key_id=_counter(creds.get("firstUnuploadedPreKeyId")),
    )
    _check_signatures(session)
    return session


def parse_key_pair(pair: Any, name: str) -> bytes:
    """Return the private key of {"private": …, "public": …}.

    Raises:
        InvalidInput: one is missing, has the wrong size, or they do not belong together.
    """
    return _private_key(pair, name)


def _check_signatures(session: BaileysSession) -> None:
    identity = public_key_of(session.identity_key)
    pre_key = _KEY_TYPE + public_key_of(session.signed_pre_key)
    if not is_signed_by(identity, pre_key, session.signed_pre_key_signature):
        raise InvalidInput("signedPreKey.signature was not made with signedIdentityKey.")
    signed = session.adv_details + identity
    if not any(
        is_signed_by(session.account_signature_key, prefix + signed, session.account_signature)
        for prefix in _ACCOUNT_PREFIXES
    ):
        raise InvalidInput(
            "account.accountSignature does not confirm this device: the parts of this session "
            "come from different pairings, or it was altered."
        )
    signed += session.account_signature_key
    if not any(
        is_signed_by(identity, prefix + signed, session.device_signature)
        for prefix in _DEVICE_PREFIXES
    ):
        raise InvalidInput("account.deviceSignature was not made with signedIdentityKey.")


def _jid(value: Any) -> str:
    if not isinstance(value, str) or not is_device_jid(value) or _device_of(value) == 0:
        raise InvalidInput(
            "me.id is not the id of a linked device such as 5511999990001:3@s.whatsapp.net."
        )
    return value


def _lid(value: Any, jid: str) -> str | None:
    """Return the hidden id; early sessions have none, and WhatsApp tells it at the next login."""
    if value is None or value == "":
        return None
    if not isinstance(value, str) or not is_device_lid(value):
        raise InvalidInput("me.lid is not the hidden id of a linked device.")
    if _device_of(value) == 0:  # some releases of Baileys drop the number of the device
        user, _, server = value.partition("@")
        return f"{user.partition(':')[0]}:{_device_of(jid)}@{server}"
    return value


def _device_of(jid: str) -> int:
    return int(jid.partition("@")[0].partition(":")[2] or 0)


def _name(value: Any) -> str | None:
    if not isinstance(value, str):
        return None
    printable = value.replace("\x00", "").encode("utf-8", "replace").decode()
    return printable[:_MOST_TEXT] or None


def _object(record: Record, name: str) -> Record:
    value = record.get(name)
    if not isinstance(value, dict):
        raise InvalidInput(f"{name} is missing.")
    return value


def _number(record: Record, name: str, most: int, where: str = "") -> int:
    value = record.get(name)
    if type(value) is not int or not 0 <= value <= most:
        raise InvalidInput(f"{where}{name} is missing, or not a number from 0 to {most}.")
    return value


def _counter(value: Any) -> int:
    return value if type(value) is int and 1 <= value <= MOST_PRE_KEY_ID else 1


def _private_key(pair: Any, name: str) -> bytes:
    if not isinstance(pair, dict):
        raise InvalidInput(f"{name} is missing.")
    private = _blob(pair, "private", KEY_BYTES, f"{name}.")
    public = as_bytes(pair.get("public"))
    if public is not None and len(public) == KEY_BYTES + 1 and public[:1] == _KEY_TYPE:
        public = public[1:]
    if public is None or len(public) != KEY_BYTES:
        raise InvalidInput(f"{name}.public is missing, or has not {KEY_BYTES} bytes.")
    if public_key_of(private) != public:
        raise InvalidInput(f"{name}: the public key is not that of the private key.")
    return private


def _blob(record: Record, name: str, size: int | None, where: str = "") -> bytes:
    content = as_bytes(record.get(name))
    if not content:
        raise InvalidInput(f"{where}{name} is missing, or not bytes.")
    if size is not None and len(content) != size:
        raise InvalidInput(f"{where}{name} has {len(content)} bytes instead of {size}.")
    return content

"""Sessions as Baileys leaves them, made of fresh keys and signed as WhatsApp and Baileys sign."""

import base64
import copy
import functools
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

JID = "5511999990001:3@s.whatsapp.net"
LID = "123456789012345:3@lid"
DETAILS = b"\x08\x01\x10\x02\x18\x03"

# The twisted Edwards form of Curve25519, RFC 8032, 5.1.
_P = 2**255 - 19
_ORDER = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, -1, _P) % _P
_BASE_Y = 4 * pow(5, -1, _P) % _P
_BASE_X = 15112221349535400772501151409588531511454012693041857206046113283949847762202

Point = tuple[int, int]


def creds(**changes: Any) -> dict[str, Any]:
    """Return a fresh copy of a paired creds object, as JSON.parse without a reviver gives it."""
    return {**copy.deepcopy(_paired()), **changes}


def write_folder(folder: Path, record: Any = None, *, pre_keys: int = 3) -> Path:
    """Write a multi-file session folder with so many one-time keys, from number 5 on."""
    folder.mkdir(parents=True, exist_ok=True)
    text = record if isinstance(record, str) else json.dumps(creds() if record is None else record)
    (folder / "creds.json").write_text(text)
    for number in range(5, 5 + pre_keys):
        (folder / f"pre-key-{number}.json").write_text(json.dumps(key_pair(os.urandom(32))))
    (folder / "session-5511988887777.0.json").write_text('{"_sessions": {}}')
    return folder


def key_pair(private: bytes) -> dict[str, Any]:
    """Return a key pair as Baileys writes it."""
    return {"private": buffer(private), "public": buffer(_public(private))}


def buffer(content: bytes) -> dict[str, str]:
    """Return bytes as BufferJSON writes them."""
    return {"type": "Buffer", "data": base64.b64encode(content).decode()}


@functools.cache
def _paired() -> dict[str, Any]:
    noise, identity, pre_key, account = (os.urandom(32) for _ in range(4))
    public, account_public = _public(identity), _public(account)
    signed = DETAILS + public
    device_signature = sign(identity, b"\x06\x01" + signed + account_public)
    return {
        "noiseKey": key_pair(noise),
        "pairingEphemeralKeyPair": key_pair(os.urandom(32)),
        "signedIdentityKey": key_pair(identity),
        "signedPreKey": {
            "keyPair": key_pair(pre_key),
            "signature": buffer(sign(identity, b"\x05" + _public(pre_key))),
            "keyId": 1,
        },
        "registrationId": 211,
        "advSecretKey": base64.b64encode(os.urandom(32)).decode(),
        "processedHistoryMessages": [],
        "nextPreKeyId": 8,
        "firstUnuploadedPreKeyId": 7,
        "registered": False,
        "account": {
            "details": base64.b64encode(DETAILS).decode(),
            "accountSignatureKey": base64.b64encode(account_public).decode(),
            "accountSignature": base64.b64encode(sign(account, b"\x06\x00" + signed)).decode(),
            "deviceSignature": base64.b64encode(device_signature).decode(),
        },
        "me": {"id": JID, "lid": LID, "name": "Loja"},
        "platform": "android",
    }


def sign(private: bytes, message: bytes) -> bytes:
    """Return an XEdDSA signature as libsignal makes it: the sign of x in the highest bit."""
    scalar = int.from_bytes(private, "little") & ((1 << 254) - 8) | (1 << 254)
    public = _encoded(_times(scalar, (_BASE_X, _BASE_Y)))
    random = b"\xfe" + b"\xff" * 31 + scalar.to_bytes(32, "little") + message + os.urandom(64)
    nonce = int.from_bytes(hashlib.sha512(random).digest(), "little") % _ORDER
    commitment = _encoded(_times(nonce, (_BASE_X, _BASE_Y)))
    challenge = hashlib.sha512(commitment + public + message).digest()
    answer = (nonce + int.from_bytes(challenge, "little") * scalar) % _ORDER
    signature = bytearray(commitment + answer.to_bytes(32, "little"))
    signature[-1] |= public[-1] & 0x80
    return bytes(signature)


def _public(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def _encoded(point: Point) -> bytes:
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


def _plus(one: Point, other: Point) -> Point:
    (x1, y1), (x2, y2) = one, other
    bend = _D * x1 * x2 * y1 * y2
    x = (x1 * y2 + x2 * y1) * pow(1 + bend, -1, _P)
    y = (y1 * y2 + x1 * x2) * pow(1 - bend, -1, _P)
    return x % _P, y % _P


def _times(scalar: int, point: Point) -> Point:
    total: Point = (0, 1)
    while scalar:
        if scalar & 1:
            total = _plus(total, point)
        point = _plus(point, point)
        scalar >>= 1
    return total

"""Sealing a store for a place that must not be able to read it.

Packed copy: 1 byte version, 4 bytes length (big endian), a JSON header of that length
(company_id, jid, lid, push_name, platform, paired_at, store_sha256), zstd(store.db).

Payload: 12 bytes nonce, AES-256-GCM(packed copy) under a data key of this one snapshot; the
additional data is "crm-whatsapp/1|company_id|epoch|seq", so that no snapshot can stand in for
another. Wrapped key: 12 bytes nonce, AES-256-GCM(data key) under a key of the key ring; the
additional data is that key's id. A new first key therefore rewraps 60 bytes and no payload.
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from crm_whatsapp.domain.company import parse_company_id
from crm_whatsapp.domain.errors import InvalidInput
from crm_whatsapp.domain.folders import Credentials
from crm_whatsapp.domain.snapshots import (
    KeyRefused,
    SealedSnapshot,
    SnapshotDamaged,
    SnapshotMeta,
    StoreCopy,
)
from crm_whatsapp.sessions import credentials as creds
from crm_whatsapp.sessions.key_ring import KEY_BYTES, EncryptionKey, KeyRing

MOST_DATABASE_BYTES = 268_435_456  # 256 MiB

_PACKED_VERSION = 1
_MOST_HEADER_BYTES = 65_536
_LENGTH_BYTES = 4
_NONCE_BYTES = 12
_TAG_BYTES = 16
ENCRYPTION_ADDS_BYTES = _NONCE_BYTES + _TAG_BYTES
# Keys do not compress, so levels hardly differ in size. Measured on x86-64: a fresh store of
# 262,144 bytes gives 37.5 KB in 0.2 ms at level 1, 37.6 KB in 0.3 ms at 3, 36.8 KB in 20 ms at 19;
# one of 8.2 MB (5,000 sessions) 4.80 MB in 12 ms at 1, 4.71 MB in 34 ms at 3.
_ZSTD_LEVEL = 1


def _utc_now() -> datetime:
    return datetime.now(UTC)


class EnvelopeCipher:
    """The SnapshotCipher of the service. Safe to share between threads."""

    def __init__(self, keys: KeyRing, *, now: Callable[[], datetime] = _utc_now) -> None:
        self._keys = keys
        self._now = now

    def seal(self, copy: StoreCopy, *, epoch: int, seq: int, clean: bool) -> SealedSnapshot:
        """Compress and encrypt with the first key.

        Raises:
            InvalidInput: these credentials, or a store this large, could not be read back.
        """
        company_id = copy.credentials.company_id
        key = self._keys.first
        data_key = AESGCM.generate_key(bit_length=KEY_BYTES * 8)
        payload = encrypt(data_key, pack_copy(copy), _payload_context(company_id, epoch, seq))
        meta = SnapshotMeta(
            company_id=company_id,
            epoch=epoch,
            seq=seq,
            key_id=key.key_id,
            sha256=hashlib.sha256(payload).hexdigest(),
            size_bytes=len(payload),
            clean=clean,
            created_at=self._now(),
        )
        return SealedSnapshot(meta=meta, wrapped_key=_wrap(key, data_key), payload=payload)

    def open(self, sealed: SealedSnapshot) -> StoreCopy:
        """Decrypt with whichever key sealed it.

        Returns:
            The copy; its credentials carry the epoch of the snapshot.
        Raises:
            KeyMissing: that key is not configured.
            SnapshotDamaged: anything else is wrong with it.
        """
        meta = sealed.meta
        key = self._keys.find(meta.key_id)
        if len(sealed.payload) != meta.size_bytes:
            raise SnapshotDamaged("The snapshot has not the size it was written with.")
        if hashlib.sha256(sealed.payload).hexdigest() != meta.sha256:
            raise SnapshotDamaged("The snapshot has not the hash it was written with.")
        data_key = _unwrap(key, sealed.wrapped_key)
        context = _payload_context(meta.company_id, meta.epoch, meta.seq)
        packed = decrypt(data_key, sealed.payload, context)
        copy = unpack_copy(packed)
        if copy.credentials.company_id != meta.company_id:
            raise SnapshotDamaged("The snapshot holds the session of another company.")
        return replace(copy, credentials=replace(copy.credentials, epoch=meta.epoch))

    def rewrap(self, sealed: SealedSnapshot) -> tuple[str, bytes] | None:
        """Return first key's id and the data key wrapped by it; None when it is so already.

        The payload is not looked at and may be missing.

        Raises:
            KeyMissing: the key that wraps it now is not configured.
            SnapshotDamaged: the wrapped key was altered.
        """
        first = self._keys.first
        if sealed.meta.key_id == first.key_id:
            return None
        data_key = _unwrap(self._keys.find(sealed.meta.key_id), sealed.wrapped_key)
        return first.key_id, _wrap(first, data_key)


def pack_copy(copy: StoreCopy) -> bytes:
    """Return the copy as one string of bytes, compressed. Not encrypted.

    Raises:
        InvalidInput: these credentials, or a store this large, could not be read back.
    """
    if not 0 < len(copy.database) <= MOST_DATABASE_BYTES:
        raise InvalidInput(f"A store of {len(copy.database)} bytes cannot be packed.")
    header = _render_header(copy)
    return b"".join(
        (
            bytes([_PACKED_VERSION]),
            len(header).to_bytes(_LENGTH_BYTES, "big"),
            header,
            zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(copy.database),
        )
    )


def unpack_copy(packed: bytes) -> StoreCopy:
    """Return what was packed, verified; the epoch of its credentials is 0.

    Raises:
        SnapshotDamaged: it is not what pack_copy returned.
    """
    if len(packed) <= 1 + _LENGTH_BYTES:
        raise SnapshotDamaged("The packed store is cut off.")
    if packed[0] != _PACKED_VERSION:
        raise SnapshotDamaged(
            f"The store is packed in format {packed[0]}, which this release does not read."
        )
    start = 1 + _LENGTH_BYTES
    end = start + int.from_bytes(packed[1:start], "big")
    if end - start > _MOST_HEADER_BYTES or end >= len(packed):
        raise SnapshotDamaged("The header of the packed store is cut off.")
    credentials, sha256 = _parse_header(packed[start:end])
    database = _decompress(packed[end:])
    if hashlib.sha256(database).hexdigest() != sha256:
        raise SnapshotDamaged("The packed store has not the hash it was packed with.")
    return StoreCopy(credentials=credentials, database=database)


def encrypt(key: bytes, plaintext: bytes, context: bytes) -> bytes:
    """Return a fresh nonce followed by the ciphertext (AES-256-GCM)."""
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plaintext, context)


def decrypt(key: bytes, sealed: bytes, context: bytes) -> bytes:
    """Return what was encrypted under this key and context.

    Raises:
        SnapshotDamaged: it was not.
    """
    try:
        return AESGCM(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], context)
    except (InvalidTag, ValueError) as exc:  # ValueError: too short for a nonce
        raise SnapshotDamaged("The snapshot was altered: it cannot be decrypted.") from exc


def _wrap(key: EncryptionKey, data_key: bytes) -> bytes:
    return encrypt(key.secret, data_key, key.key_id.encode())


def _unwrap(key: EncryptionKey, wrapped: bytes) -> bytes:
    try:
        data_key = decrypt(key.secret, wrapped, key.key_id.encode())
    except SnapshotDamaged as exc:
        raise KeyRefused(
            f"The key {key.key_id!r} does not open the snapshot: it was altered, or encrypted "
            "with another key of this name."
        ) from exc
    if len(data_key) != KEY_BYTES:
        raise SnapshotDamaged("The data key of the snapshot has the wrong length.")
    return data_key


def _payload_context(company_id: str, epoch: int, seq: int) -> bytes:
    return f"crm-whatsapp/1|{company_id}|{epoch}|{seq}".encode("utf-8", "surrogatepass")


def _render_header(copy: StoreCopy) -> bytes:
    """Return the header; it is the record of creds.json but for what a copy does not decide."""
    company_id = copy.credentials.company_id
    if parse_company_id(company_id) != company_id:
        raise InvalidInput("company_id must be in lower case.")
    content = creds.render_credentials(copy.credentials)
    try:
        creds.parse_credentials(content, company_id)
    except creds.CredentialsCorrupt as exc:
        raise InvalidInput(f"The credentials cannot be packed: {exc}.") from exc
    record: dict[str, Any] = json.loads(content)
    del record["format_version"], record["epoch"]
    record["store_sha256"] = hashlib.sha256(copy.database).hexdigest()
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()


def _parse_header(header: bytes) -> tuple[Credentials, str]:
    try:
        record: dict[str, Any] = dict(json.loads(header))
        company_id = parse_company_id(record.get("company_id"))
        sha256 = str(record.pop("store_sha256"))
        as_file = {**record, "format_version": creds.FORMAT_VERSION, "epoch": 0}
        return creds.parse_credentials(json.dumps(as_file).encode(), company_id), sha256
    except (ValueError, TypeError, KeyError, RecursionError, InvalidInput) as exc:
        raise SnapshotDamaged("The header of the packed store cannot be read.") from exc
    except (creds.CredentialsCorrupt, creds.CredentialsForeign) as exc:
        raise SnapshotDamaged(f"The header of the packed store is damaged: {exc}.") from exc


def _decompress(frame: bytes) -> bytes:
    """Return the content; its size is checked before any of it is made."""
    try:
        size = zstandard.get_frame_parameters(frame).content_size
        if size == zstandard.CONTENTSIZE_UNKNOWN or not 0 < size <= MOST_DATABASE_BYTES:
            raise SnapshotDamaged("The packed store claims an impossible size.")
        unpacker = zstandard.ZstdDecompressor(max_window_size=MOST_DATABASE_BYTES)
        database = unpacker.decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as exc:
        raise SnapshotDamaged("The packed store cannot be decompressed.") from exc
    if len(database) != size:
        raise SnapshotDamaged("The packed store is cut off.")
    return database

"""A sealed snapshot gives back exactly what was sealed, or an error: never anything else."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from crm_whatsapp.domain.errors import InvalidInput
from crm_whatsapp.domain.folders import Credentials
from crm_whatsapp.domain.ports import SnapshotCipher
from crm_whatsapp.domain.snapshots import KeyMissing, SealedSnapshot, SnapshotDamaged, StoreCopy
from crm_whatsapp.sessions.key_ring import EncryptionKey, KeyRing
from crm_whatsapp.sessions.snapshot_cipher import (
    MOST_DATABASE_BYTES,
    EnvelopeCipher,
    decrypt,
    encrypt,
    pack_copy,
    unpack_copy,
)

COMPANY = "3b1bee0c-cbee-4de1-88f1-d6e890f4c995"
OTHER = "11111111-2222-4333-8444-555555555555"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
CREDENTIALS = Credentials(
    company_id=COMPANY,
    jid="5511999990001:3@s.whatsapp.net",
    lid="123456789012345:3@lid",
    push_name="Loja ☕",
    platform=None,
    paired_at=NOON,
    epoch=7,
)
COPY = StoreCopy(credentials=CREDENTIALS, database=b"SQLite format 3\x00" + bytes(64))
# The ids differ in one bit, so that a flipped bit can name the other key.
OLD = EncryptionKey(key_id="k0", secret=b"o" * 32)
NEW = EncryptionKey(key_id="k1", secret=b"n" * 32)


def cipher(*keys: EncryptionKey) -> EnvelopeCipher:
    return EnvelopeCipher(KeyRing(keys or (NEW, OLD)), now=lambda: NOON)


def sealed_by(*keys: EncryptionKey) -> SealedSnapshot:
    return cipher(*keys).seal(COPY, epoch=7, seq=3, clean=True)


def resealed(packed: bytes) -> SealedSnapshot:
    """Return a snapshot with this content, as somebody who has the key would make it."""
    sealed = sealed_by(OLD)
    data_key = decrypt(OLD.secret, sealed.wrapped_key, b"k0")
    payload = encrypt(data_key, packed, f"crm-whatsapp/1|{COMPANY}|7|3".encode())
    return with_payload(sealed, payload)


def with_payload(sealed: SealedSnapshot, payload: bytes) -> SealedSnapshot:
    sha256 = hashlib.sha256(payload).hexdigest()
    meta = replace(sealed.meta, sha256=sha256, size_bytes=len(payload))
    return replace(sealed, payload=payload, meta=meta)


def test_it_is_what_the_service_asks_for() -> None:
    port: SnapshotCipher = cipher()
    assert port.open(port.seal(COPY, epoch=7, seq=3, clean=True)) == COPY


def test_what_is_known_without_the_key() -> None:
    sealed = sealed_by()
    assert sealed.meta.company_id == COMPANY
    assert (sealed.meta.epoch, sealed.meta.seq, sealed.meta.clean) == (7, 3, True)
    assert sealed.meta.key_id == "k1"
    assert sealed.meta.sha256 == hashlib.sha256(sealed.payload).hexdigest()
    assert sealed.meta.size_bytes == len(sealed.payload)
    assert sealed.meta.created_at == NOON
    assert sealed.meta.object_key is None


def test_the_format_is_the_documented_one() -> None:
    """Whoever has the key reads it with other software."""
    sealed = sealed_by()
    wrapped, payload = sealed.wrapped_key, sealed.payload
    data_key = AESGCM(NEW.secret).decrypt(wrapped[:12], wrapped[12:], b"k1")
    context = f"crm-whatsapp/1|{COMPANY}|7|3".encode()
    packed = AESGCM(data_key).decrypt(payload[:12], payload[12:], context)
    assert packed[0] == 1
    end = 5 + int.from_bytes(packed[1:5], "big")
    assert packed[5:end].decode() == (
        f'{{"company_id":"{COMPANY}","jid":"5511999990001:3@s.whatsapp.net",'
        '"lid":"123456789012345:3@lid","push_name":"Loja ☕","platform":null,'
        '"paired_at":"2026-03-01T12:00:00+00:00",'
        f'"store_sha256":"{hashlib.sha256(COPY.database).hexdigest()}"}}'
    )
    assert zstandard.decompress(packed[end:]) == COPY.database


def test_nothing_is_readable_and_nothing_repeats() -> None:
    first, second = sealed_by(), sealed_by()
    for clear in (b"SQLite", b"5511999990001", COMPANY.encode(), b"Loja"):
        assert clear not in first.payload
    assert first.payload[:12] != second.payload[:12]
    assert first.wrapped_key != second.wrapped_key
    assert "payload" not in repr(first)
    assert "database" not in repr(COPY)


@settings(max_examples=150, deadline=None)
@given(
    database=st.binary(min_size=1, max_size=4096),
    push_name=st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=100),
    epoch=st.integers(0, 2**63 - 1),
    seq=st.integers(0, 2**63 - 1),
)
def test_every_store_comes_back(database: bytes, push_name: str, epoch: int, seq: int) -> None:
    credentials = replace(
        CREDENTIALS, push_name=push_name and push_name.replace("\x00", ""), epoch=epoch
    )
    copy = StoreCopy(credentials=credentials, database=database)
    assert cipher().open(cipher().seal(copy, epoch=epoch, seq=seq, clean=False)) == copy


def test_the_epoch_is_that_of_the_snapshot() -> None:
    opened = cipher().open(cipher().seal(COPY, epoch=9, seq=1, clean=False))
    assert opened.credentials == replace(CREDENTIALS, epoch=9)


def flips(content: bytes) -> Iterator[bytes]:
    for position in range(len(content)):
        for bit in range(8):
            altered = bytearray(content)
            altered[position] ^= 1 << bit
            yield bytes(altered)


def text_flips(text: str) -> Iterator[str]:
    return (altered.decode("latin-1") for altered in flips(text.encode()))


def altered_snapshots(sealed: SealedSnapshot) -> Iterator[SealedSnapshot]:
    for payload in flips(sealed.payload):
        yield replace(sealed, payload=payload)
        yield with_payload(sealed, payload)
    for wrapped_key in flips(sealed.wrapped_key):
        yield replace(sealed, wrapped_key=wrapped_key)
    meta = sealed.meta
    for text in text_flips(meta.key_id):
        yield replace(sealed, meta=replace(meta, key_id=text))
    for text in text_flips(meta.company_id):
        yield replace(sealed, meta=replace(meta, company_id=text))
    for text in text_flips(meta.sha256):
        yield replace(sealed, meta=replace(meta, sha256=text))
    for bit in range(64):
        yield replace(sealed, meta=replace(meta, epoch=meta.epoch ^ 1 << bit))
        yield replace(sealed, meta=replace(meta, seq=meta.seq ^ 1 << bit))
        yield replace(sealed, meta=replace(meta, size_bytes=meta.size_bytes ^ 1 << bit))


def test_every_flipped_bit_is_noticed() -> None:
    count = 0
    for altered in altered_snapshots(sealed_by()):
        with pytest.raises((SnapshotDamaged, KeyMissing)):
            cipher().open(altered)
        count += 1
    assert count > 5000


def test_every_length_but_its_own_is_noticed() -> None:
    sealed = sealed_by()
    for length in range(len(sealed.payload)):
        with pytest.raises(SnapshotDamaged):
            cipher().open(with_payload(sealed, sealed.payload[:length]))
    for length in range(len(sealed.wrapped_key)):
        with pytest.raises(SnapshotDamaged):
            cipher().open(replace(sealed, wrapped_key=sealed.wrapped_key[:length]))
    with pytest.raises(SnapshotDamaged):
        cipher().open(with_payload(sealed, sealed.payload + b"\x00"))


@settings(max_examples=300, deadline=None)
@given(payload=st.binary(max_size=300), wrapped_key=st.binary(max_size=100), text=st.text())
def test_rubbish_is_damaged_or_of_an_unknown_key(
    payload: bytes, wrapped_key: bytes, text: str
) -> None:
    sealed = with_payload(sealed_by(), payload)
    rubbish = [
        sealed,
        replace(sealed, wrapped_key=wrapped_key),
        replace(sealed, meta=replace(sealed.meta, company_id=text)),
        replace(sealed, meta=replace(sealed.meta, key_id=text)),
    ]
    for each in rubbish:
        with pytest.raises((SnapshotDamaged, KeyMissing)):
            cipher().open(each)


def test_one_snapshot_does_not_stand_in_for_another() -> None:
    first = cipher().seal(COPY, epoch=7, seq=3, clean=True)
    later = cipher().seal(COPY, epoch=7, seq=4, clean=True)
    theirs = replace(CREDENTIALS, company_id=OTHER)
    other = cipher().seal(replace(COPY, credentials=theirs), epoch=7, seq=3, clean=True)
    for wrong in (later, other):
        for mixed in (replace(first, meta=wrong.meta), replace(wrong, meta=first.meta)):
            meta = replace(
                mixed.meta,
                sha256=hashlib.sha256(mixed.payload).hexdigest(),
                size_bytes=len(mixed.payload),
            )
            with pytest.raises(SnapshotDamaged):
                cipher().open(replace(mixed, meta=meta))
        with pytest.raises(SnapshotDamaged):
            cipher().open(replace(first, wrapped_key=wrong.wrapped_key))


def test_the_session_within_must_be_that_of_the_company() -> None:
    theirs = replace(COPY, credentials=replace(CREDENTIALS, company_id=OTHER))
    with pytest.raises(SnapshotDamaged, match="another company"):
        cipher().open(resealed(pack_copy(theirs)))


def test_without_its_key_it_stays_shut() -> None:
    with pytest.raises(KeyMissing, match="k1"):
        cipher(OLD).open(sealed_by(NEW))
    with pytest.raises(SnapshotDamaged):
        cipher(replace(NEW, secret=b"x" * 32)).open(sealed_by(NEW))


def test_rotation_rewraps_the_data_key_alone() -> None:
    sealed = sealed_by(OLD)
    rewrapped = cipher(NEW, OLD).rewrap(replace(sealed, payload=b""))
    assert rewrapped is not None
    key_id, wrapped_key = rewrapped
    assert key_id == "k1"
    moved = replace(sealed, meta=replace(sealed.meta, key_id=key_id), wrapped_key=wrapped_key)
    assert cipher(NEW).open(moved) == COPY
    assert cipher(NEW, OLD).rewrap(moved) is None
    with pytest.raises(KeyMissing):
        cipher(OLD).open(moved)
    with pytest.raises(KeyMissing):
        cipher(NEW).rewrap(sealed)
    for altered in flips(sealed.wrapped_key):
        with pytest.raises(SnapshotDamaged):
            cipher(NEW, OLD).rewrap(replace(sealed, wrapped_key=altered))


def claiming(size: int, content: bytes = b"") -> bytes:
    """Return a zstd frame (RFC 8878) of one raw block that claims any size of content."""
    block = (len(content) << 3 | 1).to_bytes(3, "little") + content
    return b"\x28\xb5\x2f\xfd\xe0" + size.to_bytes(8, "little") + block


def frame_of(packed: bytes) -> tuple[bytes, bytes]:
    end = 5 + int.from_bytes(packed[1:5], "big")
    return packed[:end], packed[end:]


def test_a_frame_made_by_hand_is_read() -> None:
    head, _ = frame_of(pack_copy(COPY))
    assert unpack_copy(head + claiming(len(COPY.database), COPY.database)).database == COPY.database


@pytest.mark.parametrize(
    "frame",
    [
        claiming(MOST_DATABASE_BYTES + 1, b"x"),
        claiming(2**62, b"x"),
        claiming(0),
        claiming(5, b"four"),
        claiming(3, b"four"),
        claiming(79, COPY.database),
        zstandard.ZstdCompressor(write_content_size=False).compress(COPY.database),
        zstandard.ZstdCompressor().compress(COPY.database) + b"more",
        zstandard.ZstdCompressor().compress(COPY.database)[:-1],
        zstandard.ZstdCompressor().compress(b"another"),
        b"",
        b"x",
        b"not a frame at all",
    ],
)
def test_a_frame_that_is_not_the_packed_one_is_refused(frame: bytes) -> None:
    head, _ = frame_of(pack_copy(COPY))
    with pytest.raises(SnapshotDamaged):
        unpack_copy(head + frame)
    with pytest.raises(SnapshotDamaged):
        cipher().open(resealed(head + frame))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_what_was_never_packed_is_damaged(header: bytes) -> None:
    assert_damaged(header)


def assert_damaged(header: bytes) -> None:
    _, frame = frame_of(pack_copy(COPY))
    for packed in (header, b"\x01" + len(header).to_bytes(4, "big") + header + frame):
        with pytest.raises(SnapshotDamaged):
            unpack_copy(packed)


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"null",
        b"[1]",
        b'{"company_id":1}',
        b'{"store_sha256":"x"}',
        b'[["company_id","' + COMPANY.encode() + b'"],["store_sha256","x"]]',
        b"[" * 60_000,
        b'{"noiseKey":1,"store_sha256":"x","company_id":"' + COMPANY.encode() + b'"}',
    ],
)
def test_a_header_of_another_shape_is_damaged(header: bytes) -> None:
    assert_damaged(header)


def test_another_version_is_named() -> None:
    with pytest.raises(SnapshotDamaged, match="format 2"):
        unpack_copy(b"\x02" + pack_copy(COPY)[1:])


@pytest.mark.parametrize(
    "credentials",
    [
        replace(CREDENTIALS, jid="nobody"),
        replace(CREDENTIALS, company_id="x|1|2"),
        replace(CREDENTIALS, company_id=COMPANY.upper()),
    ],
)
def test_what_could_not_be_read_back_is_not_sealed(credentials: Credentials) -> None:
    with pytest.raises(InvalidInput):
        cipher().seal(replace(COPY, credentials=credentials), epoch=1, seq=1, clean=True)


def test_an_empty_store_is_not_sealed() -> None:
    with pytest.raises(InvalidInput, match="0 bytes"):
        cipher().seal(replace(COPY, database=b""), epoch=1, seq=1, clean=True)

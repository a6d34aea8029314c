"""One session as a file under a passphrase, for moving it to another installation.

Header, 60 bytes: "CRMWASES", 1 byte version, then of scrypt (RFC 7914) 1 byte log2(n), 1 byte r,
1 byte p and 32 bytes salt; 8 bytes check, 8 bytes length of what follows (big endian).
Then 12 bytes nonce and AES-256-GCM(packed copy, see snapshot_cipher.py); the additional data is
the header. scrypt gives 40 bytes: the key and the check, which tells a wrong passphrase from a
damaged file.
"""

import contextlib
import hmac
import os
import secrets
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from crm_whatsapp.domain.errors import InvalidInput, StorageError
from crm_whatsapp.domain.snapshots import SnapshotDamaged, StoreCopy
from crm_whatsapp.sessions.durable_file import (
    NotAPlainFile,
    read_bounded,
    refused,
    sync_folder,
)
from crm_whatsapp.sessions.snapshot_cipher import (
    ENCRYPTION_ADDS_BYTES,
    MOST_DATABASE_BYTES,
    decrypt,
    encrypt,
    pack_copy,
    unpack_copy,
)

LEAST_PASSPHRASE_CHARACTERS = 12

_MAGIC = b"CRMWASES"
_VERSION = 1
_SALT_BYTES = 32
_KEY_BYTES = 32
_CHECK_BYTES = 8
_HEADER_BYTES = 60
_MOST_FILE_BYTES = MOST_DATABASE_BYTES + 2**20
_MOST_SCRYPT_BYTES = 2**28


class WrongPassphrase(InvalidInput):
    """The passphrase is not the one the file was written with."""

    code = "wrong-passphrase"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScryptCost:
    """What guessing costs: 128 * r * 2**log2_n bytes of memory, p times over.

    The default takes 64 MB and about 0.3 s; OWASP's password storage cheat sheet counts it among
    its recommended settings.
    """

    log2_n: int = 16
    r: int = 8
    p: int = 2

    def __post_init__(self) -> None:
        in_range = 1 <= self.log2_n <= 24 and 1 <= self.r <= 32 and 1 <= self.p <= 16
        if not in_range or 128 * self.r << self.log2_n > _MOST_SCRYPT_BYTES:
            raise ValueError("scrypt's parameters are out of range")


def write_archive(
    path: Path, copy: StoreCopy, passphrase: str, *, cost: ScryptCost | None = None
) -> None:
    """Write the session to a new file, mode 0600, whole or not at all.

    Raises:
        InvalidInput: the passphrase is too short, or the copy could not be read back.
        StorageError: there is such a file already, or the disk refuses.
    """
    if len(_normal(passphrase)) < LEAST_PASSPHRASE_CHARACTERS:
        raise InvalidInput(
            f"The passphrase needs at least {LEAST_PASSPHRASE_CHARACTERS} characters."
        )
    _require_absent(path)
    packed = pack_copy(copy)
    chosen = cost or ScryptCost()
    salt = secrets.token_bytes(_SALT_BYTES)
    key, check = _derive(passphrase, salt, chosen)
    length = len(packed) + ENCRYPTION_ADDS_BYTES
    header = b"".join(
        (
            _MAGIC,
            bytes([_VERSION, chosen.log2_n, chosen.r, chosen.p]),
            salt,
            check,
            length.to_bytes(8, "big"),
        )
    )
    _write_new(path, header + encrypt(key, packed, header))


def read_archive(path: Path, passphrase: str) -> StoreCopy:
    """Return the session of a file; the epoch of its credentials is 0.

    Raises:
        WrongPassphrase: it is.
        SnapshotDamaged: not such a file, cut off, altered, or of a newer release; says which.
        StorageError: the file cannot be read.
    """
    content = _read(path)
    cost, length = _parse_header(content[:_HEADER_BYTES], path)
    if len(content) - _HEADER_BYTES < length:
        raise SnapshotDamaged(f"{path} is cut off.")
    if len(content) - _HEADER_BYTES > length:
        raise SnapshotDamaged(f"{path} is longer than it was written.")
    header, sealed = content[:_HEADER_BYTES], content[_HEADER_BYTES:]
    salt = header[12 : 12 + _SALT_BYTES]
    key, check = _derive(passphrase, salt, cost)
    if not hmac.compare_digest(check, header[44 : 44 + _CHECK_BYTES]):
        raise WrongPassphrase(f"The passphrase does not fit {path}, or its header was altered.")
    try:
        packed = decrypt(key, sealed, header)
    except SnapshotDamaged as exc:
        raise SnapshotDamaged(f"{path} was altered: it cannot be decrypted.") from exc
    return unpack_copy(packed)


def _parse_header(header: bytes, path: Path) -> tuple[ScryptCost, int]:
    if not header.startswith(_MAGIC):
        raise SnapshotDamaged(f"{path} is not an exported session.")
    if len(header) < _HEADER_BYTES:
        raise SnapshotDamaged(f"{path} is cut off.")
    if header[8] != _VERSION:
        raise SnapshotDamaged(f"{path} has format {header[8]}, which this release does not read.")
    try:
        cost = ScryptCost(log2_n=header[9], r=header[10], p=header[11])
    except ValueError as exc:
        raise SnapshotDamaged(f"{path} was altered: {exc}.") from exc
    return cost, int.from_bytes(header[52:], "big")


def _derive(passphrase: str, salt: bytes, cost: ScryptCost) -> tuple[bytes, bytes]:
    scrypt = Scrypt(
        salt=salt, length=_KEY_BYTES + _CHECK_BYTES, n=1 << cost.log2_n, r=cost.r, p=cost.p
    )
    derived = scrypt.derive(_normal(passphrase).encode("utf-8", "surrogateescape"))
    return derived[:_KEY_BYTES], derived[_KEY_BYTES:]


def _normal(passphrase: str) -> str:
    """Return it in one spelling: keyboards differ in how they compose an accent."""
    return unicodedata.normalize("NFC", passphrase)


def _read(path: Path) -> bytes:
    try:
        content = read_bounded(path, _MOST_FILE_BYTES)
    except NotAPlainFile as exc:
        raise StorageError(f"{path} is not a regular file.") from exc
    except OSError as exc:
        raise refused("read", path, exc) from exc
    if len(content) > _MOST_FILE_BYTES:
        raise SnapshotDamaged(f"{path} is too large to be an exported session.")
    return content


def _require_absent(path: Path) -> None:
    if os.path.lexists(path):
        raise _taken(path)


def _write_new(path: Path, content: bytes) -> None:
    """Write under another name, then link: unlike a rename that never replaces a file."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        try:
            with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
        sync_folder(path.parent)
    except FileExistsError as exc:
        raise _taken(path) from exc
    except OSError as exc:
        raise refused("write", path, exc) from exc


def _taken(path: Path) -> StorageError:
    return StorageError(f"{path} exists already; it is never overwritten.")

"""Snapshots: encrypted copies of a session's store, so that a lost disk costs nobody a scan."""

from dataclasses import dataclass, field
from datetime import datetime

from crm_whatsapp.domain.errors import CrmWhatsappError
from crm_whatsapp.domain.folders import Credentials


class LeaseFenced(CrmWhatsappError):
    """Another instance holds the session now; nothing was written."""

    code = "lease-fenced"
    permanent = True


class KeyMissing(CrmWhatsappError):
    """The snapshot is encrypted with a key that is not configured."""

    code = "key-missing"
    permanent = True


class SnapshotDamaged(CrmWhatsappError):
    """The snapshot is not what was written."""

    code = "snapshot-damaged"
    permanent = True


class KeyRefused(SnapshotDamaged):
    """The configured key of that name does not unwrap it: altered, or sealed with another key."""


class StoreUnfit(CrmWhatsappError):
    """The store is not in a state that may be copied."""

    code = "store-unfit"


class StoreDamaged(StoreUnfit):
    """Pages of the store are not what its clients wrote into it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotMeta:
    """What is known of a snapshot without reading it.

    epoch, seq: the lease term it was taken under, and its number within the term; together they
        order all snapshots of a company.
    sha256: of the ciphertext, hexadecimal.
    clean: the client had stopped when it was taken: nothing can have changed since.
    object_key: where the ciphertext lies in S3; None when it lies in the database.
    """

    company_id: str
    epoch: int
    seq: int
    key_id: str
    sha256: str
    size_bytes: int
    clean: bool
    created_at: datetime
    object_key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedSnapshot:
    """A snapshot as it leaves this process: nothing of it can be read without the key."""

    meta: SnapshotMeta
    wrapped_key: bytes = field(repr=False)
    payload: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreCopy:
    """A checked copy of a store, in clear. Lives in memory only."""

    credentials: Credentials
    database: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreFingerprint:
    """Tells whether a store has changed, and whether the change matters.

    important: device row, one-time keys, identities, app-state keys.
    ratchets: sessions and sender keys, which change with every message.
    """

    important: str
    ratchets: str

"""Writes snapshots under numbers of their own, and reads them back."""

import threading

from crm_whatsapp.domain.errors import StoreRejected
from crm_whatsapp.domain.ports import SnapshotCipher, SnapshotStore
from crm_whatsapp.domain.snapshots import (
    SealedSnapshot,
    SnapshotDamaged,
    SnapshotMeta,
    StoreCopy,
)
from crm_whatsapp.service.lease_keeper import LeaseKeeper


class SnapshotWriter:
    """A number is used once by this process, whether its answer came or not."""

    def __init__(self, store: SnapshotStore, leases: LeaseKeeper) -> None:
        self._store = store
        self._leases = leases
        self._lock = threading.Lock()
        self._numbers: dict[str, tuple[int, int]] = {}

    def write(
        self, cipher: SnapshotCipher, copy: StoreCopy, epoch: int, clean: bool
    ) -> SnapshotMeta:
        """Write under the next number; when that is taken already, go on from what exists."""
        company_id = copy.credentials.company_id
        try:
            return self._write_numbered(
                cipher, copy, epoch, self._next_seq(company_id, epoch), clean
            )
        except StoreRejected as error:
            newest = error.details.get("newest_seq")
            is_stale = error.details.get("outcome") == "stale"
            if not is_stale or error.details.get("newest_epoch") != epoch or newest is None:
                raise
            with self._lock:
                self._numbers[company_id] = (epoch, int(newest))
        return self._write_numbered(cipher, copy, epoch, self._next_seq(company_id, epoch), clean)

    def _write_numbered(
        self, cipher: SnapshotCipher, copy: StoreCopy, epoch: int, seq: int, clean: bool
    ) -> SnapshotMeta:
        sealed = cipher.seal(copy, epoch=epoch, seq=seq, clean=clean)
        self._write_and_verify(sealed)
        return sealed.meta

    def _next_seq(self, company_id: str, epoch: int) -> int:
        """Return a number that this process has not used: an answer may have been lost."""
        with self._lock:
            last_epoch, last_seq = self._numbers.get(company_id, (0, 0))
            seq = last_seq + 1 if last_epoch == epoch else 1
            self._numbers[company_id] = (epoch, seq)
            return seq

    def _write_and_verify(self, sealed: SealedSnapshot) -> None:
        meta = sealed.meta
        self._store.write(self._leases.owner_id, sealed)
        stored = self._store.read(meta.company_id, meta.epoch, meta.seq)
        if stored.payload != sealed.payload or stored.wrapped_key != sealed.wrapped_key:
            raise SnapshotDamaged("The snapshot reads back differently from what was written.")

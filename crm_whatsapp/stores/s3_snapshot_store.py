"""Snapshots in S3-compatible storage, each pointed to by a row in Supabase.

The object is written before its row and removed after it, so a row never points to nothing, and
what a crash or a refused write leaves behind is an object without a row: the sweep removes it. An
object is never changed: its key names epoch, seq and hash.

Rows are not believed about keys: whoever can write rows could otherwise have objects of others in
the bucket read, or removed.
"""

import logging
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

from supabase import Client

from crm_whatsapp.domain.errors import StoreRejected, StoreUnavailable
from crm_whatsapp.domain.snapshots import SealedSnapshot, SnapshotDamaged, SnapshotMeta
from crm_whatsapp.stores.s3_bucket import BucketObject, S3Bucket
from crm_whatsapp.stores.snapshot_rows import SnapshotRows, gone, verified

_LOG = logging.getLogger(__name__)

_NAME = re.compile(
    r"(?P<company_id>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"
    r"/(?P<epoch>\d{1,18})-\d{1,18}-[0-9a-f]{64}\.snapshot"
)
_ORPHAN_AFTER = timedelta(days=1)
_MOST_BYTES = 512 * 1024 * 1024  # a store of the largest size, that does not compress


def _utc_now() -> datetime:
    return datetime.now(UTC)


class S3SnapshotStore:
    """The SnapshotStore on a bucket and PostgREST.

    Rows that hold their payload, from before the change to S3, are read as well.
    """

    def __init__(
        self,
        client: Client,
        bucket: S3Bucket,
        *,
        prefix: str = "",
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        """Use the client for the rows and the bucket for the content.

        Args:
            prefix: of all keys, without a slash at the end. Two databases need two prefixes.
        """
        self._rows = SnapshotRows(client)
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._now = now

    def write(self, owner_id: str, sealed: SealedSnapshot) -> None:
        """Keep it and prune to the newest three; the same one twice is kept once.

        Raises:
            LeaseFenced: owner and epoch are not those of a live lease; there is no row.
            StoreRejected: also when it is not newer than what exists, see SnapshotRows.write.
        """
        try:
            verified(sealed)
        except SnapshotDamaged as exc:
            raise StoreRejected(f"{exc.message} It was not written.") from exc
        key = self._key(sealed.meta)
        self._bucket.put(key, sealed.payload)
        # A refused write leaves its object to the sweep: an earlier attempt at the same write may
        # have made a row that points to it.
        pruned = self._rows.write(owner_id, sealed, object_key=key)
        self._remove(pruned.object_keys)

    def list(self, company_id: str) -> list[SnapshotMeta]:
        """Return the live snapshots of a company, newest first."""
        return self._rows.metas(company_id)

    def read(self, company_id: str, epoch: int, seq: int) -> SealedSnapshot:
        """Return one, verified against its hash.

        Raises:
            SnapshotDamaged: it is not what was written, or gone.
        """
        found = self._rows.find(company_id, epoch, seq)
        if found is None:
            raise gone(epoch, seq)
        key = found.meta.object_key
        if key is None:
            return verified(found)
        self._check(found.meta, key)
        content = self._bucket.find(key, found.meta.size_bytes)
        if content is None:
            if self._rows.find(company_id, epoch, seq) is None:
                raise gone(epoch, seq)  # pruned since
            raise SnapshotDamaged(f"The object of snapshot {epoch}/{seq} is missing: {key}.")
        return verified(
            SealedSnapshot(meta=found.meta, wrapped_key=found.wrapped_key, payload=content)
        )

    def companies(self) -> dict[str, tuple[int, int]]:
        """Return the newest (epoch, seq) of every company that has a live snapshot."""
        return self._rows.companies()

    def tombstone(self, company_id: str) -> None:
        """Take them out of use; they are kept for seven days."""
        self._rows.tombstone(company_id)

    def delete(self, company_id: str) -> None:
        """Remove them for good, objects without a row included.

        Raises:
            StoreUnavailable, StoreRejected: rows may be gone and objects remain; repeat it.
        """
        last_epoch = self._rows.delete(company_id)
        for key, (_, epoch) in self._objects(f"{company_id.lower()}/"):
            if epoch <= last_epoch:  # a later term is of a new pairing
                self._bucket.remove(key)

    def prune(self, company_id: str | None, keep: int) -> int:
        """Remove all but the newest of one company.

        Of each: also what is due of the tombstoned, and objects that nothing points to.

        Args:
            keep: 1 or more.
        Returns:
            How many live ones went.
        """
        removed = self._rows.prune(company_id, keep)
        self._remove(removed.object_keys)
        if company_id is None:
            self._remove(self._rows.expire().object_keys)
            self.sweep()
        return removed.count

    def rewrap(self, meta: SnapshotMeta, *, new_key_id: str, wrapped_key: bytes) -> bool:
        """Replace the wrapped data key, if it is still wrapped by meta.key_id."""
        return self._rows.rewrap(meta, new_key_id=new_key_id, wrapped_key=wrapped_key)

    def sweep(self) -> int:
        """Remove objects older than a day that no row points to; return how many went.

        Only what this store may have written: names of its form, and terms that its database gave
        out.
        """
        self._rows.expire()
        before = self._now() - _ORPHAN_AFTER
        old = [
            (company_id, epoch, key)
            for key, (company_id, epoch) in self._objects("", lambda o: o.modified_at < before)
        ]
        return self._remove(self._rows.orphans(old))

    def _objects(
        self, within: str, wanted: Callable[[BucketObject], bool] = lambda _: True
    ) -> Iterable[tuple[str, tuple[str, int]]]:
        """Yield key, company_id and epoch of the objects under the prefix that are snapshots."""
        for found in self._bucket.list(self._prefix + within):
            match = _NAME.fullmatch(found.key.removeprefix(self._prefix))
            if match is not None and wanted(found):
                yield found.key, (match["company_id"], int(match["epoch"]))

    def _check(self, meta: SnapshotMeta, key: str) -> None:
        """Refuse a row that points to anything but the object of its snapshot."""
        # The prefix may have been another one when it was written.
        if f"/{key}".endswith(f"/{self._name(meta)}") and 0 < meta.size_bytes <= _MOST_BYTES:
            return
        raise SnapshotDamaged(f"The row of snapshot {meta.epoch}/{meta.seq} was altered.")

    def _remove(self, keys: Iterable[str]) -> int:
        """Remove objects whose rows are gone; what cannot be removed now, the sweep finds."""
        removed = 0
        for key in keys:
            if _NAME.fullmatch("/".join(key.split("/")[-2:])) is None:
                _LOG.error("The row of a snapshot pointed to %r, which stays.", key[:200])
                continue
            try:
                self._bucket.remove(key)
            except (StoreUnavailable, StoreRejected) as exc:
                _LOG.warning("Object %s is no longer needed and remains: %s", key, exc.message)
                break
            removed += 1
        return removed

    def _key(self, meta: SnapshotMeta) -> str:
        return self._prefix + self._name(meta)

    def _name(self, meta: SnapshotMeta) -> str:
        return f"{meta.company_id.lower()}/{meta.epoch}-{meta.seq}-{meta.sha256}.snapshot"

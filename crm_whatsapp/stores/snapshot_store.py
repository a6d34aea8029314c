"""Snapshots in Supabase, their content in the rows."""

from supabase import Client

from crm_whatsapp.domain.errors import StoreRejected
from crm_whatsapp.domain.snapshots import SealedSnapshot, SnapshotMeta
from crm_whatsapp.stores.snapshot_rows import SnapshotRows, gone, verified


class SupabaseSnapshotStore:
    """The SnapshotStore on PostgREST. Payloads of up to 32 MiB."""

    def __init__(self, client: Client) -> None:
        self._rows = SnapshotRows(client)

    def write(self, owner_id: str, sealed: SealedSnapshot) -> None:
        """Keep it and prune to the newest three; the same one twice is kept once.

        Raises:
            LeaseFenced: owner and epoch are not those of a live lease; nothing was written.
            StoreRejected: also when it is not newer than what exists, see SnapshotRows.write.
        """
        self._rows.write(owner_id, sealed)

    def list(self, company_id: str) -> list[SnapshotMeta]:
        """Return the live snapshots of a company, newest first."""
        return self._rows.metas(company_id)

    def read(self, company_id: str, epoch: int, seq: int) -> SealedSnapshot:
        """Return one, verified against its hash.

        Raises:
            SnapshotDamaged: it is not what was written, or gone.
            StoreRejected: it was written to S3.
        """
        found = self._rows.find(company_id, epoch, seq)
        if found is None:
            raise gone(epoch, seq)
        if found.meta.object_key is not None:
            raise StoreRejected(
                f"Snapshot {epoch}/{seq} lies in S3, in {found.meta.object_key}. "
                "Set SNAPSHOT_STORAGE=s3 to read it."
            )
        return verified(found)

    def companies(self) -> dict[str, tuple[int, int]]:
        """Return the newest (epoch, seq) of every company that has a live snapshot."""
        return self._rows.companies()

    def tombstone(self, company_id: str) -> None:
        """Take them out of use; they are kept for seven days."""
        self._rows.tombstone(company_id)

    def delete(self, company_id: str) -> None:
        """Remove them for good."""
        self._rows.delete(company_id)

    def prune(self, company_id: str | None, keep: int) -> int:
        """Remove all but the newest of one company; of each: also what is due of the tombstoned.

        Args:
            keep: 1 or more.
        Returns:
            How many live ones went.
        """
        removed = self._rows.prune(company_id, keep)
        if company_id is None:
            self._rows.expire()
        return removed.count

    def sweep(self) -> int:
        """Remove the snapshots whose tombstone has expired; return how many went."""
        return self._rows.expire().count

    def rewrap(self, meta: SnapshotMeta, *, new_key_id: str, wrapped_key: bytes) -> bool:
        """Replace the wrapped data key, if it is still wrapped by meta.key_id."""
        return self._rows.rewrap(meta, new_key_id=new_key_id, wrapped_key=wrapped_key)

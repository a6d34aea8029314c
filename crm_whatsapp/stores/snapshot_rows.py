"""The rows of snapshots in Supabase: for S3 they point to the content, else they hold it."""

import base64
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from supabase import Client

from crm_whatsapp.domain.errors import StoreRejected
from crm_whatsapp.domain.snapshots import LeaseFenced, SealedSnapshot, SnapshotDamaged, SnapshotMeta
from crm_whatsapp.stores.connection_record import read_time
from crm_whatsapp.stores.supabase_client import DatabaseCalls

KEEP = 3
"""How many snapshots of a company a write leaves."""

_KEPT_OUTCOMES = ("written", "duplicate")
_OBJECTS_A_CALL = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """What a call removed. object_keys: what lies in S3 and has no row any more."""

    count: int
    object_keys: tuple[str, ...] = ()


class SnapshotRows:
    """The SQL functions of snapshots. Every method raises as ConnectionStore does."""

    def __init__(self, client: Client) -> None:
        self._calls = DatabaseCalls(client)

    def write(
        self, owner_id: str, sealed: SealedSnapshot, *, object_key: str | None = None
    ) -> Removal:
        """Insert the row under the lease and prune; safe to repeat.

        Args:
            object_key: where the payload lies already; None to keep it in the row.
        Returns:
            What was pruned.
        Raises:
            LeaseFenced: owner and epoch are not those of a live lease.
            StoreRejected: outcome "stale" in its details: newest_epoch and newest_seq exist
                already, perhaps by an earlier attempt whose answer was lost. A higher seq is free.

        Source:
            migrations: whatsapp_write_snapshot_v1.
        """
        meta = sealed.meta
        params = {
            "p_owner": owner_id,
            "p_company_id": meta.company_id,
            "p_epoch": meta.epoch,
            "p_seq": meta.seq,
            "p_key_id": meta.key_id,
            "p_wrapped_key": _to_text(sealed.wrapped_key),
            "p_sha256": meta.sha256,
            "p_size_bytes": meta.size_bytes,
            "p_clean": meta.clean,
            "p_payload": _to_text(sealed.payload) if object_key is None else None,
            "p_object_key": object_key,
            "p_keep": KEEP,
        }
        answer = _object(self._calls.repeatable("whatsapp_write_snapshot_v1", params))
        outcome = answer.get("outcome")
        if outcome == "fenced":
            raise LeaseFenced(lease_epoch=answer.get("lease_epoch"))
        if outcome == "stale":
            raise StoreRejected(
                f"Snapshot {meta.epoch}/{meta.seq} is not newer than "
                f"{answer.get('newest_epoch')}/{answer.get('newest_seq')}, which exists.",
                **answer,
            )
        if outcome not in _KEPT_OUTCOMES:
            raise StoreRejected(f"The database gave an unknown answer about a snapshot: {answer}.")
        return _removal(answer)

    def metas(self, company_id: str) -> list[SnapshotMeta]:
        """Return the live snapshots, newest first."""
        answer = self._calls.repeatable("whatsapp_list_snapshots_v1", {"p_company_id": company_id})
        if not isinstance(answer, list):
            raise StoreRejected("The database gave an unknown answer about snapshots.")
        return [_meta(row) for row in answer]

    def find(self, company_id: str, epoch: int, seq: int) -> SealedSnapshot | None:
        """Return a live snapshot unverified, its payload empty when it lies in S3."""
        answer = self._calls.repeatable(
            "whatsapp_read_snapshot_v1",
            {"p_company_id": company_id, "p_epoch": epoch, "p_seq": seq},
        )
        if answer is None:
            return None
        row = _object(answer)
        return SealedSnapshot(
            meta=_meta(row),
            wrapped_key=_to_bytes(row.get("wrapped_key")),
            payload=_to_bytes(row.get("payload") or ""),
        )

    def companies(self) -> dict[str, tuple[int, int]]:
        """Return the newest live (epoch, seq) of each company."""
        answer = self._calls.repeatable("whatsapp_snapshot_companies_v1", {})
        try:
            return {str(company): (int(epoch), int(seq)) for company, epoch, seq in answer}
        except (TypeError, ValueError) as exc:
            raise StoreRejected("The database gave an unknown list of snapshots.") from exc

    def tombstone(self, company_id: str) -> None:
        """Take all of a company out of use."""
        self._calls.repeatable("whatsapp_tombstone_snapshots_v1", {"p_company_id": company_id})

    def delete(self, company_id: str) -> int:
        """Remove all of a company; return the epoch up to which its objects can go."""
        answer = _object(
            self._calls.repeatable("whatsapp_delete_snapshots_v1", {"p_company_id": company_id})
        )
        return _count(answer.get("epoch"))

    def prune(self, company_id: str | None, keep: int) -> Removal:
        """Remove all but the newest of a company, or of each. keep: 1 or more."""
        params = {"p_company_id": company_id, "p_keep": keep}
        return _removal(_object(self._calls.repeatable("whatsapp_prune_snapshots_v1", params)))

    def expire(self) -> Removal:
        """Remove what was tombstoned seven days ago."""
        return _removal(_object(self._calls.repeatable("whatsapp_expire_snapshots_v1", {})))

    def rewrap(self, meta: SnapshotMeta, *, new_key_id: str, wrapped_key: bytes) -> bool:
        """Replace the wrapped data key if it is still wrapped by meta.key_id; safe to repeat."""
        answer = self._calls.repeatable(
            "whatsapp_rewrap_snapshot_v1",
            {
                "p_company_id": meta.company_id,
                "p_epoch": meta.epoch,
                "p_seq": meta.seq,
                "p_sha256": meta.sha256,
                "p_old_key_id": meta.key_id,
                "p_new_key_id": new_key_id,
                "p_wrapped_key": _to_text(wrapped_key),
            },
        )
        return answer is True

    def orphans(self, objects: Iterable[tuple[str, int, str]]) -> list[str]:
        """Return the keys of objects, given as (company_id, epoch, key), that have no row.

        Objects of terms that this database never gave out are not among them.
        """
        elements = [
            {"company_id": company_id, "epoch": epoch, "object_key": key}
            for company_id, epoch, key in objects
        ]
        found: list[str] = []
        for start in range(0, len(elements), _OBJECTS_A_CALL):
            params = {"p_objects": elements[start : start + _OBJECTS_A_CALL]}
            answer = self._calls.repeatable("whatsapp_orphaned_objects_v1", params)
            if not isinstance(answer, list):
                raise StoreRejected("The database gave an unknown answer about objects.")
            found.extend(str(key) for key in answer)
        return found


def verified(sealed: SealedSnapshot) -> SealedSnapshot:
    """Return the snapshot if its payload is what its hash and size say.

    Raises:
        SnapshotDamaged: it is not.
    """
    meta = sealed.meta
    if len(sealed.payload) != meta.size_bytes:
        raise SnapshotDamaged(
            f"Snapshot {meta.epoch}/{meta.seq} has {len(sealed.payload)} bytes instead of "
            f"{meta.size_bytes}."
        )
    if hashlib.sha256(sealed.payload).hexdigest() != meta.sha256:
        raise SnapshotDamaged(f"Snapshot {meta.epoch}/{meta.seq} does not match its hash.")
    return sealed


def gone(epoch: int, seq: int) -> SnapshotDamaged:
    """Return the error for a snapshot that does not exist (any more)."""
    return SnapshotDamaged(f"Snapshot {epoch}/{seq} does not exist, or does not any more.")


def _meta(row: Any) -> SnapshotMeta:
    try:
        created_at = read_time(row["created_at"])
        if created_at is None:
            raise ValueError("created_at")
        return SnapshotMeta(
            company_id=str(row["company_id"]),
            epoch=int(row["epoch"]),
            seq=int(row["seq"]),
            key_id=str(row["key_id"]),
            sha256=str(row["sha256"]),
            size_bytes=int(row["size_bytes"]),
            clean=row["clean"] is True,
            created_at=created_at,
            object_key=row["object_key"],
        )
    except (KeyError, TypeError, ValueError) as exc:
        raise StoreRejected("The database gave an unknown answer about a snapshot.") from exc


def _removal(answer: dict[str, Any]) -> Removal:
    return Removal(
        count=_count(answer.get("removed")),
        object_keys=tuple(str(key) for key in answer.get("object_keys") or ()),
    )


def _count(raw: Any) -> int:
    if not isinstance(raw, int):
        raise StoreRejected("The database gave an unknown answer about snapshots.")
    return raw


def _object(answer: Any) -> dict[str, Any]:
    if not isinstance(answer, dict):
        raise StoreRejected("The database gave an unknown answer about a snapshot.")
    return answer


def _to_text(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


def _to_bytes(text: Any) -> bytes:
    """Decode base64 as Postgres writes it, in lines."""
    try:
        return base64.b64decode(text.replace("\n", ""), validate=True)
    except (AttributeError, ValueError) as exc:
        raise SnapshotDamaged("The content of a snapshot is not base64.") from exc

"""What the service needs from the outside world, as Protocols."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Protocol

from crm_whatsapp.domain.connection import Connection
from crm_whatsapp.domain.folders import Credentials, FolderReport
from crm_whatsapp.domain.leases import InstanceReport, Lease, LeaseClaim
from crm_whatsapp.domain.notices import Notice
from crm_whatsapp.domain.snapshots import (
    SealedSnapshot,
    SnapshotMeta,
    StoreCopy,
    StoreFingerprint,
)
from crm_whatsapp.domain.transitions import Transition, TransitionReceipt


class Clock(Protocol):
    """Time. `now` does not jump when somebody sets the machine's clock."""

    def now(self) -> datetime:
        """Return the time, aware, UTC."""

    def monotonic(self) -> float:
        """Return seconds that never run backwards."""


class ConnectionStore(Protocol):
    """The rows and the history in Supabase.

    Every method raises StoreUnavailable when the database cannot be reached in time, and
    StoreRejected when it refuses (permissions, missing migration).
    """

    def record_transitions(self, transitions: Sequence[Transition]) -> list[TransitionReceipt]:
        """Record a batch in order; safe to repeat."""

    def list_connections(self) -> list[Connection]:
        """Return every row, pages joined. Client phases of the result are unset."""

    def forget_company(self, company_id: str, version: int) -> None:
        """Remove the row; writes of `version` or older never bring it back."""

    def schema_version(self) -> int:
        """Return the number of the newest applied migration, 0 when there is none."""


class LeaseStore(Protocol):
    """Leases in Supabase, decided on the database clock. Raises as ConnectionStore does."""

    def claim(
        self, owner_id: str, company_ids: Sequence[str], ttl_seconds: float
    ) -> list[LeaseClaim]:
        """Claim what is free, expired or already ours; 0 < ttl <= 300. Never repeat it blindly."""

    def tick(
        self, report: InstanceReport, leases: Sequence[Lease], ttl_seconds: float
    ) -> list[LeaseClaim]:
        """Renew exactly these terms and record the heartbeat; a missing one is lost."""

    def release(self, owner_id: str, leases: Sequence[Lease]) -> None:
        """Let these terms end now."""


JournalEntry = Transition | Notice
"""What waits in the journal for Supabase."""


class StateJournal(Protocol):
    """The local record of every transition, written before Supabase hears of it.

    Notices that somebody outside wants wait in the same backlog, in the same order.
    """

    def append(self, transition: Transition) -> None:
        """Record it and the connection's latest state in one step; FORGOTTEN removes the state.

        Raises:
            StorageError: the disk is full or not writable.
        """

    def append_notice(self, notice: Notice, *, keep: bool) -> None:
        """Record a notice; the same id only once.

        Args:
            keep: False for what is soon worth nothing; it is the first to go when there is too
                much.
        Raises:
            StorageError: the disk is full or not writable.
            InvalidInput: it cannot be written down.
        """

    def pending(self, limit: int, *, notices: bool = True) -> list[JournalEntry]:
        """Return the oldest entries not yet in Supabase, in order: as many as fit one request.

        Args:
            notices: False leaves them out.
        """

    def pending_heads(self, limit: int, *, notices: bool) -> list[JournalEntry]:
        """Return the oldest entry of each company, where it is a notice, or where it is none.

        Args:
            limit: of how many companies, those that have waited longest.
        """

    def pending_count(self, *, notices: bool = True) -> int:
        """Return how many are not yet in Supabase; notices: False leaves them out."""

    def mark_sent(self, entry_ids: Sequence[str]) -> None:
        """Forget the backlog entries; the latest state stays."""

    def forgotten_companies(self) -> list[str]:
        """Return the companies whose end is not yet in Supabase."""

    def load_connections(self) -> list[Connection]:
        """Return the latest recorded state of every company."""

    def adopt(self, connection: Connection) -> None:
        """Take over a state that Supabase already has, without a transition."""


class ProxyVault(Protocol):
    """Each company's proxy, encrypted at rest: its URL may carry a password.

    Methods raise StorageError when the disk refuses or the entry cannot be decrypted.
    """

    def put(self, company_id: str, url: str) -> None:
        """Keep the proxy of a company."""

    def find(self, company_id: str) -> str | None:
        """Return the proxy, None when the company has none."""

    def remove(self, company_id: str) -> None:
        """Forget it; no error when there is none."""


class SessionFolders(Protocol):
    """The session folders under SESSIONS_DIR.

    Methods raise StorageError when the disk refuses.
    """

    def has_credentials(self, company_id: str) -> bool:
        """Tell whether creds.json, or a store that can be adopted, exists. One or two stats."""

    def has_credentials_file(self, company_id: str) -> bool:
        """Tell whether creds.json exists; one stat, and never a look into the store."""

    def inspect(self, company_id: str, *, deep: bool = True) -> FolderReport:
        """Look at the folder; deep also opens the store and reads the device row."""

    def list_companies(self) -> list[str]:
        """Return the companies that have a folder."""

    def store_path(self, company_id: str) -> Path:
        """Return where store.db is or will be."""

    def session_path(self, company_id: str) -> Path:
        """Return the folder."""

    def lock_path(self, company_id: str) -> Path:
        """Return the lock file of the session."""

    def prepare(self, company_id: str) -> None:
        """Make an empty folder, mode 0700, for a pairing."""

    def write_credentials(self, credentials: Credentials) -> None:
        """Write creds.json atomically and durably, mode 0600."""

    def remove_credentials(self, company_id: str) -> None:
        """Remove creds.json alone; no error when there is none."""

    def remove(self, company_id: str) -> None:
        """Remove the folder; no error when there is none."""

    def keep_before_start(self, company_id: str) -> None:
        """Copy the store of a company at rest, so that `put_back` can undo the next start."""

    def put_back(self, company_id: str) -> bool:
        """Replace the store of a company at rest by that copy; False when there is none."""

    def quarantine(self, company_id: str, why: str) -> Path | None:
        """Set the folder aside under quarantine/; None when there is none."""

    def check_writable(self) -> None:
        """Raise StorageError, saying why, when SESSIONS_DIR cannot be written."""


class SnapshotStore(Protocol):
    """Where sealed snapshots are kept. Raises as ConnectionStore does."""

    def write(self, owner_id: str, sealed: SealedSnapshot) -> None:
        """Keep it and prune to the newest three; the same one twice is kept once.

        Raises:
            LeaseFenced: owner and epoch are not those of a live lease; nothing was written.
        """

    def list(self, company_id: str) -> list[SnapshotMeta]:
        """Return the live snapshots of a company, newest first."""

    def read(self, company_id: str, epoch: int, seq: int) -> SealedSnapshot:
        """Return one, verified against its hash.

        Raises:
            SnapshotDamaged: it is not what was written, or gone.
        """

    def companies(self) -> dict[str, tuple[int, int]]:
        """Return the newest (epoch, seq) of every company that has a live snapshot."""

    def tombstone(self, company_id: str) -> None:
        """Take them out of use; they are kept for seven days."""

    def delete(self, company_id: str) -> None:
        """Remove them for good."""

    def prune(self, company_id: str | None, keep: int) -> int:
        """Remove all but the newest of one company, or of each; return how many went."""

    def sweep(self) -> int:
        """Remove expired tombstones and what nothing points to; return how much went."""

    def rewrap(self, meta: SnapshotMeta, *, new_key_id: str, wrapped_key: bytes) -> bool:
        """Replace the wrapped data key, if it is still wrapped by meta.key_id."""


class SnapshotCipher(Protocol):
    """Seals and opens snapshots."""

    def seal(self, copy: StoreCopy, *, epoch: int, seq: int, clean: bool) -> SealedSnapshot:
        """Compress and encrypt with the first key."""

    def open(self, sealed: SealedSnapshot) -> StoreCopy:
        """Decrypt with whichever key sealed it.

        Raises:
            KeyMissing: that key is not configured.
            SnapshotDamaged: anything else is wrong with it.
        """

    def rewrap(self, sealed: SealedSnapshot) -> tuple[str, bytes] | None:
        """Return first key's id and the data key wrapped by it; None when it is so already."""


class StoreCopier(Protocol):
    """Copies stores out of session folders. Raises StorageError as SessionFolders."""

    def copy(self, company_id: str) -> StoreCopy:
        """Copy the store, also while its client runs, and check the copy.

        Raises:
            StoreUnfit: it is damaged, or does not hold exactly the expected device.
        """

    def fingerprint(self, company_id: str) -> StoreFingerprint:
        """Tell the store's present condition without copying it. Raises StoreUnfit."""

    def verify(self, company_id: str) -> None:
        """Compare the store with what its clients wrote into it, also while one runs.

        Raises:
            StoreDamaged: bits have flipped.
            StoreUnfit: it could not be read now.
        """


class SessionInstaller(Protocol):
    """Makes session folders of copies. Raises StorageError as SessionFolders."""

    def install(self, copy: StoreCopy, *, epoch: int, reset_signal: bool = False) -> None:
        """Put the session in place by one step; what was there is set aside.

        Args:
            reset_signal: leave out the Signal sessions: the client went on after the copy.
        Raises:
            StoreUnfit: the copy would not do as a store; nothing was changed.
        """

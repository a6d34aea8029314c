"""Whether a session's snapshot covers it: not how old it is, but what it has missed."""

from datetime import datetime

from crm_whatsapp.service.snapshot_ledger import SnapshotState


def snapshot_problem(
    state: SnapshotState | None,
    *,
    behind_seconds: float,
    connected_since: datetime | None,
    now: datetime,
    bound_seconds: float,
) -> str | None:
    """Return what is wrong with the snapshots of a connected session; None when they cover it.

    A session in which nothing happens keeps its snapshot for weeks, and that is as it should be.

    Args:
        state: what the keeper knows; None when it has never heard of the company.
        behind_seconds: how long the store has held what its snapshot does not.
        bound_seconds: as long as that lasts less, it is no problem.
    """
    missing = state is None or state.meta is None
    lag = behind_seconds
    if missing and connected_since is not None:
        lag = max(lag, (now - connected_since).total_seconds())
    if lag <= bound_seconds:
        return None
    why = f" ({state.problem})" if state is not None and state.problem else ""
    what = "none was taken since it connected" if missing else "changes are in none"
    return f"{what}, for {_hours(lag)}{why}"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{seconds / 60:.0f} minutes"

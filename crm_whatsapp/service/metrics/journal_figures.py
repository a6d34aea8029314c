"""What is on its way to the database."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client.core import Metric

from crm_whatsapp.service.metrics.families import counter, counters, gauge, gauges


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """How the journal's entries of one kind fare; counts since start but for the first two.

    Attributes:
        pending: on disk, not yet in the database.
        held: in memory only, because the disk refuses.
        sent: the database has taken them.
        dropped: passing ones, given up because too many waited.
        lost: others that will be nowhere.
    """

    pending: int
    held: int
    sent: int
    dropped: int
    lost: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalFigures:
    """Figures of the journal and of what empties it.

    Attributes:
        refused: the database will not have them; of either kind, since start.
        is_reachable: the last call with transitions succeeded.
    """

    transitions: Carried
    notices: Carried
    refused: int
    is_reachable: bool

    def metrics(self) -> Iterator[Metric]:
        """Yield them as Prometheus takes them."""
        kinds = {"transition": self.transitions, "notice": self.notices}
        yield gauges(
            "whatsapp_journal_pending",
            "Entries on disk that the database has not seen yet.",
            "kind",
            {kind: carried.pending for kind, carried in kinds.items()},
        )
        yield gauges(
            "whatsapp_journal_held",
            "Entries in memory only, because the disk refuses them.",
            "kind",
            {kind: carried.held for kind, carried in kinds.items()},
        )
        for name, documentation, figure in _COUNTS:
            counts = {kind: figure(carried) for kind, carried in kinds.items()}
            yield counters(f"whatsapp_journal_{name}", documentation, "kind", counts)
        yield counter(
            "whatsapp_journal_refused", "Entries that the database refused for good.", self.refused
        )
        yield gauge(
            "whatsapp_database_reachable",
            "1 when the last write to the database succeeded.",
            self.is_reachable,
        )


_COUNTS: tuple[tuple[str, str, Callable[[Carried], int]], ...] = (
    ("sent", "Entries that the database has taken.", lambda item: item.sent),
    ("dropped", "Passing entries given up because too many waited.", lambda item: item.dropped),
    ("lost", "Entries that will never be in the database.", lambda item: item.lost),
)

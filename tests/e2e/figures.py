"""The page of metrics, read."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

Series = tuple[str, frozenset[tuple[str, str]]]
"""A name with its suffix, such as `whatsapp_http_requests_total`, and its labels."""


class Figures(dict[Series, float]):
    """Every series of one scrape, by name and labels."""

    @classmethod
    def read(cls, page: str) -> Figures:
        """Return the series of a page in Prometheus' text format."""
        return cls(
            {
                (sample.name, frozenset(sample.labels.items())): sample.value
                for family in text_string_to_metric_families(page)
                for sample in family.samples
            }
        )

    def value(self, name: str, **labels: str) -> float:
        """Return the series with exactly these labels.

        Raises:
            KeyError: there is none.
        """
        return self[name, frozenset(labels.items())]

    def sum(self, name: str, **labels: str) -> float:
        """Return the sum of all series with these labels and any others; 0 without any."""
        return sum(self.by(name, **labels).values())

    def by(self, name: str, label: str | None = None, **labels: str) -> dict[str, float]:
        """Return the series with these labels, summed by the values of another label.

        Args:
            label: None tells series apart by all their labels.
        """
        wanted = frozenset(labels.items())
        found: dict[str, float] = {}
        for (its_name, its_labels), value in self.items():
            if its_name == name and wanted <= its_labels:
                key = dict(its_labels).get(label, "") if label else str(sorted(its_labels))
                found[key] = found.get(key, 0.0) + value
        return found

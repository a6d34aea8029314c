"""What is known of snapshots, and what must not be believed about retired ones."""

from typing import cast

from crm_whatsapp.domain.ports import SnapshotStore
from crm_whatsapp.service.snapshot_catalogue import SnapshotCatalogue

COMPANY = "3b1bee0c-cbee-4de1-88f1-d6e890f4c995"


class Companies:
    """Answers like the database; what happens before an answer arrives is done by `meanwhile`."""

    def __init__(self) -> None:
        self.found = {COMPANY: (1, 1)}
        self.meanwhile = lambda: None

    def companies(self) -> dict[str, tuple[int, int]]:
        answer = dict(self.found)
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        return answer


def catalogue_of(companies: Companies) -> SnapshotCatalogue:
    return SnapshotCatalogue(cast(SnapshotStore, companies))


def test_hidden_companies_have_no_snapshot_whatever_is_heard() -> None:
    companies = Companies()
    catalogue = catalogue_of(companies)
    catalogue.load()
    assert catalogue.find(COMPANY) == (1, 1)

    catalogue.hide(COMPANY)
    catalogue.load()
    catalogue.note(COMPANY, (1, 2))

    assert catalogue.find(COMPANY) is None
    assert catalogue.companies() == []


def test_after_they_are_retired_new_ones_are_heard_of_again() -> None:
    companies = Companies()
    catalogue = catalogue_of(companies)
    catalogue.hide(COMPANY)
    companies.found = {}
    catalogue.show(COMPANY)
    catalogue.load()
    assert catalogue.find(COMPANY) is None

    catalogue.note(COMPANY, (2, 1))
    assert catalogue.find(COMPANY) == (2, 1)


def test_an_answer_older_than_a_retirement_is_not_believed() -> None:
    companies = Companies()
    catalogue = catalogue_of(companies)

    def retire() -> None:
        catalogue.hide(COMPANY)
        companies.found = {}
        catalogue.show(COMPANY)

    companies.meanwhile = retire
    catalogue.load()

    assert catalogue.find(COMPANY) is None

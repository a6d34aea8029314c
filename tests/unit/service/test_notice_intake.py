"""Only what somebody wants is written down; a status goes with its transition, but for the last."""

import pytest

from crm_whatsapp.domain.connection import Connection
from crm_whatsapp.domain.notices import Notice, NoticeKind
from crm_whatsapp.service.notice_intake import NoticeIntake
from crm_whatsapp.service.recorder import Recorder
from crm_whatsapp.service.status_notices import forgotten_notice
from tests.unit.service.fakes import NOON, FakeJournal
from tests.unit.service.pod import COMPANY


def notice(kind: NoticeKind) -> Notice:
    return Notice(id="1", kind=kind, company_id=COMPANY, occurred_at=NOON, data={})


@pytest.mark.parametrize(
    ("kind", "kept"),
    [
        (NoticeKind.QR, [False]),
        (NoticeKind.MESSAGE, [True]),
        (NoticeKind.RECEIPT, [True]),
        (NoticeKind.ALERT, [True]),
        (NoticeKind.STATUS, []),
    ],
)
@pytest.mark.parametrize("wanted", [True, False])
def test_what_is_wanted_is_recorded_and_told(
    kind: NoticeKind, kept: list[bool], wanted: bool
) -> None:
    journal = FakeJournal()
    told: list[None] = []
    asked: list[tuple[NoticeKind, str | None]] = []

    def wants(kind: NoticeKind, company_id: str | None) -> bool:
        asked.append((kind, company_id))
        return wanted

    intake = NoticeIntake(Recorder(journal), wants=wants, recorded=lambda: told.append(None))
    intake.take(notice(kind))
    assert [keep for _, keep in journal.notices] == (kept if wanted else [])
    assert len(told) == len(journal.notices)
    assert asked == ([] if kind is NoticeKind.STATUS else [(kind, COMPANY)])


def test_the_last_status_of_a_forgotten_company_is_recorded() -> None:
    journal = FakeJournal()
    intake = NoticeIntake(Recorder(journal), wants=lambda *_: True, recorded=lambda: None)
    last = forgotten_notice(Connection(company_id=COMPANY), NOON)
    intake.take(last)
    assert journal.notices == [(last, True)]

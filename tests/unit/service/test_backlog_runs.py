"""Runs: everything once, nothing before an earlier entry of its company, few calls."""

from hypothesis import given
from hypothesis import strategies as st

from crm_whatsapp.domain.connection import Connection, Status
from crm_whatsapp.domain.notices import Notice, NoticeKind
from crm_whatsapp.domain.ports import JournalEntry
from crm_whatsapp.domain.transitions import FORGOTTEN, Transition
from crm_whatsapp.service.backlog_runs import EntryKind, company_of, kind_of, runs
from tests.unit.service.fakes import NOON
from tests.unit.service.pod import COMPANY, OTHER, THIRD


def entry(number: int, kind: EntryKind, company_id: str | None) -> JournalEntry:
    if kind is EntryKind.NOTICE or company_id is None:
        return Notice(
            id=str(number),
            kind=NoticeKind.MESSAGE,
            company_id=company_id,
            occurred_at=NOON,
            data={},
        )
    return Transition(
        id=str(number),
        connection=Connection(company_id=company_id, version=number),
        event=FORGOTTEN if kind is EntryKind.FORGOTTEN else "Event",
        from_status=Status.CONNECTED,
        occurred_at=NOON,
    )


@given(
    what=st.lists(
        st.tuples(st.sampled_from(list(EntryKind)), st.sampled_from([COMPANY, OTHER, THIRD, None])),
        max_size=30,
    )
)
def test_runs_keep_the_order_of_each_company(
    what: list[tuple[EntryKind, str | None]],
) -> None:
    batch = [entry(number, *item) for number, item in enumerate(what)]
    sent: list[JournalEntry] = []
    for kind, run in runs(batch):
        assert {kind_of(item) for item in run} == {kind}
        sent.extend(run)
    assert sorted(sent, key=lambda item: int(item.id)) == batch
    for company_id in (COMPANY, OTHER, THIRD, None):
        mine = [int(item.id) for item in sent if company_of(item) == company_id]
        assert mine == sorted(mine)


def test_different_companies_share_a_call_however_they_are_mixed() -> None:
    batch = [
        entry(number, kind, f"{COMPANY[:-3]}{number:03d}")
        for number, kind in enumerate([EntryKind.TRANSITION, EntryKind.NOTICE] * 50)
    ]
    assert [(kind, len(run)) for kind, run in runs(batch)] == [
        (EntryKind.TRANSITION, 50),
        (EntryKind.NOTICE, 50),
    ]

"""Notices over an outage of the database with kills in it: in order, none missing, none twice."""

from collections import defaultdict
from collections.abc import Iterator

import pytest
from deployment import Deployment
from test_webhooks import LOOPBACK, await_all_delivered, register
from webhook_receiver import WebhookReceiver

from local_supabase import LocalSupabase
from service_process import wait_for

pytestmark = pytest.mark.e2e

ANNA = "5511988887777"
QUICK_RETURN = {"DATABASE_RETRY_MAX_SECONDS": "0.5", "DATABASE_TIMEOUT_SECONDS": "3"}


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    """The CRM."""
    with WebhookReceiver().running() as running:
        yield running


@pytest.fixture(autouse=True)
def database_returns(stack: LocalSupabase) -> Iterator[None]:
    """Leave a working database to the next test."""
    yield
    if stack.running()["postgrest"] is None:
        stack.start_postgrest()


def pending(deployment: Deployment) -> int:
    """Return how many entries wait in the journal."""
    checks = {check["name"]: check for check in deployment.service.readiness()["checks"]}
    return int(checks["journal"]["pending"])


def test_messages_of_an_outage_with_kills_reach_the_crm_in_order_and_once(
    deployment: Deployment, stack: LocalSupabase, receiver: WebhookReceiver
) -> None:
    seeded = deployment.seed(3)
    service = deployment.start(**LOOPBACK, **QUICK_RETURN)
    deployment.await_all_connected(list(seeded))
    deployment.phones.call("phones", {"number": ANNA, "name": "Anna"})
    webhook = register(deployment, receiver, "/all", events=["session.status", "message.received"])
    sent: dict[str, list[str]] = defaultdict(list)

    def write_to_all(texts: list[str]) -> None:
        for text in texts:
            for company_id, jid in seeded.items():
                body = {"from": ANNA, "jid": jid.partition(":")[0], "text": text}
                deployment.phones.call("messages", body)
                sent[company_id].append(text)

    write_to_all(["before"])
    assert wait_for(lambda: len(receiver.received("/all")) >= 3, 20)
    await_all_delivered(deployment, webhook)
    stack.stop_postgrest(kill=True)
    for part in ("first", "second"):
        before = pending(deployment)
        write_to_all([f"{part} {number}" for number in range(4)])
        assert wait_for(lambda before=before: pending(deployment) >= before + 12, 30), pending(
            deployment
        )
        service.kill()
        service.start()
        deployment.await_all_connected(list(seeded), 60)
    write_to_all(["at last"])
    stack.start_postgrest()

    assert wait_for(lambda: pending(deployment) == 0, 30)
    await_all_delivered(deployment, webhook)
    heard: dict[str, list[str]] = defaultdict(list)
    statuses: dict[str, list[str]] = defaultdict(list)
    # At least once is what webhooks promise; the id tells what comes again.
    for event in {item.webhook_id: item.event for item in receiver.received("/all")}.values():
        if event["type"] == "message.received":
            heard[event["company_id"]].append(event["data"]["text"])
        else:
            statuses[event["company_id"]].append(event["data"]["status"])
    assert heard == sent
    queue = deployment.rows(
        "select company_id::text, kind, data ->> 'status' as status, data ->> 'text' as text "
        "from public.whatsapp_webhook_deliveries order by place"
    )
    for company_id in seeded:
        mine = [row for row in queue if row["company_id"] == company_id]
        assert [row["text"] for row in mine if row["text"] is not None] == sent[company_id]
        # What was said before a kill stands before the statuses of the start after it.
        words = [row["text"] or row["status"] for row in mine]
        assert words.index("first 3") < words.index("connecting") < words.index("second 0")
        assert statuses[company_id][-1] == "connected"

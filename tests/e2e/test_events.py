"""Fifty clients hear of everything, once and in order, whatever happens to their connections."""

import json
import os
import re
import signal
import subprocess
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any

import pytest
from deployment import Deployment
from event_crowd import Crowd, crowd_on, of, open_stream, percentile, read_events

from event_reader import BodyReader, Event, EventReader
from node_runtime import find_node
from service_process import API, REPOSITORY, is_alive, wait_for

pytestmark = pytest.mark.e2e

CLIENTS = 50
GRACE_SECONDS = 6.0
Record = Callable[[str, object], None]


def storm(deployment: Deployment, companies: dict[str, str], rounds: int) -> None:
    """Cut every link so many times; each cut is two transitions, the loss and the return."""
    await_written(deployment)
    for _ in range(rounds):
        wanted = {item: len(ids) + 2 for item, ids in history_ids(deployment).items()}
        for jid in companies.values():
            deployment.phones.call("cut", {"jid": jid})

        def told(wanted: dict[str, int] = wanted) -> bool:
            present = history_ids(deployment)
            return all(len(present[item]) >= wanted[item] for item in companies)

        assert wait_for(told, 60), f"not every cut and return was recorded: {wanted}"


def history_ids(deployment: Deployment) -> dict[str, list[str]]:
    """Return the ids of all transitions in the database, by company and in order."""
    sql = "select company_id, id from public.whatsapp_status_events order by company_id, version"
    found: dict[str, list[str]] = {}
    for row in deployment.rows(sql):
        found.setdefault(str(row["company_id"]), []).append(str(row["id"]))
    return found


def await_written(deployment: Deployment) -> None:
    """Wait until the database has everything."""

    def written() -> bool:
        checks = {check["name"]: check for check in deployment.service.readiness()["checks"]}
        return not checks["journal"]["pending"]

    assert wait_for(written, 60), "changes are still on their way to the database"


def connected_companies(deployment: Deployment, count: int, **settings: str) -> dict[str, str]:
    """Start a service with so many sessions, all connected and recorded."""
    companies = deployment.seed(count)
    deployment.start(**settings)
    deployment.await_all_connected(list(companies), 60)
    await_written(deployment)
    return companies


@pytest.mark.alone
def test_fifty_clients_lose_and_double_nothing_over_reconnects(
    deployment: Deployment, record_property: Record
) -> None:
    companies = connected_companies(deployment, 12)
    before = {company_id: len(ids) for company_id, ids in history_ids(deployment).items()}
    with crowd_on(deployment.service, CLIENTS) as crowd:
        crowd.await_all("the snapshot", lambda client: len(client.snapshots) == 1 + len(companies))
        storm(deployment, companies, 3)  # nobody is cut off: how soon do they hear?
        await_written(deployment)
        crowd.await_all("the storm", lambda client: len(client.events) >= 6 * len(companies))
        lags = crowd.lags_ms()
        crowd.cuts = True
        storm(deployment, companies, 8)
        crowd.cuts = False
        await_written(deployment)
        after = history_ids(deployment)
        wanted = {company_id: after[company_id][before[company_id] :] for company_id in companies}
        total = sum(map(len, wanted.values()))
        crowd.await_all("everything", lambda client: len(client.events) >= total)

    assert total >= 2 * 11 * len(companies)
    for client in crowd.clients:
        assert {of(event): client.ids(of(event)) for event in client.events} == wanted
        assert client.refusals == []
        assert len(client.snapshots) == 1 + len(companies), "its last id was not known any more"
    orders = {tuple(event.data["notice_id"] for event in client.events) for client in crowd.clients}
    assert len(orders) == 1, "two clients saw different orders"
    reconnects = sorted(client.connections - 1 for client in crowd.clients)
    assert reconnects[0] >= 3, f"some client was cut off only {reconnects[0]} times"
    record_property("events", total)
    record_property("reconnects", sum(reconnects))
    record_property("to_client_p50_ms", round(percentile(lags, 50), 1))
    record_property("to_client_p99_ms", round(percentile(lags, 99), 1))
    assert percentile(lags, 50) <= 100, f"half of them took {percentile(lags, 50):.0f} ms or more"


def test_a_client_that_reads_nothing_is_ended_and_goes_on_later(deployment: Deployment) -> None:
    companies = connected_companies(deployment, 10, SSE_CLIENT_EVENTS="10")
    service = deployment.service
    with (
        crowd_on(service, 3, "?snapshot=false") as crowd,
        closing(open_stream(service, f"{API}/events?snapshot=false", receive_bytes=2_048)) as slow,
    ):
        crowd.await_all("a position", lambda client: client.reader.last_event_id is not None)
        rounds = 0
        while "reads too slowly" not in deployment.log():
            storm(deployment, companies, 1)
            rounds += 1
            assert rounds < 60, "it was never ended"
        crowd.await_all(
            "everything", lambda client: len(client.events) >= rounds * 2 * len(companies)
        )
        reader, body = EventReader(), BodyReader()
        got: list[Event] = []
        with pytest.raises((EOFError, ConnectionResetError)):
            while True:
                got += read_events(slow, reader, body)
        with closing(open_stream(service, last_event_id=reader.last_event_id)) as again:
            body = BodyReader()
            reader.start_again()
            while len(got) < len(crowd.clients[0].events):
                got += read_events(again, reader, body)

    assert [event.data["notice_id"] for event in got] == [
        event.data["notice_id"] for event in crowd.clients[0].events
    ]
    assert [len(client.events) for client in crowd.clients] == [len(got)] * 3


def test_one_more_than_the_limit_is_refused_until_somebody_leaves(deployment: Deployment) -> None:
    service = deployment.start(SSE_MAX_STREAMS="5", SSE_HEARTBEAT_SECONDS="3600")
    with ExitStack() as stack:
        streams = [stack.enter_context(closing(open_stream(service))) for _ in range(5)]
        for stream in streams:
            body = BodyReader()
            read_events(stream, EventReader(), body)
            assert body.status == 200
        refused = service.request("GET", f"{API}/events")
        assert refused.status == 503
        assert refused.json()["error"]["code"] == "too-many-streams"
        assert int(refused.headers["Retry-After"]) > 0
        assert service.status(str(uuid.uuid4()))["status"] == "disconnected"

        streams[0].close()  # nothing is sent for an hour: the departure itself is noticed

        def is_taken() -> bool:
            stream = stack.enter_context(closing(open_stream(service)))
            body = BodyReader()
            read_events(stream, EventReader(), body)
            return body.status == 200

        assert wait_for(is_taken, 20)


def test_open_streams_starve_no_poll(deployment: Deployment) -> None:
    companies = connected_companies(deployment, 2, SSE_MAX_STREAMS="120")
    with crowd_on(deployment.service, 120) as crowd:
        crowd.await_all("the snapshot", lambda client: len(client.snapshots) == 3)
        begun = time.monotonic()
        for _ in range(50):
            assert deployment.service.status(next(iter(companies)))["is_connected"]
        assert time.monotonic() - begun < 15
        assert not crowd.ended


@pytest.mark.parametrize("is_read", [True, False])
def test_a_stop_ends_the_streams_first(
    deployment: Deployment, is_read: bool, record_property: Record
) -> None:
    connected_companies(deployment, 3, GRACEFUL_SHUTDOWN_TIMEOUT=f"{GRACE_SECONDS * 1000:.0f}")
    service = deployment.service
    assert service.process is not None
    tree = service.processes()
    with ExitStack() as stack:
        crowd: Crowd | None = None
        if is_read:
            crowd = stack.enter_context(crowd_on(service, CLIENTS))
            crowd.await_all("the snapshot", lambda client: len(client.snapshots) == 4)
        else:
            for _ in range(CLIENTS):
                stream = open_stream(service, receive_bytes=2_048)
                read_events(stack.enter_context(closing(stream)), EventReader(), BodyReader())
        begun = time.monotonic()
        os.kill(service.process.pid, signal.SIGTERM)
        assert service.process.wait(GRACE_SECONDS + 20) == 0
        took = time.monotonic() - begun
        assert not [pid for pid in tree if is_alive(pid)]
        if crowd is not None:
            assert wait_for(lambda: len(crowd.ended) == CLIENTS, 10)
            ended = max(at for _, at in crowd.ended) - begun
            record_property("streams_ended_seconds", round(ended, 2))
            for client in crowd.clients:
                assert client.reader.comments[-1] == "stopping"
                assert client.body.is_complete
    record_property("stop_seconds", round(took, 2))
    assert took < 3, f"streams held up the stop: {took:.1f} s"
    assert "3 of 3 sessions preserved cleanly" in deployment.log()
    assert "Traceback" not in deployment.log()


def test_after_a_restart_clients_are_told_how_things_are(deployment: Deployment) -> None:
    companies = connected_companies(deployment, 3)
    service = deployment.service
    with closing(open_stream(service)) as stream:
        reader = EventReader()
        body = BodyReader()
        while reader.last_event_id is None:
            read_events(stream, reader, body)
    service.terminate()
    service.start()
    deployment.await_all_connected(list(companies), 60)

    with closing(open_stream(service, last_event_id=reader.last_event_id)) as stream:
        found: list[Event] = []
        body = BodyReader()
        while len(found) < 1 + len(companies):
            found += read_events(stream, reader, body)

    head, *rest = found
    assert (head.name, head.data["resync"], head.data["companies"]) == ("snapshot", True, 3)
    assert {of(event) for event in rest} == set(companies)
    assert all(event.data["resync"] and event.data["is_connected"] for event in rest)


def test_a_pairing_is_followed_without_a_single_poll(deployment: Deployment) -> None:
    service = deployment.start()
    company_id = str(uuid.uuid4())
    with closing(open_stream(service, f"{API}/events?company_id={company_id}")) as stream:
        reader, body = EventReader(), BodyReader()
        heard: list[Event] = []

        def await_event(name: str, **wanted: Any) -> Event:
            while True:
                for event in heard:
                    if event.name == name and wanted.items() <= event.data.items():
                        return event
                heard.extend(read_events(stream, reader, body))

        assert await_event("status").data["reason"] == "never-connected"
        service.post("connect", company_id=company_id, method="qr")
        code = await_event("qr")
        raw = service.request("GET", f"{API}/qr?company_id={company_id}&format=raw").json()
        assert (code.data["value"], code.data["expires_at"]) == (raw["value"], raw["expires_at"])
        deployment.phones.scan(code.data["value"])
        await_event("status", status="connected")

        service.request("DELETE", f"{API}/sessions/{company_id}")
        await_event("status", event="forgotten", reason="never-connected")
    assert code.data["value"] not in deployment.log()


def test_a_stream_that_has_its_age_leaves_the_connection_usable(deployment: Deployment) -> None:
    service = deployment.start(SSE_MAX_SECONDS="0.2")
    with closing(open_stream(service)) as stream:
        reader, body = EventReader(), BodyReader()
        while not body.is_complete:
            read_events(stream, reader, body)
        assert body.headers["transfer-encoding"] == "chunked"
        assert "content-length" not in body.headers
        assert reader.comments == ["come again"]
        stream.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert stream.recv(65_536).startswith(b"HTTP/1.1 200")


CALLER = """
followWhatsapp((name, data, id) => {
  process.stdout.write(JSON.stringify({ name, data, id }) + "\\n");
}, process.env.LAST_ID || null);
"""


def test_the_example_for_the_back_end_works_as_printed(deployment: Deployment) -> None:
    guide = (REPOSITORY / "docs" / "integration.md").read_text()
    (example,) = re.findall(r"```js\n([^`]*async function followWhatsapp.*?)```", guide, re.DOTALL)
    companies = connected_companies(deployment, 2)
    service = deployment.service
    (deployment.folder / "follow.mjs").write_text(example + CALLER)
    environment = {
        "PATH": os.environ["PATH"],
        "WHATSAPP_URL": service.url,
        "WHATSAPP_API_KEY": service.api_key,
    }
    with (
        (deployment.folder / "node.log").open("wb") as log,
        subprocess.Popen(
            [find_node(), deployment.folder / "follow.mjs"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
        ) as node,
    ):
        try:
            assert node.stdout is not None
            lines = (json.loads(line) for line in node.stdout)
            assert [next(lines)["name"] for _ in range(3)] == ["snapshot", "status", "status"]
            company_id, jid = next(iter(companies.items()))
            deployment.phones.call("cut", {"jid": jid})
            told = [next(lines) for _ in range(2)]
            assert [item["data"]["status"] for item in told] == ["connecting", "connected"]
            assert all(item["id"] and item["data"]["company_id"] == company_id for item in told)
            service.terminate()
            service.start()
            head = next(line for line in lines if line["name"] == "snapshot")
            assert head["data"]["resync"] is True
        finally:
            node.kill()
    assert "interrupted" in (deployment.folder / "node.log").read_text()

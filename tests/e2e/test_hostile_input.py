"""Whatever is sent to the port: one answer or none, never a 5xx, and nobody else waits for it."""

from __future__ import annotations

import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import pytest
from deployment import Deployment, SandboxAdmin, empty_database
from hostile_requests import (
    AUTH,
    BOMBS,
    BOMBS_FOR_MESSAGES,
    CHUNKS,
    COMPANY,
    FOR_THE_APP,
    FRAMING,
    JSON,
    LINES,
    NO_OBJECT,
    OBJECT,
    PHONE_NUMBERS,
    STATUS,
    chunked,
    get,
    post,
)
from pollster import Pollster
from raw_client import (
    IllFormed,
    RawConnection,
    connections,
    exchange,
    read_answers,
    request,
)
from request_mutations import mutated_request

from local_supabase import LocalSupabase
from sandbox import Sandbox
from service_process import API, ServiceProcess, wait_for

pytestmark = pytest.mark.e2e

NEIGHBOUR = "7d444840-9dc0-41d1-b245-5ffdce74fad2"
CROWD = 200
UNLIMITED = {
    f"LIMIT_{kind}_PER_MINUTE": "0" for kind in ("READS", "SENDS", "MANAGE", "FAILED_LOGINS")
}
"""What is tried here must reach what it is to try."""

Property = Callable[[str, object], None]


@pytest.fixture(scope="module")
def world(
    stack: LocalSupabase, sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """One database for the module; services are started and ended by the fixtures below."""
    empty_database(stack.db_url)
    phones = SandboxAdmin(sandbox.admin_url)
    phones.reset()
    folder = tmp_path_factory.mktemp("hostile-input")
    world = Deployment(stack=stack, sandbox=sandbox, phones=phones, folder=folder)
    try:
        yield world
    finally:
        world.end()


@pytest.fixture(scope="module")
def service(world: Deployment) -> Iterator[ServiceProcess]:
    """A service that waits for clients for longer than any test here takes."""
    started = world.start(
        **UNLIMITED,
        SEND_CONNECT_WAIT_SECONDS="0.1",
        REQUEST_HEAD_SECONDS="600",
        CLIENT_PATIENCE_SECONDS="600",
        SYNC_INTERVAL_SECONDS="3600",
    )
    yield started
    log = world.log()
    assert "Traceback" not in log, log[log.index("Traceback") :][:3000]
    assert "Booting worker" in log
    assert log.count("Booting worker") == 1, "the worker ended"
    started.kill()


@pytest.fixture(scope="module")
def hasty(world: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """A service that waits for clients for a second."""
    folder = tmp_path_factory.mktemp("hasty")
    beside = Deployment(
        stack=world.stack, sandbox=world.sandbox, phones=world.phones, folder=folder
    )
    try:
        yield beside.start(
            **UNLIMITED,
            REQUEST_HEAD_SECONDS="1",
            CLIENT_PATIENCE_SECONDS="1",
            CONNECTION_IDLE_SECONDS="1",
            SYNC_INTERVAL_SECONDS="3600",
        )
        assert "Traceback" not in beside.log()
    finally:
        beside.end()


@pytest.fixture
def neighbour(service: ServiceProcess) -> Iterator[Pollster]:
    """Somebody else, whose polls are all answered meanwhile."""
    with Pollster(service=service, companies=[NEIGHBOUR], per_second=20) as pollster:
        assert wait_for(lambda: pollster.polls, 30)
        yield pollster
        before = len(pollster.polls) + len(pollster.unanswered)
        assert wait_for(lambda: len(pollster.polls) + len(pollster.unanswered) > before + 1, 30)
    pollster.assert_all_answered()


def assert_one_refusal(service: ServiceProcess, sent: bytes, statuses: set[int]) -> None:
    """One answer, in the form of the contract, and then the end of the connection."""
    answers = exchange(service.port, sent)
    assert len(answers) == 1, answers
    assert answers[0].status in statuses, answers[0]
    answers[0].error()
    assert answers[0].headers["connection"] == "close"


@pytest.mark.usefixtures("neighbour")
def test_no_request_hides_in_another(service: ServiceProcess) -> None:
    for name, sent in FRAMING.items():
        print(name)  # noqa: T201 - shown when the test fails
        assert_one_refusal(service, sent, {400})


@pytest.mark.usefixtures("neighbour")
def test_no_request_hides_behind_a_broken_body(service: ServiceProcess) -> None:
    for name, sent in CHUNKS.items():
        print(name)  # noqa: T201 - shown when the test fails
        assert_one_refusal(service, sent, {400, 413})


@pytest.mark.usefixtures("neighbour")
def test_what_is_no_http_is_refused_in_one_answer(service: ServiceProcess) -> None:
    for name, sent in LINES.items():
        print(name)  # noqa: T201 - shown when the test fails
        assert_one_refusal(service, sent, {400, 414, 417, 431})


@pytest.mark.usefixtures("neighbour")
def test_odd_requests_get_the_answer_of_the_app(service: ServiceProcess) -> None:
    for name, (sent, statuses) in FOR_THE_APP.items():
        answers = exchange(service.port, sent)
        assert len(answers) == 1, (name, answers)
        assert answers[0].status in statuses, (name, answers[0])
        assert b"root:" not in answers[0].body
        is_page = answers[0].headers.get("content-type", "").startswith("text/")
        if answers[0].status >= 400 and not is_page:
            answers[0].error()


@pytest.mark.usefixtures("neighbour")
def test_an_expected_100_comes_before_one_answer(service: ServiceProcess) -> None:
    length = f"Content-Length: {len(NO_OBJECT)}"
    for sent in (
        post("Expect: 100-continue", length, body=NO_OBJECT),
        post("Expect: 100-CONTINUE", "Content-Length: 0"),
        post("Expect: 100-continue", length),  # the body never comes
        post("Expect: 100-continue", "Content-Length: 99999999"),
        get(STATUS.replace("-", "_"), "Expect: 100-continue"),
    ):
        answers = exchange(service.port, sent)
        assert [answer.status for answer in answers[:-1]] == [100], answers
        assert answers[-1].status in (400, 413), answers


@pytest.mark.usefixtures("neighbour")
def test_requests_in_a_row_get_answers_in_a_row(service: ServiceProcess) -> None:
    connection = RawConnection(service.port)
    good = request("POST", f"{API}/disconnect", [AUTH, JSON], OBJECT)
    pieces = good * 3 + get("/nowhere") * 200 + chunked(b"1\r\n{\r\n0\r\n\r\n") + get("/healthz")
    try:
        for begin in range(0, len(pieces), 1000):
            connection.send(pieces[begin : begin + 1000])
        connection.end_sending()
        answers = read_answers(connection.read_to_end())
    finally:
        connection.abort()
    found = [answer.status for answer in answers]
    assert found[:3] in ([200] * 3, [404] * 3), found[:3]
    assert found[3:203] == [404] * 200
    assert found[203:] == [400, 200]


@pytest.mark.usefixtures("neighbour")
def test_nothing_is_answered_after_the_end_of_a_connection(service: ServiceProcess) -> None:
    for sent in (
        get("/healthz", "Connection: close") + get("/healthz"),
        get("/healthz", version="HTTP/1.0") + get("/healthz"),
        b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n" + get("/healthz"),
        post("Content-Length: 500", body=OBJECT + get("/healthz")),
        b"nonsense\r\n\r\n" + get("/healthz"),
    ):
        assert len(exchange(service.port, sent)) == 1, sent


@pytest.mark.usefixtures("neighbour")
def test_answers_to_head_have_no_body(service: ServiceProcess) -> None:
    for target in ("/healthz", STATUS, "/nowhere", "/dashboard/login"):
        answers = exchange(service.port, request("HEAD", target, [AUTH]) * 3, of_head=True)
        assert len(answers) == 3


def test_bombs_do_no_harm(
    service: ServiceProcess, neighbour: Pollster, record_property: Property
) -> None:
    for path, bombs in (
        (f"{API}/logout", BOMBS),
        (f"{API}/webhooks", BOMBS),
        (f"{API}/messages/send", BOMBS | BOMBS_FOR_MESSAGES),
    ):
        for name, body in bombs.items():
            answers = exchange(service.port, request("POST", path, [AUTH, JSON], body))
            assert [answer.status for answer in answers] in ([400], [413]), (name, answers)
            answers[0].error()
    record_property("slowest poll among bombs, ms", round(neighbour.slowest_seconds() * 1000))


@pytest.mark.usefixtures("neighbour")
def test_hostile_phone_numbers_are_refused(service: ServiceProcess) -> None:
    for number in PHONE_NUMBERS:
        answer = service.post(
            "connect", company_id=COMPANY, method="pairing_code", phone_number=number
        )
        assert answer.status == 400, (number, answer.content)
        assert answer.json()["error"]["field"] == "phone_number"


# --- clients that are slow: others are answered while all of these still sit there ---


def assert_others_are_answered(service: ServiceProcess, opened: list[RawConnection]) -> None:
    """Polls are answered although these connections sit there; and they still do afterwards."""
    for _ in range(20):
        assert service.status(NEIGHBOUR)["company_id"] == NEIGHBOUR
    assert not any(connection.has_ended() for connection in opened), "they did not sit there"


def test_heads_that_drip_hold_nobody_up(service: ServiceProcess) -> None:
    head = get()
    with connections(service.port, CROWD) as opened:
        for position in range(5):
            for connection in opened:
                connection.send(head[position : position + 1])
            assert_others_are_answered(service, opened)


def test_connections_that_say_nothing_hold_nobody_up(service: ServiceProcess) -> None:
    with connections(service.port, CROWD) as opened:
        assert_others_are_answered(service, opened)


def test_clients_that_are_wrong_and_stay_hold_nobody_up(service: ServiceProcess) -> None:
    with connections(service.port, CROWD) as opened:
        for connection in opened:
            connection.send(b"nonsense\r\n\r\n")
        for _ in range(20):
            assert service.status(NEIGHBOUR)["company_id"] == NEIGHBOUR
        for connection in opened:
            assert connection.read_answer().status == 400


def test_more_connections_than_there_is_room_for(service: ServiceProcess) -> None:
    with connections(service.port, 700) as opened:
        for connection in opened[::2]:
            connection.send(b"GET")
        for _ in range(20):
            assert service.status(NEIGHBOUR)["company_id"] == NEIGHBOUR
        assert wait_for(lambda: opened[0].has_ended(), 30), "the oldest is dropped for others"
        assert not opened[-1].has_ended(), "the newest is not"


def test_idle_connections_make_room(service: ServiceProcess) -> None:
    with ExitStack() as opened:
        for _ in range(700):
            [connection] = opened.enter_context(connections(service.port, 1))
            connection.send(get("/healthz"))
            assert connection.read_answer().status == 200
        for _ in range(20):
            assert service.status(NEIGHBOUR)["company_id"] == NEIGHBOUR


def test_bodies_that_drip_hold_nobody_up(service: ServiceProcess) -> None:
    with connections(service.port, CROWD) as opened:
        for connection in opened:
            connection.send(post("Content-Length: 1000", body=b"{"))
        for _ in range(20):
            assert service.status(NEIGHBOUR)["company_id"] == NEIGHBOUR
        assert wait_for(lambda: sum(not it.has_ended() for it in opened) <= 16, 30)
        assert any(not connection.has_ended() for connection in opened), "some are waited for"


def test_bodies_that_nobody_reads_hold_nobody_up(service: ServiceProcess) -> None:
    sent = request("POST", f"{API}/logout", [JSON]).replace(
        b"\r\n\r\n", b"\r\nContent-Length: 1000\r\n\r\n{"
    )
    with connections(service.port, CROWD) as opened:
        for connection in opened:
            connection.send(sent)
        for connection in opened:
            answer = connection.read_answer()
            assert (answer.status, answer.headers["connection"]) == (401, "close")
            assert service.status(NEIGHBOUR)["company_id"] == NEIGHBOUR


def test_clients_that_do_not_read_hold_nobody_up(service: ServiceProcess) -> None:
    wanted = get(f"{API}/openapi.json") * 200
    with connections(service.port, 100, receive_bytes=4096) as opened:
        for connection in opened:
            connection.send(wanted)
        for _ in range(20):
            assert service.status(NEIGHBOUR)["company_id"] == NEIGHBOUR


# --- and they are not waited for without end ---


@contextmanager
def dripping(opened: list[RawConnection], byte: bytes) -> Iterator[None]:
    """Send a byte on each connection, again and again, within this context."""
    over = threading.Event()

    def drip() -> None:
        while not over.wait(0.05):
            for connection in opened:
                connection.send(byte)

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def assert_timed_out(connection: RawConnection) -> None:
    """The request is answered 408, and the connection ends."""
    [answer] = read_answers(connection.read_to_end())
    assert answer.status == 408
    assert answer.error()["code"] == "request-timeout"
    assert answer.headers["connection"] == "close"


def test_a_head_that_does_not_come_is_408(hasty: ServiceProcess) -> None:
    with connections(hasty.port, 20) as opened, dripping(opened, b"x"):
        for connection in opened:
            assert_timed_out(connection)


def test_a_body_that_does_not_come_is_408(hasty: ServiceProcess) -> None:
    with connections(hasty.port, 10) as opened:
        for connection in opened:
            connection.send(post("Content-Length: 10000", body=b"{"))
        with dripping(opened, b" "):
            for connection in opened:
                assert_timed_out(connection)


def test_connections_on_which_nothing_happens_are_closed(hasty: ServiceProcess) -> None:
    with connections(hasty.port, 20) as opened:
        for connection in opened[::2]:
            connection.send(get("/healthz"))
            assert connection.read_answer().status == 200
        for connection in opened:
            assert connection.read_to_end() == b"", "closed without a word"


def test_an_answer_that_is_not_taken_is_cut_off(hasty: ServiceProcess) -> None:
    with connections(hasty.port, 3, receive_bytes=4096) as opened:
        for connection in opened:
            connection.send(get(f"{API}/openapi.json") * 200)
        for connection in opened:
            assert connection.is_reset_within(30)
            with pytest.raises(IllFormed):
                read_answers(connection.read_to_end())
    assert hasty.status(NEIGHBOUR)["company_id"] == NEIGHBOUR


# --- anything ---


def fuzz(service: ServiceProcess, seed: int, requests: int) -> Counter[int]:
    """Send so many mutated requests from a few clients; return the answers by status."""
    found: Counter[int] = Counter()

    def send(number: int) -> None:
        pieces = mutated_request(seed, number)
        sent = b"".join(pieces)
        try:
            answers = exchange(service.port, *pieces)
        except (AssertionError, TimeoutError) as error:
            raise AssertionError(f"mutated_request({seed}, {number}): {sent[:2000]!r}") from error
        final = [answer for answer in answers if answer.status >= 200]
        found.update(answer.status for answer in final)
        found[0] += not final
        assert all(answer.status < 500 for answer in answers), (seed, number, sent, answers)
        # What is left over after a request may be refused, once.
        assert len(final) <= sent.count(b"HTTP/1") + 1, (seed, number, sent, answers)

    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(send, range(requests)):
            pass
    return found


def chosen_seed() -> int:
    """Return HOSTILE_SEED, or one that nobody has chosen."""
    return int(os.environ.get("HOSTILE_SEED") or random.SystemRandom().randrange(2**32))


def test_mutated_requests(
    service: ServiceProcess, neighbour: Pollster, record_property: Property
) -> None:
    seed = chosen_seed()
    print(f"HOSTILE_SEED={seed}")  # noqa: T201 - to repeat it
    found = fuzz(service, seed, 8000)
    record_property("mutated requests", f"seed {seed}: {dict(sorted(found.items()))}")
    record_property("slowest poll among them, ms", round(neighbour.slowest_seconds() * 1000))
    assert found[200] > 100, found
    assert found[400] > 1000, found


@pytest.mark.soak
def test_many_mutated_requests(
    service: ServiceProcess, neighbour: Pollster, record_property: Property
) -> None:
    for _ in range(10):
        seed = chosen_seed()
        print(f"HOSTILE_SEED={seed}")  # noqa: T201 - to repeat it
        found = fuzz(service, seed, 10_000)
        record_property("mutated requests", f"seed {seed}: {dict(sorted(found.items()))}")
    record_property("slowest poll among them, ms", round(neighbour.slowest_seconds() * 1000))

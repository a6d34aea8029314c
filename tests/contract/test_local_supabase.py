"""The local stack: what it serves, what it keeps, and that nothing of it is left behind."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest

from crm_whatsapp.sessions.key_ring import KeyRing
from local_supabase import LocalSupabase, StackError

pytestmark = pytest.mark.contract

Eventually = Callable[[Callable[[], object], str], None]

SCRIPTS = Path(__file__).parents[2] / "scripts"
COMMAND = [sys.executable, str(SCRIPTS / "local_supabase.py")]
OWNER = """
import sys
from local_supabase import LocalSupabase
stack = LocalSupabase.start(sys.argv[1])
print("ready", flush=True)
sys.stdin.read()
"""
DIES_WHILE_STOPPING = """
import os, signal, sys
from local_stack import stack as module
from local_supabase import LocalSupabase
end = module.end

def end_one_and_die(*arguments):
    end(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)

stack = LocalSupabase.start(sys.argv[1])
module.end = end_one_and_die
stack.stop()
"""
VERSION_RPC = "/rest/v1/rpc/whatsapp_schema_version_v1"


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments, "--dir", str(folder)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


def processes_of(folder: Path) -> list[str]:
    """Return the command lines that mention the directory."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = " ".join(process.info["cmdline"] or [])
        if str(folder) in line and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(line)
    return found


def answers(stack: LocalSupabase) -> bool:
    headers = {"apikey": stack.service_key}
    return httpx.post(stack.url + VERSION_RPC, headers=headers).status_code == httpx.codes.OK


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A directory whose processes are ended whatever the test came to."""
    path = tmp_path / "supabase"
    yield path
    stack = LocalSupabase.find(path)
    if stack is not None:
        stack.stop()


@pytest.fixture
def owner(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that owns a running stack."""
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=SCRIPTS,
        env={**os.environ, "PYTHONPATH": f"{SCRIPTS}:{SCRIPTS.parent}"},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def test_a_started_stack_outlives_the_command_until_stop(folder: Path) -> None:
    started = run("start", folder=folder)
    stack = LocalSupabase.find(folder)

    assert started.returncode == 0, started.stderr
    assert stack is not None
    assert answers(stack)
    assert run("status", folder=folder).returncode == 0
    assert len(processes_of(folder)) == 3

    assert run("stop", folder=folder).stdout == "stopped\n"
    assert processes_of(folder) == []
    assert run("status", folder=folder).returncode == 3
    assert run("stop", folder=folder).stdout == "was not running\n"


def test_env_is_read_by_a_shell(folder: Path) -> None:
    assert "Run first" in run("env", folder=folder).stderr
    with LocalSupabase.start(folder) as stack:
        exports = run("env", folder=folder).stdout

        shown = subprocess.run(
            [
                "bash",
                "-c",
                exports + 'printf "%s\n" '
                '"$SUPABASE_URL" "$SUPABASE_SERVICE_ROLE_KEY" "$SNAPSHOT_ENCRYPTION_KEYS"',
            ],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split()
        assert shown == [stack.url, stack.service_key, stack.snapshot_encryption_keys]


def test_a_snapshot_key_is_made_once_and_outlives_the_data(folder: Path) -> None:
    with LocalSupabase.start(folder) as stack:
        key = stack.snapshot_encryption_keys
        stack.reset()
    found = LocalSupabase.find(folder)

    assert KeyRing.parse(key).key_ids == ("local",)
    assert found is not None
    assert found.snapshot_encryption_keys == key


def test_a_folder_of_an_earlier_release_gets_its_snapshot_key_at_the_next_start(
    folder: Path,
) -> None:
    with LocalSupabase.start(folder) as stack:
        before = stack.environment
    keys = json.loads((folder / "keys.json").read_text())
    del keys["snapshot_encryption_keys"]
    (folder / "keys.json").write_text(json.dumps(keys))

    found = LocalSupabase.find(folder)
    assert found is not None
    assert found.snapshot_encryption_keys == ""
    with LocalSupabase.start(folder) as stack:
        after = stack.environment
    changed = {name for name in before if before[name] != after[name]}

    assert KeyRing.parse(after["SNAPSHOT_ENCRYPTION_KEYS"]).key_ids == ("local",)
    assert changed <= {"SNAPSHOT_ENCRYPTION_KEYS", "SUPABASE_URL", "SUPABASE_DB_URL"}


def test_keeps_data_keys_and_ports_between_starts(folder: Path) -> None:
    with LocalSupabase.start(folder) as first, psycopg.connect(first.db_url) as connection:
        connection.execute("create table public.kept (id int)")
    with LocalSupabase.start(folder) as second, psycopg.connect(second.db_url) as connection:
        connection.execute("select id from public.kept")

        assert second.environment == first.environment


def test_reset_deletes_the_data_and_starts_again(folder: Path) -> None:
    run("start", folder=folder)
    stack = LocalSupabase.find(folder)
    assert stack is not None
    with psycopg.connect(stack.db_url) as connection:
        connection.execute("create table public.gone (id int)")

    assert run("reset", folder=folder).returncode == 0

    assert answers(stack)
    with (
        psycopg.connect(stack.db_url) as connection,
        pytest.raises(psycopg.errors.UndefinedTable),
    ):
        connection.execute("select id from public.gone")


def test_start_brings_back_what_was_killed(folder: Path) -> None:
    run("start", folder=folder)
    stack = LocalSupabase.find(folder)
    assert stack is not None

    for name in ("postgrest", "gateway", "postgres"):
        process_id = stack.running()[name]
        assert process_id is not None
        os.kill(process_id, signal.SIGKILL)
        assert run("start", folder=folder).returncode == 0
        assert answers(stack)
    assert len(processes_of(folder)) == 3


def test_secrets_are_private(folder: Path) -> None:
    with LocalSupabase.start(folder) as stack:
        modes = {
            path.name: path.stat().st_mode & 0o777 for path in folder.iterdir() if path.is_file()
        }
        secrets = {name for name in modes if name != ".lock"}

        assert secrets == {"keys.json", "ports.json", "postgrest.conf", "gateway.json"}
        assert {modes[name] for name in secrets} == {0o600}
        assert (folder / "postgres").stat().st_mode & 0o777 == 0o700
        lines = processes_of(folder)
        hidden = (stack.jwt_secret, stack.service_key, stack.snapshot_encryption_keys)
        assert not any(secret in line for secret in hidden for line in lines)


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_outlives_its_owner(
    folder: Path,
    owner: subprocess.Popen[str],
    signal_number: signal.Signals,
    eventually: Eventually,
) -> None:
    owner.send_signal(signal_number)
    owner.wait()

    eventually(lambda: processes_of(folder) == [], "all processes of the stack end")


def test_nothing_outlives_an_owner_that_dies_while_it_stops(
    folder: Path, eventually: Eventually
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DIES_WHILE_STOPPING, str(folder)],
        cwd=SCRIPTS,
        env={**os.environ, "PYTHONPATH": f"{SCRIPTS}:{SCRIPTS.parent}"},
        timeout=60,
        check=False,
    )

    assert done.returncode == -signal.SIGKILL
    eventually(lambda: processes_of(folder) == [], "all processes of the stack end")


def test_the_next_owner_waits_for_the_end_of_the_last(
    folder: Path, owner: subprocess.Popen[str], eventually: Eventually
) -> None:
    owner.kill()
    owner.wait()  # until then it still is the owner
    with LocalSupabase.start(folder) as stack:
        assert answers(stack)
        assert len(processes_of(folder)) == 4  # with the guard


def test_a_directory_has_one_owner(folder: Path, owner: subprocess.Popen[str]) -> None:
    with pytest.raises(StackError, match=f"in use by process {owner.pid}"):
        LocalSupabase.start(folder)


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_in_the_foreground_it_ends_on_a_signal(folder: Path, signal_number: signal.Signals) -> None:
    with subprocess.Popen(
        [*COMMAND, "start", "--foreground", "--dir", str(folder)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ready")
        process.send_signal(signal_number)
        process.wait(timeout=20)

    assert processes_of(folder) == []


def test_in_the_foreground_it_ends_with_its_parent(folder: Path, eventually: Eventually) -> None:
    command = " ".join([*COMMAND, "start", "--foreground", "--dir", str(folder)])
    with subprocess.Popen(
        ["bash", "-c", f"{command} & wait"], stdout=subprocess.PIPE, text=True
    ) as shell:
        assert shell.stdout is not None
        assert shell.stdout.readline().startswith("ready")
        shell.kill()

    eventually(lambda: processes_of(folder) == [], "all processes of the stack end")


def test_an_interrupted_first_start_does_not_spoil_the_next(
    folder: Path, eventually: Eventually
) -> None:
    unfinished = folder / "postgres" / "data.new"
    with subprocess.Popen([*COMMAND, "start", "--dir", str(folder)]) as starting:
        eventually(lambda: unfinished.exists(), "initdb begins")
        starting.kill()

    with LocalSupabase.start(folder) as stack:
        assert answers(stack)
        assert not unfinished.exists()


def test_a_stale_lock_file_naming_a_living_process_is_no_hindrance(folder: Path) -> None:
    with LocalSupabase.start(folder) as stack:
        lock = folder / "postgres" / "data" / "postmaster.pid"
        lines = lock.read_text().splitlines()
        process_id = stack.running()["postgres"]
        assert process_id is not None
        os.kill(process_id, signal.SIGKILL)
    # Somebody else's process got the number in the meantime, one of the same account.
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, user=lock.parent.stat().st_uid) as other:
        lock.write_text("\n".join([str(other.pid), *lines[1:]]) + "\n")
        with LocalSupabase.start(folder) as stack:
            assert answers(stack)
        other.kill()


def test_moves_to_another_port_when_its_own_is_taken(folder: Path) -> None:
    with LocalSupabase.start(folder) as stack:
        before = stack.url
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", int(before.rsplit(":", 1)[1])))
        squatter.listen()
        with LocalSupabase.start(folder) as stack:
            assert stack.url != before
            assert answers(stack)


def test_postgrest_can_be_taken_away_and_brought_back(folder: Path) -> None:
    headers = {}
    with LocalSupabase.start(folder) as stack, httpx.Client(base_url=stack.url) as client:
        headers["apikey"] = stack.secret_key
        for kill in (False, True):
            assert client.post(VERSION_RPC, headers=headers).status_code == httpx.codes.OK
            stack.stop_postgrest(kill=kill)
            away = client.post(VERSION_RPC, headers=headers)
            assert away.status_code == httpx.codes.BAD_GATEWAY
            assert away.json()["hint"] == "ECONNREFUSED"
            stack.start_postgrest()
            assert client.post(VERSION_RPC, headers=headers).status_code == httpx.codes.OK


def test_a_frozen_postgrest_hangs_until_thawed(folder: Path) -> None:
    with LocalSupabase.start(folder) as stack, httpx.Client(base_url=stack.url) as client:
        headers = {"apikey": stack.service_key}
        stack.freeze_postgrest()
        with pytest.raises(httpx.ReadTimeout):
            client.post(VERSION_RPC, headers=headers, timeout=0.3)
        stack.thaw_postgrest()
        assert client.post(VERSION_RPC, headers=headers).status_code == httpx.codes.OK
        stack.freeze_postgrest()  # a frozen one is ended as well


class TestGateway:
    def test_serves_many_requests_over_one_connection(self, stack: LocalSupabase) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", int(stack.url.rsplit(":", 1)[1]))
        connection.connect()
        first_socket = connection.sock
        for _ in range(3):
            connection.request("POST", VERSION_RPC, headers={"apikey": stack.service_key})
            response = connection.getresponse()
            assert (response.status, response.read().isdigit()) == (200, True)
        assert connection.sock is first_socket
        connection.close()

    @pytest.mark.parametrize(
        ("path", "headers", "status"),
        [
            (VERSION_RPC, {}, 401),
            (VERSION_RPC, {"apikey": "sb_secret_unknown"}, 401),
            (VERSION_RPC, {"Authorization": "Bearer {service_key}"}, 401),
            (VERSION_RPC, {"apikey": "{secret_key}", "User-Agent": "Mozilla/5.0"}, 401),
            (VERSION_RPC, {"apikey": "{anon_key}"}, 401),  # PostgREST's own refusal
            (VERSION_RPC, {"apikey": "{anon_key}", "Authorization": "Bearer x.y.z"}, 401),
            (VERSION_RPC, {"apikey": "{service_key}"}, 200),
            (VERSION_RPC, {"apikey": "{secret_key}"}, 200),
            (VERSION_RPC, {"apikey": "{secret_key}", "Authorization": "Bearer {secret_key}"}, 200),
            (VERSION_RPC, {"apikey": "{anon_key}", "Authorization": "Bearer {service_key}"}, 200),
            ("/rest/v10/", {"apikey": "{service_key}"}, 404),
            ("/auth/v1/user", {"apikey": "{service_key}"}, 404),
        ],
    )
    def test_treats_keys_as_supabase_does(
        self, stack: LocalSupabase, path: str, headers: dict[str, str], status: int
    ) -> None:
        keys = {
            "service_key": stack.service_key,
            "secret_key": stack.secret_key,
            "anon_key": stack.anon_key,
        }
        sent = {name: value.format(**keys) for name, value in headers.items()}

        assert httpx.post(stack.url + path, headers=sent).status_code == status

    @pytest.mark.alone
    def test_carries_hundreds_of_requests_a_second_lightly(self, stack: LocalSupabase) -> None:
        process_id = stack.running()["gateway"]
        assert process_id is not None
        gateway = psutil.Process(process_id)
        before = gateway.cpu_times()
        began = time.monotonic()
        with httpx.Client(base_url=stack.url, headers={"apikey": stack.service_key}) as client:
            for _ in range(400):
                client.post(VERSION_RPC).raise_for_status()
        seconds = time.monotonic() - began
        after = gateway.cpu_times()

        cpu_seconds = after.user + after.system - before.user - before.system
        assert cpu_seconds / 400 < 0.002, f"{cpu_seconds:.2f} s of CPU in {seconds:.1f} s"

"""`make run` on a fresh machine: a database and a folder of its own, and a whole end."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from run import settings
from service_process import DIRECT, REPOSITORY, wait_for

pytestmark = pytest.mark.e2e


def test_it_starts_with_nothing_set_says_where_it_is_and_ends_whole(tmp_path: Path) -> None:
    output = tmp_path / "output"
    with output.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, str(REPOSITORY / "scripts" / "run.py"), "--folder", str(tmp_path)],
            env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        assert wait_for(lambda: "End: Ctrl+C" in output.read_text(), 60), output.read_text()
        everything = psutil.Process(process.pid).children(recursive=True)
        dashboard = re.search(r"Dashboard: (http://127\.0\.0\.1:\d+/dashboard)", output.read_text())
        assert dashboard is not None
        with DIRECT.open(dashboard[1], timeout=10) as response:
            assert b"Sign in" in response.read()
        assert f"is in {tmp_path / 'sessions' / 'api-key'}" in output.read_text()
        assert (tmp_path / "sessions" / "api-key").stat().st_mode & 0o777 == 0o600

        os.killpg(process.pid, signal.SIGINT)

        assert process.wait(40) == 0
        _, alive = psutil.wait_procs(everything, 10)
        assert not alive
    finally:
        process.kill()
        process.wait(10)


def test_the_environment_wins_over_the_file_and_empty_values_count_as_unset(
    tmp_path: Path,
) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text('PORT=9000\nLOG_LEVEL=DEBUG\nSUPABASE_URL=\nWHATSAPP_DEVICE_NAME="A B"\n')

    found = settings({"PORT": "9001", "LOG_LEVEL": ""}, env_file)

    assert found == {"PORT": "9001", "LOG_LEVEL": "DEBUG", "WHATSAPP_DEVICE_NAME": "A B"}


def test_the_example_can_be_used_as_it_is() -> None:
    assert settings({}, REPOSITORY / ".env.example") == {}

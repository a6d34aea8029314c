"""Every setting is documented, and every bad value is refused with one line that names it."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from crm_whatsapp.config import Settings, load_settings
from crm_whatsapp.domain.errors import ConfigurationError

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLE = REPOSITORY / ".env.example"
GOOD = {
    "SUPABASE_URL": "https://abc.supabase.co",
    "SUPABASE_SERVICE_ROLE_KEY": "sb_secret_0123456789",
    "SESSIONS_DIR": "/var/lib/crm-whatsapp",
}
KEY = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
IN_MILLISECONDS = {
    "SESSION_RECOVERY_STARTUP_DELAY",
    "SESSION_RESTORE_DELAY_MS",
    "SESSION_RECOVERY_TIMEOUT",
    "SESSION_RECOVERY_RETRY_DELAY",
    "GRACEFUL_SHUTDOWN_TIMEOUT",
    "START_GATE_MAX_MS",
}


def documented() -> dict[str, tuple[str, str]]:
    """Return variable -> (value, the comment above it) of .env.example."""
    found: dict[str, tuple[str, str]] = {}
    comment: list[str] = []
    for line in EXAMPLE.read_text().splitlines():
        assignment = re.fullmatch(r"(?:# )?([A-Z][A-Z0-9_]*)=(.*)", line)
        if assignment:
            name, value = assignment.groups()
            assert name not in found, f"{name} is there twice"
            found[name] = ("".join(shlex.split(value)), " ".join(comment))
            comment = []
        elif not line:
            comment = []
        else:
            comment.append(line.removeprefix("#").strip())
    return found


def names() -> list[str]:
    return [name.upper() for name in Settings.model_fields]


def set_environment(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name in names():
        monkeypatch.delenv(name, raising=False)
    for name, value in {**GOOD, **values}.items():
        monkeypatch.setenv(name, value)


def test_the_example_lists_every_setting_in_the_order_of_the_code_and_nothing_else() -> None:
    assert list(documented()) == names()


@pytest.mark.parametrize("name", names())
def test_the_example_tells_what_a_setting_is_its_unit_and_its_default(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    value, comment = documented()[name]
    field = Settings.model_fields[name.lower()]
    assert comment
    if field.is_required():
        assert "Required" in comment
        assert value == ""
        return
    assert "default" in comment
    if name.endswith("_SECONDS"):
        assert "seconds" in comment
    assert (name in IN_MILLISECONDS) == (" ms," in f" {comment}")
    assert name.endswith("_BYTES") == (" bytes," in comment)
    if field.default is None:
        assert value == ""
        return
    if field.default == "":
        assert value == ""
        assert comment.endswith("default is empty")
        return
    assert comment.endswith(f"default {value}")
    set_environment(monkeypatch, **{name: value})
    assert getattr(load_settings(), name.lower()) == field.default


@pytest.mark.parametrize("name", ["SUPABASE_URL", "SUPABASE_SERVICE_ROLE_KEY", "SESSIONS_DIR"])
@pytest.mark.parametrize("value", [None, ""])
def test_a_required_setting_that_is_missing_or_empty_is_named(
    name: str, value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_environment(monkeypatch)
    monkeypatch.delenv(name)
    if value is not None:
        monkeypatch.setenv(name, value)

    assert refusal() == f"{name} is not set"


def bad_values() -> list[tuple[str, str]]:
    """Return a value outside each bound, and a word for each number and choice."""
    bad: list[tuple[str, str]] = []
    for field_name, field in Settings.model_fields.items():
        name = field_name.upper()
        if field.annotation in (int, float, bool):
            bad.append((name, "many"))
        if field.annotation is int:
            bad.append((name, "1.5"))
        if field.annotation is float:
            bad.append((name, "nan"))
            bad.append((name, "0"))
        for bound in field.metadata:
            for kind, step in (("ge", -1), ("le", 1)):
                limit: Any = getattr(bound, kind, None)
                if limit is not None:
                    bad.append((name, str(limit + step)))
    return [
        *bad,
        *((name, "nonsense") for name in CHOICES),
        ("INSTANCE_MODE", "cluster"),
        *((name, url) for name in URLS for url in BAD_URLS),
        ("SESSIONS_DIR", "sessions"),
        ("SESSIONS_DIR", "./sessions"),
        ("SESSIONS_DIR", "/data/what?"),
        ("SESSIONS_DIR", "/data/50%"),
        ("WHATSAPP_API_KEY", "fifteen-letters"),
        ("METRICS_TOKEN", "fifteen-letters"),
        ("WHATSAPP_DEVICE_NAME", "x" * 51),
    ]


CHOICES = ("INSTANCE_MODE", "LOG_LEVEL", "LOG_FORMAT", "SNAPSHOT_STORAGE")
URLS = ("SUPABASE_URL", "SANDBOX_PHONE_URL", "S3_ENDPOINT_URL")
BAD_URLS = ("abc.supabase.co", "ftp://abc.supabase.co", "https://", "https://abc.co/?key=1")


@pytest.mark.parametrize(("name", "value"), bad_values())
def test_a_bad_value_is_refused_with_one_line_that_names_it(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_environment(monkeypatch, **{name: value})

    line = refusal()

    assert line.startswith(f"{name}: ")
    assert "\n" not in line


def test_a_refused_secret_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, WHATSAPP_API_KEY="hunter2hunter2")

    assert "hunter2" not in refusal()


def test_secrets_do_not_show_in_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(
        monkeypatch,
        WHATSAPP_API_KEY="key-0123456789abcdef",
        SUPABASE_DB_URL="postgresql://u:pw@h",
        SNAPSHOT_ENCRYPTION_KEYS="k1:c25hcHNob3Qta2V5",
        S3_ACCESS_KEY_ID="AKIA0123",
        S3_SECRET_ACCESS_KEY="s3-secret-0123",
        METRICS_TOKEN="metrics-token-0123",
    )
    settings = load_settings()

    assert isinstance(settings.whatsapp_api_key, SecretStr)
    for secret in (
        "key-0123456789abcdef",
        "sb_secret_0123456789",
        "u:pw",
        "c25hcHNob3Qta2V5",
        "AKIA0123",
        "s3-secret-0123",
        "metrics-token-0123",
    ):
        assert secret not in repr(settings)


def refusal() -> str:
    with pytest.raises(ConfigurationError) as refused:
        load_settings()
    return refused.value.message


class TestGunicorn:
    """The deployed command refuses to start: exit code, one line, no traceback."""

    def refuse(self, tmp_path: Path, *arguments: str, **settings: str) -> str:
        environment = {
            "PATH": os.environ["PATH"],
            "SUPABASE_URL": "http://127.0.0.1:9",
            "SUPABASE_SERVICE_ROLE_KEY": "key",
            "SESSIONS_DIR": str(tmp_path / "sessions"),
            "PORT": "0",
            **settings,
        }
        done = subprocess.run(
            [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", *arguments, "app:app"],
            cwd=REPOSITORY,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode != 0
        said = [line for line in done.stderr.splitlines() if '"level": "info"' not in line]
        assert len(said) == 1, done.stderr
        assert said[0].startswith("crm_whatsapp: ")
        return said[0].removeprefix("crm_whatsapp: ")

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("SESSIONS_DIR", "sessions"),
            ("SUPABASE_URL", "supabase"),
            ("SESSION_RECOVERY_MAX_RETRIES", "three"),
            ("WHATSAPP_API_KEY", "short"),
            ("INSTANCE_MODE", "cluster"),
        ],
    )
    def test_refuses_a_bad_value(self, tmp_path: Path, name: str, value: str) -> None:
        assert self.refuse(tmp_path, **{name: value}).startswith(f"{name}: ")

    @pytest.mark.parametrize(
        "keys", ["k1", "k1:c2hvcnQ=", "k1:!", f"k1:{KEY},k1:{KEY}", f"k 1:{KEY}"]
    )
    def test_refuses_keys_that_could_not_open_what_they_seal(
        self, tmp_path: Path, keys: str
    ) -> None:
        line = self.refuse(tmp_path, SNAPSHOT_ENCRYPTION_KEYS=keys)

        assert "SNAPSHOT_ENCRYPTION_KEYS" in line
        assert KEY not in line

    def test_refuses_s3_without_a_bucket(self, tmp_path: Path) -> None:
        line = self.refuse(tmp_path, SNAPSHOT_STORAGE="s3")

        assert line == "S3_BUCKET is not set, and SNAPSHOT_STORAGE is s3"

    def test_names_all_that_is_missing(self, tmp_path: Path) -> None:
        line = self.refuse(tmp_path, SUPABASE_URL="", SESSIONS_DIR="")

        assert line == "SUPABASE_URL is not set; SESSIONS_DIR is not set"

    def test_refuses_a_file_in_the_way_of_sessions_dir(self, tmp_path: Path) -> None:
        (tmp_path / "sessions").write_text("in the way")

        assert self.refuse(tmp_path).startswith(f"SESSIONS_DIR: {tmp_path / 'sessions'} cannot")

    def test_refuses_a_sessions_dir_below_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("in the way")

        line = self.refuse(tmp_path, SESSIONS_DIR=str(tmp_path / "file" / "sessions"))

        assert line.startswith("SESSIONS_DIR: ")

    def test_refuses_a_second_worker(self, tmp_path: Path) -> None:
        line = self.refuse(tmp_path, "--workers", "2")

        assert line.startswith("one worker runs all sessions of a SESSIONS_DIR, not 2")

    def test_refuses_a_worker_in_which_slow_clients_hold_up_all(self, tmp_path: Path) -> None:
        line = self.refuse(tmp_path, "--worker-class", "gthread")

        assert line.startswith("in gunicorn's worker class ThreadWorker slow clients hold up all")

    def test_refuses_tls_that_it_would_not_speak(self, tmp_path: Path) -> None:
        for name in ("cert", "key"):
            (tmp_path / name).write_text("")

        line = self.refuse(
            tmp_path, "--certfile", str(tmp_path / "cert"), "--keyfile", str(tmp_path / "key")
        )

        assert line.startswith("the service speaks HTTP without TLS")

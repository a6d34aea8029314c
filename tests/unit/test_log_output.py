"""A log line is one line, whatever strangers have put into it."""

import io
import json
import logging
from collections.abc import Callable, Iterator

import pytest
import structlog

from crm_whatsapp.log_output import configure_logging

HOSTILE = 'x\n{"level": "error", "event": "forged"}\x1b[2K\x9b31m\u2028\u202eRLO\ud83d"'

Written = Callable[[str], str]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[Written]:
    """Log the same four ways and return what went to standard error."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level

    def log_all(style: str) -> str:
        stream = io.StringIO()
        monkeypatch.setattr("sys.stderr", stream)
        configure_logging(level="INFO", style=style)
        logging.getLogger("library").warning("path %s", HOSTILE)
        structlog.get_logger("own").warning("a_name", name=HOSTILE, **{"company_id": "c"})
        structlog.get_logger("own").warning(HOSTILE)
        try:
            raise ValueError(HOSTILE)
        except ValueError:
            logging.getLogger("library").exception("it failed")
        return stream.getvalue()

    yield log_all
    root.handlers[:] = before
    root.setLevel(level)
    structlog.reset_defaults()


def test_objects_stay_on_their_lines(written: Written) -> None:
    text = written("json")

    assert len(text.splitlines()) == 4  # as Python counts lines, U+2028 and U+0085 among them
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["level"] for line in lines] == ["warning", "warning", "warning", "error"]
    assert lines[0]["event"] == f"path {HOSTILE}"
    assert lines[1]["name"] == HOSTILE
    assert not set(text) & {"\x1b", "\x9b", "\u202e"}
    assert text.encode()


def test_a_terminal_is_not_steered(written: Written) -> None:
    text = written("console")

    before_the_traceback = text[: text.index("Traceback")]
    assert len(before_the_traceback.splitlines()) == 4
    assert "\x1b[2K" not in text
    assert not set(text) & {"\x9b", "\u202e", "\u2028"}
    assert text.encode()

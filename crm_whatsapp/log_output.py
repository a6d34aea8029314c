"""Where log lines go: one JSON object a line, or readable text on a terminal."""

import io
import logging
import sys
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, ExcInfo, WrappedLogger

from crm_whatsapp.domain.plain_text import escaped, escaped_lines


def configure_logging(*, level: str, style: str, instance_id: str | None = None) -> None:
    """Send everything, the libraries' lines too, to standard error in one format.

    Args:
        level: DEBUG, INFO, WARNING or ERROR.
        style: json, console, or auto (console on a terminal only).
        instance_id: put on every line when given.
    """
    console = style == "console" or (style == "auto" and sys.stderr.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _with_instance(instance_id),
    ]
    renderer: Any = (
        # rich's tracebacks would show what variables hold
        structlog.dev.ConsoleRenderer(exception_formatter=_write_traceback)
        if console
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *([_escape_event] if console else [structlog.processors.format_exc_info]),
                renderer,
                # An object is one line, and no text in it moves the cursor of who reads it.
                *([] if console else [lambda _, __, line: escaped(line)]),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for noisy in ("httpx", "httpcore", "apscheduler", "hpack"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def _with_instance(instance_id: str | None) -> Any:
    def add(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        if instance_id is not None:
            event.setdefault("instance", instance_id)
        return event

    return add


def _escape_event(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Keep the sentence on its line; the renderer writes all other texts as Python would."""
    return {**event, "event": escaped(str(event.get("event", "")))}


def _write_traceback(stream: TextIO, exc_info: ExcInfo) -> None:
    text = io.StringIO()
    structlog.dev.plain_traceback(text, exc_info)
    stream.write(escaped_lines(text.getvalue()))

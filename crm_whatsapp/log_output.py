"""Where log lines go: one JSON object a line, or readable text on a terminal."""

import logging
import sys
from typing import Any

import structlog
from structlog.typing import EventDict, WrappedLogger


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
        structlog.dev.ConsoleRenderer(  # rich's tracebacks would show what variables hold
            exception_formatter=structlog.dev.plain_traceback
        )
        if console
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *([] if console else [structlog.processors.format_exc_info]),
                renderer,
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

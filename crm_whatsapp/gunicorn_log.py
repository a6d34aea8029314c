"""gunicorn's own lines, in the same form as everybody else's.

Source: gunicorn 27, glogging.py: `setup` runs at start and at each reload, in the master; workers
inherit what it did.
"""

from gunicorn.config import Config  # type: ignore[import-untyped]
from gunicorn.glogging import Logger  # type: ignore[import-untyped]

from crm_whatsapp.config import Settings
from crm_whatsapp.log_output import configure_logging


def logger_class(settings: Settings) -> type[Logger]:
    """Return the class for gunicorn's `logger_class`; its lines go through the root logger."""

    class GunicornLog(Logger):  # type: ignore[misc]
        def setup(self, cfg: Config) -> None:
            super().setup(cfg)
            for own in (self.error_log, self.access_log):
                own.handlers.clear()
                own.propagate = True
            configure_logging(level=settings.log_level, style=settings.log_format)

    return GunicornLog

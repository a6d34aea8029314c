"""What an engine process is told about itself in its first frame."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from crm_whatsapp.engine.frames import Frame, Order


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSettings:
    """The settings of one engine process; durations in seconds."""

    device_name: str
    log_level: str
    careful: bool
    start_gate_max_seconds: float
    call_entry_max_seconds: float
    dials_at_once: int
    lock_wait_seconds: float
    slow_stop_seconds: float
    calls_per_client: int
    calls_per_engine: int
    uploads_per_client: int
    uploads_per_engine: int
    upload_bytes_at_once: int
    heartbeat_seconds: float
    memory_check_seconds: float

    def frame(self) -> Frame:
        """Return the frame that carries these settings."""
        return {"type": Order.CONFIGURE, "settings": dataclasses.asdict(self)}

    @classmethod
    def from_frame(cls, frame: Frame) -> "ChildSettings":
        """Return the settings of a CONFIGURE frame.

        Raises:
            TypeError: a name is missing or unknown.
        """
        settings: dict[str, Any] = frame["settings"]
        return cls(**settings)

"""The settings of the engine fleet."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """Every limit and duration of the fleet; durations in seconds unless named otherwise."""

    device_name: str = "CRM WhatsApp"  # shown on the phone under Linked devices
    log_level: str = "INFO"  # DEBUG lets whatsmeow's debug lines through
    environment: dict[str, str] = field(default_factory=dict)  # given to engines as it is
    package_root: Path | None = None  # put on the engines' module path; default: this package's

    sessions_per_engine: int = 50
    pairing_engines_max: int = 10
    isolation_engines_max: int = 4  # suspects at a time, each in an engine of its own

    # the start gate inside an engine (facts: measured)
    start_gate_max_ms: int = 50  # longest hold of the write side
    call_entry_max_ms: int = 10  # longest hold of the read side
    dials_at_once: int = 25
    lock_wait_seconds: float = 10.0  # for the lock of a session that another engine still holds
    slow_stop_seconds: float = 7.0  # a stop on a frozen link takes 5 s
    calls_per_client: int = 8  # unanswered at once
    calls_per_engine: int = 100
    uploads_per_client: int = 4  # not come back at once
    uploads_per_engine: int = 16
    upload_bytes_at_once: int = 32 * 1024 * 1024

    probe_seconds: float = 10.0
    logout_seconds: float = 10.0
    call_margin_seconds: float = 1.0  # how much later than the engine the supervisor gives up

    heartbeat_seconds: float = 1.0
    heartbeat_loss_seconds: float = 15.0  # an engine silent for so long is killed
    hello_seconds: float = 60.0  # an engine that has not loaded neonize by then is killed
    memory_check_seconds: float = 15.0

    respawn_max_seconds: float = 60.0  # the first respawn is immediate, then 1, 2, 4 …
    respawn_reset_seconds: float = 300.0  # alive for so long: the next death is a first one
    careful_window_seconds: float = 60.0  # two deaths without a suspect within it
    careful_max_seconds: float = 300.0
    idle_engine_seconds: float = 300.0  # a shard without sessions ends after this

    isolation_proof_seconds: float = 60.0  # connected alone for so long: not a suspect any more
    isolation_proof_queued_seconds: float = 1.0  # the same while another suspect waits

    max_starts: int = 500
    max_descriptors: int = 2000
    max_memory_mb: int = 400
    max_hanging_uploads: int = 3  # one company may have one more than that
    replacement_pause_seconds: float = 600.0  # a fresh engine may grow to twice the bounds so long
    abandoned_grace_seconds: float = 45.0
    handover_at_once: int = 10
    handover_step_seconds: float = 3.0  # the next one goes after this, connected or not
    handover_limit_seconds: float = 120.0  # then the old engine is ended with what it holds

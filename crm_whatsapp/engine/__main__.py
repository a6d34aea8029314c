"""The engine process: `python -m crm_whatsapp.engine <descriptor> <parent pid>`.

Started by `engine_process` with one end of a pipe; ends when the other end is closed.
"""

import ctypes
import os
import resource
import signal
import sys
import traceback
from multiprocessing.connection import Connection

from crm_whatsapp.engine import absent_libraries, child_log
from crm_whatsapp.engine.child_settings import ChildSettings
from crm_whatsapp.engine.frame_channel import FrameChannel
from crm_whatsapp.engine.frames import Report
from crm_whatsapp.engine.neonize_library import NeonizeUnusable, check_library, forbid_download

EXIT_UNUSABLE = 3
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Load neonize, say hello, obey."""
    descriptor, parent_pid = int(sys.argv[1]), int(sys.argv[2])
    _harden(parent_pid)
    channel = FrameChannel(Connection(descriptor))
    child_log.install(channel)
    settings = ChildSettings.from_frame(channel.receive())
    level = child_log.set_level(settings.log_level)
    try:
        check_library()
        forbid_download()
        absent_libraries.leave_out()
        from crm_whatsapp.engine import neonize_client
    except (NeonizeUnusable, ImportError, OSError) as exc:
        channel.send_and_wait({"type": Report.UNUSABLE, "detail": f"{exc}"})
        os._exit(EXIT_UNUSABLE)
    from crm_whatsapp.engine.engine_host import EngineHost

    neonize_client.prepare_library(level)
    channel.send(
        {
            "type": Report.HELLO,
            "pid": os.getpid(),
            "neonize": neonize_client.VERSION,
            "modules": sorted({name.partition(".")[0] for name in sys.modules}),
        }
    )
    EngineHost(settings, channel, neonize_client.client_factory(settings.device_name)).run()


def _harden(parent_pid: int) -> None:
    """Let nothing but the supervisor end this process, and let it never outlive that."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent_pid:
            os._exit(0)


if __name__ == "__main__":
    try:
        main()
    except BaseException:  # noqa: BLE001 - threads of neonize would keep a broken engine alive
        traceback.print_exc()
        sys.stderr.flush()
    os._exit(1)

"""An empty store with the tables of the neonize in use, made by neonize itself.

`python -m crm_whatsapp.engine.empty_store <path> <parent pid>`: a process of its own, because it
loads neonize. Started by `empty_store_process`; the last line of its output says what is wrong.
"""

import ctypes
import os
import signal
import sys

from crm_whatsapp.engine import absent_libraries
from crm_whatsapp.engine.neonize_library import NeonizeUnusable, check_library, forbid_download

EXIT_UNUSABLE = 3
_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Make the store; return the exit code."""
    path, parent_pid = sys.argv[1], int(sys.argv[2])
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent_pid:
            return EXIT_UNUSABLE
    try:
        check_library()
        forbid_download()
        absent_libraries.leave_out()
        from neonize.client import ClientFactory
    except (NeonizeUnusable, ImportError, OSError) as exc:
        sys.stderr.write(f"{exc}\n")
        return EXIT_UNUSABLE
    ClientFactory.get_all_devices_from_db(path)  # opening a store makes or upgrades its tables
    return 0


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # threads of neonize would keep the process alive

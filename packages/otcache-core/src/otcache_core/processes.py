"""Child processes, and what they start in turn."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process and whatever it has started, wait for the process itself, and close the pipe to it.

    Args:
        process: started with ``start_new_session=True``; it may have ended already. What it started, and
            did not put into a session of its own, ends with it, where systems have groups of processes.
    """
    kill_group = getattr(os, "killpg", None)
    with suppress(OSError):
        if kill_group:
            kill_group(process.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
    process.kill()
    process.wait()
    if process.stdin:
        with suppress(OSError):  # what was not flushed has nobody to go to
            process.stdin.close()

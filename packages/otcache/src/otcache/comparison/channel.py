"""What a worker tells its supervisor: one JSON object a line on standard output."""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any, TextIO

ORPHANED = 3


class Channel:
    """The worker's end. Whatever libraries print goes to standard error from here on.

    Standard input is a pipe that closes when the supervisor ends, in whatever way: this process ends then
    too, in the middle of its work.
    """

    def __init__(self) -> None:
        threading.Thread(target=_end_with, args=(sys.stdin.fileno(),), daemon=True).start()
        sys.stdout.flush()
        self._lines: TextIO = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def say(self, event: str, **facts: Any) -> None:
        """Send an event.

        Args:
            event: ``begin`` and ``end`` of a piece of work with a time limit of its own, ``step`` inside
                one, ``plan`` once it is known, ``absent`` or ``failed`` with the reason, ``done`` at the end.
            facts: plain data.
        """
        self._lines.write(json.dumps({"event": event, **facts}) + "\n")
        self._lines.flush()


def _end_with(pipe: int) -> None:
    # Below Python's buffers: their lock, held here, would abort the interpreter when it ends in peace.
    while os.read(pipe, 1):
        pass
    os._exit(ORPHANED)

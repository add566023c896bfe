"""What a worker tells its supervisor: one JSON object a line on standard output."""

from __future__ import annotations

import json
import os
import sys
from typing import Any, TextIO


class Channel:
    """The worker's end. Whatever libraries print goes to standard error from here on."""

    def __init__(self) -> None:
        sys.stdout.flush()
        self._lines: TextIO = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def say(self, event: str, **facts: Any) -> None:
        """Send an event.

        Args:
            event: ``begin`` and ``end`` of a piece of work with a time limit of its own, ``step`` inside
                one, ``plan`` once it is known, ``absent`` with the reason.
            facts: plain data.
        """
        self._lines.write(json.dumps({"event": event, **facts}) + "\n")
        self._lines.flush()

"""The program's own log, where otcache's notices go too."""

from __future__ import annotations

import logging

import otcache

LOG = logging.getLogger("composing")


class Once(logging.Filter):
    """Passes each message once: what a policy is about is the same at every request."""

    def __init__(self) -> None:
        super().__init__()
        self._seen = set[str]()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is new."""
        new = record.getMessage() not in self._seen
        self._seen.add(record.getMessage())
        return new


def begin() -> None:
    """Set the log up in this process; threads share it."""
    logging.basicConfig(format="%(processName)s: %(name)s %(levelname)s: %(message)s")
    notices = LOG.getChild("otcache")
    notices.addFilter(Once())
    otcache.notices_to(notices)

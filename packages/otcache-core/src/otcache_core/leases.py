"""What a request lends to the code inside it, so that a call that comes too late is known."""

from __future__ import annotations

from contextvars import ContextVar

from otcache_core.errors import ExecutionError

LATE = (
    "a run must begin before its request ends, got one whose request was cancelled or had failed before: its "
    "thread went on. Nobody waits for that run, so it is not made; for one that is wanted call "
    "handle.request(...) again."
)


class Lease:
    """A request's claim on a target, while the request lasts.

    Attributes:
        abandoned: whether the request failed or was cancelled before its run began. A thread that was on its
            way to the run cannot be stopped, and would disturb the next request's.
    """

    def __init__(self) -> None:
        self.abandoned = False


#: The leases where this code runs, the innermost last: in a request, and in what was started from it.
HELD: ContextVar[tuple[Lease, ...]] = ContextVar("otcache_leases", default=())


def refuse_late_run() -> None:
    """Raise in a run that its request has abandoned; once for each request.

    Raises:
        ExecutionError: if the innermost request was abandoned.
    """
    held = HELD.get()
    if held and held[-1].abandoned:
        held[-1].abandoned = False
        raise ExecutionError(LATE)

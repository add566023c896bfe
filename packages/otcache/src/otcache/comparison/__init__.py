"""Compare methods on one pipeline: job, runner, supervisor, worker, bench, folder, metrics, then collect."""

from typing import TYPE_CHECKING

from otcache_core import imported_on_use

if TYPE_CHECKING:
    from otcache.comparison.job import Job
    from otcache.comparison.runner import Settings, compare

__all__ = ["Job", "Settings", "compare"]

if not TYPE_CHECKING:  # a checker shall know misspelt names
    __getattr__, __dir__ = imported_on_use(
        globals(),
        {
            "otcache.comparison.job": "Job",
            "otcache.comparison.runner": "Settings compare",
        },
    )

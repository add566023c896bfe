"""The runner behind ``--runner ray``: each worker's process is held by an actor on a machine of the cluster.

What the processes are and do is otcache's; Ray says where. So a worker that dies, hangs or meets a prompt it
cannot make is treated as on one machine, and the images are the same.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Self

import ray
from ray.exceptions import RayError

from otcache.processes import WAITING, EndedError, Event, Start, Worker, WorkerProcess
from otcache_core import OtcacheError
from otcache_core.notices import notify

#: Seconds that an actor listens to its process at a time, and that it has to end it.
LISTENS, ENDS = 2.0, 10.0
#: Cores of a worker, and GPUs where the cluster has any.
CPUS, GPUS = 1.0, 1.0


class Place:
    """An actor: holds the process of one worker.

    Args:
        command: of the worker; its first word is left to this machine where it is ``python``.
        python: the driver's interpreter.
        folder: in which the process is started, where this machine has it.
        log: file of what it prints, where this machine has its folder.
    """

    def __init__(self, command: Sequence[str], python: str, folder: str, log: str) -> None:
        if Path(folder).is_dir():
            os.chdir(folder)
        words = [sys.executable if command[0] == python else command[0], *command[1:]]
        self._folder = tempfile.TemporaryDirectory()
        kept = Path(log) if Path(log).parent.is_dir() else Path(self._folder.name) / "log.txt"
        self._process = WorkerProcess(words, kept)

    def ready(self) -> None:
        """Return once it is there."""

    def give(self, task: Event) -> None:
        """Send the worker a task."""
        self._process.give(task)

    def event(self) -> Event | int | None:
        """Return what the worker says next, None if it says nothing, or its exit status."""
        try:
            return self._process.event(LISTENS)
        except EndedError as ended:
            return ended.code

    def last_words(self) -> str:
        """Return the last line that it printed."""
        return self._process.last_words

    def end(self) -> None:
        """End the process and its children."""
        self._process.__exit__()
        self._folder.cleanup()


class RayWorker(Worker):
    """A worker whose process is on some machine: a context manager that ends both.

    Args:
        actor: class of :class:`Place`, with its resources.
        command: of the worker.
        log: file of what it prints.
        threads: Ray gives the libraries of an actor as many as it has cores.
    """

    def __init__(self, actor: Any, command: Sequence[str], log: Path, threads: int = 0) -> None:
        self._place = actor.remote(list(command), sys.executable, os.getcwd(), str(log))
        self._ready: Any = self._place.ready.remote()
        self._event: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(RayError, TimeoutError):
            if self._is_there(0.0):
                ray.get(self._place.end.remote(), timeout=ENDS)
        ray.kill(self._place)

    def give(self, task: Event) -> None:
        self._place.give.remote(task)

    def event(self, timeout: float) -> Event | None:
        try:
            if not self._is_there(timeout):
                return {"event": WAITING}
            if self._event is None:
                self._event = self._place.event.remote()
            done, _ = ray.wait([self._event], timeout=timeout)
            if not done:
                return None
            said, self._event = ray.get(self._event), None
        except RayError as error:
            lost = str(error).strip().splitlines()
            raise EndedError(-9, lost[-1] if lost else type(error).__name__) from None
        if isinstance(said, int):
            raise EndedError(said)
        return None if said is None else dict(said)

    @property
    def last_words(self) -> str:
        try:
            return str(ray.get(self._place.last_words.remote(), timeout=ENDS))
        except (RayError, TimeoutError):
            return "its actor or its machine is gone"

    def _is_there(self, timeout: float) -> bool:
        if self._ready is not None and ray.wait([self._ready], timeout=timeout)[0]:
            ray.get(self._ready)
            self._ready = None
        return self._ready is None


@contextmanager
def on_cluster(
    workers: int, num_cpus: float = CPUS, num_gpus: float | None = None
) -> Iterator[Start]:
    """Connect to the cluster of ``RAY_ADDRESS``, or start one on this machine, as ``ray.init()`` does.

    A cluster that this started is shut down on the way out.

    Args:
        workers: that will run at a time.
        num_cpus: cores of each.
        num_gpus: GPUs of each, or a share of one; None: one where the cluster has any.

    Yields:
        What starts a worker somewhere.
    """
    own = not ray.is_initialized()
    if own:
        ray.init(log_to_driver=False, logging_level="ERROR")
    try:
        has = ray.cluster_resources()
        gpus = (GPUS if has.get("GPU") else 0.0) if num_gpus is None else num_gpus
        fit = min(has.get("CPU", 0) / num_cpus, has.get("GPU", 0) / gpus if gpus else workers)
        if fit < 1:
            raise OtcacheError(
                f"a worker wants {num_cpus:g} cores and {gpus:g} GPUs, and the whole cluster has "
                f"{has.get('CPU', 0):g} and {has.get('GPU', 0):g}."
            )
        if fit < workers:
            notify(
                f"{workers} workers want {num_cpus:g} cores and {gpus:g} GPUs each, and the cluster has "
                f"room for {int(fit)}: the others begin when there is room."
            )
        actor: Any = ray.remote(Place).options(
            num_cpus=num_cpus, num_gpus=gpus, scheduling_strategy="SPREAD", max_restarts=0
        )
        yield partial(RayWorker, actor)
    finally:
        if own:
            ray.shutdown()

"""List what third-party plugins offer by importing them in child processes, never in this one."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import msgspec

from otcache_core.errors import FileError
from otcache_core.plugins.discovery import HookEntryPoint
from otcache_core.plugins.info import API_VERSION, Info
from otcache_core.storage.files import read_bytes

#: Timeout in seconds for importing one hook module.
LIMIT = 10.0
#: Imports longer than this many seconds are reported as slow: hooks need no heavy library.
SLOW = 1.0
#: Number of child processes that run at the same time.
MAX_CHILDREN = 4
#: Bytes kept of what a module prints.
PRINTED = 2000
#: Start of a finding that is not cached, since the machine is at fault and not the module.
NOT_STARTED = "no process could be started to read it"
#: Code of the child, which first takes over ``sys.path``.
CHILD = (
    "from sys import argv, path; path[:] = [place for place in path if place]; from json import loads; "
    "job = loads(argv[1]); path[:] = job['path']; "
    "from otcache_core.plugins.scan_worker import write_result; write_result(job)"
)
#: Environment variable that is set in child processes, so that they start none themselves.
SCANNING = "OTCACHE_SCANNING"


class Finding(msgspec.Struct, frozen=True):
    """A problem with a plugin.

    Args:
        where: the hook (``otcache_provide_solvers``) or plugin (``solvers mine``); "" for the module.
        what: the problem in words.
        kind: category of the problem: ``import``, ``ended`` (the process), ``slow``, ``hook``, ``name``,
            ``offer``, ``api``, ``target`` or ``trial``.
    """

    where: str
    what: str
    kind: str


class ScannedPlugin(msgspec.Struct, frozen=True):
    """One plugin that a hook offers, as plain data: an :class:`Info` without its options."""

    kind: str
    name: str
    target: str
    summary: str = ""
    api: int = API_VERSION
    requires: tuple[str, ...] = ()

    def info(self) -> Info:
        """Return the descriptor."""
        return Info(self.name, self.target, self.summary, self.api, self.requires)


class ScanResult(msgspec.Struct, frozen=True):
    """The result of importing one entry point: what it offers, and what is wrong with it.

    Args:
        distribution: normalised name.
        point: name of the entry point.
        module: the module it names.
        version: of the distribution.
        offers: the plugins that its hooks return.
        findings: problems.
        seconds: duration of the import.
        printed: the beginning of what it wrote to standard output and error.
    """

    distribution: str
    point: str
    module: str
    version: str = ""
    offers: tuple[ScannedPlugin, ...] = ()
    findings: tuple[Finding, ...] = ()
    seconds: float = 0.0
    printed: str = ""


def scan_entry_points(
    points: Sequence[HookEntryPoint],
    *,
    targets: bool = False,
    limit: float = LIMIT,
    cached: bool = True,
) -> tuple[ScanResult, ...]:
    """Import each hook module in a child process of its own, and return what it offers.

    A module that raises or ends its process spoils its own result only. Results are cached in the user's
    cache folder until something is installed into the distribution's folder.

    Args:
        points: entry points to read.
        targets: also import the descriptors' targets, check their contracts, and try them
            (:func:`otcache_core.plugins.scan_worker.try_plugin`).
        limit: timeout in seconds for each.
        cached: use cached results where there are any. Editable installations have none, and with
            ``targets`` none are used.

    Returns:
        One result per point, in the same order. In a child process they are empty.
    """
    if not points or SCANNING in os.environ:
        return tuple(ScanResult(p.distribution, p.name, p.module, p.version) for p in points)
    cache = _Cache()
    found = {point: cache.find(point) if cached and not targets else None for point in points}
    missing = [point for point, result in found.items() if result is None]
    read = dict(zip(missing, _scan_all(missing, targets, limit), strict=True))
    if read and not targets:
        cache.store(read)
    found |= read
    return tuple(result for result in found.values() if result is not None)


def _scan_all(points: Sequence[HookEntryPoint], targets: bool, limit: float) -> list[ScanResult]:
    """Read entry points in parallel; an interrupt kills all child processes."""
    running: set[subprocess.Popen[bytes]] = set()
    pool = ThreadPoolExecutor(MAX_CHILDREN)
    try:
        return list(pool.map(lambda point: _scan_one(point, targets, limit, running), points))
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in tuple(running):
            end_group(child)
        raise
    finally:
        pool.shutdown()


def _scan_one(
    point: HookEntryPoint, targets: bool, limit: float, running: set[subprocess.Popen[bytes]]
) -> ScanResult:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="otcache-", ignore_cleanup_errors=True) as folder:
        result, output = Path(folder, "result.json"), Path(folder, "output")
        job = {
            "path": [place for place in sys.path if isinstance(place, str)],
            "point": [point.name, point.module, point.distribution],
            "targets": targets,
            "result": str(result),
        }
        command = [sys.executable or "", "-c", CHILD, json.dumps(job)]
        ended = _run(command, output, limit, running)
        seconds = time.monotonic() - began
        printed = _beginning(output)
        try:
            made = msgspec.json.decode(result.read_bytes(), type=ScanResult)
        except (OSError, msgspec.MsgspecError):
            finding = Finding("", ended or "it ended the process that imported it", "ended")
            facts = point.distribution, point.name, point.module
            made = ScanResult(*facts, findings=(finding,), seconds=seconds)
    return msgspec.structs.replace(made, version=point.version, printed=printed)


def _run(
    command: Sequence[str], output: Path, limit: float, running: set[subprocess.Popen[bytes]]
) -> str:
    """Run a child process until it exits or the time is up; return how it failed, or ""."""
    try:
        with output.open("wb") as file:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1", SCANNING: "1"},
            )
    except OSError as error:
        return f"{NOT_STARTED}: {error}"
    running.add(child)
    try:
        status = child.wait(limit)
    except subprocess.TimeoutExpired:
        return f"it took longer than {limit:g} s to import"
    finally:
        end_group(child)
        running.discard(child)
    return f"it ended the process that imported it, with status {status}" if status else ""


def _beginning(output: Path) -> str:
    with suppress(OSError), output.open("rb") as file:
        return file.read(PRINTED).decode("utf-8", "replace")
    return ""


def cache_folder() -> Path:
    """Return the folder of cached files: ``OTCACHE_CACHE_DIR``, or ``otcache`` in the user's cache folder."""
    own = os.environ.get("OTCACHE_CACHE_DIR")
    users = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(own) if own else Path(users, "otcache")


class _Cache:
    """Results cached in one small file; a damaged, missing or unwritable file means no cache."""

    def __init__(self) -> None:
        self._file = cache_folder() / "plugins.json"
        try:
            self._results = msgspec.json.decode(read_bytes(self._file), type=dict[str, ScanResult])
        except (FileError, RuntimeError, msgspec.MsgspecError):
            self._results = {}

    def find(self, point: HookEntryPoint) -> ScanResult | None:
        return self._results.get(self._key(point)) if point.stamp else None

    def store(self, read: dict[HookEntryPoint, ScanResult]) -> None:
        """Store results, in the place of older ones of the same entry points."""
        new = {
            self._key(point): r for point, r in read.items() if point.stamp and _is_about_module(r)
        }
        reread = {(r.distribution, r.point) for r in read.values()}
        others = {k: r for k, r in self._results.items() if (r.distribution, r.point) not in reread}
        with suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            made = self._file.with_suffix(f".{os.getpid()}-{threading.get_ident()}.tmp")
            made.write_bytes(msgspec.json.encode({**others, **new}))
            made.replace(self._file)

    def _key(self, point: HookEntryPoint) -> str:
        from otcache_core import __version__

        facts = [*point, sys.executable, sys.version, API_VERSION, __version__]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _is_about_module(result: ScanResult) -> bool:
    """Return whether the child process could be started, so that the result says something of the module."""
    return not any(found.what.startswith(NOT_STARTED) for found in result.findings)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and its children, wait for the process itself, and close the pipe to it.

    Args:
        process: started with ``start_new_session=True``; it may have exited already. Its children are killed
            on systems with process groups, except those that started a session of their own.
    """
    kill_group = getattr(os, "killpg", None)
    with suppress(OSError):
        if kill_group:
            kill_group(process.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
    process.kill()
    process.wait()
    if process.stdin:
        with suppress(OSError):  # the process that would read it is gone
            process.stdin.close()

"""Run a comparison from end to end, each method in a process of its own."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otcache.comparison.baselines import PREFIX, solver_of
from otcache.comparison.collect import Assembly
from otcache.comparison.folder import CALIBRATION, Folder, Plan
from otcache.comparison.job import Job
from otcache.comparison.metrics import Measures
from otcache.comparison.shards import Shard, joined
from otcache.comparison.supervisor import Supervisor
from otcache.processes import LOCAL, open_runner
from otcache.progress import Stages
from otcache.report import RESULTS, write_report
from otcache.report.results import FULL, Results
from otcache_core import OtcacheError
from otcache_core.calibration import FACTS
from otcache_core.plugins import Offer, Registry, RegistryDescription, installed
from otcache_core.plugins.discovery import is_own


@dataclass(frozen=True)
class Settings:
    """How a comparison is run; nothing here changes its figures, but for times.

    Args:
        limit: seconds that one setting, one method's calibration, or one answer of a foreign metric may take.
        workers: methods at a time. With more than one, times are taken beside other work: only the
            speedups, measured against full runs of the same process, mean something then.
        overwrite: replace another comparison in the folder.
        retry: try again what failed.
        progress: show how far it is, on standard error.
        command: the command line, for the report.
        metrics: names of metric plugins, ``name=path`` if one needs weights or data; by default the
            usual ones that are installed.
        runner: where the processes are: ``local``, or ``ray``, whose machines share the folder.
    """

    limit: float = 600.0
    workers: int = 1
    overwrite: bool = False
    retry: bool = False
    progress: bool = True
    command: str = ""
    metrics: tuple[str, ...] = ()
    runner: str = LOCAL


def compare(
    job: Job,
    methods: Sequence[str],
    directory: str | Path,
    settings: Settings | None = None,
    *,
    registry: Registry | None = None,
) -> tuple[Results, list[Path]]:
    """Run methods beside each other, each in a process of its own, and write the report.

    What is finished is kept in the folder: the same call goes on where it stopped, and once all is
    done it only writes the report again. A method that crashes, hangs or cannot be run is in the report
    with its reason; the others go on.

    Args:
        job: what is compared.
        methods: names of baseline plugins, and of solver plugins as ``solver:NAME``; none takes all
            baselines.
        directory: made if missing.
        settings: limits and bars.
        registry: where plugins come from; None: the installed ones. Each process makes its own from its
            description, so it may hold what is installed, and modules that can be imported.

    Returns:
        The results, and the files written.

    Raises:
        OtcacheError: if a name is unknown, the full runs cannot be made, or nothing ran.
        PluginError: if the registry holds what another process cannot import.
        FileError: if the folder holds something else.
    """
    settings, registry = settings or Settings(), registry or installed()
    described, chosen = registry.description(), check_methods(methods, registry)
    stages = Stages(settings.progress)
    with stages.stage("opening metrics"):
        measures = Measures.choose(settings.metrics, job.pipeline, registry, limit=settings.limit)
    folder = Folder(Path(directory))
    folder.begin(job, overwrite=settings.overwrite)
    folder.keep_plan(Plan(tuple(chosen), settings.metrics, settings.command))
    _run_all(folder, chosen, settings, stages, described)
    return _assembled(folder, chosen, measures, stages, settings.command)


def run_shard(
    job: Job,
    methods: Sequence[str],
    directory: str | Path,
    shard: Shard,
    settings: Settings | None = None,
    *,
    registry: Registry | None = None,
) -> dict[str, str]:
    """Run a share of a comparison's methods, and write no report: :func:`join` does, once all are done.

    The first share makes the full runs too. Shares may have a folder each or all the same one, where none
    does what another one is at.

    Args:
        job: what is compared.
        methods: as of :func:`compare`.
        directory: made if missing; a report of an earlier comparison in it is removed.
        shard: which share.
        settings: limits and bars.
        registry: where plugins come from.

    Returns:
        The methods of this share, each with what failed of it, or nothing.

    Raises:
        OtcacheError: if a name is unknown, or this share was to make the full runs and could not.
        PluginError: if the registry holds what another process cannot import.
        FileError: if the folder holds something else.
    """
    settings, registry = settings or Settings(), registry or installed()
    described, chosen = registry.description(), check_methods(methods, registry)
    first = shard.number == 1
    Measures.choose(settings.metrics, job.pipeline, registry, limit=settings.limit)
    folder = Folder(Path(directory))
    again = settings.overwrite and not folder.holds(job)  # other shares of this one may be in it
    folder.begin(job, overwrite=again)
    folder.keep_plan(Plan(tuple(chosen), settings.metrics, settings.command, shared=True))
    (folder.path / RESULTS).unlink(missing_ok=True)
    mine = shard.of(chosen)
    _run_all(folder, mine, settings, Stages(settings.progress), described, full=first)
    full = folder.of(FULL)
    if first and full.run(FULL) is None:
        reasons = "; ".join(full.failures().values()) or f"see {full.log}"
        raise OtcacheError(f"the full runs could not be made: {reasons}")
    return {method: "; ".join(folder.of(method).failures().values()) for method in mine}


def join(
    directories: Sequence[str | Path],
    directory: str | Path,
    *,
    limit: float = 600.0,
    stages: Stages | None = None,
    registry: Registry | None = None,
) -> tuple[Results, list[Path]]:
    """Join what shares of a comparison have finished, and write its report.

    Args:
        directories: folders of the shares, or the one that all of them worked in.
        directory: of the report; made if missing. May be one of them.
        limit: seconds that one answer of a foreign metric may take.
        stages: shows progress.
        registry: where plugins come from; None: the installed ones.

    Returns:
        The results, and the files written. What no share finished is in them as not run.

    Raises:
        OtcacheError: if no share made the full runs.
        FileError: if a folder is none of a comparison, or of another one than the first.
    """
    registry, stages = registry or installed(), stages or Stages(show=False)
    folder, plan = joined([Folder(Path(one)) for one in directories], Folder(Path(directory)))
    with stages.stage("opening metrics"):
        pipeline = folder.job.pipeline
        measures = Measures.choose(plan.metrics, pipeline, registry, limit=limit)
    return _assembled(folder, plan.methods, measures, stages, plan.command)


def _assembled(
    folder: Folder, methods: Sequence[str], measures: Measures, stages: Stages, command: str
) -> tuple[Results, list[Path]]:
    """Write the report of what is finished in a folder."""
    results, images = Assembly(folder, measures, stages).results(
        methods, _provenance(folder.job), command
    )
    return results, write_report(results, images, folder.path, stages=stages)


def check_methods(methods: Sequence[str], registry: Registry) -> list[str]:
    """Return the baselines of these names, or all of them if no name is given.

    A name is given as ``distribution/name`` if the bare one means another plugin.

    Raises:
        OtcacheError: naming what is unknown, and the nearest names.
    """
    if not methods:
        every = list(_names(registry.infos("baselines"), registry).values())
        return sorted(every, key=lambda name: name != "otcache")
    known = _methods(registry.known, registry)
    if not all(name in known for name in methods):
        known = _methods(registry.infos, registry)
    for name in methods:
        if name not in known:
            names = list(dict.fromkeys(known.values()))
            near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            raise OtcacheError(f"no method is called {name!r}: {hint}Known: {', '.join(names)}.")
    return list(dict.fromkeys(known[name] for name in methods))


def _methods(offers: Callable[[str], list[Offer]], registry: Registry) -> dict[str, str]:
    """Return what a method may be called, to its name."""
    baselines = _names(offers("baselines"), registry)
    solvers = _names(offers("solvers"), registry)
    names = {**{name: name for name in baselines.values()}, **baselines}
    for qualified, name in solvers.items():
        names |= {f"{PREFIX}{one}": f"{PREFIX}{name}" for one in (name, qualified)}
    return names


def _names(offers: Sequence[Offer], registry: Registry) -> dict[str, str]:
    """Return qualified names of offers to the names by which :meth:`Registry.resolve` finds them."""
    names = {}
    for offer in offers:
        same = [other for other in offers if other.info.name == offer.info.name]
        trusted = [other for other in same if registry.is_trusted(other)]
        own = [other for other in trusted if is_own(other.distribution)]
        meant = own or trusted or same
        names[offer.qualified_name] = offer.info.name if meant == [offer] else offer.qualified_name
    return names


def _run_all(
    folder: Folder,
    methods: Sequence[str],
    settings: Settings,
    stages: Stages,
    registry: RegistryDescription,
    *,
    full: bool = True,
) -> None:
    threads = max(1, (os.cpu_count() or 1) // settings.workers) if settings.workers > 1 else 0
    measured = (folder.calibration / FACTS).exists() or not any(map(solver_of, methods))
    first = [*[FULL] * full, *[CALIBRATION] * (not measured)]
    # What failed without a calibration is tried again with it.
    wanting = () if measured else filter(solver_of, methods)
    for method in (*first, *(methods if settings.retry else wanting)):
        folder.of(method).forget_failures()
    with (
        stages.rows("running methods", len(methods) + len(first)) as report,
        open_runner(settings.runner, settings.workers) as start,
        ThreadPoolExecutor(settings.workers) as pool,
    ):
        supervisor = Supervisor(
            folder, settings.limit, threads, report, registry=registry, start=start
        )
        try:
            for method in first:
                pool.submit(supervisor.run, method).result()
                if method == FULL and folder.of(FULL).run(FULL) is None:
                    return
                if method == CALIBRATION:
                    _fail_without_calibration(folder, methods)
            free = pool.map(lambda method: supervisor.run(method, wait=False), methods)
            busy = [method for method, was_free in zip(methods, free, strict=True) if not was_free]
            list(pool.map(supervisor.run, busy))
        except BaseException:
            supervisor.stop.set()
            pool.shutdown(cancel_futures=True)
            raise


def _fail_without_calibration(folder: Folder, methods: Sequence[str]) -> None:
    """Write for every solver why the calibration that it plans from could not be made."""
    reason = folder.of(CALIBRATION).failures().get("")
    for method in methods:
        if reason is not None and solver_of(method):
            folder.of(method).keep_failure("", f"the calibration that it plans from {reason}")


def _provenance(job: Job) -> dict[str, Any]:
    """Return what the figures depend on; no pipeline is opened."""
    return {
        "pipeline": job.pipeline,
        "num_steps": job.num_steps,
        "call": job.call,
        "calibration prompts": len(job.calibration),
        "reference steps": job.reference_steps,
        "batch size": job.batch_size,
        "cores": os.cpu_count(),
        "inputs": job.inputs,
        "versions": job.versions,
    }

"""Make one image or video by a policy, and write its file."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otcache.attempts import attemptable
from otcache.progress import Stages
from otcache.running import choose, schedule_of
from otcache_core import ExecutionError, OtcacheError, PluginError
from otcache_core.contracts import CacheStorage, RunReport, SampleRequest, VideoWriter
from otcache_core.errors import expected
from otcache_core.numbers import integer
from otcache_core.plugins import Registry, installed
from otcache_core.plugins.info import reason_of
from otcache_core.policy import Policy
from otcache_core.samples import Sample, samples_of, seed_of
from otcache_core.storage.files import write_bytes


@dataclass(frozen=True)
class Single:
    """What was made, and the report of its run.

    Args:
        made: an image (height, width, 3) or a video (frames, height, width, 3), in [0, 1].
        report: of the run.
    """

    made: NDArray[np.floating]
    report: RunReport


@attemptable
def run_once(
    target: Any,
    policy: Policy,
    budget: int,
    prompt: Sample,
    *,
    seed: int = 0,
    num_steps: int | None = None,
    strict: bool = False,
    call: Mapping[str, Any] | None = None,
    storage: CacheStorage | None = None,
    stages: Stages | None = None,
    registry: Registry | None = None,
    probe: str | None = None,
    executor: str | None = None,
) -> Single:
    """Check a policy against the pipeline, map it to another step count if asked, and sample once.

    Args:
        target: a pipeline or a loop.
        policy: what was planned.
        budget: B.
        prompt: what to make; or a mapping of call arguments, as a calibration's samples may be.
        seed: of its noise.
        num_steps: ``num_inference_steps``; by default those that the policy was calibrated at.
        strict: refuse another step count or sigma grid.
        call: further arguments of the call, a strength among them.
        storage: how outputs are kept for forecasts.
        stages: show how many steps are behind.
        registry: where plugins come from; None: the installed ones.
        probe: name of a probe plugin, where not the first that supports the target.
        executor: name of an executor plugin, as in :func:`otcache.accelerate`.
        throw: False returns an OtcacheError instead of raising it, as :func:`otcache.attempt` does.

    Raises:
        OtcacheError: if the target does not take an argument; the message names it.
        MismatchError: if the policy is of another model; under ``strict`` also of another step count
            or sigma grid.
        ExecutionError: if the sampler never called the denoiser.
    """
    registry = registry or installed()
    sampler = choose(registry, "probes", target, probe)
    own = policy.provenance
    asked = own.inference_steps or own.num_steps if num_steps is None else num_steps
    n = integer("num_steps", asked, 1)
    request = SampleRequest(samples_of([prompt]), (seed_of(seed),), n, call or {}, 1)
    request = sampler.prepared(target, request)
    schedule = schedule_of(
        registry, target, policy, budget, strict=strict, request=request, probe=probe
    )
    chosen = choose(registry, "executors", target, executor)
    given: dict[str, Any] = {} if storage is None else {"storage": storage}
    with chosen.attach(target, schedule, strict=strict, **given) as run:
        known = n if n != own.inference_steps else own.num_steps
        shown = stages or Stages(show=False)
        with shown.stage("running steps", known, ask=lambda: _steps(run.report)):
            made = sampler.sample(target, request)[0]
    if not run.report.runs:
        raise ExecutionError(
            f"the sampler of {type(target).__name__} never called the denoiser, or broke off: "
            f"{'; '.join(run.report.warnings) or 'nothing was accelerated'}"
        )
    return Single(made, run.report)


def _steps(report: RunReport) -> int:
    """Return the steps that are behind, of the branch that is furthest."""
    computed, skipped = dict(report.computed), dict(report.skipped)
    return max((computed.get(b, 0) + skipped.get(b, 0) for b in {*computed, *skipped}), default=0)


PNG = ".png"


def check_name(path: Path, registry: Registry) -> None:
    """Refuse a file name before anything is made for it.

    Raises:
        OtcacheError: if neither pictures nor clips can be written to a name with this ending.
    """
    suffix = path.suffix.lower()
    suffixes = [PNG] if suffix == PNG else [PNG, *writers(registry, suffix)]
    if suffix not in suffixes:
        raise OtcacheError(
            expected(
                "--out", str(path), f"a name that ends on {_either(suffixes)}", _more(registry)
            )
        )


def save(
    path: Path | None, made: NDArray[np.floating], frames_per_second: float, registry: Registry
) -> Path:
    """Write a picture or a clip, whole or not at all.

    Args:
        path: its ending says how; None takes ``otcache.png``, or ``otcache`` with the first ending
            that a writer of clips has.
        made: shape (height, width, 3) or (frames, height, width, 3), in [0, 1].
        frames_per_second: of a clip.
        registry: where writers of clips come from.

    Returns:
        The file.

    Raises:
        OtcacheError: if the ending is not one for pictures, or clips, whichever was made; or if it
            is neither.
        FileError: if the file cannot be written.
    """
    if made.ndim not in (3, 4) or made.shape[-1] != 3:
        wanted = "a picture (height, width, 3) or a clip (frames, height, width, 3)"
        raise OtcacheError(expected("what the pipeline makes", f"shape {made.shape}", wanted))
    ending = path.suffix.lower() if path else None
    known = writers(registry, ending) if made.ndim == 4 else {}
    suffixes = list(known) if made.ndim == 4 else [PNG]
    kind = "clip" if made.ndim == 4 else "picture"
    if not suffixes:
        raise OtcacheError(f"no writer of clips is installed.{_more(registry)}")
    path = path or Path(f"otcache{suffixes[0]}")
    if path.suffix.lower() not in suffixes:
        what, wanted = f"the name of a {kind}", f"one that ends on {_either(suffixes)}"
        raise OtcacheError(expected(what, str(path), wanted))
    if made.ndim == 3:
        save_picture(path, made)
    else:
        writer = known[path.suffix.lower()]
        try:
            writer.write(path, np.clip(made, 0, 1), frames_per_second)
        except OtcacheError:
            raise
        except BaseException as error:
            name, reason = type(writer).__name__, reason_of(error)
            raise PluginError(f"{path}: cannot be written by {name}: {reason}") from error
    return path


def save_picture(path: Path, picture: NDArray[np.floating]) -> None:
    """Write a picture of shape (height, width, 3) in [0, 1] as PNG, whole or not at all.

    Raises:
        FileError: if the file cannot be written.
    """
    import matplotlib.image

    png = io.BytesIO()
    matplotlib.image.imsave(png, np.clip(picture, 0, 1), format="png")
    write_bytes(path, png.getvalue())


def writers(registry: Registry, suffix: str | None = None) -> dict[str, VideoWriter]:
    """Writers of clips by ending: otcache's own by name, then what was registered, then foreign ones.

    Args:
        registry: where they come from.
        suffix: an ending that is wanted; foreign ones are asked only where nobody else writes it, or
            nothing at all.
    """
    found = dict[str, VideoWriter]()
    for foreign in (False, True):
        for offer in registry.candidates("writers", foreign=foreign):
            try:
                writer = registry.create("writers", offer.qualified_name)
                endings = [str(ending) for ending in writer.suffixes]
            except BaseException as error:
                registry.failed(offer, error)
            else:
                found |= {ending: writer for ending in endings if ending not in found}
        if found and (suffix is None or suffix in found):
            break
    return found


def _either(suffixes: list[str]) -> str:
    return " or ".join(suffixes)


def _more(registry: Registry) -> str:
    return "" if writers(registry) else " clips need: pip install 'otcache[video]'."

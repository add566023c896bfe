"""Make one image or video by a policy, and write its file: PNG, or what a writer of videos takes."""

from __future__ import annotations

import inspect
import io
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otcache.attempts import attemptable
from otcache.progress import Stages
from otcache.running import choose, expected_of, schedule_of
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
    """What one call of a pipeline gives, and the report of its run.

    Args:
        output: an image (height, width, 3) or a video (frames, height, width, 3), in [0, 1].
        report: of the run.
    """

    output: NDArray[np.floating]
    report: RunReport


def usual_steps(target: Any, policy: Policy | None) -> Any:
    """Return ``num_inference_steps`` of a policy's calibration, or the default of a pipeline's call.

    Raises:
        OtcacheError: if there is neither.
    """
    if policy is not None:
        return policy.provenance.inference_steps or policy.provenance.num_steps
    taken = inspect.signature(type(target).__call__).parameters.get("num_inference_steps")
    if taken is None or taken.default is inspect.Parameter.empty:
        raise OtcacheError(
            f"{type(target).__name__} has no usual number of steps: give it, on the command line by --steps."
        )
    return taken.default


@dataclass(frozen=True)
class Maker:
    """Makes samples by a policy and a budget, a pipeline call at a time, and leaves nothing on the target.

    The policy is checked against the pipeline at each call, and carried to another step count if needed.

    Args:
        target: a pipeline or a loop.
        policy: of :func:`otcache.plan`; None: the default schedule, without calibration.
        budget: B.
        num_steps: ``num_inference_steps``; by default those that the policy was calibrated at, or without
            one those of the pipeline's own call.
        strict: raise for another step count or grid.
        call: further arguments of the call, a strength among them.
        storage: how outputs are kept for forecasts.
        registry: where plugins come from; None: the installed ones.
        probe: name of a probe plugin, where not the first that supports the target.
        executor: name of an executor plugin, as in :func:`otcache.accelerate`.
    """

    target: Any
    policy: Policy | None
    budget: int
    num_steps: int | None = None
    strict: bool = False
    call: Mapping[str, Any] = field(default_factory=dict)
    storage: CacheStorage | None = None
    registry: Registry = field(default_factory=installed)
    probe: str | None = None
    executor: str | None = None

    def make(
        self, samples: Sequence[Sample], seeds: Sequence[int], stages: Stages | None = None
    ) -> tuple[NDArray[np.floating], RunReport]:
        """Make samples in one pipeline call.

        Args:
            samples: prompts, or mappings of call arguments.
            seeds: of the noise, one a sample.
            stages: show how many steps are done.

        Returns:
            Images (n, height, width, 3) or videos (n, frames, height, width, 3) in [0, 1], and the report.

        Raises:
            OtcacheError: if the target does not take an argument; the message names it.
            MismatchError: if the policy is of another model; under ``strict`` also of another step count
                or grid.
            ExecutionError: if the sampler never called the denoiser.
        """
        target, policy = self.target, self.policy
        sampler = choose(self.registry, "probes", target, self.probe)
        steps = usual_steps(target, policy) if self.num_steps is None else self.num_steps
        n = integer("num_steps", steps, 1)
        given = samples_of(samples), tuple(map(seed_of, seeds))
        request = sampler.prepared(target, SampleRequest(*given, n, self.call, len(samples)))
        schedule = schedule_of(
            self.registry,
            target,
            policy,
            self.budget,
            strict=self.strict,
            request=request,
            probe=self.probe,
        )
        chosen = choose(self.registry, "executors", target, self.executor)
        options: dict[str, Any] = {} if self.storage is None else {"storage": self.storage}
        with chosen.attach(target, schedule, strict=self.strict, **options) as run:
            run.report.expected = expected_of(policy, self.budget)
            measured = policy.provenance if policy else None
            known = measured.num_steps if measured and n == measured.inference_steps else n
            show = stages or Stages(show=False)
            with show.stage("running steps", known, ask=lambda: _steps(run.report)):
                outputs = sampler.sample(target, request)
        if not run.report.runs:
            raise ExecutionError(
                f"the sampler of {type(target).__name__} never called the denoiser, or broke off: "
                f"{'; '.join(run.report.warnings) or 'nothing was accelerated'}"
            )
        return outputs, run.report


@attemptable
def run_once(
    target: Any,
    policy: Policy | None,
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
    """Make one sample; arguments and errors as of :class:`Maker`.

    Args:
        target: a pipeline or a loop.
        policy: of :func:`otcache.plan`; None: the default schedule, without calibration.
        budget: B.
        prompt: what to make; or a mapping of call arguments, as a calibration's samples may be.
        seed: of its noise.
        num_steps: ``num_inference_steps``.
        strict: raise for another step count or grid.
        call: further arguments of the call, a strength among them.
        storage: how outputs are kept for forecasts.
        stages: show how many steps are done.
        registry: where plugins come from; None: the installed ones.
        probe: name of a probe plugin, where not the first that supports the target.
        executor: name of an executor plugin.
        throw: False returns an OtcacheError instead of raising it, as :func:`otcache.attempt` does.

    Raises:
        OtcacheError: and its kinds, as :meth:`Maker.make` does.
    """
    found = registry or installed()
    maker = Maker(
        target, policy, budget, num_steps, strict, call or {}, storage, found, probe, executor
    )
    outputs, report = maker.make([prompt], [seed], stages)
    return Single(outputs[0], report)


def _steps(report: RunReport) -> int:
    """Return the steps that are done, of the branch that is furthest."""
    computed, skipped = dict(report.computed), dict(report.skipped)
    return max((computed.get(b, 0) + skipped.get(b, 0) for b in {*computed, *skipped}), default=0)


PNG = ".png"


def check_name(path: Path, registry: Registry) -> None:
    """Refuse a file name before anything is made for it.

    Raises:
        OtcacheError: if neither images nor videos can be written to a name with this ending.
    """
    suffix = path.suffix.lower()
    suffixes = [PNG] if suffix == PNG else [PNG, *writers(registry, suffix)]
    if suffix not in suffixes:
        wanted = f"a name that ends on {' or '.join(suffixes)}"
        raise OtcacheError(expected("--out", str(path), wanted, _more(registry)))


def save(
    path: Path | None, made: NDArray[np.floating], frames_per_second: float, registry: Registry
) -> Path:
    """Write an image or a video, whole or not at all.

    Args:
        path: its ending says how; None takes ``otcache.png``, or ``otcache`` with the first ending
            that a writer of videos has.
        made: shape (height, width, 3) or (frames, height, width, 3), in [0, 1].
        frames_per_second: of a video.
        registry: where writers of videos come from.

    Returns:
        The file.

    Raises:
        OtcacheError: if the ending is not one for images, or videos, whichever was made; or if it
            is neither.
        FileError: if the file cannot be written.
    """
    if made.ndim not in (3, 4) or made.shape[-1] != 3:
        wanted = "an image (height, width, 3) or a video (frames, height, width, 3)"
        raise OtcacheError(expected("what the pipeline makes", f"shape {made.shape}", wanted))
    is_video = made.ndim == 4
    known = writers(registry, path.suffix.lower() if path else None) if is_video else {}
    suffixes = list(known) if is_video else [PNG]
    if not suffixes:
        raise OtcacheError(f"no writer of videos is installed.{_more(registry)}")
    path = path or Path(f"otcache{suffixes[0]}")
    if path.suffix.lower() not in suffixes:
        what = "the name of a video" if is_video else "the name of an image"
        raise OtcacheError(expected(what, str(path), f"one that ends on {' or '.join(suffixes)}"))
    if is_video:
        _save_video(known[path.suffix.lower()], path, made, frames_per_second)
    else:
        save_image(path, made)
    return path


def encoded(
    made: NDArray[np.floating], frames_per_second: float, registry: Registry
) -> tuple[str, bytes]:
    """Return an image as a PNG, or a video as the first of the writers writes it.

    Args:
        made: shape (height, width, 3) or (frames, height, width, 3), in [0, 1].
        frames_per_second: of a video.
        registry: where writers of videos come from.

    Returns:
        The ending of its name, and its bytes.

    Raises:
        OtcacheError: as :func:`save` does.
    """
    if made.ndim == 3 and made.shape[-1] == 3:
        return PNG, png_of(made)
    with tempfile.TemporaryDirectory() as folder:
        suffix = next(iter(writers(registry)), PNG)
        path = save(Path(folder) / f"made{suffix}", made, frames_per_second, registry)
        return suffix, path.read_bytes()


def _save_video(
    writer: VideoWriter, path: Path, video: NDArray[np.floating], frames_per_second: float
) -> None:
    try:
        writer.write(path, np.clip(video, 0, 1), frames_per_second)
    except OtcacheError:
        raise
    except BaseException as error:
        name, reason = type(writer).__name__, reason_of(error)
        raise PluginError(f"{path}: cannot be written by {name}: {reason}") from error


def save_image(path: Path, image: NDArray[np.floating]) -> None:
    """Write an image of shape (height, width, 3) in [0, 1] as PNG, whole or not at all.

    Raises:
        FileError: if the file cannot be written.
    """
    write_bytes(path, png_of(image))


def png_of(image: NDArray[np.floating]) -> bytes:
    """Return an image of shape (height, width, 3) in [0, 1] as the bytes of a PNG file."""
    import matplotlib.image

    png = io.BytesIO()
    matplotlib.image.imsave(png, np.clip(image, 0, 1), format="png")
    return png.getvalue()


def writers(registry: Registry, suffix: str | None = None) -> dict[str, VideoWriter]:
    """Return writers of videos by ending: otcache's own by name, then registered ones, then foreign ones.

    Args:
        registry: where they come from.
        suffix: an ending that is wanted; foreign writers are imported only if no other one has it, or
            there are no others.
    """
    by_ending = dict[str, VideoWriter]()
    for foreign in (False, True):
        for offer in registry.candidates("writers", foreign=foreign):
            try:
                writer = registry.create("writers", offer.qualified_name)
                endings = [str(ending) for ending in writer.suffixes]
            except BaseException as error:
                registry.failed(offer, error)
            else:
                by_ending |= {ending: writer for ending in endings if ending not in by_ending}
        if by_ending and (suffix is None or suffix in by_ending):
            break
    return by_ending


def _more(registry: Registry) -> str:
    return "" if writers(registry) else " videos need: pip install 'otcache[video]'."

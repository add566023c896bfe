"""Contracts of runs: probes record full ones, executors skip steps."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from otcache_core.contracts.evaluator import Evaluator
from otcache_core.errors import OtcacheError, expected
from otcache_core.samples import Sample
from otcache_core.schedule import Schedule
from otcache_core.storage.recordings import RecordingStorage
from otcache_core.trajectory import Trajectory

if TYPE_CHECKING:
    from otcache_core.plugins.registry import Registry


class FromRegistry:
    """A plugin that looks up other plugins by the names in schedules and jobs.

    Requirement: it looks in :attr:`registry` and nowhere else, so that two registries in one process do not
    mix. Probes, executors and baselines are of this kind.
    """

    _otcache_registry: Registry | None = None

    @property
    def registry(self) -> Registry:
        """The registry that created this plugin, known inside ``__init__`` too.

        For an object that was made without one it is that of the installed plugins.
        """
        if self._otcache_registry is not None:
            return self._otcache_registry
        from otcache_core.plugins.registry import installed

        return installed()

    @classmethod
    def made_by(cls, registry: Registry, /, *args: Any, **kwargs: Any) -> Self:
        """Make an instance that knows its registry; ``Registry.create`` calls this."""
        plain: Any = cls
        made = plain.__new__(cls, *args, **kwargs)
        object.__setattr__(made, "_otcache_registry", registry)  # it may be a frozen dataclass
        plain.__init__(made, *args, **kwargs)
        return made  # type: ignore[no-any-return]  # by __new__ of the class


#: Names of the types outputs can be kept in.
DTYPES = ("fp32", "bf16", "fp16")
#: Names of the places they can be moved to.
DEVICES = ("cpu",)


@dataclass(frozen=True)
class CacheStorage:
    """The type and the device of cached outputs.

    The sampler gets the denoiser's own output at a computed step in any case. Forecasts are
    summed in float32 and cast once to the output's own type, so with p bits of significand

        |forecast - forecast of unconverted outputs| <= sum_r |A_{t,r}| 2^-p |v_{k_r}|

    up to the rounding of that sum: p = 8 for bf16, 11 for fp16, 24 for fp32, and for fp16 plus 2^-25 if
    |v| is under its normal range.

    Args:
        dtype: ``bf16``, ``fp16`` or ``fp32`` for floating-point tensors that are wider; narrower ones and
            other types are not converted. None: nothing is.
        device: ``cpu`` for host memory, pinned if the outputs are on a CUDA device; None: the outputs' own.

    Raises:
        OtcacheError: if a name is none of these.
    """

    dtype: str | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        _check("dtype", self.dtype, DTYPES)
        _check("device", self.device, DEVICES)


def _check(name: str, value: str | None, known: tuple[str, ...]) -> None:
    if value is not None and value not in known:
        wanted = f"None or one of {', '.join(map(repr, known))}"
        advice = f"omit {name} to keep outputs as they are."
        raise OtcacheError(expected(f"CacheStorage.{name}", value, wanted, advice))


#: From the grid s_0 .. s_N of a run, shape (N + 1,), all NaN if it is not known, to its schedule.
ScheduleByGrid = Callable[[NDArray[np.float64]], Schedule]


@dataclass
class RunReport:
    """What happened under an executor, summed over all runs since it was entered.

    Attributes:
        planned: computed steps of each run's schedule.
        expected: by metric, the median error that the policy measured at this budget of its own N, on its
            calibration samples; empty without a policy, or where nothing is known.
        runs: number of finished runs.
        computed: denoiser calls made, per branch.
        skipped: denoiser calls skipped, or made without the blocks that an executor skips, per branch.
        auxiliary: calls (made, skipped) of networks that only feed the denoiser, by name: a ControlNet is not
            called at skipped steps.
        storage: how outputs were kept.
        cached_bytes: current bytes of cached outputs on the devices they were computed on.
        peak_cached_bytes: their peak.
        cached_host_bytes: current bytes of outputs that were moved to host memory.
        peak_cached_host_bytes: their peak.
        seconds: wall time of the denoising loops, first step's start to last step's end.
        uncounted: whether a run's steps could not be counted, so that it was computed in full.
        warnings: what could not be done as planned, and why.
    """

    planned: tuple[int, ...] = ()
    expected: dict[str, float] = field(default_factory=dict)
    runs: int = 0
    computed: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    auxiliary: dict[str, tuple[int, int]] = field(default_factory=dict)
    storage: CacheStorage = field(default_factory=CacheStorage)
    cached_bytes: int = 0
    peak_cached_bytes: int = 0
    cached_host_bytes: int = 0
    peak_cached_host_bytes: int = 0
    seconds: float = 0.0
    uncounted: bool = False
    warnings: list[str] = field(default_factory=list)

    @property
    def idle(self) -> bool:
        """Whether no run of the target was observed, complete or not."""
        return not (self.runs or self.computed or self.skipped or self.uncounted)

    def __str__(self) -> str:
        """Summarize the runs in one line, with the warnings below."""
        calls = {
            b: (self.computed.get(b, 0), self.skipped.get(b, 0))
            for b in self.computed | self.skipped
        }
        made = ", ".join(f"{b} {made} of {made + left}" for b, (made, left) in calls.items())
        kept = (self.peak_cached_bytes + self.peak_cached_host_bytes) / 2**20
        runs = f"{self.runs} run{'' if self.runs == 1 else 's'} in {self.seconds:.3g} s"
        line = f"{runs}; denoiser calls made: {made or 'none'}; {kept:.3g} MiB kept at most"
        return "\n".join((line, *(f"  {warning}" for warning in self.warnings)))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {**self.__dict__, "storage": asdict(self.storage)}

    def hold(self, on_device: int, on_host: int) -> None:
        """Record the bytes that are cached now."""
        self.cached_bytes, self.cached_host_bytes = on_device, on_host
        self.peak_cached_bytes = max(self.peak_cached_bytes, on_device)
        self.peak_cached_host_bytes = max(self.peak_cached_host_bytes, on_host)


#: Warning of a report if no run was made in a context that was to skip steps.
NOTHING_RAN = (
    "the target made no run while it was accelerated, so nothing was skipped: run the very pipeline, "
    "otcache.loop(...) or module that was accelerated, inside the context."
)


class RunHandle(ABC):
    """What ``with executor.attach(...) as run`` gives; pickles and copies hold its report only."""

    @property
    @abstractmethod
    def report(self) -> RunReport:
        """The report so far; final after exit."""

    @property
    def running(self) -> bool:
        """Whether a run is in progress, as far as the executor knows."""
        return False

    def busy(self, besides: Collection[int] = ()) -> bool:
        """Return whether a call of the target is in progress, also before and after its steps.

        Args:
            besides: identifiers of threads to ignore.
        """
        return False

    def __reduce__(self) -> tuple[Any, ...]:
        return ReportedRun, (self.report,)

    def __str__(self) -> str:
        return str(self.report)


class ReportedRun(RunHandle):
    """The report alone, in a pickle or a copy of a handle."""

    def __init__(self, report: RunReport) -> None:
        self._report = report

    @property
    def report(self) -> RunReport:
        """The report that was given."""
        return self._report


class CacheExecutor(FromRegistry, ABC):
    """Run a live pipeline or module by a schedule.

    Requirements: under the all-compute schedule outputs are bit-identical, however they are kept; on exit,
    also by exception, nothing remains on the module and ``inspect.signature(forward)`` is
    unchanged; other instances do not change; a skipped step calls neither the denoiser (or at least not
    the part of it that the executor caches), nor synchronizes the device. The forecaster that a schedule
    names is that of ``self.registry``.
    """

    @abstractmethod
    def supports(self, target: Any) -> str:
        """Return "" if ``target`` can be run, else the reason why not.

        Must be cheap and change nothing.
        """

    @abstractmethod
    def attach(
        self,
        target: Any,
        schedule: Schedule | ScheduleByGrid,
        *,
        strict: bool = False,
        calls_per_step: int | None = None,
        storage: CacheStorage | None = None,
        grid: NDArray[np.float64] | None = None,
    ) -> AbstractContextManager[RunHandle]:
        """Return a context in which ``target`` runs by ``schedule``.

        Args:
            target: a pipeline, ``otcache.loop(...)`` or a bare module, as ``supports`` accepts it.
            schedule: a schedule (a run of another step count is computed in full with a notice, or refused
                under ``strict``), or a function of the run's grid, called at the start of each run.
            strict: refuse instead of giving a notice.
            calls_per_step: denoiser calls of one sampler step of a bare module; None if the user did not
                specify it, which is 1 unless the run contradicts that.
            storage: how outputs are cached; None: as they are.
            grid: s_0 .. s_N of a bare module's runs, shape (N + 1,); None if it is not known.

        Raises:
            ExecutionError: if the target is already accelerated or not supported, or specifies itself how
                many calls a step makes or on which grid, or the executor cannot keep outputs that way.
        """


@dataclass(frozen=True)
class SampleRequest:
    """What to sample.

    Args:
        prompts: one per sample: a text, or a mapping of the call arguments that are this sample's own.
        seeds: one seed a sample.
        num_steps: the ``num_inference_steps`` the pipeline is called with, of which its sampler may make
            another number: fewer by a strength, more with Heun's method.
        call: further keyword arguments of the pipeline call (height, guidance_scale, ...), the same for
            all samples.
        batch_size: samples per pipeline call, at most; there is still one trajectory a sample.
        keep: how recorded runs are kept.
        for_evaluator: keep of recorded runs what an evaluator of them needs, too
            (``Trajectory.for_evaluator``).
    """

    prompts: tuple[Sample, ...]
    seeds: tuple[int, ...]
    num_steps: int
    call: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 8
    keep: RecordingStorage = field(default_factory=RecordingStorage)
    for_evaluator: bool = False


@dataclass(frozen=True)
class Measured:
    """The result of one request, and its cost.

    Attributes:
        images: shape (n, height, width, 3) in [0, 1], or final states if nothing is decoded.
        states: the sampler's final states, shape (n, ...), float32; None if they are not available.
        seconds: wall time of the pipeline calls, with decoding, after the device is synchronized.
        flops: of matrix products, convolutions and attention, a multiply-add counting two; None unless
            requested.
        peak_bytes: the most bytes of tensors alive at once, of those made during the calls; None unless
            ``flops`` were requested.
    """

    images: NDArray[np.floating]
    states: NDArray[np.floating] | None
    seconds: float
    flops: int | None = None
    peak_bytes: int | None = None


class FeatureProbe(FromRegistry, ABC):
    """Record full runs of a pipeline.

    Requirement: observing changes nothing; the pipeline's outputs are bit-identical with and without the
    probe, and nothing remains on it afterwards. Forecasters and metrics of its evaluator are those of
    ``self.registry``.
    """

    @abstractmethod
    def supports(self, target: Any) -> str:
        """Return "" if ``target`` can be recorded, else the reason why not.

        Must be cheap and change nothing.
        """

    @abstractmethod
    def provenance(self, target: Any, request: SampleRequest | None) -> dict[str, Any]:
        """Return the facts that bind a policy to this pipeline.

        Keys are those of :class:`otcache_core.policy.Provenance`, without ``grid``.
        """

    def prepared(self, target: Any, request: SampleRequest) -> SampleRequest:
        """Check a request before anything runs, and return it as the target takes it.

        Called once before samples are repeated over seeds; the other methods take either form. A request
        whose samples cannot share a call comes back with a batch size of 1.

        Raises:
            OtcacheError: if the target does not take an argument, or it clashes with what the request
                makes itself; the message names it.
        """
        return request

    @abstractmethod
    def record(self, target: Any, request: SampleRequest) -> Iterator[Trajectory]:
        """Yield one trajectory a sample, in order, as soon as it is known.

        The first one has N, the steps that the target makes of those requested.

        Raises:
            ExecutionError: if the sampler never calls the denoiser, or does not come to its end.
        """

    @abstractmethod
    def sample(self, target: Any, request: SampleRequest) -> NDArray[np.floating]:
        """Run the target as it is now, accelerated or not, and return the results.

        Returns:
            Images of shape (n, height, width, 3) in [0, 1] if the target decodes them, else
            final states of shape (n, ...).
        """

    def measure(self, target: Any, request: SampleRequest, *, flops: bool = False) -> Measured:
        """Run the target as it is now, as :meth:`sample` does, and measure the cost.

        Args:
            target: accelerated or not, by whatever means.
            request: what to sample.
            flops: count them, and memory. This slows the calls down, so ignore ``seconds``. Comparisons
                count evaluations by them. The default counts none.
        """
        began = time.perf_counter()
        images = self.sample(target, request)
        return Measured(images, None, time.perf_counter() - began)

    def fingerprint(self, target: Any) -> str:
        """Return a hash that changes with the target's weights; "" if there is no cheap one.

        Measurements on disk are used again only for a target of the same fingerprint.
        """
        return ""

    def open(self, name: str) -> Any | None:
        """Open a target named on the command line; None if this probe does not know such names."""
        return None

    @abstractmethod
    def evaluator(
        self, target: Any, request: SampleRequest, trajectories: Sequence[Trajectory]
    ) -> Evaluator:
        """Make an evaluator over exactly these recorded samples."""

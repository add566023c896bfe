"""Run the sampler on recorded outputs, in their own order and shuffled, to identify and check it.

No denoiser is called for this.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from otcache_core.combination import CallRun, identify_combination
from otcache_core.identification import EULER_LIMIT, identify, identify_differences
from otcache_core.loop import Loop
from otcache_core.recurrence import NotLinear, Recurrence
from otcache_core.storage.recordings import RecordingStorage
from otcache_core.trajectory import Trajectory
from otcache_diffusers.hooks import DenoiserCall, LoopStates, RunInfo, StepHook, drive, tensors
from otcache_diffusers.hooks.trees import flatten, unflatten
from otcache_diffusers.recording.full_runs import Recording, loaded
from otcache_diffusers.recording.recorder import Recorder
from otcache_diffusers.recording.rows import Whole, fold_rows, join_rows
from otcache_diffusers.recording.sampler import Sampler, quiet

#: Outputs change places within this many steps, as far as a skipped step lies from a computed one.
BLOCK = 4
#: Samples of the shuffled run.
SAMPLES = 2
#: Numbers a step that shuffled runs should have to identify the calls of a step, and most runs for it.
NUMBERS = 256
MOST_SHUFFLED = 8


class ShuffleHook(StepHook):
    """Gives step t what the denoiser returned at a nearby step, each sample in an order of its own.

    In a smooth full run a multistep sampler looks almost like a one-step sampler; in a shuffled run, as
    with skipped steps, it does not.

    Args:
        recording: the full runs.
        num_samples: how many of its samples are run, from the first.
        keep: memory or disk for the recorded run.
        apart: take every output of a step from a step of its own, for each row of a sample; else all
            outputs of a step come from one other step.
        seed: of the orders; 0 permutes the steps of a block, others draw steps nearby.

    Attributes:
        recorder: records the run.
    """

    def __init__(
        self,
        recording: Recording,
        num_samples: int,
        keep: RecordingStorage | None = None,
        *,
        apart: bool = False,
        seed: int = 0,
    ) -> None:
        self._recording, self._num_samples = recording, num_samples
        self._apart, self._seed = apart, seed
        self._orders: dict[tuple[str, int], NDArray[np.intp]] = {}
        self.recorder = Recorder(keep, fold=num_samples)

    def begin(self, run: RunInfo) -> None:
        """Start a run."""
        self.recorder.begin(run)
        self._random = np.random.default_rng(self._seed)
        self._num_steps = run.num_steps
        self._orders = {}

    def forecast(self, call: DenoiserCall) -> Any | None:
        """Return recorded outputs."""
        return call.to_output(self._shuffled(call.step, call.branch))

    def _shuffled(self, step: int, branch: str) -> Any:
        if not self._apart:
            return join_rows(self._rows(step, branch, ("", 0)))
        leaves = tensors(loaded(self._recording.raw[step, branch][0]))
        chunks = max((len(leaf) for leaf in leaves if leaf.ndim), default=1)
        parts = [self._rows(step, branch, (branch, chunk)) for chunk in range(chunks)]
        return join_rows([_mixed(rows) for rows in zip(*parts, strict=True)])

    def _rows(self, step: int, branch: str, key: tuple[str, int]) -> list[Any]:
        """Return every sample's output of the step that takes this one's place."""
        raw = self._recording.raw
        sources = [(int(order[step]), branch) for order in self._order(key)]
        found = [raw.get(source, raw[step, branch]) for source in sources]
        return [loaded(outputs[n]) for n, outputs in enumerate(found)]

    def _order(self, key: tuple[str, int]) -> NDArray[np.intp]:
        """Return the steps in the order of their places, one row per sample."""
        if key not in self._orders:
            made = self._drawn() if self._seed else self._permuted()
            if not self._apart:
                made[:, 0] = 0  # at pure noise no other step's epsilon fits the state
            self._orders[key] = made
        return self._orders[key]

    def _permuted(self) -> NDArray[np.intp]:
        """Return every step once, within its block."""
        near = np.floor(np.arange(self._num_steps) / BLOCK)
        # Keys of one block lie in one unit interval, so sorting them moves no step out of it.
        keys = near + self._random.random((self._num_samples, self._num_steps))
        if not self._apart:
            keys[:, 0] = -1.0
        return np.asarray(np.argsort(keys, axis=1))

    def _drawn(self) -> NDArray[np.intp]:
        """Return steps nearby, some of them twice.

        Euler steps on an even grid have the same sum in any order, so a permuted run ends where the full
        run does.
        """
        shape = (self._num_samples, self._num_steps)
        moved = np.arange(self._num_steps) + self._random.integers(1 - BLOCK, BLOCK, shape)
        return np.asarray(np.clip(moved, 0, self._num_steps - 1))

    def stepped(self, step: int, sample: Tensor, model_output: Tensor, next_sample: Tensor) -> None:
        """Take the states."""
        self.recorder.stepped(step, sample, model_output, next_sample)

    def end(self, completed: bool) -> None:
        """Close the run."""
        self.recorder.end(completed)


def _mixed(versions: Sequence[Any]) -> Any:
    """Return row c of version c of one sample's output, leaf by leaf."""
    if len(versions) == 1:
        return versions[0]
    flat = [flatten(version, (Whole,)) for version in versions]
    leaves = [
        torch.stack([leaf[c] for c, leaf in enumerate(same)])
        if _cut(same[0], len(same))
        else same[0]
        for same in zip(*(leaves for leaves, _ in flat), strict=True)
    ]
    return unflatten(leaves, flat[0][1])


def _cut(leaf: Any, rows: int) -> bool:
    return isinstance(leaf, Tensor) and leaf.ndim > 0 and len(leaf) == rows


def confirmed_combination(
    target: Any,
    sampler: Sampler,
    recording: Recording,
    samples: Sequence[int],
    runs: Sequence[CallRun],
) -> NDArray[np.float64] | NotLinear:
    """Find how a loop combines the outputs of a step, from full runs and shuffled ones together.

    Args:
        target: a Loop.
        sampler: calls it.
        recording: the denoiser's outputs of these samples.
        samples: their indices.
        runs: full runs, of these samples first.
    """
    shuffled: list[CallRun] = []
    numbers = len(samples) * runs[0].states.shape[1]
    for seed in range(min(MOST_SHUFFLED, 1 + NUMBERS // numbers)):
        hook = ShuffleHook(recording, len(samples), sampler.request.keep, apart=True, seed=seed)
        try:
            states = LoopStates(len(samples), None)
            with drive(target, hook, num_steps=len(runs[0].states) - 1, states=states):
                sampler(samples)
            shuffled += hook.recorder.runs(len(samples))
        except Exception as error:  # the user's sampler may raise anything
            return NotLinear(f"the sampler broke on outputs of other steps: {error}", np.inf)
    return identify_combination(runs, shuffled)


def confirmed_recurrence(
    target: Any, sampler: Sampler, recording: Recording, trajectories: Sequence[Trajectory]
) -> Recurrence | NotLinear:
    """Find the sampler's recurrence, from its full runs and shuffled runs together.

    An Euler sampler needs no shuffled run. A sampler that is not linear in its full runs may be linear up
    to noise that depends on the seed alone: then the differences of full and shuffled runs are linear
    (:func:`~otcache_core.identification.identify_differences`).

    Args:
        target: a diffusers pipeline or a Loop.
        sampler: calls it.
        recording: the full runs with the outputs of every branch.
        trajectories: the same runs, as the probe recorded them.
    """
    found = identify(trajectories, EULER_LIMIT)
    if isinstance(found, Recurrence) and found.grid is not None:
        return found
    n = min(SAMPLES, len(trajectories), sampler.request.batch_size)
    if isinstance(found, Recurrence):
        more = _shuffled(target, sampler, recording, trajectories[:n], range(1))
        return (
            more if isinstance(more, NotLinear) else identify([*trajectories, *more], EULER_LIMIT)
        )
    if any(t.sketch_of for t in trajectories) or any(t.unexplained for t in trajectories):
        return found
    numbers = n * trajectories[0].states.shape[1]
    rounds = min(MOST_SHUFFLED, BLOCK - 1 + NUMBERS // numbers)
    more = _shuffled(target, sampler, recording, trajectories[:n], range(1, rounds + 1))
    if isinstance(more, NotLinear):
        return more
    beside = identify_differences([*trajectories[:n]] * rounds, more)
    return found if isinstance(beside, NotLinear) else beside


def _shuffled(
    target: Any,
    sampler: Sampler,
    recording: Recording,
    trajectories: Sequence[Trajectory],
    seeds: range,
) -> list[Trajectory] | NotLinear:
    """Run the first samples shuffled, once a seed."""
    n, call_weights, grid = len(trajectories), trajectories[0].call_weights, trajectories[0].grid
    names = [f"{t.label}, shuffled" for t in trajectories]
    made: list[Trajectory] = []
    for seed in seeds:
        hook = ShuffleHook(recording, n, sampler.request.keep, seed=seed)
        states = LoopStates(n, call_weights) if isinstance(target, Loop) else None
        try:
            with quiet(target), drive(target, hook, num_steps=len(grid) - 1, states=states):
                sampler(range(n))
            made += hook.recorder.trajectories(names, grid)
        except Exception as error:  # the user's sampler may raise anything
            return NotLinear(f"the sampler broke on outputs of other steps: {error}", np.inf)
    return made


#: Relative deviation that half precision in batches of another size does not make.
OTHERWISE = 0.05
_TINY = float(np.finfo(np.float64).tiny)


class ReplayCheck(StepHook):
    r"""Answers every denoiser call with its recorded output, and compares the states.

    .. math:: \max_i \| x_i^{replayed} - x_i^{recorded} \| / \| x_i^{recorded} \|

    All states count: a sampler that ends in the last prediction of x_0 ends there with any noise. The
    probe ran the samples in other batches, in which the denoiser may round otherwise, so a deviation
    from its states counts only above ``OTHERWISE``.

    Args:
        recording: the denoiser's outputs, and the states they led to.
        trajectories: the states as the probe recorded them.
        samples: indices of the samples, one per row.

    Attributes:
        deviations: of each row.
    """

    def __init__(
        self, recording: Recording, trajectories: Sequence[Trajectory], samples: Sequence[int]
    ) -> None:
        self._recording, self._samples = recording, samples
        self._trajectories = [trajectories[n] for n in samples]
        self.deviations = np.full(len(samples), np.inf)

    def begin(self, run: RunInfo) -> None:
        """Start a run."""
        self.deviations = np.zeros(len(self._samples))
        self._num_steps = run.num_steps

    def forecast(self, call: DenoiserCall) -> Any | None:
        """Return recorded outputs."""
        outputs = self._recording.outputs(call.step, call.branch, self._samples)
        return call.to_output(join_rows(outputs))

    def stepped(self, step: int, sample: Tensor, model_output: Tensor, next_sample: Tensor) -> None:
        """Take the states."""
        sample, next_sample = fold_rows(len(self._samples), sample, next_sample)
        self._compare(step, sample)  # as it is used: inpainting puts the image back in between
        if step == self._num_steps - 1:
            self._compare(step + 1, next_sample)

    def end(self, completed: bool) -> None:
        """Close the run."""
        if not completed:
            self.deviations[:] = np.inf

    def _compare(self, step: int, state: Tensor) -> None:
        made = _host(state)
        own = _apart(made, _host(self._recording.state(step, self._samples)))
        self.deviations = np.maximum(self.deviations, own)
        if any(t.sketch_of for t in self._trajectories):
            return
        other = np.stack([t.states[step] for t in self._trajectories], dtype=np.float64)
        probed = _apart(made, other)
        self.deviations = np.maximum(self.deviations, np.where(probed > OTHERWISE, probed, 0.0))


def _apart(made: NDArray[np.float64], full: NDArray[np.float64]) -> NDArray[np.float64]:
    off = np.linalg.norm(made - full, axis=1)
    return np.asarray(off / (np.linalg.norm(full, axis=1) + _TINY))


def _host(x: Tensor) -> NDArray[np.float64]:
    return np.asarray(x.detach().cpu().double().flatten(1))

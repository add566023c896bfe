"""A run of the sampler on recorded outputs in another order, which no denoiser is called for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from otcache_core.errors import OtcacheError
from otcache_core.identification import identify
from otcache_core.keep import Keep
from otcache_core.loop import Loop
from otcache_core.recurrence import NotLinear, Recurrence
from otcache_core.trajectory import Trajectory
from otcache_diffusers.driver import RunInfo, StepPolicy, drive
from otcache_diffusers.quiet import quiet
from otcache_diffusers.recorder import Recorder
from otcache_diffusers.recording import Recording
from otcache_diffusers.rows import join_rows
from otcache_diffusers.sampling import Sampler
from otcache_diffusers.shelf import loaded

#: Outputs change places within this many steps, as far as a skipped step lies from a computed one.
BLOCK = 4
#: Samples of the shuffled run.
SAMPLES = 2


class ShufflePolicy(StepPolicy):
    """Step t gets what the denoiser returned at a nearby step, each sample in an order of its own.

    A smooth full run hardly tells a sampler that looks back from one that does not; a run like
    this does, in the way that skipped steps will, and at no denoiser evaluation.

    Args:
        recording: the full runs.
        num_samples: the first so many of its samples are run.
        keep: where the recorder keeps the run.

    Attributes:
        recorder: what the sampler made of it.
    """

    def __init__(self, recording: Recording, num_samples: int, keep: Keep | None = None) -> None:
        self._recording, self._num_samples = recording, num_samples
        self.recorder = Recorder(keep)

    def begin(self, run: RunInfo) -> None:
        self.recorder.begin(run)
        random = np.random.default_rng(0)
        near = np.floor(np.arange(run.num_steps) / BLOCK)
        # Keys of one block lie in one unit interval, so sorting them moves no step out of it.
        keys = near + random.random((self._num_samples, run.num_steps))
        # Step 0 is never skipped, and at pure noise no other step's epsilon fits its state.
        keys[:, 0] = -1.0
        self._orders = np.argsort(keys, axis=1)

    def before(self, step: int, branch: str) -> Any | None:
        raw = self._recording.raw
        sources = [(int(order[step]), branch) for order in self._orders]
        found = [raw.get(source, raw[step, branch]) for source in sources]
        return join_rows([loaded(outputs[n]) for n, outputs in enumerate(found)])

    def after(self, step: int, branch: str, output: Any) -> None:
        """Nothing is computed."""

    def stepped(
        self,
        step: int,
        sample: torch.Tensor,
        model_output: torch.Tensor,
        next_sample: torch.Tensor,
    ) -> None:
        self.recorder.stepped(step, sample, model_output, next_sample)

    def end(self, completed: bool) -> None:
        self.recorder.end(completed)


def confirmed_recurrence(
    target: Any, sampler: Sampler, recording: Recording, trajectories: Sequence[Trajectory]
) -> Recurrence | NotLinear:
    """The sampler's recurrence, from its full runs and one shuffled run together.

    No shuffled run is made of an Euler sampler, or of one that is not linear in its full runs.

    Args:
        target: a diffusers pipeline or a Loop.
        sampler: calls it.
        recording: the full runs with the outputs of every branch.
        trajectories: the same runs, as the probe recorded them.
    """
    found = identify(trajectories)
    if isinstance(found, NotLinear) or found.grid is not None:
        return found
    n = min(SAMPLES, len(trajectories), sampler.request.batch_size)
    policy = ShufflePolicy(recording, n, sampler.request.keep)
    with quiet(target), drive(target, policy, num_steps=trajectories[0].num_steps):
        sampler(range(n))
    implied = isinstance(target, Loop) and target.calls_per_step > 1
    names = [f"{t.label}, shuffled" for t in trajectories[:n]]
    try:
        shuffled = policy.recorder.trajectories(names, trajectories[0].grid, implied)
        return identify([*trajectories, *shuffled])
    except OtcacheError as error:
        return NotLinear(f"the sampler broke on outputs of other steps: {error}", np.inf)

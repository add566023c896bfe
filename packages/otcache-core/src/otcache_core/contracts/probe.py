"""Contract of a feature probe."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from otcache_core.contracts.evaluator import Evaluator
from otcache_core.trajectory import Trajectory


@dataclass(frozen=True)
class SampleRequest:
    """What to sample.

    Args:
        prompts: one prompt a sample.
        seeds: one seed a sample.
        num_steps: N, the ``num_inference_steps`` the pipeline is called with.
        call: further keyword arguments of the pipeline call (height, guidance_scale, ...).
        batch_size: samples per pipeline call; the trajectories come one a sample all the same.
    """

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    num_steps: int
    call: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 8


class FeatureProbe(ABC):
    """Record full runs of a pipeline.

    Law: observing changes nothing; the pipeline's outputs are bit-identical with and without the probe,
    and nothing remains on it afterwards.
    """

    @abstractmethod
    def supports(self, target: Any) -> str:
        """Return "" if ``target`` can be recorded, else the reason why not. Must be cheap and change nothing."""

    @abstractmethod
    def provenance(self, target: Any, request: SampleRequest) -> dict[str, Any]:
        """Facts that bind a policy to this pipeline; see :class:`otcache_core.policy.Provenance` for the keys."""

    @abstractmethod
    def record(self, target: Any, request: SampleRequest) -> Iterator[Trajectory]:
        """Yield one trajectory a sample, in order, as soon as it is known.

        Raises:
            ExecutionError: if the sampler never calls the denoiser, or makes another number of steps.
        """

    @abstractmethod
    def evaluator(
        self, target: Any, request: SampleRequest, trajectories: Sequence[Trajectory]
    ) -> Evaluator:
        """An evaluator over exactly these recorded samples."""

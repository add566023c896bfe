"""Contract of a feature probe."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otcache_core.contracts.evaluator import Evaluator
from otcache_core.contracts.from_registry import FromRegistry
from otcache_core.keep import Keep
from otcache_core.samples import Sample
from otcache_core.trajectory import Trajectory


@dataclass(frozen=True)
class SampleRequest:
    """What to sample.

    Args:
        prompts: one a sample: a text, or a mapping of the call arguments that are this sample's own.
        seeds: one seed a sample.
        num_steps: the ``num_inference_steps`` the pipeline is called with, of which its sampler may make
            another number: fewer by a strength, more with Heun's method.
        call: further keyword arguments of the pipeline call (height, guidance_scale, ...), the same for
            all samples.
        batch_size: samples per pipeline call, at most; the trajectories come one a sample all the same.
        keep: where what is recorded is kept.
    """

    prompts: tuple[Sample, ...]
    seeds: tuple[int, ...]
    num_steps: int
    call: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 8
    keep: Keep = field(default_factory=Keep)


@dataclass(frozen=True)
class Measured:
    """What one request made, and what it cost.

    Attributes:
        pictures: shape (n, height, width, 3) in [0, 1], or final states where nothing is decoded.
        states: what the sampler ended on, shape (n, ...), float32; None where it cannot be seen.
        seconds: wall time of the pipeline calls, decoding included; devices are waited for.
        flops: multiply-adds counted twice, of matrix products, convolutions and attention; None
            unless asked for.
        peak_bytes: the most bytes of tensors alive at once, of those made during the calls; None
            unless ``flops`` were asked for.
    """

    pictures: NDArray[np.floating]
    states: NDArray[np.floating] | None
    seconds: float
    flops: int | None = None
    peak_bytes: int | None = None


class FeatureProbe(FromRegistry, ABC):
    """Record full runs of a pipeline.

    Law: observing changes nothing; the pipeline's outputs are bit-identical with and without the
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
        """Facts that bind a policy to this pipeline.

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

        The first one tells N, the steps that the target makes of those asked for.

        Raises:
            ExecutionError: if the sampler never calls the denoiser, or does not come to its end.
        """

    @abstractmethod
    def sample(self, target: Any, request: SampleRequest) -> NDArray[np.floating]:
        """Run the target as it is now, accelerated or not, and return what it made.

        Returns:
            Pictures of shape (n, height, width, 3) in [0, 1] where the target decodes them, else
            final states of shape (n, ...).
        """

    def measure(self, target: Any, request: SampleRequest, *, flops: bool = False) -> Measured:
        """Run the target as it is now, as :meth:`sample` does, and tell what that cost.

        Args:
            target: accelerated or not, by whatever means.
            request: what to sample.
            flops: count them, and memory; slows the calls down, so that ``seconds`` are of no use.
                Comparisons count evaluations by them. Unless overridden this counts none.
        """
        began = time.perf_counter()
        pictures = self.sample(target, request)
        return Measured(pictures, None, time.perf_counter() - began)

    def fingerprint(self, target: Any) -> str:
        """A hash that changes with the target's weights; "" where there is none to be had cheaply.

        Measurements kept on disk are used again only for a target of the same fingerprint.
        """
        return ""

    def open(self, name: str) -> Any | None:
        """Open a target named on the command line; None if this probe does not know such names."""
        return None

    @abstractmethod
    def evaluator(
        self, target: Any, request: SampleRequest, trajectories: Sequence[Trajectory]
    ) -> Evaluator:
        """An evaluator over exactly these recorded samples."""

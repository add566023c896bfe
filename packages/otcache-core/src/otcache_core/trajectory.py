"""One recorded full run of a sampler."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otcache_core.errors import OtcacheError, expected
from otcache_core.storage.recordings import mapped

FloatArray = NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class Trajectory:
    """States (latents) and denoiser outputs of one sample's full run, as the sampler used them.

    States and outputs may be read-only memory maps. Those are not checked for NaN here, which would read
    them from the disk: check values before writing them. Iterate over them with
    :func:`~otcache_core.storage.recordings.slabs`. They may also be sketches, which keep only some elements
    (:func:`~otcache_core.storage.recordings.sketch`): d is then the number of elements kept.

    Args:
        grid: s_0 .. s_N, noise level (sigma) at each step and at the end; shape (N + 1,).
        states: x_0 .. x_N, the latent at the start of each step and the result, flattened;
            shape (N + 1, d).
        outputs: v_0 .. v_{N-1}, the denoiser's output after guidance, flattened; shape (N, d).
        calls: number of denoiser calls per branch in the whole run.
        label: what was sampled, such as ``prompt 3, seed 0``.
        rounding: relative rounding error of the sampler's own states (2^-9 for bfloat16).
        sketch_of: number of elements of the whole state if this is a sketch; 0 if all are kept.
        call_weights: gamma, the weights by which v_i combines the outputs of the P denoiser calls of
            step i (:func:`~otcache_core.combination.identify_combination`), shape (N, P); None if
            v_i was recorded directly, or a step has one call.
        unexplained: why no such weights were found, in words; v_i is then the mean of the calls' outputs.
            "" if they were.
        for_evaluator: what the probe keeps besides for its evaluator, so that the sample need not run again;
            None if that was not asked for, or is lost, as it is not stored with the rest.

    Raises:
        OtcacheError: if shapes disagree, dtypes are not real, or a value (not of a memory map) is not finite.
    """

    grid: NDArray[np.float64]
    states: FloatArray
    outputs: FloatArray
    calls: dict[str, int] = field(default_factory=dict)
    label: str = ""
    rounding: float = 6e-8
    sketch_of: int = 0
    call_weights: NDArray[np.float64] | None = None
    unexplained: str = ""
    for_evaluator: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name in ("grid", "states", "outputs", "call_weights"):
            kind = getattr(getattr(self, name), "dtype", np.dtype(np.float64))
            if kind.kind not in "fiu":
                raise OtcacheError(expected(f"Trajectory.{name}", str(kind), "of real numbers"))
        if self.outputs.ndim != 2:
            raise OtcacheError(
                expected(
                    "Trajectory.outputs", self.outputs.shape, "of shape (N, d)", "flatten them."
                )
            )
        n = self.num_steps
        if self.grid.shape != (n + 1,):
            raise OtcacheError(expected("Trajectory.grid", self.grid.shape, f"of shape ({n + 1},)"))
        if self.states.ndim != 2 or self.states.shape != (n + 1, self.outputs.shape[1]):
            wanted = f"of shape ({n + 1}, {self.outputs.shape[1]})"
            raise OtcacheError(expected("Trajectory.states", self.states.shape, wanted))
        weights = self.call_weights
        if weights is not None and (weights.ndim != 2 or len(weights) != n):
            wanted = f"of shape ({n}, P)"
            raise OtcacheError(expected("Trajectory.call_weights", weights.shape, wanted))
        if not 0 <= self.rounding < np.inf or self.sketch_of < 0:
            got = f"{self.rounding} and {self.sketch_of}"
            raise OtcacheError(expected("Trajectory.rounding and sketch_of", got, "at least 0"))
        for name in ("grid", "states", "outputs", "call_weights"):
            array = getattr(self, name)
            if array is None:
                continue
            if not mapped(array) and not np.isfinite(array).all():
                what = f"Trajectory.{name} of {self.label!r}"
                raise OtcacheError(f"{what} holds NaN or infinity: the full run itself diverged.")

    @property
    def num_steps(self) -> int:
        """N, the number of steps."""
        return len(self.outputs)

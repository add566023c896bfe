"""The quantity in which step hooks see the denoiser's outputs."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any, NamedTuple, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from otcache_core.errors import ExecutionError
from otcache_diffusers.hooks.sigmas import setting, signal_shares
from otcache_diffusers.hooks.trees import flatten, prediction_at, unflatten

#: Share of the signal below which a division by it needs more digits than float32 has.
FAINT = 2.0**-8


class CallPosition(NamedTuple):
    """The position of a denoiser call in a run.

    Attributes:
        step: t, position in the run.
        branch: its name.
        scaled: what ``scheduler.scale_model_input`` returned in this step; None if it was not called.
        state: the denoiser's first tensor argument.
    """

    step: int
    branch: str
    scaled: Tensor | None
    state: Tensor | None


class OutputSpace(ABC):
    """The quantity that step hooks see, keep, combine and return; one object a run.

    Properties: what the sampler gets at a computed step is the denoiser's very output; ``to_output`` undoes
    ``from_output`` at the same position up to rounding; nothing synchronizes.
    """

    #: Whether the quantity is another than the denoiser's output.
    converts: bool = True
    #: Why outputs stay as they are although another quantity would be better; "" otherwise.
    reason: str = ""

    def problem(self, position: CallPosition) -> str:
        """Say why a call's output could not be converted, and what helps; "" if it can be."""
        return ""

    @abstractmethod
    def from_output(self, position: CallPosition, output: Any) -> Any:
        """Return a computed output in this quantity."""

    @abstractmethod
    def to_output(self, position: CallPosition, forecast: Any, *, writable: bool = False) -> Any:
        """Return the denoiser's output that a forecast represents, at the present state.

        Args:
            position: of the call.
            forecast: in this quantity.
            writable: the forecast has no other owner, so it may be written into.
        """

    @abstractmethod
    def guided(self, step: int, sample: Tensor, model_output: Tensor) -> Tensor:
        """Return the output the sampler used, after guidance, in this quantity."""


@final
class AsIs(OutputSpace):
    """Outputs themselves: flow velocity, epsilon, and x_0, whose reuse is plain sampling already.

    Args:
        reason: why a velocity is not converted, if it should be.
    """

    converts = False

    def __init__(self, reason: str = "") -> None:
        self.reason = reason

    def from_output(self, position: CallPosition, output: Any) -> Any:
        """Return the output itself."""
        return output

    def to_output(self, position: CallPosition, forecast: Any, *, writable: bool = False) -> Any:
        """Return the forecast itself."""
        return forecast

    def guided(self, step: int, sample: Tensor, model_output: Tensor) -> Tensor:
        """Return the output itself."""
        return model_output


@final
class NoiseSpace(OutputSpace):
    r"""The noise in a velocity prediction.

    .. math:: \epsilon_t = \alpha_t v_t + \sigma_t x_t, \qquad v_t = (\epsilon_t - \sigma_t x_t) / \alpha_t,
        \qquad \alpha_t^2 + \sigma_t^2 = 1

    with x_t in the variance-preserving coordinate, which is what the denoiser is given. Held v is
    wrong at another step even along a straight trajectory; held epsilon is not (docs/theory.md, section 2).

    x_t is what ``scale_model_input`` returned, or the denoiser's first tensor, if it has the
    output's shape; the output may have more channels (learned variances), which stay as they are. If
    neither has, nothing is converted in that branch and ``reason`` says so. Epsilon is kept in float32
    at least, since v is regained by a division by alpha_t, which is small at high noise; in float64, if
    the device has it, at steps of nearly no signal.

    Args:
        alpha: alpha_0, alpha_1, ..., share of the signal at each step, in (0, 1].
        stretched: the sampler's own states are x_t / alpha_t (Euler, Heun).

    References:
        Progressive Distillation for Fast Sampling of Diffusion Models (2022), section 4 and appendix D,
        https://arxiv.org/abs/2202.00512.
    """

    def __init__(self, alpha: NDArray[np.float64], stretched: bool) -> None:
        self._alpha: list[float] = alpha.tolist()
        self._sigma: list[float] = np.sqrt(1 - alpha**2).tolist()
        self._stretched = stretched
        self._converts: dict[str, bool] = {}
        self._dtypes: dict[str, torch.dtype] = {}
        self._shapes: dict[str, torch.Size] = {}

    def problem(self, position: CallPosition) -> str:
        """Say why a call's output cannot be converted; "" if it can be."""
        wanted = self._shapes.get(position.branch)
        if wanted is None or any(x.shape == wanted for x in self._candidates(position)):
            return ""
        return self._changed(position)

    @staticmethod
    def _changed(position: CallPosition) -> str:
        return (
            f"step {position.step}: the state of branch {position.branch!r} must have the shape of its "
            "output throughout a run, and changed: let the pipeline call scheduler.scale_model_input at "
            "every step or at none."
        )

    def from_output(self, position: CallPosition, output: Any) -> Any:
        """Return the noise in a velocity prediction."""
        leaves, spec, at = _flat(output)
        x = self._related(position, leaves, at)
        if x is None:
            return output
        self._dtypes[position.branch], self._shapes[position.branch] = leaves[at].dtype, x.shape
        leaves[at] = self._noise(position.step, leaves[at], x)
        return unflatten(leaves, spec)

    def to_output(self, position: CallPosition, forecast: Any, *, writable: bool = False) -> Any:
        """Return the velocity of a noise forecast at the present state."""
        leaves, spec, at = _flat(forecast)
        x = self._related(position, leaves, at)
        if x is None:
            return forecast
        v = leaves[at] if writable else leaves[at].clone()
        part = _part(v, x)
        part.sub_(x, alpha=self._sigma[position.step]).div_(self._alpha[position.step])
        leaves[at] = v.to(self._dtypes.get(position.branch, x.dtype))
        return unflatten(leaves, spec)

    def guided(self, step: int, sample: Tensor, model_output: Tensor) -> Tensor:
        """Return the noise in the guided velocity."""
        if not any(self._converts.values()) or not _fits(sample, model_output):
            return model_output
        scale = self._alpha[step] if self._stretched else 1.0
        return self._noise(step, model_output, sample, scale)

    def _noise(self, step: int, v: Tensor, x: Tensor, scale: float = 1.0) -> Tensor:
        made = v.to(self._wide(step, v), copy=True)
        part = _part(made, x)
        part.mul_(self._alpha[step]).add_(x, alpha=scale * self._sigma[step])
        return made

    def _wide(self, step: int, v: Tensor) -> torch.dtype:
        faint = self._alpha[step] < FAINT and v.device.type != "mps"
        return torch.promote_types(v.dtype, torch.float64 if faint else torch.float32)

    def _candidates(self, position: CallPosition) -> list[Tensor]:
        """Return what may be x_t of a call."""
        # Unscaled, the argument of a sampler that stretches its states is not x_t.
        trusted = position.scaled is not None or not self._stretched
        return [x for x in (position.scaled, position.state if trusted else None) if x is not None]

    def _related(self, position: CallPosition, leaves: list[Any], at: int) -> Tensor | None:
        """Return x_t of a call, None if its branch is not converted.

        Raises:
            ExecutionError: if a branch that was converted has lost its x_t.
        """
        found = None
        if at < len(leaves):
            candidates = self._candidates(position)
            found = next((x for x in candidates if _fits(x, leaves[at])), None)
        if self._converts.setdefault(position.branch, found is not None):
            if found is None:
                raise ExecutionError(self._changed(position))
            return found
        self.reason = (
            "velocity predictions are forecast as they are, not as noise: no denoiser input has the "
            "shape of the output."
        )
        return None


def _flat(tree: Any) -> tuple[list[Any], Any, int]:
    """Return leaves, structure, and which leaf is the prediction (their number if there is none)."""
    leaves, form = flatten(tree)
    return leaves, form, prediction_at(leaves)


def _fits(x: Tensor, output: Tensor) -> bool:
    """Return whether x has the output's shape, or is its first part in one dimension but the batch's."""
    if x.ndim != output.ndim or not (x.is_floating_point() and output.is_floating_point()):
        return False
    others = [d for d in range(x.ndim) if x.shape[d] != output.shape[d]]
    one = len(others) == 1 and others[0] > 0
    return not others or (one and x.shape[others[0]] < output.shape[others[0]])


def _part(output: Tensor, x: Tensor) -> Tensor:
    """Return the view of an output that x relates to."""
    return output[tuple(slice(n) for n in x.shape)]


#: Relative; half precision schedulers round.
TOLERANCE = 5e-3


def output_space(scheduler: Any, start: int) -> OutputSpace:
    r"""Return the noise for a variance-preserving scheduler of velocity predictions, else outputs as is.

    Whether the sampler's states are x_t (DDIM, DPM-Solver, UniPC) or x_t / alpha_t (Euler, Heun) is
    read from copies of the scheduler: what they make of a model input of 1, at the first step and at the
    last, is 1 or alpha_t.

    Args:
        scheduler: its timesteps are set, and its run is about to begin.
        start: position of the run's first step in ``timesteps``.
    """
    if not predicts_velocity(scheduler):
        return AsIs()
    prefix = (
        f"velocity predictions are forecast as they are, not as noise: {type(scheduler).__name__}"
    )
    try:
        return _space(scheduler, start, prefix)
    except Exception as error:  # copies of an unknown scheduler may raise anything
        return AsIs(
            f"{prefix} does not show how it scales states ({type(error).__name__}: {error})."
        )


def _space(scheduler: Any, start: int, prefix: str) -> OutputSpace:
    alpha = signal_shares(scheduler)
    if not np.isfinite(alpha).all():
        return AsIs(f"{prefix} does not give its noise levels.")
    ends = [start, len(alpha) - 1]
    scales = np.array([_scale(scheduler, position) for position in ends])
    for wanted, stretched in ((alpha[ends], True), (np.ones(2), False)):
        if _close(scales, wanted):
            return NoiseSpace(alpha[start:], stretched)
    return AsIs(f"{prefix} scales the denoiser's input in a way of its own.")


def predicts_velocity(scheduler: Any) -> bool:
    """Return whether the denoiser predicts v = alpha epsilon - sigma x_0."""
    return bool(setting(scheduler, "prediction_type") == "v_prediction")


def _scale(scheduler: Any, position: int) -> float:
    if not hasattr(scheduler, "scale_model_input"):
        return 1.0
    stage = copy.deepcopy(scheduler)
    if hasattr(stage, "_step_index"):  # no public way leads there without making the steps
        stage._step_index = position
    times = stage.timesteps
    one = torch.ones(1, device=getattr(times, "device", None))
    return float(stage.scale_model_input(one, times[position]))


def _close(got: NDArray[np.float64], wanted: NDArray[np.float64]) -> bool:
    return bool((np.abs(got - wanted) <= TOLERANCE * wanted).all())

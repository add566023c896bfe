"""How guidance makes the sampler's output from the branches."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from otcache_core.errors import ExecutionError
from otcache_diffusers.recording.full_runs import Recording, loaded
from otcache_diffusers.recording.rows import stack_rows

#: Relative residual up to which guidance counts as linear: the rounding of bfloat16, doubled.
LIMIT = 1e-2

Array = NDArray[np.float64]


@dataclass(frozen=True)
class BranchGuidance:
    """How the branches of guidance make the sampler's output.

    Attributes:
        weights: branch to gamma, one per step; empty if there are fewer than two branches, or if the
            branches share their forecast weights.
        shared: why they share them; "" if they do not, or if there are fewer than two.
    """

    weights: dict[str, tuple[float, ...]] = field(default_factory=dict)
    shared: str = ""


def branch_guidance(recording: Recording, known: Array | None = None) -> BranchGuidance:
    r"""Find gamma_{b,t} with v_t = sum_b gamma_{b,t} o_{b,t}, o_{b,t} the output of branch b.

    Identified by least squares over all recorded steps and samples; classifier-free guidance of scale
    w has gamma = (w, 1 - w). If one scale does not explain all steps, try one before a step and one from
    there: Wan 2.2's second transformer has a scale of its own.

    Args:
        recording: full runs.
        known: of a loop, the weights of the outputs of each step, shape (N, P).

    Returns:
        The weights. Branches share theirs if one is missing at some step or is not a single tensor of the
        sampler's size, or if guidance is not linear (QwenImage's norm rescale): the relative residual is
        above ``LIMIT``.
    """
    if known is not None:
        return BranchGuidance(_of_calls(recording, known))
    names = sorted({branch for _, branch in recording.raw})
    if len(names) < 2:
        return BranchGuidance()
    for name in names:
        if any((step, name) not in recording.raw for step in recording.guided):
            return BranchGuidance(shared=f"{name} has no output at some of the steps")
    each_step = [_products(recording, step, names) for step in sorted(recording.guided)]
    products = [step for step in each_step if step is not None]
    if len(products) < len(each_step):
        return BranchGuidance(shared="their outputs are not single tensors of the state's size")
    parts = _one_or_two(products)
    if not parts:
        residual = _Products.sum(products).relative_residual()
        text = f"guidance is not linear in their outputs (relative residual {residual:.2g})"
        return BranchGuidance(shared=text)
    columns = {name: tuple(float(part[n]) for part in parts) for n, name in enumerate(names)}
    return BranchGuidance(columns)


def _of_calls(recording: Recording, weights: Array) -> dict[str, tuple[float, ...]]:
    """Return those of a loop, whose branches are the calls of a step."""
    names = list(dict.fromkeys(branch for _, branch in recording.raw))
    if len(names) != weights.shape[1] or not all(_fits(recording, name) for name in names):
        return {}  # rows of a doubled batch share their weights, and so do outputs of several tensors
    return {name: tuple(map(float, column)) for name, column in zip(names, weights.T, strict=True)}


def _fits(recording: Recording, branch: str) -> bool:
    """Whether a branch's outputs are one tensor of the state's size, and nothing with rows beside."""
    try:
        output = stack_rows(recording.outputs(0, branch, [0]))
    except ExecutionError:
        return False
    return output.numel() == recording.used(0, [0]).numel()


@dataclass(frozen=True, eq=False)
class _Products:
    """Inner products of the outputs o of one step or several with one another and with v.

    Attributes:
        normal: of o and o, shape (branches, branches).
        toward: of o and v, shape (branches,).
        total: of v and v.
    """

    normal: Array
    toward: Array
    total: float

    @classmethod
    def sum(cls, steps: list[_Products]) -> _Products:
        """Add several steps."""
        return cls(
            np.sum([p.normal for p in steps], axis=0),
            np.sum([p.toward for p in steps], axis=0),
            sum(p.total for p in steps),
        )

    def gamma(self) -> Array:
        """Solve the least squares."""
        return np.asarray(np.linalg.lstsq(self.normal, self.toward, rcond=None)[0])

    def residual(self) -> float:
        """Return the squared residual."""
        gamma = self.gamma()
        return float(self.total - 2 * gamma @ self.toward + gamma @ self.normal @ gamma)

    def relative_residual(self) -> float:
        """Return the residual in shares of v."""
        return float(np.sqrt(max(0.0, self.residual()) / (self.total or 1.0)))


def _products(recording: Recording, step: int, names: list[str]) -> _Products | None:
    v = torch.stack(loaded(list(recording.guided[step]))).detach().cpu().double().flatten()
    try:
        outputs = [stack_rows(loaded(recording.raw[step, name])) for name in names]
    except ExecutionError:
        return None
    if any(output.numel() != len(v) for output in outputs):
        return None
    o = torch.stack([output.detach().cpu().double().flatten() for output in outputs])
    return _Products((o @ o.T).numpy(), (o @ v).numpy(), float(v @ v))


def _one_or_two(steps: list[_Products]) -> list[Array]:
    """Return gamma of each step: one for all, else one before a step and one from there; [] if neither."""
    n, together = len(steps), _Products.sum(steps)
    if not together.total:
        return []
    if _explains(together, together.residual()):
        return [together.gamma()] * n
    halves = [(_Products.sum(steps[:k]), _Products.sum(steps[k:])) for k in range(1, n)]
    residuals = [first.residual() + second.residual() for first, second in halves]
    if not residuals or not _explains(together, min(residuals)):
        return []
    k = int(np.argmin(residuals))
    first, second = halves[k]
    return [first.gamma()] * (k + 1) + [second.gamma()] * (n - k - 1)


def _explains(together: _Products, residual: float) -> bool:
    return residual <= LIMIT**2 * together.total

"""When TeaCache computes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch

DEGREE = 4


@final
@dataclass(frozen=True)
class Rule:
    r"""Compute when the predicted changes since the last computed step add up to the threshold.

    .. math:: \sum_{i = k+1}^{t} |P(d_i)| \ge \theta, \qquad
        d_i = \frac{\|m_i - m_{i-1}\|_1}{\|m_{i-1}\|_1}

    where m_i is the timestep-modulated input of the first block at step i, k the last computed step and
    P a polynomial that predicts the relative change of the denoiser's output. The first and the last
    step are computed always. The authors' code sums P; its absolute value is the same wherever P was
    fitted, and keeps a badly extrapolated change from being credited.

    Args:
        polynomial: coefficients of P, highest power first.
        threshold: theta.

    References:
        Timestep Embedding Tells: It's Time to Cache for Video Diffusion Model (2024),
        https://arxiv.org/abs/2411.19108, section 3.3.
    """

    polynomial: tuple[float, ...]
    threshold: float

    def predicted(self, change: float) -> float:
        """|P(d)|."""
        return abs(float(np.polyval(self.polynomial, change)))

    def computed(self, changes: Sequence[float]) -> tuple[int, ...]:
        """Computed steps of a run whose changes d_1 .. d_{N-1} are known beforehand."""
        found, total = [0], 0.0
        for step, change in enumerate(changes, start=1):
            total += self.predicted(change)
            if total >= self.threshold or step == len(changes):
                found.append(step)
                total = 0.0
        return tuple(found)


def change(now: torch.Tensor, before: torch.Tensor) -> float:
    """The relative L1 change d; asks the device, as the rule must."""
    return float(((now - before).abs().mean() / before.abs().mean()).item())


def fitted(inputs: Sequence[float], outputs: Sequence[float]) -> tuple[float, ...]:
    """P, of degree 4, by least squares over all steps and samples, as the authors fit it.

    Args:
        inputs: changes of the modulated input between neighbouring steps of full runs.
        outputs: changes of the denoiser's output between the same steps.

    References:
        https://github.com/ali-vilab/TeaCache/issues/2: ``np.polyfit(x, y, 4)`` over all steps.
    """
    with warnings.catch_warnings():
        # Neighbouring changes are alike, so the powers of them are nearly dependent.
        warnings.simplefilter("ignore", np.exceptions.RankWarning)
        return tuple(float(c) for c in np.polyfit(inputs, outputs, DEGREE))

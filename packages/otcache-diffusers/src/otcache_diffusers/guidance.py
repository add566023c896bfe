"""How guidance makes the sampler's output from the branches."""

from __future__ import annotations

import numpy as np
import torch

from otcache_core.errors import ExecutionError
from otcache_diffusers.recording import Recording
from otcache_diffusers.rows import stack_rows
from otcache_diffusers.shelf import loaded

#: Relative residual up to which guidance counts as linear: the rounding of bfloat16, doubled.
LIMIT = 1e-2


def branch_gains(recording: Recording) -> dict[str, float]:
    r"""gamma_b with v = sum_b gamma_b o_b, o_b what the denoiser returned for branch b.

    Identified by least squares over all recorded steps and samples; classifier-free guidance of scale
    w has gamma = (w, 1 - w).

    Returns:
        Branch to gamma; empty where there are fewer than two branches, where one is missing at some
        step or is no single tensor of the sampler's size, or where guidance is not linear (QwenImage's
        norm rescale): the relative residual is above ``LIMIT``.
    """
    names = sorted({branch for _, branch in recording.raw})
    if len(names) < 2 or any((t, b) not in recording.raw for t in recording.guided for b in names):
        return {}
    normal, toward, total = np.zeros((len(names),) * 2), np.zeros(len(names)), 0.0
    for step, guided in recording.guided.items():
        v = torch.stack(loaded(list(guided))).detach().cpu().double().flatten()
        try:
            outputs = [stack_rows(loaded(recording.raw[step, name])) for name in names]
        except ExecutionError:
            return {}
        if any(output.numel() != len(v) for output in outputs):
            return {}
        o = torch.stack([output.detach().cpu().double().flatten() for output in outputs])
        normal += (o @ o.T).numpy()
        toward += (o @ v).numpy()
        total += float(v @ v)
    gamma = np.linalg.lstsq(normal, toward, rcond=None)[0]
    left = total - 2 * gamma @ toward + gamma @ normal @ gamma
    if not total or left > LIMIT**2 * total:
        return {}
    return {name: float(value) for name, value in zip(names, gamma, strict=True)}

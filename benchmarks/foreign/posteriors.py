"""azula: a denoiser gives a posterior, and its backbone a tensor."""

from __future__ import annotations

from typing import Any

import torch
from azula import sample as samplers
from azula.denoise import Denoiser, DiracPosterior, KarrasDenoiser
from azula.guidance.cfg import CFGDenoiser
from azula.noise import CosineSchedule, VPSchedule
from torch import Tensor, nn

import otcache
from foreign.case import Case
from foreign.toys import gaussian, rows, vectors


class Backbone(nn.Module):
    """The exact network inside azula's KarrasDenoiser: of a scaled state and log(sigma / alpha)."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))  # azula asks for the type of a parameter

    def forward(self, x: Tensor, log_sigma: Tensor, label: int | None = None) -> Tensor:
        """(x_0 - c_skip x) / c_out for alpha = 1."""
        sigma = log_sigma.exp()
        y = x * rows(torch.sqrt(1 + sigma**2), x)
        labels = None if label is None else torch.full((len(x),), label)
        clean = vectors.clean(y, torch.ones_like(sigma), sigma, labels)
        s = rows(sigma, x)
        return (clean - y / (1 + s**2)) * torch.sqrt(1 + s**2) / s


class Exact(Denoiser):
    """A denoiser of one's own, whose output is a posterior."""

    def __init__(self) -> None:
        super().__init__()
        self.schedule = VPSchedule()

    def forward(self, x_t: Tensor, t: Tensor, **kwargs: Any) -> DiracPosterior:
        """Return the exact mean."""
        return DiracPosterior(vectors.clean(x_t, *self.schedule(t)))


def azula(sampler: Any, calls: int = 1) -> otcache.Loop:
    denoiser = KarrasDenoiser(Backbone(), CosineSchedule())

    def sample(prompts, seeds, num_steps):
        return sampler(denoiser, steps=num_steps, start=0.99, silent=True)(gaussian(seeds))

    return otcache.loop(sample, denoiser=denoiser.backbone, calls_per_step=calls)


def azula_noise(sampler: Any, calls: int = 1) -> otcache.Loop:
    denoiser = KarrasDenoiser(Backbone(), CosineSchedule())

    def sample(prompts, seeds, num_steps):
        torch.manual_seed(seeds[0])
        sde = sampler(denoiser, steps=num_steps, start=0.99, silent=True)
        return sde(sde.init((len(seeds), 32)))

    return otcache.loop(sample, denoiser=denoiser.backbone, calls_per_step=calls)


def azula_guided(sampler: Any) -> otcache.Loop:
    denoiser = KarrasDenoiser(Backbone(), CosineSchedule())

    def sample(prompts, seeds, num_steps):
        sde = sampler(CFGDenoiser(denoiser), steps=num_steps, start=0.99, silent=True)
        return sde(gaussian(seeds), positive={"label": 1}, negative={}, guidance=2.0)

    return otcache.loop(sample, denoiser=denoiser.backbone, calls_per_step=2)


def azula_posterior(sampler: Any) -> otcache.Loop:
    denoiser = Exact()

    def sample(prompts, seeds, num_steps):
        return sampler(denoiser, steps=num_steps, start=0.99, silent=True)(gaussian(seeds))

    return otcache.loop(sample, denoiser=denoiser)


S = samplers
CASES = [
    *(
        Case("azula", f.__name__, azula, (f,))
        for f in (
            S.DDIMSampler,
            S.EulerSampler,
            S.zABSampler,
            S.vABSampler,
            S.zEABSampler,
            S.xEABSampler,
            S.REABSampler,
        )
    ),
    Case("azula", "HeunSampler", azula, (S.HeunSampler, 2)),
    Case("azula", "DDPMSampler, noise of the batch", azula_noise, (S.DDPMSampler,)),
    Case("azula", "ItoSampler, noise of the batch", azula_noise, (S.ItoSampler,)),
    Case("azula", "PCSampler, noise of the batch", azula_noise, (S.PCSampler, 2)),
    Case("azula", "EulerSampler, CFGDenoiser", azula_guided, (S.EulerSampler,)),
    Case("azula", "xEABSampler, CFGDenoiser", azula_guided, (S.xEABSampler,)),
    Case(
        "azula",
        "EulerSampler, a denoiser that returns a posterior",
        azula_posterior,
        (S.EulerSampler,),
    ),
]

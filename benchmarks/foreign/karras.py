"""Katherine Crowson's samplers: k-diffusion, v-diffusion-pytorch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import k_diffusion as K  # noqa: N812 - as its own documentation does
import torch
from diffusion import sampling, utils
from torch import Tensor, nn

import otcache
from foreign.case import Case
from foreign.toys import gaussian, rows, vectors

GUIDANCE = 3.0
NumSteps = Callable[[int], int] | None


class Denoiser(nn.Module):
    """k-diffusion's kind: x_0 from x_0 + sigma n."""

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the exact x_0."""
        return vectors.clean(x, torch.ones_like(sigma), sigma, labels)


class Guided(nn.Module):
    """Guidance by one batch of two, as in k-diffusion's users' CFGDenoiser."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Return the extrapolated x_0, from label 0 towards label 1."""
        labels = torch.arange(2).repeat_interleave(len(x))
        uncond, cond = self.inner(torch.cat([x, x]), torch.cat([sigma, sigma]), labels).chunk(2)
        return uncond + GUIDANCE * (cond - uncond)


def k_diffusion(sampler: Callable[..., Tensor], num_steps: NumSteps = None) -> otcache.Loop:
    denoiser = Denoiser()

    def sample(prompts, seeds, steps):
        sigmas = K.sampling.get_sigmas_karras(steps, 0.05, 20.0)
        return sampler(denoiser, 20 * gaussian(seeds), sigmas, disable=True)

    return otcache.loop(sample, denoiser=denoiser, num_steps=num_steps)


def k_diffusion_noise(sampler: Callable[..., Tensor], num_steps: NumSteps = None) -> otcache.Loop:
    denoiser = Denoiser()

    def sample(prompts, seeds, steps):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]

        def noise(*sigmas):
            return torch.stack([torch.randn(32, generator=g) for g in generators])

        sigmas = K.sampling.get_sigmas_karras(steps, 0.05, 20.0)
        return sampler(denoiser, 20 * noise(), sigmas, disable=True, noise_sampler=noise)

    return otcache.loop(sample, denoiser=denoiser, num_steps=num_steps)


def k_diffusion_brownian(sampler: Callable[..., Tensor]) -> otcache.Loop:
    denoiser = Denoiser()

    def sample(prompts, seeds, steps):
        x, sigmas = 20 * gaussian(seeds), K.sampling.get_sigmas_karras(steps, 0.05, 20.0)
        noise = K.sampling.BrownianTreeNoiseSampler(x, 0.05, 20.0, seed=list(seeds))
        return sampler(denoiser, x, sigmas, disable=True, noise_sampler=noise)

    return otcache.loop(sample, denoiser=denoiser)


def k_diffusion_batch_noise(
    sampler: Callable[..., Tensor], num_steps: NumSteps = None
) -> otcache.Loop:
    denoiser = Denoiser()

    def sample(prompts, seeds, steps):
        torch.manual_seed(seeds[0])
        sigmas = K.sampling.get_sigmas_karras(steps, 0.05, 20.0)
        return sampler(denoiser, 20 * torch.randn(len(seeds), 32), sigmas, disable=True)

    return otcache.loop(sample, denoiser=denoiser, num_steps=num_steps)


def k_diffusion_guided(
    sampler: Callable[..., Tensor], inside: bool, num_steps: NumSteps = None
) -> otcache.Loop:
    denoiser = Denoiser()
    guided = Guided(denoiser)

    def sample(prompts, seeds, steps):
        sigmas = K.sampling.get_sigmas_karras(steps, 0.05, 20.0)
        return sampler(guided, 20 * gaussian(seeds), sigmas, disable=True)

    return otcache.loop(sample, denoiser=denoiser if inside else guided, num_steps=num_steps)


def k_diffusion_v(sampler: Callable[..., Tensor]) -> otcache.Loop:
    model = Velocity()
    denoiser = K.external.VDenoiser(model)

    def sample(prompts, seeds, steps):
        sigmas = K.sampling.get_sigmas_karras(steps, 0.05, 20.0)
        return sampler(denoiser, 20 * gaussian(seeds), sigmas, disable=True)

    return otcache.loop(sample, denoiser=model)


def k_diffusion_by_sigma(sampler: Callable[..., Tensor]) -> otcache.Loop:
    denoiser = Denoiser()

    def sample(prompts, seeds, steps):
        return sampler(denoiser, 20 * gaussian(seeds), 0.05, 20.0, steps, disable=True)

    return otcache.loop(sample, denoiser=denoiser)


def k_diffusion_adaptive() -> otcache.Loop:
    denoiser = Denoiser()

    def sample(prompts, seeds, steps):
        return K.sampling.sample_dpm_adaptive(
            denoiser, 20 * gaussian(seeds), 0.05, 20.0, disable=True
        )

    return otcache.loop(sample, denoiser=denoiser)


class Velocity(nn.Module):
    """v-diffusion-pytorch's kind: v = alpha n - sigma x_0, t from 1 (noise) to 0."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the exact v."""
        a, b = torch.cos(t * math.pi / 2), torch.sin(t * math.pi / 2).clamp(min=1e-3)
        return rows(a, x) * vectors.noise(x, a, b) - rows(b, x) * vectors.clean(x, a, b)


def v_diffusion(sampler: Callable[..., Tensor], *arguments: Any) -> otcache.Loop:
    model = Velocity()

    def sample(prompts, seeds, steps):
        times = utils.get_spliced_ddpm_cosine_schedule(torch.linspace(1, 0, steps + 1)[:-1])
        return sampler(model, gaussian(seeds), times, *arguments, {})

    return otcache.loop(sample, denoiser=model)


def v_diffusion_steps(sampler: Callable[..., Tensor], calls: int) -> otcache.Loop:
    model = Velocity()

    def sample(prompts, seeds, steps):
        times = utils.get_spliced_ddpm_cosine_schedule(torch.linspace(1, 0, steps + 1)[:-1])
        return sampler(model, gaussian(seeds), times, {})

    return otcache.loop(sample, denoiser=model, calls_per_step=calls)


def v_diffusion_warm_up(sampler: Callable[..., Tensor], more: int) -> otcache.Loop:
    model = Velocity()

    def sample(prompts, seeds, steps):
        times = utils.get_spliced_ddpm_cosine_schedule(torch.linspace(1, 0, steps + 1)[:-1])
        return sampler(model, gaussian(seeds), times, {})

    return otcache.loop(sample, denoiser=model, num_steps=lambda steps: steps + more)


def v_diffusion_batch_noise(eta: float) -> otcache.Loop:
    model = Velocity()

    def sample(prompts, seeds, steps):
        torch.manual_seed(seeds[0])
        times = utils.get_spliced_ddpm_cosine_schedule(torch.linspace(1, 0, steps + 1)[:-1])
        return sampling.sample(model, torch.randn(len(seeds), 32), times, eta, {})

    return otcache.loop(sample, denoiser=model)


def v_diffusion_cond() -> otcache.Loop:
    model = Velocity()

    def towards(x, t, pred):
        return -torch.autograd.grad((pred[:, :8] - 0.5).square().sum(), x)[0]

    def sample(prompts, seeds, steps):
        times = utils.get_spliced_ddpm_cosine_schedule(torch.linspace(1, 0, steps + 1)[:-1])
        return sampling.cond_sample(model, gaussian(seeds), times, 0.0, {}, towards)

    return otcache.loop(sample, denoiser=model)


def twice_less_one(n: int) -> int:
    """Two calls per step, one at the last."""
    return 2 * n - 1


S = K.sampling
_K, _V = "k-diffusion", "v-diffusion-pytorch"
CASES = [
    Case(_K, "sample_euler", k_diffusion, (S.sample_euler,)),
    Case(_K, "sample_lms", k_diffusion, (S.sample_lms,)),
    Case(_K, "sample_dpmpp_2m", k_diffusion, (S.sample_dpmpp_2m,)),
    Case(_K, "sample_heun", k_diffusion, (S.sample_heun, twice_less_one), steps=16),
    Case(_K, "sample_dpm_2", k_diffusion, (S.sample_dpm_2, twice_less_one), steps=16),
    Case(_K, "sample_dpm_fast", k_diffusion_by_sigma, (S.sample_dpm_fast,)),
    Case(_K, "sample_dpm_adaptive", k_diffusion_adaptive, refused=True),
    Case(_K, "sample_dpmpp_2m, guided wrapper", k_diffusion_guided, (S.sample_dpmpp_2m, False)),
    Case(_K, "sample_euler, doubled batch", k_diffusion_guided, (S.sample_euler, True)),
    Case(_K, "sample_dpmpp_2m, doubled batch", k_diffusion_guided, (S.sample_dpmpp_2m, True)),
    Case(
        _K,
        "sample_heun, doubled batch",
        k_diffusion_guided,
        (S.sample_heun, True, twice_less_one),
        steps=16,
    ),
    Case(_K, "sample_dpmpp_2m, VDenoiser", k_diffusion_v, (S.sample_dpmpp_2m,)),
    Case(
        _K,
        "sample_dpmpp_2m_sde, BrownianTreeNoiseSampler",
        k_diffusion_brownian,
        (S.sample_dpmpp_2m_sde,),
        steps=16,
    ),
    Case(
        _K, "sample_euler_ancestral, noise by seed", k_diffusion_noise, (S.sample_euler_ancestral,)
    ),
    Case(
        _K,
        "sample_dpmpp_2s_ancestral, noise by seed",
        k_diffusion_noise,
        (S.sample_dpmpp_2s_ancestral, twice_less_one),
        steps=16,
    ),
    Case(
        _K,
        "sample_euler_ancestral, noise of the batch",
        k_diffusion_batch_noise,
        (S.sample_euler_ancestral,),
    ),
    Case(_V, "sample, eta 0", v_diffusion, (sampling.sample, 0.0)),
    Case(_V, "sample, eta 1, noise of the batch", v_diffusion_batch_noise, (1.0,)),
    Case(_V, "cond_sample", v_diffusion_cond, refused=True),
    Case(_V, "prk_sample", v_diffusion_steps, (sampling.prk_sample, 4)),
    Case(_V, "pie_sample", v_diffusion_steps, (sampling.pie_sample, 2)),
    Case(_V, "iplms_sample", v_diffusion_steps, (sampling.iplms_sample, 1)),
    Case(_V, "plms_sample", v_diffusion_warm_up, (sampling.plms_sample, 9)),
    Case(_V, "plms2_sample", v_diffusion_warm_up, (sampling.plms2_sample, 1)),
]

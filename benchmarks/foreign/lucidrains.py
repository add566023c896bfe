"""Phil Wang's: denoising-diffusion-pytorch, rectified-flow-pytorch, imagen-pytorch."""

from __future__ import annotations

from typing import Any

import torch
from denoising_diffusion_pytorch import (
    ContinuousTimeGaussianDiffusion,
    ElucidatedDiffusion,
    GaussianDiffusion,
    VParamContinuousTimeGaussianDiffusion,
)
from denoising_diffusion_pytorch import classifier_free_guidance as guidance
from imagen_pytorch import ElucidatedImagen, Imagen, Unet
from rectified_flow_pytorch import MeanFlow, NanoFlow, RectifiedFlow
from torch import Tensor, nn

import otcache
from foreign.case import Case
from foreign.toys import IMAGE, gaussian, images, rows

SIGMA_DATA = 0.5


class Toy(nn.Module):
    """What these libraries ask of a network."""

    channels = out_dim = 1
    self_condition, random_or_learned_sinusoidal_cond = False, True

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))  # they look for a parameter's device


class Discrete(Toy):
    """Noise, x_0 or v at a step of a table of alphas, which the diffusion has."""

    random_or_learned_sinusoidal_cond = False

    def __init__(self, objective: str = "pred_noise") -> None:
        super().__init__()
        self.objective, self.alphas = objective, torch.ones(1)

    def forward(self, x: Tensor, step: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the exact output."""
        a, b = self.alphas[step].sqrt(), (1 - self.alphas[step]).sqrt()
        if self.objective == "pred_noise":
            return images.noise(x, a, b, labels)
        if self.objective == "pred_x0":
            return images.clean(x, a, b, labels)
        return rows(a, x) * images.noise(x, a, b) - rows(b, x) * images.clean(x, a, b)


class Labelled(Discrete):
    """With a label, and without; guided as the library's own network is."""

    forward_with_cond_scale = guidance.Unet.forward_with_cond_scale

    def forward(
        self, x: Tensor, step: Tensor, classes: Tensor, cond_drop_prob: float = 0.0
    ) -> Tensor:
        """Return the exact noise."""
        return super().forward(x, step, None if cond_drop_prob else classes)


class LogSnr(Toy):
    """Noise at a log signal to noise ratio."""

    def forward(self, x: Tensor, log_snr: Tensor) -> Tensor:
        """Return the exact noise."""
        a, b = log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt()
        return images.noise(x, a, b)


class LogSnrVelocity(Toy):
    """v at a log signal to noise ratio."""

    def forward(self, x: Tensor, log_snr: Tensor) -> Tensor:
        """Return the exact v."""
        a, b = log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt()
        return rows(a, x) * images.noise(x, a, b) - rows(b, x) * images.clean(x, a, b)


def _elucidated(x: Tensor, noise: Tensor, labels: Tensor | None = None) -> Tensor:
    """Return the network inside Karras' preconditioning."""
    sigma = (noise * 4).exp()
    s = rows(sigma, x)
    y = x * (s**2 + SIGMA_DATA**2).sqrt()
    clean = images.clean(y, torch.ones_like(sigma), sigma, labels)
    skip = SIGMA_DATA**2 / (s**2 + SIGMA_DATA**2)
    return (clean - skip * y) * (s**2 + SIGMA_DATA**2).sqrt() / (s * SIGMA_DATA)


class Elucidated(Toy):
    """As ElucidatedDiffusion calls it."""

    def forward(self, x: Tensor, noise: Tensor, self_cond: Tensor | None = None) -> Tensor:
        """Return the exact output."""
        return _elucidated(x, noise)


class Flow(Toy):
    """v of the straight path, t from 0 (noise) to 1; MeanFlow has them the other way round."""

    mean_variance_net = False

    def __init__(self, backwards: bool = False) -> None:
        super().__init__()
        self.backwards = backwards

    def forward(self, x: Tensor, times: Tensor, *others: Tensor) -> Tensor:
        """Return the exact flow."""
        t = 1 - times if self.backwards else times
        a, b = t, (1 - t).clamp(min=1e-3)
        v = images.clean(x, a, b) - images.noise(x, a, b)
        return -v if self.backwards else v


class ImagenUnet(Unet):
    """imagen-pytorch wants a Unet of its own: this is one with another forward."""

    def __init__(self, elucidated: bool = False, text: bool = False) -> None:
        small = {
            "dim": 8,
            "dim_mults": (1,),
            "attn_dim_head": 4,
            "attn_heads": 2,
            "layer_attns": False,
        }
        super().__init__(**small, channels=1, text_embed_dim=4, cond_on_text=text)
        self.elucidated = elucidated

    def cast_model_parameters(self, **parameters: Any) -> ImagenUnet:
        """Itself: it is made as it is to be used."""
        return self

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        *,
        text_embeds: Any = None,
        cond_drop_prob: float = 0.0,
        **others: Any,
    ) -> Tensor:
        """Return the exact output; a text's label is the sign of its first number."""
        drop = text_embeds is None or cond_drop_prob
        labels = None if drop else (text_embeds[:, 0, 0] > 0).long()
        if self.elucidated:
            return _elucidated(x, time, labels)
        return images.noise(x, time.sigmoid().sqrt(), (-time).sigmoid().sqrt(), labels)


def ddim(objective: str, eta: float) -> otcache.Loop:
    model = Discrete(objective)
    options = {"sampling_timesteps": 999, "ddim_sampling_eta": eta, "objective": objective}
    diffusion = GaussianDiffusion(model, image_size=8, timesteps=1000, **options)
    model.alphas = diffusion.alphas_cumprod

    def sample(prompts, seeds, num_steps):
        torch.manual_seed(seeds[0])
        diffusion.sampling_timesteps = num_steps
        return diffusion.sample(batch_size=len(seeds))

    return otcache.loop(sample, denoiser=model)


def ddpm() -> otcache.Loop:
    model = Discrete()
    diffusion = GaussianDiffusion(model, image_size=8, timesteps=32, objective="pred_noise")
    model.alphas = diffusion.alphas_cumprod

    def sample(prompts, seeds, num_steps):
        torch.manual_seed(seeds[0])
        return diffusion.sample(batch_size=len(seeds))

    return otcache.loop(sample, denoiser=model)


def classifier_free(eta: float) -> otcache.Loop:
    model = Labelled()
    options = {"sampling_timesteps": 999, "ddim_sampling_eta": eta}
    diffusion = guidance.GaussianDiffusion(model, image_size=8, timesteps=1000, **options)
    model.alphas = diffusion.alphas_cumprod

    def sample(prompts, seeds, num_steps):
        torch.manual_seed(seeds[0])
        diffusion.sampling_timesteps = num_steps
        return diffusion.sample(torch.ones(len(seeds), dtype=torch.long), cond_scale=3.0)

    return otcache.loop(sample, denoiser=model, calls_per_step=2)


def continuous(kind: Any, model: nn.Module) -> otcache.Loop:
    diffusion = kind(model, image_size=8, channels=1)

    def sample(prompts, seeds, num_steps):
        torch.manual_seed(seeds[0])
        diffusion.num_sample_steps = num_steps
        return diffusion.sample(batch_size=len(seeds))

    return otcache.loop(sample, denoiser=model)


def elucidated(churn: float) -> otcache.Loop:
    model = Elucidated()
    diffusion = ElucidatedDiffusion(model, image_size=8, channels=1, S_churn=churn)

    def sample(prompts, seeds, steps):
        torch.manual_seed(seeds[0])
        return diffusion.sample(batch_size=len(seeds), num_sample_steps=steps)

    return otcache.loop(sample, denoiser=model, num_steps=lambda steps: 2 * steps - 1)


def elucidated_dpmpp() -> otcache.Loop:
    model = Elucidated()
    diffusion = ElucidatedDiffusion(model, image_size=8, channels=1)

    def sample(prompts, seeds, num_steps):
        torch.manual_seed(seeds[0])
        return diffusion.sample_using_dpmpp(batch_size=len(seeds), num_sample_steps=num_steps)

    return otcache.loop(sample, denoiser=model)


def rectified(method: str, calls: int) -> otcache.Loop:
    model = Flow()
    flow = RectifiedFlow(model, odeint_kwargs={"method": method}, data_shape=IMAGE)

    def sample(prompts, seeds, num_steps):
        noise = gaussian(seeds, IMAGE)
        return flow.sample(batch_size=len(seeds), steps=num_steps + 1, noise=noise)

    return otcache.loop(sample, denoiser=model, calls_per_step=calls)


def nano() -> otcache.Loop:
    model = Flow()
    flow = NanoFlow(model, times_cond_kwarg="times", data_shape=IMAGE)

    def sample(prompts, seeds, num_steps):
        noise = gaussian(seeds, IMAGE)
        return flow.sample(batch_size=len(seeds), steps=num_steps, noise=noise)

    return otcache.loop(sample, denoiser=model)


def mean_flow() -> otcache.Loop:
    model = Flow(backwards=True)
    flow = MeanFlow(model, data_shape=IMAGE)

    def sample(prompts, seeds, num_steps):
        return flow.slow_sample(steps=num_steps, noise=gaussian(seeds, IMAGE))

    return otcache.loop(sample, denoiser=model)


def imagen() -> otcache.Loop:
    model = Imagen(ImagenUnet(), image_sizes=8, channels=1, condition_on_text=False)

    def sample(prompts, seeds, num_steps):
        torch.manual_seed(seeds[0])
        model.noise_schedulers[0].num_timesteps = num_steps
        return model.sample(batch_size=len(seeds), use_tqdm=False)

    return otcache.loop(sample, denoiser=model.unets[0])


def imagen_guided(remove_parallel: bool) -> otcache.Loop:
    model = Imagen(ImagenUnet(text=True), image_sizes=8, channels=1, text_embed_dim=4)

    def sample(prompts, seeds, num_steps):
        torch.manual_seed(seeds[0])
        model.noise_schedulers[0].num_timesteps = num_steps
        return model.sample(
            text_embeds=torch.ones(len(seeds), 2, 4),
            cond_scale=3.0,
            cfg_remove_parallel_component=remove_parallel,
            use_tqdm=False,
        )

    return otcache.loop(sample, denoiser=model.unets[0], calls_per_step=2)


def elucidated_imagen(churn: float) -> otcache.Loop:
    unet = ImagenUnet(elucidated=True)
    options = {"num_sample_steps": 16, "S_churn": churn, "condition_on_text": False}
    model = ElucidatedImagen(unet, image_sizes=8, channels=1, **options)

    def sample(prompts, seeds, steps):
        torch.manual_seed(seeds[0])
        model.hparams = [model.hparams[0]._replace(num_sample_steps=steps)]
        return model.sample(batch_size=len(seeds), use_tqdm=False)

    return otcache.loop(sample, denoiser=model.unets[0], num_steps=lambda steps: 2 * steps - 1)


_D, _R, _I = "denoising-diffusion-pytorch", "rectified-flow-pytorch", "imagen-pytorch"
CASES = [
    *(
        Case(_D, f"GaussianDiffusion, DDIM, {name}", ddim, (name, 0.0))
        for name in ("pred_noise", "pred_x0", "pred_v")
    ),
    Case(_D, "GaussianDiffusion, DDIM, eta 1", ddim, ("pred_noise", 1.0)),
    Case(_D, "GaussianDiffusion, DDPM", ddpm, steps=32, fewer=False),
    Case(_D, "classifier_free_guidance, DDIM, eta 0", classifier_free, (0.0,)),
    Case(
        _D,
        "ContinuousTimeGaussianDiffusion",
        continuous,
        (ContinuousTimeGaussianDiffusion, LogSnr()),
    ),
    Case(
        _D,
        "VParamContinuousTimeGaussianDiffusion",
        continuous,
        (VParamContinuousTimeGaussianDiffusion, LogSnrVelocity()),
    ),
    Case(_D, "ElucidatedDiffusion, no churn", elucidated, (0.0,), steps=16),
    Case(_D, "ElucidatedDiffusion, churn 80", elucidated, (80.0,), steps=16),
    Case(_D, "ElucidatedDiffusion, DPM++", elucidated_dpmpp),
    Case(_R, "RectifiedFlow, euler", rectified, ("euler", 1)),
    Case(_R, "RectifiedFlow, midpoint", rectified, ("midpoint", 2)),
    Case(_R, "RectifiedFlow, dopri5", rectified, ("dopri5", 1), refused=True),
    Case(_R, "NanoFlow", nano),
    Case(_R, "MeanFlow, slow_sample", mean_flow),
    Case(_I, "Imagen", imagen),
    Case(_I, "Imagen, guided", imagen_guided, (False,)),
    Case(_I, "Imagen, guided, without the parallel part", imagen_guided, (True,)),
    Case(_I, "ElucidatedImagen, no churn", elucidated_imagen, (0.0,), steps=16),
    Case(_I, "ElucidatedImagen, churn 80", elucidated_imagen, (80.0,), steps=16),
]

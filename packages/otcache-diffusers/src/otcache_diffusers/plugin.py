"""Offer the plugins of otcache-diffusers."""

from __future__ import annotations

from dataclasses import replace

from otcache_core.plugins import Info, hookimpl

#: Metrics by name: target and summary.
_METRICS = {
    "rmse": ("pairwise:Rmse", "root mean square error of images in [0, 1]"),
    "psnr": ("pairwise:Psnr", "peak signal-to-noise ratio in dB, float64"),
    "ssim": ("pairwise:Ssim", "structural similarity, Gaussian window of sigma 1.5"),
    "ms-ssim": ("pairwise:MsSsim", "structural similarity over up to five scales"),
    "haarpsi": ("pairwise:HaarPsi", "perceptual similarity by Haar wavelets"),
    "lpips": ("lpips:Lpips", "LPIPS 0.1 on AlexNet features, weights shipped"),
    "lpips-vgg": ("lpips:LpipsVgg", "LPIPS 0.1 on VGG16, weights by path"),
    "clip-score": ("clip_score:ClipScore", "agreement with the prompt, CLIP by path"),
    "image-reward": ("image_reward:ImageReward", "human preference, by path"),
    "frechet": ("frechet:Frechet", "Fréchet distance to real images by path"),
    "legible": ("legible:Legible", "same letter or digit read; 64 by 64 pixels"),
}
#: Samplers of fewer steps by name: summary.
_SAMPLERS = {
    "own": "the pipeline's own sampler on B steps",
    "euler": "Euler on B steps",
    "adams-bashforth": "AB2 on B steps",
    "dpmpp": "DPM-Solver++(2M) on B steps",
    "unipc": "UniPC of order 2 on B steps",
    "heun": "Heun with B evaluations",
}
#: Caches of diffusers by name: target and summary.
_CACHES = {
    "first-block-cache": ("threshold_caches:FirstBlockCache", "by the first block"),
    "mag-cache": ("mag_cache:MagCache", "by magnitudes calibrated on full runs"),
    "taylorseer": ("taylorseer:TaylorSeer", "modules forecast, by diffusers"),
    "sea-cache": ("threshold_caches:SeaCache", "by the change of filtered latents"),
    "pab": ("attention_caches:PyramidAttention", "attention used again"),
    "faster-cache": ("attention_caches:FasterCache", "attention extrapolated"),
    "hicache-dmd": (
        "dynamic_modes:DynamicModes",
        "dynamic modes of the computed outputs (HiCache++)",
    ),
    "easycache": ("easycache:EasyCache", "by how outputs follow their inputs (arXiv 2507.02860)"),
    "sencache": ("sencache:SenCache", "by sensitivities of full runs (arXiv 2602.24208)"),
    "teacache": (
        "teacache:TeaCache",
        "skips while the first block's input has changed little (arXiv 2411.19108)",
    ),
}
#: What ``otcache-diffusers[pipelines]`` installs, by who needs it.
_LIBRARIES = {
    "ssim": ("scikit-image",),
    "clip-score": ("transformers",),
    "image-reward": ("transformers",),
}
_DIFFUSERS = ("diffusers",)


@hookimpl
def otcache_provide_probes() -> list[Info]:
    """Record any torch denoiser."""
    return [
        Info(
            "torch",
            "otcache_diffusers.recording.probe:TorchProbe",
            "diffusers pipelines and your own loops",
        )
    ]


@hookimpl
def otcache_provide_executors() -> list[Info]:
    """Accelerate any torch denoiser."""
    about = "diffusers pipelines, your own loops and bare modules"
    blocks = "the same, passing over the denoiser's blocks instead of the whole of it"
    return [
        Info("torch", "otcache_diffusers.execution.executor:TorchExecutor", about),
        Info("torch-blocks", "otcache_diffusers.execution.block_executor:BlockExecutor", blocks),
    ]


@hookimpl
def otcache_provide_metrics() -> list[Info]:
    """Offer image metrics: of pairs of images in [0, 1], of prompts, of all images together."""
    return [
        Info(name, f"otcache_diffusers.metrics.{target}", about, requires=_LIBRARIES.get(name, ()))
        for name, (target, about) in _METRICS.items()
    ]


@hookimpl
def otcache_provide_baselines() -> list[Info]:
    """Offer baselines for ``otcache compare``."""
    home, first_order = "otcache_diffusers.baselines", {"taylor_order": 1}
    fewer_steps, dbcache = f"{home}.fewer_steps:FewerSteps", f"{home}.dbcache:DBCache"
    samplers = [
        Info(f"fewer-steps-{name}", fewer_steps, about, options={"sampler": name})
        for name, about in _SAMPLERS.items()
    ]
    caches = [
        Info(name, f"{home}.{target}", about, requires=_DIFFUSERS)
        for name, (target, about) in _CACHES.items()
    ]
    cache_dit = [
        Info("dbcache", dbcache, "cache-dit: by the first blocks' residual"),
        Info("dbcache-taylorseer", dbcache, "the same, extrapolated", options=first_order),
        Info("dbcache-mask", f"{dbcache}Mask", "cache-dit: by a mask of steps"),
    ]
    return [*samplers, *caches, *(replace(info, requires=("cache-dit",)) for info in cache_dit)]


@hookimpl
def otcache_provide_demos() -> list[Info]:
    """Offer the trained pipeline of this package."""
    about = "shapes, letters and emoji: a trained FluxPipeline in miniature"
    needed = ("diffusers", "transformers")
    return [Info("image", "otcache_diffusers.demo:image_demo", about, requires=needed)]


@hookimpl
def otcache_provide_architectures() -> list[Info]:
    """Offer published image models at full size."""
    home = "otcache_diffusers.architectures.models"
    offers = [
        Info("flux-1-dev", f"{home}:flux_1_dev", "FLUX.1-dev, 11.9 B parameters"),
        Info("qwen-image", f"{home}:qwen_image", "Qwen-Image, 20.4 B parameters"),
        Info("sd3-5-large", f"{home}:sd3_5_large", "Stable Diffusion 3.5 large, 8.1 B parameters"),
        Info("sdxl-base", f"{home}:sdxl_base", "SDXL base 1.0, 2.57 B parameters"),
    ]
    return [replace(offer, requires=_DIFFUSERS) for offer in offers]

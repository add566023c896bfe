"""One tiny pipeline of every family: the rows of docs/coverage.md."""

from __future__ import annotations

from families import (
    cascades,
    diffusion_transformers,
    flows,
    flux,
    more_flows,
    priors,
    qwen,
    stable_diffusion,
)
from otcache_diffusers.testing.families import Case, Family, N

FAMILIES = (
    Family("Flux", "FluxPipeline", flux.text),
    Family("Flux, true CFG", "FluxPipeline", flux.true_cfg),
    Family("Flux, image to image", "FluxImg2ImgPipeline", flux.img2img),
    Family("Flux, inpainting", "FluxInpaintPipeline", flux.inpaint),
    Family("Flux Fill", "FluxFillPipeline", flux.fill),
    Family("Flux Control", "FluxControlPipeline", flux.control),
    Family("Flux.2", "Flux2Pipeline", flux.flux2),
    Family("Qwen-Image", "QwenImagePipeline", qwen.text),
    Family("Qwen-Image Edit", "QwenImageEditPipeline", qwen.edit),
    Family("Z-Image", "ZImagePipeline", qwen.z_image),
    Family("Stable Diffusion 1.5", "StableDiffusionPipeline", stable_diffusion.sd15),
    Family("Stable Diffusion 2", "StableDiffusionPipeline", stable_diffusion.sd2),
    Family("Stable Diffusion XL", "StableDiffusionXLPipeline", stable_diffusion.xl),
    Family("XL, image to image", "StableDiffusionXLImg2ImgPipeline", stable_diffusion.xl_img2img),
    Family("XL, inpainting", "StableDiffusionXLInpaintPipeline", stable_diffusion.xl_inpaint),
    Family("XL, ControlNet", "StableDiffusionXLControlNetPipeline", stable_diffusion.xl_controlnet),
    Family("Stable Diffusion 3", "StableDiffusion3Pipeline", stable_diffusion.sd3),
    Family("DiT", "DiTPipeline", diffusion_transformers.dit),
    Family("PixArt-alpha", "PixArtAlphaPipeline", diffusion_transformers.pixart_alpha),
    Family("PixArt-Sigma", "PixArtSigmaPipeline", diffusion_transformers.pixart_sigma),
    Family("HunyuanDiT", "HunyuanDiTPipeline", diffusion_transformers.hunyuan_dit),
    Family("Sana", "SanaPipeline", diffusion_transformers.sana),
    Family("Chroma", "ChromaPipeline", flows.chroma),
    Family("Lumina 2", "Lumina2Pipeline", flows.lumina2),
    Family("HiDream", "HiDreamImagePipeline", flows.hidream),
    Family("AuraFlow", "AuraFlowPipeline", flows.aura_flow),
    Family("CogView4", "CogView4Pipeline", flows.cogview4),
    Family("DeepFloyd IF", "IFPipeline", cascades.base),
    Family("DeepFloyd IF, upscaling", "IFSuperResolutionPipeline", cascades.super_resolution),
    Family("Lumina Next", "LuminaPipeline", more_flows.lumina),
    Family("CogView3-Plus", "CogView3PlusPipeline", more_flows.cogview3),
    Family("PRX", "PRXPipeline", more_flows.prx),
    Family("Bria", "BriaPipeline", more_flows.bria),
    Family("HunyuanImage 2.1", "HunyuanImagePipeline", more_flows.hunyuan_image),
    Family("Kandinsky 5", "Kandinsky5T2IPipeline", more_flows.kandinsky5),
    Family("Kandinsky 2.2", "KandinskyV22Pipeline", priors.kandinsky2),
    Family("Kandinsky 2.2, prior", "KandinskyV22PriorPipeline", priors.kandinsky2_prior),
    Family("Kandinsky 3", "Kandinsky3Pipeline", priors.kandinsky3),
    Family("Shap-E, prior", "ShapEPipeline", priors.shap_e),
    Family("Stable Audio", "StableAudioPipeline", priors.stable_audio),
)

__all__ = ["FAMILIES", "Case", "Family", "N"]

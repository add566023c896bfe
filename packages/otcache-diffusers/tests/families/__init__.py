"""One tiny pipeline of every family: the rows of docs/coverage.md."""

from __future__ import annotations

from families import flux, qwen
from families.case import Case, Family, N

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
)

__all__ = ["FAMILIES", "Case", "Family", "N"]

"""How each metric is named, written and read."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from otcache.report.results import Results

#: Row that the report is about.
OURS = "otcache"


@dataclass(frozen=True)
class Scale:
    """A metric as tables and plots print it.

    Args:
        label: column head.
        higher_is_better: direction.
        digits: digits after the point.
        meaning: one line for the report's reader.
    """

    label: str
    higher_is_better: bool = False
    digits: int = 4
    meaning: str = ""

    @property
    def arrow(self) -> str:
        """Which way is better."""
        return "↑" if self.higher_is_better else "↓"

    @property
    def head(self) -> str:
        """Label and direction."""
        return f"{self.label} {self.arrow}"

    def badness(self, value: float) -> float:
        """The value with its sign turned where needed: greater is worse."""
        return -value if self.higher_is_better else value

    def write(self, value: float) -> str:
        """One figure; without the leading zero of fractions, as ``.0412``."""
        if math.isinf(value):
            return "∞"
        text = f"{value:.{self.digits}f}"
        return text[1:] if text.startswith("0.") else text

    def write_signed(self, value: float) -> str:
        """One difference, as ``-.0125``."""
        return ("-" if value < 0 else "+") + self.write(abs(value))


_KNOWN = {
    "rmse": Scale("RMSE", meaning="root mean square error of pictures in [0, 1]"),
    "psnr": Scale("PSNR", True, 2, "peak signal-to-noise ratio, decibels"),
    "ssim": Scale("SSIM", True, 4, "structural similarity, 1 is identical"),
    "ms-ssim": Scale("MS-SSIM", True, 4, "structural similarity over several scales"),
    "lpips": Scale("LPIPS", False, 4, "learned perceptual distance, AlexNet"),
    "lpips-vgg": Scale("LPIPS (VGG)", False, 4, "learned perceptual distance, VGG16"),
    "haarpsi": Scale("HaarPSI", True, 4, "perceptual similarity by Haar wavelets, 1 is identical"),
    "flicker": Scale("flicker", False, 4, "RMSE of the changes from frame to frame, 0 is the full run's"),
    "temporal-lpips": Scale(
        "tLP", False, 4, "error of the perceptual change from frame to frame, LPIPS"
    ),
    "warping-error": Scale(
        "warping error", False, 4, "error along the full run's motion, less the full run's own"
    ),
    "motion-magnitude": Scale(
        "motion", False, 3, "logarithm of the ratio of motion to the full run's, 0.69 is half or double"
    ),
    "subject-consistency": Scale(
        "subject", False, 4, "how far the subject's consistency over time is from the full run's"
    ),
    "latent-rmse": Scale(
        "latent RMSE", False, 4, "root mean square error of the sampler's last states"
    ),
    "ode-rmse": Scale(
        "ODE RMSE", False, 4, "RMSE against a run of many steps that stands for the ODE's solution"
    ),
    "legible": Scale(
        "legible", True, 3, "share of pictures in which a classifier reads what it reads in the full run's"
    ),
    "clip-score": Scale("CLIPScore", True, 2, "agreement of picture and prompt under CLIP"),
    "image-reward": Scale("ImageReward", True, 3, "preference learned from people"),
    "frechet": Scale("Fréchet", False, 2, "distance of all pictures together to real ones"),
}  # fmt: skip


def scale_of(results: Results, metric: str) -> Scale:
    """Return the scale of a metric, whose direction is what the results say of it."""
    scale = _KNOWN.get(metric, Scale(metric))
    higher = results.higher_is_better.get(metric, scale.higher_is_better)
    return scale if higher == scale.higher_is_better else replace(scale, higher_is_better=higher)

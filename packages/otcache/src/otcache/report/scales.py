"""How each metric is named, written and read."""

from __future__ import annotations

from dataclasses import dataclass

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

    def write(self, value: float) -> str:
        """One figure; without the leading zero of fractions, as ``.0412``."""
        if value in (float("inf"), float("-inf")):
            return "∞"
        text = f"{value:.{self.digits}f}"
        return text[1:] if text.startswith("0.") else text


_KNOWN = {
    "rmse": Scale("RMSE", meaning="root mean square error of pictures in [0, 1]"),
    "psnr": Scale("PSNR", True, 2, "peak signal-to-noise ratio, decibels"),
    "ssim": Scale("SSIM", True, 4, "structural similarity, 1 is identical"),
    "lpips": Scale("LPIPS", False, 4, "learned perceptual distance, AlexNet"),
}


def scale_of(metric: str) -> Scale:
    """Scale of a metric; one that is unknown here is taken for a distance (lower is better)."""
    return _KNOWN.get(metric, Scale(metric))

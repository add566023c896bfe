"""Agreement on the glyph that is read."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from otcache_core.contracts.comparison import QualityMetric
from otcache_diffusers.metrics.glyph_reader import GlyphReader
from otcache_diffusers.metrics.pairs import check_pairs


class Legible(QualityMetric):
    r"""Whether a small network c reads the same glyph in both pictures of a pair,

    .. math:: \mathrm{legible}(x, y) = [\, c(x) = c(y) \,],

    1 if so and 0 if not: a mean over pictures is the share of them that still says the same. A
    probability in place of the 0 or 1 would move when nobody reads anything else, and its mean
    could not be checked by eye. The price: small changes leave no trace here (that is what rmse
    and lpips are for), and a mean over few pictures moves in coarse steps.

    "None of them" is a reading too: a glyph lost or made up counts as a disagreement, and two
    pictures without a glyph agree. So a mean says something on prompts that ask for one capital
    letter or digit (tag ``glyph`` of the demo), where the full run's picture is legible nearly
    always; over other prompts it is 1 and says nothing.

    Only for the demo picture model's pictures, 64 by 64 pixels: other sizes are refused, not
    resized. Accuracy of c: docs/legibility.md.

    Args:
        batch: pictures per forward pass, at least 1.
        device: where to run, as torch names it.
    """

    name = "legible"
    higher_is_better = True
    #: Of the conformance kit, which compares pictures of waves: nobody reads a letter in them.
    expected_failures: ClassVar[dict[str, str]] = {
        "test_identical_pictures_are_best": "pictures with noise are read alike: no better, no worse",
        "test_more_noise_is_worse": "the kit's waves are no letters, with any noise",
        "test_a_small_difference_is_small_in_both_directions": "the kit's waves are no letters",
        "test_white_is_not_black": "the kit's waves are no letters, whatever covers half of them",
    }

    def __init__(self, batch: int = 64, device: str = "cpu") -> None:
        self._reader = GlyphReader(batch=batch, device=device)

    def __call__(
        self, images: NDArray[np.floating], reference: NDArray[np.floating]
    ) -> NDArray[np.float64]:
        """Compare picture by picture: shape (n, 64, 64, 3) to (n,), each 0 or 1.

        Raises:
            OtcacheError: if shapes differ, pictures are not 64 by 64, or values are not floating
                point in [0, 1].
        """
        x, y = check_pairs(images, reference)
        pairs = zip(self._reader.read(x), self._reader.read(y), strict=True)
        return np.array([a == b for a, b in pairs], dtype=np.float64)

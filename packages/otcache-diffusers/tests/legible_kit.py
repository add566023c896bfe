"""The conformance kit of `legible`, on letters made of rectangles: no typeface is needed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from otcache_core.contracts import QualityMetric
from otcache_core.testing import ExpectedValues, MetricConformance
from otcache_diffusers.metrics.legible import Legible

Array = NDArray[np.float64]
RED, BLUE, WHITE, BLACK = (0.87, 0.18, 0.19), (0.18, 0.35, 0.9), (0.98, 0.98, 0.98), (0.1, 0.1, 0.1)
BARS: dict[str, tuple[tuple[int, int, int, int], ...]] = {
    "T": ((15, 22, 16, 48), (15, 50, 27, 36)),
    "L": ((15, 50, 20, 29), (43, 50, 20, 44)),
    "H": ((15, 50, 15, 24), (15, 50, 39, 48), (28, 35, 15, 48)),
    "E": ((15, 50, 20, 29), (15, 22, 20, 44), (29, 36, 20, 43), (43, 50, 20, 44)),
    "": (),
}
"""Rows and columns that a letter inks, first and past the last."""


def bars(letter: str, ink: tuple[float, ...] = BLACK, paper: tuple[float, ...] = WHITE) -> Array:
    """Return a letter of rectangles, as sans-serif capitals are; an empty text leaves the paper plain."""
    image = np.full((64, 64, 3), paper)
    for top, bottom, left, right in BARS[letter]:
        image[top:bottom, left:right] = ink
    return image


class LegibleKit(MetricConformance):
    """A reading is the same or another, so ties are the rule: four checks hold in a form of their own.

    Colours do not matter, and red, green and blue are treated alike.
    """

    channel_blind = True
    expected_failures = Legible.expected_failures

    def make_metric(self) -> QualityMetric:
        return Legible()

    def expected_values(self) -> ExpectedValues:
        """Return what anybody reads: T and T, L and T, H and H, E and nothing."""
        images = [bars("T", RED), bars("L", BLUE), bars("H", BLACK, RED), bars("E", BLUE)]
        reference = [bars("T", BLUE, BLACK), bars("T", BLUE), bars("H", WHITE, BLUE), bars("")]
        return ExpectedValues((np.stack(images), np.stack(reference)), [1.0, 0.0, 1.0, 0.0])

    def letters(self) -> Array:
        return np.stack([bars(letter) for letter in "TLHE"])

    def test_no_images_are_better_than_identical_ones(self) -> None:
        metric, clean = self.make_metric(), self._clean()
        np.testing.assert_array_equal(metric(clean, clean), 1.0)
        assert (metric(self._arguments(0.05)[0], clean) <= 1.0).all()

    def test_noise_on_letters_is_worse(self) -> None:
        clean = self.letters()
        grain = np.random.default_rng(0).uniform(-1.0, 1.0, clean.shape)
        stacks = [np.clip(clean + amount * grain, 0.0, 1.0) for amount in (0.1, 8.0)]
        little, much = (self.make_metric()(stack, clean) for stack in stacks)
        np.testing.assert_array_equal(little, 1.0)
        np.testing.assert_array_equal(much, 0.0)

    def test_a_small_difference_of_letters_is_none(self) -> None:
        clean = 0.2 + 0.6 * self.letters()
        grain = np.random.default_rng(1).random(clean.shape)
        for sign in (1.0, -1.0):
            np.testing.assert_array_equal(self._losses(clean + 0.1 * sign * grain, clean), -1.0)

    def test_a_letter_is_no_empty_paper(self) -> None:
        white, black, plain = bars("T", WHITE, RED), bars("T", BLACK, RED), bars("", paper=RED)
        same, lost = self.make_metric()(np.stack([white, white]), np.stack([black, plain]))
        assert (same, lost) == (1.0, 0.0)

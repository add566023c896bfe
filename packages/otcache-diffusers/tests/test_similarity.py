"""MS-SSIM and HaarPSI against their formulas, their limits and other people's code."""

from __future__ import annotations

import metric_kits
import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from otcache_core import OtcacheError
from otcache_diffusers.metrics.pairwise import EXPONENTS, HaarPsi, MsSsim, Ssim, exponents

Array = NDArray[np.float64]


def noise(height: int, width: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).random((2, height, width, 3))


# -- MS-SSIM ---------------------------------------------------------------------------------------


def test_ms_ssim_on_five_scales_is_that_of_pytorch_msssim() -> None:
    # pytorch_msssim 1.0.0, ms_ssim(x, y, data_range=1.0, size_average=False, win=w) with the window
    # w = exp(-r^2 / 4.5) / sum in float64 (its own is float32), on these images; torch 2.13.
    expected = [0.830728348015271, 0.4184778001535369]
    assert MsSsim()(*metric_kits.golden_pair(176)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("height", "width"), [(11, 11), (21, 30)])
def test_ms_ssim_on_one_scale_is_ssim(height: int, width: int) -> None:
    x = noise(height, width)
    y = 0.7 * x + 0.3 * noise(height, width, 1)
    assert MsSsim()(x, y) == pytest.approx(Ssim()(x, y), rel=1e-9)


def test_an_image_that_is_too_fine_for_one_scale_is_judged_at_the_others() -> None:
    """A checkerboard of pixels is flat when halved, and so equals its negative there."""
    board = np.indices((1, 44, 44, 3))[1:3].sum(axis=0) % 2 * 1.0
    assert Ssim()(board, 1 - board) < -0.9
    assert MsSsim()(board, 1 - board) == pytest.approx([0.0])  # below 0 counts as 0
    faint = 0.5 + 0.005 * (board - 0.5)
    cs = (9e-4 - 2 * 0.0025**2) / (9e-4 + 2 * 0.0025**2)
    share = EXPONENTS[0] / sum(EXPONENTS[:3])
    assert MsSsim()(faint, 1 - faint) == pytest.approx([cs**share], rel=1e-5)


@pytest.mark.parametrize(
    ("side", "scales"), [(11, 1), (21, 1), (22, 2), (44, 3), (64, 3), (88, 4), (175, 4), (176, 5)]
)
def test_small_images_have_fewer_scales(side: int, scales: int) -> None:
    found = exponents(side)
    assert len(found) == scales
    assert sum(found) == pytest.approx(1.0, abs=2e-4)
    assert np.allclose(np.array(found) / found[0], np.array(EXPONENTS[:scales]) / EXPONENTS[0])


def windows(x: Array, y: Array) -> tuple[Array, Array]:
    """SSIM and its cs of each 11 by 11 window of one channel, by their definitions."""
    g = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    g = np.outer(g, g) / g.sum() ** 2
    a, b = (sliding_window_view(v, (11, 11)) for v in (x, y))
    ma, mb, aa, bb, ab = ((v * g).sum(axis=(2, 3)) for v in (a, b, a * a, b * b, a * b))
    cs = (2 * (ab - ma * mb) + 9e-4) / (aa - ma**2 + bb - mb**2 + 9e-4)
    return cs * (2 * ma * mb + 1e-4) / (ma**2 + mb**2 + 1e-4), cs


def test_odd_sides_are_mirrored() -> None:
    x, y = noise(23, 25), 0.5 * noise(23, 25) + 0.5 * noise(23, 25, 1)
    shares = np.array([0.0448, 0.2856]) / (0.0448 + 0.2856)
    expected = np.ones((2, 3))
    for i, c in np.ndindex(2, 3):
        a, b = x[i, ..., c], y[i, ..., c]
        expected[i, c] = windows(a, b)[1].mean() ** shares[0]
        even = [np.pad(v, ((0, 1), (0, 1)), mode="symmetric") for v in (a, b)]
        halves = [v.reshape(12, 2, 13, 2).mean(axis=(1, 3)) for v in even]
        expected[i, c] *= windows(*halves)[0].mean() ** shares[1]
    assert MsSsim()(x, y) == pytest.approx(expected.mean(axis=1), rel=1e-10)


# -- HaarPSI ---------------------------------------------------------------------------------------


def test_haarpsi_of_an_odd_size_is_that_of_its_authors() -> None:
    # haar_psi_numpy of haarPsi.py (github.com/rgcda/haarpsi, 3b9599b) on the corner of 47 by 35.
    x, y = (v[:, :47, :35] for v in metric_kits.golden_pair(64))
    assert HaarPsi()(x, y) == pytest.approx([0.5126123833209353, 0.35069216904992656], rel=1e-12)


def test_haarpsi_of_grey_edges_by_hand() -> None:
    """One vertical edge; its contrast d in one image and 2 d in the other, brightness 0 elsewhere.

    Away from the border the two scales see the edge with 255 d k / 2 for side k = 2, 4 where they
    are centred on it, and the third weighs; the sums below walk over the columns that see it.
    """
    d, side = 0.1, 64
    x, y = np.zeros((2, 1, side, side, 3))
    x[:, :, side // 2 :], y[:, :, side // 2 :] = d, 2 * d
    assert HaarPsi()(x, y) == pytest.approx([by_columns(d, 2 * d, side // 2)], rel=1e-9)


def by_columns(a: float, b: float, n: int) -> float:
    """HaarPSI of two grey step edges on an n by n grid, one pixel after the other."""

    def level(v: float, row: int, column: int) -> float:
        return 255 * v if 0 <= row < n and n // 2 <= column < n else 0.0

    def response(v: float, k: int, row: int, column: int, across: bool) -> float:
        total = 0.0
        for r in range(k):
            for c in range(k):
                sign = 1 if (c if across else r) < k // 2 else -1
                total += sign * level(v, row + r - k // 2 + 1, column + c - k // 2 + 1)
        return abs(total) / k

    def squashed(t: float) -> float:
        return 1 / (1 + np.exp(-4.2 * t))

    above = below = 0.0
    for row in range(n):
        for column in range(n):
            weights = []
            for across in (False, True):
                seen = [[response(v, k, row, column, across) for k in (2, 4, 8)] for v in (a, b)]
                alike = [
                    (2 * p * q + 30) / (p * p + q * q + 30)
                    for p, q in zip(seen[0][:2], seen[1][:2], strict=True)
                ]
                weights.append(max(seen[0][2], seen[1][2]))
                above += squashed(sum(alike) / 2) * weights[-1]
                below += weights[-1]
            above += squashed(1.0) * sum(weights) / 2  # grey: I = Q = 0 in both
            below += sum(weights) / 2
    mean = above / below
    return float((np.log(mean / (1 - mean)) / 4.2) ** 2)


def test_haarpsi_of_black_images_is_one() -> None:
    black = np.zeros((1, 16, 16, 3))
    assert HaarPsi()(black, black) == pytest.approx([1.0])


@pytest.mark.parametrize(("metric", "smallest"), [(MsSsim, 11), (HaarPsi, 16)])
def test_too_small_images_are_refused(metric: type[MsSsim | HaarPsi], smallest: int) -> None:
    assert np.isfinite(metric()(noise(smallest, smallest), noise(smallest, smallest, 1))).all()
    small = noise(smallest - 1, 64)
    with pytest.raises(OtcacheError, match=f"at least {smallest} by {smallest}"):
        metric()(small, small)

"""RMSE, PSNR and SSIM against values derived by hand, and the defects they must catch."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from otcache_core import OtcacheError
from otcache_core.contracts.comparison import QualityMetric
from otcache_diffusers.metrics.lpips import Lpips
from otcache_diffusers.metrics.pairwise import Psnr, Rmse, Ssim

METRICS = [Rmse, Psnr, Ssim, Lpips]
Array = NDArray[np.float64]


def noise(n: int = 2, size: int = 32, seed: int = 0) -> Array:
    return np.random.default_rng(seed).random((n, size, size, 3))


def flat(value: float, size: int = 16) -> Array:
    return np.full((1, size, size, 3), value)


def test_rmse_of_a_shift_is_the_shift() -> None:
    assert Rmse()(flat(0.7), flat(0.4)) == pytest.approx([0.3], abs=1e-15)


def test_rmse_of_one_wrong_pixel() -> None:
    wrong = flat(0.0, size=10)
    wrong[0, 3, 4, 1] = 1.0  # one of 300 values: sqrt(1 / 300)
    assert Rmse()(wrong, flat(0.0, size=10)) == pytest.approx([300**-0.5], rel=1e-14)


def test_psnr_of_a_shift_by_a_tenth_is_twenty_decibels() -> None:
    assert Psnr()(flat(0.6), flat(0.5)) == pytest.approx([20.0], abs=1e-12)


def test_psnr_of_unrelated_uniform_noise() -> None:
    # E (u - v)^2 = 1/6 for independent uniform u, v: 10 log10 6 = 7.78 dB.
    assert Psnr()(noise(1, 128), noise(1, 128, seed=1)) == pytest.approx(10 * np.log10(6), abs=0.05)


def test_ssim_of_flat_images_keeps_the_luminance_term() -> None:
    # No variance: the second factor is C2 / C2, the first (2ab + C1) / (a^2 + b^2 + C1).
    expected = (2 * 0.8 * 0.4 + 1e-4) / (0.8**2 + 0.4**2 + 1e-4)
    assert Ssim()(flat(0.8), flat(0.4)) == pytest.approx([expected], rel=1e-9)


def test_ssim_of_one_window_is_the_formula() -> None:
    x, y = noise(1, 11), noise(1, 11, seed=1)
    r = np.arange(-5, 6)
    g = np.exp(-(r**2) / (2 * 1.5**2))
    w = (np.outer(g, g) / g.sum() ** 2)[None, :, :, None]
    mx, my = ((w * v).sum(axis=(1, 2)) for v in (x, y))
    vx, vy, vxy = ((w * u * v).sum(axis=(1, 2)) for u, v in ((x, x), (y, y), (x, y)))
    vx, vy, vxy = vx - mx**2, vy - my**2, vxy - mx * my
    s = (2 * mx * my + 1e-4) * (2 * vxy + 9e-4)
    s /= (mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4)
    assert Ssim()(x, y) == pytest.approx([s.mean()], rel=1e-9)


@pytest.mark.parametrize("metric", METRICS)
def test_identical_images(metric: type[QualityMetric]) -> None:
    best = {"rmse": 0.0, "lpips": 0.0, "ssim": 1.0, "psnr": np.inf}[metric.name]
    assert metric()(noise(), noise()) == pytest.approx([best, best])


@pytest.mark.parametrize("metric", METRICS)
def test_more_noise_is_worse_and_pairs_stay_paired(metric: type[QualityMetric]) -> None:
    reference = np.repeat(noise(1), 3, axis=0)
    amount = np.array([0.02, 0.3, 0.1])[:, None, None, None]
    values = metric()((1 - amount) * reference + amount * noise(3, seed=1), reference)
    order = np.argsort(-values if metric().higher_is_better else values)
    assert values.shape == (3,)
    assert values.dtype == np.float64
    assert order.tolist() == [0, 2, 1]


@pytest.mark.parametrize("metric", METRICS)
def test_swapped_channels_cost_quality(metric: type[QualityMetric]) -> None:
    image = noise() * np.array([1.0, 0.5, 0.1])
    value, best = metric()(image[..., ::-1], image), metric()(image, image)
    assert np.all(value < best if metric().higher_is_better else value > best + 0.01)


@pytest.mark.parametrize("metric", METRICS)
def test_pairing_off_by_one_costs_quality(metric: type[QualityMetric]) -> None:
    images = noise(3)
    value, best = metric()(np.roll(images, 1, axis=0), images), metric()(images, images)
    assert np.all(value < best if metric().higher_is_better else value > best + 0.01)


BAD = {
    "uint8 wraps": ((noise() * 255).astype(np.uint8), "must be floating point, got 'uint8'"),
    "0 to 255": (noise() * 255, r"within \[0, 1\]"),
    "-1 to 1": (noise() * 2 - 1, r"map \[-1, 1\]"),
    "not a number": (np.full((2, 32, 32, 3), np.nan), "finite"),
    "channels first": (noise().transpose(0, 3, 1, 2), "channels last"),
    "no batch": (noise()[0], r"\(n, height, width, 3\)"),
    "another count": (noise(3), r"images' shape .* \(3, 32, 32, 3\)"),
}


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("defect", BAD)
def test_bad_images_are_refused(metric: type[QualityMetric], defect: str) -> None:
    images, message = BAD[defect]
    with pytest.raises(OtcacheError, match=message if defect != "another count" else "shape"):
        metric()(images, noise())


@pytest.mark.remedy("divide 8-bit images by 255, and map [-1, 1] to [0, 1] by (x + 1) / 2")
@pytest.mark.remedy("make them by a pipeline in float32 or bfloat16")
def test_what_is_advised_for_bad_images_makes_them_good() -> None:
    good = noise()
    with np.errstate(all="ignore"):  # 1e6 is beyond what float16 holds
        half, single = ((good * 1e6).astype(t) / t(1e6) for t in (np.float16, np.float32))
    advised = {
        "divide 8-bit": ((255 * good).round().astype(np.uint8), lambda x: x / 255),
        "map": (2 * good - 1, lambda x: (x + 1) / 2),
        "float32": (half, lambda x: single),
    }
    for words, (bad, mend) in advised.items():
        with pytest.raises(OtcacheError, match=words):
            Psnr()(bad, good)
        assert Psnr()(mend(bad), good).min() > 50


@pytest.mark.remedy("make larger ones, or calibrate with Recipe(objective='rmse')")
@pytest.mark.parametrize("metric", [Ssim, Lpips])
def test_too_small_images_are_refused(metric: type[QualityMetric]) -> None:
    small, larger = noise(1, 8), noise(1, 31)
    with pytest.raises(OtcacheError, match="height and width must be at least"):
        metric()(small, small)
    assert np.isfinite(metric()(larger, larger)).all()
    assert Rmse()(small, small) == 0


def test_float32_images_are_compared_in_float64() -> None:
    x, y = noise().astype(np.float32), noise(seed=1).astype(np.float32)
    assert Rmse()(x, y).tolist() == Rmse()(x.astype(np.float64), y.astype(np.float64)).tolist()

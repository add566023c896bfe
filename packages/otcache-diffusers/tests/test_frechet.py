"""The Fréchet distance against closed forms, and every way to give it real images."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from otcache_core import FileError, OtcacheError
from otcache_core.testing.metric_checks import waves
from otcache_diffusers.metrics.frechet import (
    FeatureMoments,
    Frechet,
    RunningMoments,
    deep_features,
    distance,
)

Array = NDArray[np.float64]
SHAPE = (64, 64, 3)


def turned(values: Array, seed: int = 0) -> Array:
    """Return a covariance with these eigenvalues."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(values), len(values))))
    return np.asarray(q * values @ q.T)


# -- the distance ----------------------------------------------------------------------------------


def test_of_covariances_that_commute() -> None:
    """Sum of (sqrt(a) - sqrt(b))^2 over common axes, plus the means' squared distance."""
    a, b, m = np.array([4.0, 1.0, 0.25]), np.array([1.0, 9.0, 0.0]), np.array([1.0, -2.0, 0.5])
    assert distance(m, np.diag(a), b) == pytest.approx(1 + 4 + 0.25 + 1 + 4 + 0.25, rel=1e-14)


def test_of_a_multiple_of_the_identity() -> None:
    """It commutes with everything: eigenvalues l beside s give the sum of (sqrt(l) - sqrt(s))^2."""
    values = np.array([5.0, 2.0, 1.0, 0.1])
    expected = np.sum((np.sqrt(values) - np.sqrt(3.0)) ** 2)
    assert distance(np.zeros(4), turned(values), np.full(4, 3.0)) == pytest.approx(expected)


def test_of_two_by_two_covariances() -> None:
    """Check that tr sqrt(M) = sqrt(tr M + 2 sqrt(det M)) for M of two rows, here M = C B."""
    c, b = np.array([[2.0, 0.7], [0.7, 1.0]]), np.array([3.0, 0.5])
    m = c * b
    root = np.sqrt(np.trace(m) + 2 * np.sqrt(np.linalg.det(m)))
    assert distance(np.zeros(2), c, b) == pytest.approx(3.0 + 3.5 - 2 * root, rel=1e-12)


def test_of_covariances_without_full_rank() -> None:
    """Two lines at an angle t: tr sqrt = sqrt(a b) |cos t|; a root of a product would fail here."""
    t = 0.3
    line = np.array([np.cos(t), np.sin(t)])
    found = distance(np.zeros(2), 4.0 * np.outer(line, line), np.array([9.0, 0.0]))
    assert found == pytest.approx(4 + 9 - 2 * 6 * np.cos(t), rel=1e-7)


def test_of_many_samples_of_two_gaussians() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100_000, 3)) * [1.0, 2.0, 0.5] + [0.0, 1.0, 0.0]
    sums = RunningMoments(3)
    for part in np.array_split(x, 7):
        sums.add(part)
    expected = 1.0 + 0.0 + 1.0 + 0.25  # mean, then (1 - 1)^2, (2 - 1)^2, (0.5 - 1)^2
    assert distance(*sums.moments(), np.ones(3)) == pytest.approx(expected, rel=0.02)


def test_moments_in_parts_are_those_of_the_whole() -> None:
    rows = 1e4 + np.random.default_rng(0).normal(size=(50, 4))
    sums = RunningMoments(4)
    for part in np.array_split(rows, 6):
        sums.add(part)
    mean, covariance = sums.moments()
    np.testing.assert_allclose(mean, rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(rows.T), rtol=1e-8, atol=1e-10)


# -- real images ---------------------------------------------------------------------------------


def test_the_real_images_themselves_are_at_zero_and_a_shift_is_not(tmp_path: Path) -> None:
    np.save(tmp_path / "real.npy", waves(12, SHAPE))
    metric = Frechet(tmp_path / "real.npy")
    assert metric(waves(12, SHAPE)) == pytest.approx(0.0, abs=1e-6)
    assert metric(1.0 - waves(12, SHAPE)) > 1.0


def test_every_way_to_give_them_gives_the_same(tmp_path: Path) -> None:
    pixels = np.round(255 * waves(6, SHAPE)).astype(np.uint8)
    real = pixels / 255.0
    (tmp_path / "folder").mkdir()
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / "folder" / f"{i}.png")
    (tmp_path / "folder" / "notes.txt").write_text("no image")
    np.save(tmp_path / "bytes.npy", pixels)
    np.save(tmp_path / "floats.npy", real)
    np.savez(tmp_path / "one.npz", images=real.astype(np.float32))
    FeatureMoments.of([real[:2], real[2:]]).save(tmp_path / "moments.safetensors")
    made = waves(5, SHAPE)[:, :, ::-1]
    names = ("folder", "bytes.npy", "floats.npy", "one.npz", "moments.safetensors")
    values = [Frechet(tmp_path / name)(made) for name in names]
    np.testing.assert_allclose(values, values[0], rtol=1e-4)


def test_directions_are_the_principal_ones() -> None:
    rows = deep_features(waves(4, SHAPE))
    moments = FeatureMoments.of([waves(4, SHAPE)])
    largest = np.sort(np.linalg.eigvalsh(np.cov(rows.T)))[::-1][:16]
    np.testing.assert_allclose(moments.variances, largest, rtol=1e-6, atol=1e-6)
    mean, covariance = moments.project(waves(4, SHAPE))
    np.testing.assert_allclose(mean, 0.0, atol=1e-9)
    np.testing.assert_allclose(covariance, np.diag(moments.variances), atol=1e-6)


def test_the_demo_ships_moments_of_real_images() -> None:
    from otcache_diffusers import demo

    moments = FeatureMoments.load(demo.folder() / "real_moments.safetensors")
    assert (moments.size, moments.count) == ((64, 64), 512)
    assert (demo.folder() / "real_moments.safetensors").stat().st_size < 20_000
    assert (np.diff(moments.variances) <= 0).all()
    flat = np.random.default_rng(0).random((6, 1, 1, 3)) * np.ones((6, *SHAPE))
    noise = np.random.default_rng(0).random((6, *SHAPE))
    assert Frechet("demo")(flat) < Frechet("demo")(noise)


# -- bad input -------------------------------------------------------------------------------------


@pytest.mark.remedy("give a folder of images, an .npy or .npz array of them, a .safetensors of mom")
def test_no_real_images_is_an_error_that_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(OtcacheError, match=r"local path, got none: give a folder .* 'demo'"):
        Frechet()
    with pytest.raises(OtcacheError, match=r"must be a file, got '.*nowhere': give a folder"):
        Frechet(tmp_path / "nowhere")
    with pytest.raises(FileError, match=r"images must be files \(.png, .*got 'none'"):
        Frechet(tmp_path)(waves(2, SHAPE))
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")  # nobody will ever write to it
        with pytest.raises(FileError, match=r"pipe.png.*must be a file, got a named pipe"):
            Frechet(tmp_path)(waves(2, SHAPE))
    np.save(tmp_path / "real.npy", waves(2, SHAPE))
    moments = FeatureMoments.of(iter([waves(2, SHAPE)]))
    moments.save(tmp_path / "real.safetensors")
    for given in (tmp_path / "real.npy", tmp_path / "real.safetensors", "demo"):
        assert np.isfinite(Frechet(given)(waves(2, SHAPE)))


@pytest.mark.remedy("a distance depends on the size: resize the real ones")
@pytest.mark.remedy("{} must be {}, got {}: resize the real images")
def test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OtcacheError, match=r"size must be the real ones' \(64, 64\), got \(32, 48"):
        Frechet("demo")(waves(2, (32, 48, 3)))
    real = [Image.new("RGB", (side, 40), "red") for side in (40, 50)]
    for i, image in enumerate(real):
        image.save(tmp_path / f"{i}.png")
    with pytest.raises(OtcacheError, match=r"1.png must be 40 by 40 pixels, as 0.png, got '50 by"):
        Frechet(tmp_path)(waves(2, SHAPE))
    for i, image in enumerate(real):
        image.resize((48, 32)).save(tmp_path / f"{i}.png")
    assert Frechet(tmp_path)(waves(2, (32, 48, 3))) > 0


def test_one_image_is_no_distribution(tmp_path: Path) -> None:
    with pytest.raises(OtcacheError, match="at least 2"):
        Frechet("demo")(waves(1, SHAPE))
    np.save(tmp_path / "one.npy", waves(1, SHAPE))
    with pytest.raises(OtcacheError, match="real images must be at least 2, got 1"):
        Frechet(tmp_path / "one.npy")(waves(2, SHAPE))


def test_damaged_files_are_named(tmp_path: Path) -> None:
    made = waves(2, SHAPE)
    broken = tmp_path / "broken.npy"
    broken.write_bytes(b"not an array")
    with pytest.raises(FileError, match=r"broken.npy: not a readable .npy"):
        Frechet(broken)(made)
    two = tmp_path / "two.npz"
    np.savez(two, a=made, b=made)
    with pytest.raises(FileError, match="one array of images"):
        Frechet(two)(made)
    wide = tmp_path / "wide.npy"
    np.save(wide, 255 * made)
    with pytest.raises(OtcacheError, match=r"wide.npy: images' values must be .*divide 8-bit"):
        Frechet(wide)(made)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"no image")
    with pytest.raises(FileError, match=r"a.png: not a readable image"):
        Frechet(tmp_path / "images")(made)
    Image.new("RGB", (64, 64)).save(tmp_path / "images" / "a.png")
    with pytest.MonkeyPatch.context() as small:
        small.setattr(Image, "MAX_IMAGE_PIXELS", 64)  # Pillow refuses what may be a bomb
        with pytest.raises(FileError, match=r"a.png: not a readable image: .*exceeds limit"):
            Frechet(tmp_path / "images")(made)
    other = tmp_path / "other.safetensors"
    from otcache_core.storage.array_files import save_arrays

    save_arrays(other, {"centre": np.zeros(256, np.float32)}, {"format": "another"})
    with pytest.raises(FileError, match="format must be 'otcache-feature-moments', got 'another'"):
        Frechet(other)(made)

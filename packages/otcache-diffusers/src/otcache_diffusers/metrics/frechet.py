"""Fréchet distance of images to real ones.

Images become :func:`deep_features`, these :class:`FeatureMoments`, and these a :func:`distance`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from otcache_core.contracts.comparison import SetMetric
from otcache_core.errors import FileError, OtcacheError, expected, shortened
from otcache_core.storage.array_files import array, load_arrays, save_arrays
from otcache_core.storage.files import bad_file
from otcache_diffusers.metrics.backbones import AlexNet
from otcache_diffusers.metrics.checks import check_images, local_path
from otcache_diffusers.metrics.real_images import read_images

DEMO = "demo"
ADVICE = (
    "give a folder of images, an .npy or .npz array of them, a .safetensors of moments, or 'demo' for "
    "the data of the demo model."
)
#: What a file of moments says about itself.
FACTS = {
    "format": "otcache-feature-moments",
    "version": "1",
    "network": "AlexNet of LPIPS 0.1, fifth rectified convolution, every position a sample",
}
CHANNELS, DIRECTIONS = 256, 16
Floats = NDArray[np.float64]


class Frechet(SetMetric):
    r"""Fréchet (Wasserstein-2) distance of two Gaussians fitted to deep features of images.

    .. math:: \| \mu - \mu_r \|^2 + \mathrm{tr}\, C + \mathrm{tr}\, C_r
              - 2\, \mathrm{tr} (C_r^{1/2} C\, C_r^{1/2})^{1/2},

    r for real. Features are those of
    :class:`FeatureMoments`: AlexNet's fifth rectified
    convolution, every position a sample, on the 16 leading principal directions of the real
    images, where :math:`C_r` is diagonal. The root's trace is the sum of the roots of a symmetric
    matrix's eigenvalues; those that rounding leaves below 0 count as 0, and no ridge is added.

    Not an FID: another network, another size, few images. Estimated from few images it is too
    large, by an amount that grows as they get fewer, so it compares sets of one size in one table
    and no more; show the full run's value beside it, which is not 0.

    References:
        Heusel, Ramsauer, Unterthiner, Nessler, Hochreiter: GANs trained by a two time-scale update
        rule converge to a local Nash equilibrium, 2017, https://arxiv.org/abs/1706.08500, section 3.
        Dowson, Landau: The Fréchet distance between multivariate normal distributions, 1982,
        https://doi.org/10.1016/0047-259X(82)90077-X.

    Args:
        path: real images, all of the size that is judged: a folder of them, an ``.npy`` or
            ``.npz`` array of shape (n, height, width, 3), a ``.safetensors`` of moments, or
            ``demo`` for the shipped moments of the demo model's data. Read on the first call.

    Raises:
        OtcacheError: if there is no such path.
    """

    name = "frechet"
    higher_is_better = False
    needs = "real images"

    def __init__(self, path: str | Path | None = None) -> None:
        if path == DEMO:
            path = str(files("otcache_diffusers") / "demo_model" / "real_moments.safetensors")
        self._path = local_path(path, "frechet: the real images", ADVICE)

    def __call__(self, images: NDArray[np.floating]) -> float:
        """Return the distance of these images to the real ones.

        Raises:
            OtcacheError: if there are fewer than 2, their size is not the real ones', or values
                are not floating point in [0, 1].
            FileError: if the real images cannot be read.
        """
        x = check_images(images, smallest=AlexNet.smallest)
        if len(x) < 2:
            raise OtcacheError(expected("images", len(x), "at least 2 for a Fréchet distance"))
        if x.shape[1:3] != self._real.size:
            advice = "a distance depends on the size: resize the real ones."
            raise OtcacheError(
                expected("images' size", x.shape[1:3], f"the real ones' {self._real.size}", advice)
            )
        return distance(*self._real.project(x), self._real.variances)

    @cached_property
    def _real(self) -> FeatureMoments:
        if self._path.suffix == ".safetensors":
            return FeatureMoments.load(self._path)
        return FeatureMoments.of(read_images(self._path))


def distance(mean: Floats, covariance: Floats, variances: Floats) -> float:
    """Compute the Fréchet distance of a Gaussian to one of mean 0 and diagonal covariance.

    Args:
        mean: shape (d,).
        covariance: symmetric, no eigenvalue below 0, shape (d, d).
        variances: the other's diagonal, shape (d,).
    """
    roots = np.sqrt(variances)
    eigenvalues = np.linalg.eigvalsh(roots[:, None] * covariance * roots)
    shared = np.sqrt(np.maximum(eigenvalues, 0.0)).sum()
    return float(mean @ mean + np.trace(covariance) + variances.sum() - 2.0 * shared)


@dataclass(frozen=True)
class FeatureMoments:
    r"""A Gaussian fitted to the deep features of real images, on their principal directions.

    Features are the 256 channels of AlexNet's fifth rectified convolution, every spatial position of
    every image one sample. With :math:`C = V \Lambda V^\top` their covariance, kept are the mean,
    the 16 columns of V of the largest variances, and these variances: on these directions the
    covariance is diagonal.

    Args:
        centre: mean of the features, shape (256,).
        directions: orthonormal columns V, shape (256, 16).
        variances: :math:`\Lambda`, decreasing, shape (16,).
        size: height and width of the images: features depend on it.
        count: images.

    Raises:
        OtcacheError: if shapes do not fit, variances are below 0 or directions not orthonormal.
    """

    centre: Floats
    directions: Floats
    variances: Floats
    size: tuple[int, int]
    count: int

    def __post_init__(self) -> None:
        shapes = (self.centre.shape, self.directions.shape, self.variances.shape)
        wanted = ((CHANNELS,), (CHANNELS, DIRECTIONS), (DIRECTIONS,))
        if shapes != wanted:
            raise OtcacheError(expected("moments: shapes", shapes, str(wanted)))
        parts = (self.centre, self.directions, self.variances)
        if not all(np.isfinite(part).all() for part in parts):
            raise OtcacheError("moments must be finite, got NaN or infinity.")
        if (self.variances < 0).any():
            raise OtcacheError(expected("moments: variances", self.variances.min(), ">= 0"))
        if min(self.size) < 1 or self.count < 2:
            got = (*self.size, self.count)
            raise OtcacheError(expected("moments: size and count", got, "at least 1, 1 and 2"))
        v = self.directions
        if np.abs(v).max() > 2 or not np.allclose(v.T @ v, np.eye(DIRECTIONS), atol=1e-5):
            raise OtcacheError("moments: directions must be orthonormal columns, got others.")

    @classmethod
    def of(cls, batches: Iterable[NDArray[np.floating]]) -> FeatureMoments:
        """Measure images, given in batches of shape (n, height, width, 3) in [0, 1].

        Raises:
            OtcacheError: if there are fewer than 2 images.
        """
        count, sums = 0, RunningMoments(CHANNELS)
        size = (0, 0)
        for images in batches:
            count, size = count + len(images), (images.shape[1], images.shape[2])
            sums.add(deep_features(images))
        if count < 2:
            raise OtcacheError(expected("real images", count, "at least 2"))
        centre, covariance = sums.moments()
        variances, directions = np.linalg.eigh(covariance)
        largest = np.argsort(-variances)[:DIRECTIONS]
        kept = np.maximum(variances[largest], 0.0)
        return cls(centre, directions[:, largest], kept, size, count)

    def project(self, images: NDArray[np.floating]) -> tuple[Floats, Floats]:
        """Return mean (less the centre) and covariance of other images' features on the directions."""
        sums = RunningMoments(DIRECTIONS)
        for at in range(0, len(images), 32):
            sums.add((deep_features(images[at : at + 32]) - self.centre) @ self.directions)
        return sums.moments()

    def save(self, path: str | Path) -> None:
        """Write safetensors of float32, 18 kB.

        Raises:
            FileError: if it cannot be written.
        """
        names = ("centre", "directions", "variances")
        arrays = {name: getattr(self, name).astype(np.float32) for name in names}
        size = f"{self.size[0]}x{self.size[1]}"
        save_arrays(path, arrays, {**FACTS, "size": size, "count": str(self.count)})

    @classmethod
    def load(cls, path: str | Path) -> FeatureMoments:
        """Read what :meth:`save` wrote.

        Raises:
            FileError: if the file is damaged, another format or of other features.
        """
        arrays, facts = load_arrays(path)
        for key, value in FACTS.items():
            if facts.get(key) != value:
                raise bad_file(path, expected(key, facts.get(key), repr(value)))
        try:
            height, width = map(int, facts["size"].split("x"))
            count = int(facts["count"])
            shapes = {"centre": (CHANNELS,), "directions": (CHANNELS, DIRECTIONS)}
            shapes["variances"] = (DIRECTIONS,)
            parts = {name: array(path, arrays, name, shape) for name, shape in shapes.items()}
            return cls(**parts, size=(height, width), count=count)
        except (KeyError, ValueError) as error:
            if isinstance(error, FileError):
                raise
            text = f"not a file of feature moments: {shortened(str(error))}"
            raise bad_file(path, text) from error


def deep_features(images: NDArray[np.floating]) -> Floats:
    """Return one row of 256 channels for every position of every image.

    Args:
        images: shape (n, height, width, 3), range [0, 1], at least 31 by 31; 64 by 64 ones have
            3 by 3 positions.
    """
    with torch.inference_mode():
        *_, last = _network().features(np.asarray(images, dtype=np.float64))
        return np.asarray(last.permute(0, 2, 3, 1).flatten(0, 2).double().numpy())


class RunningMoments:
    """Mean and covariance of rows that come in parts, summed about the first part's mean.

    Args:
        width: columns of a row.
    """

    def __init__(self, width: int) -> None:
        self._count, self._origin = 0, np.zeros(width)
        self._sum, self._products = np.zeros(width), np.zeros((width, width))

    def add(self, rows: Floats) -> None:
        """Add rows of shape (n, width)."""
        if not self._count:
            self._origin = rows.mean(axis=0)
        shifted = rows - self._origin
        self._count += len(rows)
        self._sum += shifted.sum(axis=0)
        self._products += shifted.T @ shifted

    def moments(self) -> tuple[Floats, Floats]:
        """Return mean and covariance (divided by the count less one) of all rows, at least two."""
        mean = self._sum / self._count
        scatter = self._products - self._count * np.outer(mean, mean)
        return self._origin + mean, scatter / (self._count - 1)


@cache
def _network() -> AlexNet:
    return AlexNet(torch.device("cpu"))

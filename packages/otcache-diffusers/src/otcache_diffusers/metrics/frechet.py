"""Fréchet distance of pictures to real ones."""

from __future__ import annotations

from functools import cached_property
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from otcache_core.contracts.comparison import SetMetric
from otcache_core.errors import OtcacheError, expected
from otcache_diffusers.metrics.alexnet import AlexNet
from otcache_diffusers.metrics.feature_moments import FeatureMoments
from otcache_diffusers.metrics.local_files import local_path
from otcache_diffusers.metrics.pairs import check_pictures
from otcache_diffusers.metrics.real_pictures import read_pictures

DEMO = "demo"
ADVICE = (
    "give a folder of pictures, an .npy or .npz array of them, a .safetensors of moments, or 'demo' for "
    "the data of the demo model."
)
Moments = NDArray[np.float64]


class Frechet(SetMetric):
    r"""Fréchet (Wasserstein-2) distance of two Gaussians fitted to deep features of pictures,

    .. math:: \| \mu - \mu_r \|^2 + \mathrm{tr}\, C + \mathrm{tr}\, C_r
              - 2\, \mathrm{tr} (C_r^{1/2} C\, C_r^{1/2})^{1/2},

    r for real. Features are those of
    :class:`~otcache_diffusers.metrics.feature_moments.FeatureMoments`: AlexNet's fifth rectified
    convolution, every position a sample, on the 16 leading principal directions of the real
    pictures, where :math:`C_r` is diagonal. The root's trace is the sum of the roots of a symmetric
    matrix's eigenvalues; those that rounding leaves below 0 count as 0, and no ridge is added.

    Not an FID: another network, another size, few pictures. Estimated from few pictures it is too
    large, by an amount that grows as they get fewer, so it compares sets of one size in one table
    and no more; show the full run's value beside it, which is not 0.

    References:
        Heusel, Ramsauer, Unterthiner, Nessler, Hochreiter: GANs trained by a two time-scale update
        rule converge to a local Nash equilibrium, 2017, https://arxiv.org/abs/1706.08500, section 3.
        Dowson, Landau: The Fréchet distance between multivariate normal distributions, 1982,
        https://doi.org/10.1016/0047-259X(82)90077-X.

    Args:
        path: real pictures, all of the size that is judged: a folder of them, an ``.npy`` or
            ``.npz`` array of shape (n, height, width, 3), a ``.safetensors`` of moments, or
            ``demo`` for the shipped moments of the demo model's data. Read on the first call.

    Raises:
        OtcacheError: if there is no such path.
    """

    name = "frechet"
    higher_is_better = False
    needs = "real pictures"

    def __init__(self, path: str | Path | None = None) -> None:
        where = _shipped() if path == DEMO else path
        self._path = local_path(where, "frechet: the real pictures", ADVICE)

    def __call__(self, images: NDArray[np.floating]) -> float:
        """The distance of these pictures to the real ones.

        Raises:
            OtcacheError: if there are fewer than 2, their size is not the real ones', or values
                are not floating point in [0, 1].
            FileError: if the real pictures cannot be read.
        """
        x = check_pictures(images, smallest=AlexNet.smallest)
        if len(x) < 2:
            raise OtcacheError(expected("images", len(x), "at least 2 for a Fréchet distance"))
        if x.shape[1:3] != self._real.size:
            advice = "a distance depends on the size: resize the real ones."
            raise OtcacheError(
                expected("images' size", x.shape[1:3], f"the real ones' {self._real.size}", advice)
            )
        return distance(*self._real.inside(x), self._real.variances)

    @cached_property
    def _real(self) -> FeatureMoments:
        if self._path.suffix == ".safetensors":
            return FeatureMoments.load(self._path)
        return FeatureMoments.of(read_pictures(self._path))


def distance(mean: Moments, covariance: Moments, variances: Moments) -> float:
    r"""Fréchet distance of a Gaussian to one of mean 0 and diagonal covariance.

    Args:
        mean: shape (d,).
        covariance: symmetric, no eigenvalue below 0, shape (d, d).
        variances: the other's diagonal, shape (d,).
    """
    roots = np.sqrt(variances)
    eigenvalues = np.linalg.eigvalsh(roots[:, None] * covariance * roots)
    shared = np.sqrt(np.maximum(eigenvalues, 0.0)).sum()
    return float(mean @ mean + np.trace(covariance) + variances.sum() - 2.0 * shared)


def _shipped() -> Path:
    return Path(str(files("otcache_diffusers") / "demo_model" / "real_moments.safetensors"))

"""Fréchet distance of pictures to real ones, on the features of the network that LPIPS ships."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import sqrtm

from otcache_diffusers.metrics.lpips import Lpips

ROOT = Path(__file__).resolve().parent.parent
DIRECTIONS = 16
REAL_SEED = 77_000


class Frechet:
    r"""Distance of two Gaussians fitted to deep features of pictures.

    .. math:: \| \mu - \mu_r \|^2 + \mathrm{tr}\left(C + C_r - 2 (C C_r)^{1/2}\right)

    Features: AlexNet's fifth rectified convolution (256 channels), every spatial position a sample, on
    the leading principal directions of the real pictures. Not an FID: other network, other size, few
    pictures; it compares methods of one table and no more.

    Args:
        real: pictures of the data, shape (n, height, width, 3) in [0, 1].

    References:
        Heusel and others: GANs trained by a two time-scale update rule, 2017, section 3.
    """

    def __init__(self, real: NDArray[np.floating]) -> None:
        self._network = Lpips()
        features = self._features(real)
        self._centre = features.mean(0)
        _, _, directions = np.linalg.svd(features - self._centre, full_matrices=False)
        self._directions = directions[:DIRECTIONS].T
        self._real = self._moments(features)

    def __call__(self, pictures: NDArray[np.floating]) -> float:
        """The distance of these pictures to the real ones."""
        (mean, cov), (real_mean, real_cov) = self._moments(self._features(pictures)), self._real
        root = np.real(sqrtm(cov @ real_cov))
        return float(np.sum((mean - real_mean) ** 2) + np.trace(cov + real_cov - 2 * root))

    def _features(self, pictures: NDArray[np.floating]) -> NDArray[np.float64]:
        found = []
        with torch.inference_mode():
            for at in range(0, len(pictures), 64):
                *_, last = self._network._features(pictures[at : at + 64])
                found.append(last.permute(0, 2, 3, 1).flatten(0, 2).double().numpy())
        return np.concatenate(found)

    def _moments(
        self, features: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        inside = (features - self._centre) @ self._directions
        return inside.mean(0), np.cov(inside.T)


def real_pictures(count: int, cache: Path) -> NDArray[np.float64]:
    """Pictures drawn as the demo model's training data were, from a seed that training never used.

    Needs the npm tarball that ``tools/train_demo_image.py`` reads; it is fetched into ``cache`` once.
    """
    sys.path.insert(0, str(ROOT / "tools"))
    from demo_image.autoencoder import picture_batches
    from demo_image.scenes import training_scenes
    from demo_image.sprites import load_sprites

    scenes = islice(training_scenes(REAL_SEED), count)
    drawn = torch.cat(list(picture_batches(scenes, load_sprites(cache), 64)))
    return (drawn.permute(0, 2, 3, 1).double().numpy() + 1) / 2

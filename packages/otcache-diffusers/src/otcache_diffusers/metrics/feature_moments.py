"""Mean and covariance of deep features of pictures, on their principal directions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from otcache_core.errors import FileError, OtcacheError, expected, shortened
from otcache_core.storage.array_files import array, load_arrays, save_arrays
from otcache_core.storage.files import bad_file
from otcache_diffusers.metrics.deep_features import (
    CHANNELS,
    NETWORK,
    RunningMoments,
    deep_features,
)

FORMAT, VERSION = "otcache-feature-moments", "1"
DIRECTIONS = 16
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class FeatureMoments:
    r"""A Gaussian fitted to the deep features of real pictures, on their principal directions.

    Features are the 256 channels of AlexNet's fifth rectified convolution, every spatial position of
    every picture one sample. With :math:`C = V \Lambda V^\top` their covariance, kept are the mean,
    the 16 columns of V of the largest variances, and these variances: on these directions the
    covariance is diagonal.

    Args:
        centre: mean of the features, shape (256,).
        directions: orthonormal columns V, shape (256, 16).
        variances: :math:`\Lambda`, decreasing, shape (16,).
        size: height and width of the pictures: features depend on it.
        count: pictures.

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
        """Measure pictures, given in batches of shape (n, height, width, 3) in [0, 1].

        Raises:
            OtcacheError: if there are fewer than 2 pictures.
        """
        count, sums = 0, RunningMoments(CHANNELS)
        size = (0, 0)
        for pictures in batches:
            count, size = count + len(pictures), (pictures.shape[1], pictures.shape[2])
            sums.add(deep_features(pictures))
        if count < 2:
            raise OtcacheError(expected("real pictures", count, "at least 2"))
        centre, covariance = sums.moments()
        variances, directions = np.linalg.eigh(covariance)
        largest = np.argsort(-variances)[:DIRECTIONS]
        kept = np.maximum(variances[largest], 0.0)
        return cls(centre, directions[:, largest], kept, size, count)

    def inside(self, pictures: NDArray[np.floating]) -> tuple[Floats, Floats]:
        """Mean (less the centre) and covariance of other pictures' features on the directions."""
        sums = RunningMoments(DIRECTIONS)
        for at in range(0, len(pictures), 32):
            sums.add((deep_features(pictures[at : at + 32]) - self.centre) @ self.directions)
        return sums.moments()

    def save(self, path: str | Path) -> None:
        """Write safetensors of float32, 18 kB.

        Raises:
            FileError: if it cannot be written.
        """
        names = ("centre", "directions", "variances")
        arrays = {name: getattr(self, name).astype(np.float32) for name in names}
        size = f"{self.size[0]}x{self.size[1]}"
        facts = {"format": FORMAT, "version": VERSION, "network": NETWORK}
        save_arrays(path, arrays, {**facts, "size": size, "count": str(self.count)})

    @classmethod
    def load(cls, path: str | Path) -> FeatureMoments:
        """Read what :meth:`save` wrote.

        Raises:
            FileError: if the file is damaged, another format or of other features.
        """
        arrays, facts = load_arrays(path)
        wanted = {"format": FORMAT, "version": VERSION, "network": NETWORK}
        for key, value in wanted.items():
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

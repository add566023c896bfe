"""Measure real images for the Fréchet distance of the demo model, and write their moments.

    python tools/demo_moments.py --cache-dir DIR [--out FILE] [--check]

The images are drawn as the model's training data were, from a seed that training never used: 512
scenes with the sprites of the npm tarball that `tools/train_demo_image.py` reads, too (fetched into
`--cache-dir` once). What ships are the mean and the principal directions of their features, 18 kB
from which no image can be restored. `--check` writes nothing and compares with the shipped file.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from demo_models.image_model import image_batches
from demo_models.scenes import training_scenes
from demo_models.sprites import load_sprites
from numpy.typing import NDArray

from otcache_diffusers.demo import folder
from otcache_diffusers.metrics.frechet import FeatureMoments

IMAGES = 512
SEED = 77_000
NAME = "real_moments.safetensors"


def real_images(cache: Path) -> Iterator[NDArray[np.float64]]:
    """Yield batches of images in [0, 1], channels last."""
    scenes = islice(training_scenes(SEED), IMAGES)
    for batch in image_batches(scenes, load_sprites(cache), 64):
        yield (batch.permute(0, 2, 3, 1).double().numpy() + 1.0) / 2.0


def main() -> None:
    """Draw, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cache-dir", type=Path, required=True, help="folder of the npm tarball")
    parser.add_argument("--out", type=Path, default=folder() / NAME)
    parser.add_argument("--check", action="store_true", help="compare with the file and stop")
    options = parser.parse_args()
    moments = FeatureMoments.of(real_images(options.cache_dir))
    if options.check:
        kept = FeatureMoments.load(options.out)
        near = np.allclose(kept.variances, moments.variances, rtol=1e-4)
        raise SystemExit(0 if near else f"{options.out} holds other moments")
    moments.save(options.out)
    shares = moments.variances[[0, -1]]
    print(
        f"{options.out}: {options.out.stat().st_size} bytes, variances {shares[0]:.3f} to {shares[1]:.3f}"
    )


if __name__ == "__main__":
    main()

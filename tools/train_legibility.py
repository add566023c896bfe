"""Train and measure the glyph reader of otcache-diffusers, on a CPU, from renderings alone.

    python tools/train_legibility.py --cache-dir DIR [--out FILE] [--misread sheet.png]

Scenes are composed and rendered as for the demo image model (`demo_models`), half of them passed
through its autoencoder with noise on the latents, and distorted anew in every batch. About ten
minutes on one core. Then the written weights are measured, as docs/legibility.md shows;
`--measure-only` does no more than that.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import torch
from demo_models.sheet import enlarged, make_sheet
from demo_models.sprites import load_sprites
from diffusers import FluxPipeline
from legibility.images import Pool, labelled_scenes, reconstructed, render_pool
from legibility.measuring import pipeline_rows, render_rows
from legibility.training import Plan, save, train
from PIL import Image

from otcache_diffusers import demo
from otcache_diffusers.metrics.legible import GlyphReader

ROOT = Path(__file__).resolve().parent.parent
OUT = "packages/otcache-diffusers/src/otcache_diffusers/metrics/weights/glyphs.safetensors"


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else None)
    parser.add_argument("--cache-dir", type=Path, required=True, help="folder of the npm tarball")
    parser.add_argument("--out", type=Path, default=ROOT / OUT, help="file for the weights")
    parser.add_argument("--misread", type=Path, help="image of the runs that were misread")
    parser.add_argument("--scenes", type=int, default=24_000, help="images to train on")
    parser.add_argument("--steps", type=int, default=6_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--measure-only", action="store_true", help="train nothing")
    return parser.parse_args()


def main() -> None:
    """Train, write, and print the table of accuracies."""
    arguments = parse_arguments()
    torch.set_num_threads(1)
    sprites, pipeline = load_sprites(arguments.cache_dir), demo.load()
    if not arguments.measure_only:
        pool = build_pool(arguments, sprites, pipeline)
        save(train(pool, Plan(arguments.steps, arguments.seed)), arguments.out)
    measure(arguments, sprites, pipeline)


def build_pool(
    arguments: argparse.Namespace, sprites: Mapping[str, Image.Image], pipeline: FluxPipeline
) -> Pool:
    """Render the training images, and pass the first half through the autoencoder."""
    pool = render_pool(labelled_scenes(arguments.seed + 1), arguments.scenes, sprites)
    half = len(pool.labels) // 2
    generator = torch.Generator().manual_seed(arguments.seed)
    first = Pool(pool.images[:half], pool.labels[:half])
    first = reconstructed(pipeline.vae, first, generator)
    images = torch.cat((first.images, pool.images[half:]))
    return Pool(images, torch.cat((first.labels, pool.labels[half:])))


def measure(
    arguments: argparse.Namespace, sprites: Mapping[str, Image.Image], pipeline: FluxPipeline
) -> None:
    """Print the table; draw the runs that were misread."""
    reader = GlyphReader(arguments.out)
    prompts = [prompt for role in demo.prompts().values() for prompt in role]
    rows = render_rows(reader, sprites, pipeline.vae)
    more, misread = pipeline_rows(reader, pipeline, prompts)
    print("| images | right | share |\n|---|--:|--:|")
    print("\n".join(map(str, rows + more)))
    for case in misread:
        print("misread:", case.caption)
    if arguments.misread and misread:
        items = [(case.caption, enlarged(case.image)) for case in misread]
        make_sheet([("Not read as asked, or not as the full run", items)]).save(arguments.misread)


if __name__ == "__main__":
    main()

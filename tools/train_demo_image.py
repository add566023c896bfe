"""Train and export the demo picture model of otcache-diffusers, on a CPU, from registry data alone.

    python tools/train_demo_image.py --work-dir DIR --cache-dir DIR --out FOLDER --sheet sheet.png

Two trainings run one after the other, each for a time of its own (`--vae-minutes`,
`--transformer-minutes`) with a cosine schedule over that time. Both write checkpoints to
`--work-dir` and go on from them when the script is started again. The folder written to `--out` is
read by `FluxPipeline.from_pretrained`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

import torch
from demo_image.autoencoder import (
    picture_batches,
    psnr,
    set_scale,
    train_autoencoder,
)
from demo_image.prompts import make_prompts
from demo_image.scenes import training_scenes
from demo_image.sheet import make_sheet, sample
from demo_image.sprites import load_sprites
from demo_image.transformer import Trainer, build_pool, new_pipeline, new_transformer
from diffusers import AutoencoderKL, FluxPipeline
from PIL import Image

SHEET_EVERY = 1000
CHECK_SEED = 900


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--work-dir", type=Path, required=True, help="checkpoints and latents")
    parser.add_argument("--cache-dir", type=Path, required=True, help="folder of the npm tarball")
    parser.add_argument("--out", type=Path, help="folder for the exported pipeline")
    parser.add_argument("--sheet", type=Path, help="picture of samples, made at the end")
    parser.add_argument("--vae-minutes", type=float, default=13.0)
    parser.add_argument("--transformer-minutes", type=float, default=75.0)
    parser.add_argument("--scenes", type=int, default=80_000, help="size of the training pool")
    parser.add_argument("--compile", action="store_true", help="compile the transformer's blocks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--export-only", action="store_true", help="export the newest checkpoints and stop"
    )
    return parser.parse_args()


def prepare_autoencoder(
    arguments: argparse.Namespace, sprites: Mapping[str, Image.Image]
) -> AutoencoderKL:
    """Train or load the autoencoder, set its scale, and print its PSNR on unseen scenes."""
    minutes = 0.0 if arguments.export_only else arguments.vae_minutes
    vae = train_autoencoder(sprites, arguments.work_dir / "vae.pt", minutes, arguments.seed)
    scenes = islice(training_scenes(CHECK_SEED), 512)
    pictures = torch.cat(list(picture_batches(scenes, sprites, 64)))
    torch.manual_seed(arguments.seed)
    scale, shift = set_scale(vae, pictures, arguments.work_dir / "scale.json")
    print(f"VAE: PSNR {psnr(vae, pictures):.2f} dB, factor {scale}, shift {shift}", flush=True)
    return vae


def draw_sheet(pipeline: FluxPipeline, path: Path) -> None:
    """Write a sheet of the held-out and the novel prompts, 30 steps each."""
    prompts = make_prompts()
    titles = {
        "heldout": "Prompts held out from calibration",
        "novel": "Novel: compositions never trained",
    }
    rows = []
    for name, title in titles.items():
        texts = [prompt["text"] for prompt in prompts[name]]
        rows.append((title, list(zip(texts, sample(pipeline, texts), strict=True))))
    make_sheet(rows).quantize(192).save(path, optimize=True)


def export(pipeline: FluxPipeline, out: Path) -> None:
    """Write the pipeline in float16, and its prompts, to `out`."""
    path = out / "prompts.json"
    pipeline.to(torch.float16).save_pretrained(out)
    path.write_text(json.dumps(make_prompts(), indent=1) + "\n", encoding="utf-8")
    pipeline.to(torch.float32)


def main() -> None:
    """Train the autoencoder, then the transformer, then export."""
    arguments = parse_arguments()
    arguments.work_dir.mkdir(parents=True, exist_ok=True)
    sprites = load_sprites(arguments.cache_dir)
    vae = prepare_autoencoder(arguments, sprites)
    pipeline = new_pipeline(vae, new_transformer(arguments.seed))
    checkpoint = arguments.work_dir / "transformer.pt"
    if arguments.export_only:
        state = torch.load(checkpoint, weights_only=True)
        pipeline.transformer.load_state_dict(state["average"])
        print(f"Exporting step {state['step']}, loss {sum(state['losses'][1:]) / 199:.4f}")
    else:
        train(arguments, pipeline, sprites, checkpoint)
    if arguments.out:
        export(pipeline, arguments.out)
    if arguments.sheet:
        draw_sheet(pipeline, arguments.sheet)


def train(
    arguments: argparse.Namespace,
    pipeline: FluxPipeline,
    sprites: Mapping[str, Image.Image],
    checkpoint: Path,
) -> None:
    """Train the transformer inside `pipeline`, with a sheet every thousand steps."""
    pool = build_pool(pipeline, sprites, arguments.work_dir, arguments.scenes, arguments.seed + 1)
    trainer = Trainer(pool, checkpoint, arguments.transformer_minutes, arguments.seed)
    pipeline.transformer = trainer.average.eval()
    if arguments.compile:
        trainer.model.compile_repeated_blocks()

    def on_step(current: Trainer) -> None:
        if current.step % SHEET_EVERY == 0:
            draw_sheet(pipeline, arguments.work_dir / f"sheet-{current.step:06d}.png")

    trainer.run(on_step)
    print(f"Trained {trainer.step} steps.", flush=True)


if __name__ == "__main__":
    main()

"""Train and export the demo clip model of otcache-video, on a CPU, from registry data alone.

    python tools/train_demo_video.py --work-dir DIR --cache-dir DIR --out FOLDER --sheet sheet.png

Two trainings run one after the other, each for a time of its own (`--vae-minutes`,
`--transformer-minutes`) with a cosine schedule over that time. Both write checkpoints to
`--work-dir` and go on from them when the script is started again. The folder written to `--out` is
read by `WanPipeline.from_pretrained`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

import torch
from demo_image.sprites import load_sprites
from demo_video.autoencoder import clip_batches, psnr, set_scale, train_autoencoder
from demo_video.prompts import make_prompts
from demo_video.scenes import training_clips
from demo_video.sheet import draw_sheet
from demo_video.transformer import Trainer, build_pool, new_pipeline, new_transformer
from diffusers import AutoencoderKLWan, WanPipeline
from PIL import Image

SHEET_EVERY = 500
CHECK_SEED = 900


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--work-dir", type=Path, required=True, help="checkpoints and latents")
    parser.add_argument("--cache-dir", type=Path, required=True, help="folder of the npm tarball")
    parser.add_argument("--out", type=Path, help="folder for the exported pipeline")
    parser.add_argument("--sheet", type=Path, help="picture of samples, made at the end")
    parser.add_argument("--vae-minutes", type=float, default=22.0)
    parser.add_argument("--transformer-minutes", type=float, default=50.0)
    parser.add_argument("--clips", type=int, default=8_000, help="size of the training pool")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--export-only", action="store_true", help="export the newest checkpoints and stop"
    )
    return parser.parse_args()


def prepare_autoencoder(
    arguments: argparse.Namespace, sprites: Mapping[str, Image.Image]
) -> AutoencoderKLWan:
    """Train or load the autoencoder, set its scale, and print its PSNR on unseen clips."""
    minutes = 0.0 if arguments.export_only else arguments.vae_minutes
    vae = train_autoencoder(sprites, arguments.work_dir / "vae.pt", minutes, arguments.seed)
    clips = torch.cat(list(clip_batches(islice(training_clips(CHECK_SEED), 96), sprites, 32)))
    set_scale(vae, clips)
    print(f"VAE: PSNR {psnr(vae, clips):.2f} dB on unseen clips", flush=True)
    return vae


def export(pipeline: WanPipeline, out: Path) -> None:
    """Write the pipeline in float16, and its prompts, to `out`."""
    pipeline.to(torch.float16).save_pretrained(out)
    text = json.dumps(make_prompts(), indent=1) + "\n"
    (out / "prompts.json").write_text(text, encoding="utf-8")
    pipeline.to(torch.float32)


def main() -> None:
    """Train the autoencoder, then the transformer, then export."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    arguments.work_dir.mkdir(parents=True, exist_ok=True)
    sprites = load_sprites(arguments.cache_dir)
    vae = prepare_autoencoder(arguments, sprites)
    pipeline = new_pipeline(vae, new_transformer(arguments.seed))
    checkpoint = arguments.work_dir / "transformer.pt"
    if not arguments.export_only:
        train(arguments, pipeline, sprites, checkpoint)
    elif checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        pipeline.transformer.load_state_dict(state["average"])
        print(f"Exporting step {state['step']}, loss {sum(state['losses'][1:]) / 199:.4f}")
    else:
        print("No transformer checkpoint: exporting an untrained transformer.")
    if arguments.out:
        export(pipeline, arguments.out)
    if arguments.sheet:
        draw_sheet(pipeline, arguments.sheet, ("heldout", "novel"))


def train(
    arguments: argparse.Namespace,
    pipeline: WanPipeline,
    sprites: Mapping[str, Image.Image],
    checkpoint: Path,
) -> None:
    """Train the transformer inside `pipeline`, with a sheet of novel prompts now and then."""
    pool = build_pool(pipeline, sprites, arguments.work_dir, arguments.clips, arguments.seed + 1)
    trainer = Trainer(pool, checkpoint, arguments.transformer_minutes, arguments.seed)
    pipeline.transformer = trainer.average.eval()

    def on_step(current: Trainer) -> None:
        if current.step % SHEET_EVERY == 0:
            path = arguments.work_dir / f"sheet-{current.step:06d}.png"
            draw_sheet(pipeline, path, ("novel",))

    trainer.run(on_step)
    print(f"Trained {trainer.step} steps.", flush=True)


if __name__ == "__main__":
    main()

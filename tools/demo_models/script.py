"""What both training scripts do: read the command line, train, export, and draw a sheet."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from .prompts import make_prompts
from .sprites import load_sprites
from .training import DemoModel, Trainer, build_pool, psnr, train_autoencoder

CHECK_SEED = 900


def parse_arguments(model: DemoModel, description: str) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--work-dir", type=Path, required=True, help="checkpoints and latents")
    parser.add_argument("--cache-dir", type=Path, required=True, help="folder of the npm tarball")
    parser.add_argument("--out", type=Path, help="folder for the exported pipeline")
    parser.add_argument("--sheet", type=Path, help="image of samples, made at the end")
    parser.add_argument("--vae-minutes", type=float, default=model.minutes[0])
    parser.add_argument("--transformer-minutes", type=float, default=model.minutes[1])
    parser.add_argument("--scenes", type=int, default=model.pool_size, help="training pool's size")
    parser.add_argument("--compile", action="store_true", help="compile the transformer's blocks")
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--export-only", action="store_true", help="export the newest checkpoints and stop"
    )
    return parser.parse_args()


def main(model: DemoModel, description: str) -> None:
    """Train the autoencoder, then the transformer, then export."""
    arguments = parse_arguments(model, description)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    arguments.work_dir.mkdir(parents=True, exist_ok=True)
    sprites = load_sprites(arguments.cache_dir)
    vae = prepare_autoencoder(model, arguments, sprites)
    pipeline = model.new_pipeline(vae, model.new_transformer(arguments.seed))
    checkpoint = arguments.work_dir / "transformer.pt"
    if not arguments.export_only:
        train(model, arguments, pipeline, sprites, checkpoint)
    else:
        state = torch.load(checkpoint, weights_only=True)
        pipeline.transformer.load_state_dict(state["average"])
        print(f"Exporting step {state['step']}, loss {sum(state['losses'][1:]) / 199:.4f}")
    if arguments.out:
        export(model, pipeline, arguments.out)
    if arguments.sheet:
        model.draw_sheet(pipeline, arguments.sheet, ("heldout", "novel"))


def prepare_autoencoder(
    model: DemoModel, arguments: argparse.Namespace, sprites: Mapping[str, Image.Image]
) -> Any:
    """Train or load the autoencoder, set its scale, and print its PSNR on unseen scenes."""
    minutes = 0.0 if arguments.export_only else arguments.vae_minutes
    path = arguments.work_dir / "vae.pt"
    vae = train_autoencoder(model, sprites, path, minutes, arguments.seed)
    scenes = islice(model.scenes.training_scenes(CHECK_SEED), model.checked)
    unseen = torch.cat(list(model.batches(scenes, sprites, model.chunk)))
    torch.manual_seed(arguments.seed)
    model.set_scale(vae, unseen, arguments.work_dir / "scale.json")
    print(f"VAE: PSNR {psnr(vae, unseen):.2f} dB on unseen scenes", flush=True)
    return vae


def train(
    model: DemoModel,
    arguments: argparse.Namespace,
    pipeline: Any,
    sprites: Mapping[str, Image.Image],
    checkpoint: Path,
) -> None:
    """Train the transformer inside `pipeline`, with a sheet of novel prompts now and then."""
    folder, seed = arguments.work_dir, arguments.seed
    pool = build_pool(model, pipeline, sprites, folder, arguments.scenes, seed + 1)
    trainer = Trainer(model, pool, checkpoint, arguments.transformer_minutes, seed)
    pipeline.transformer = trainer.average.eval()
    if arguments.compile:
        trainer.transformer.compile_repeated_blocks()

    def on_step(step: int) -> None:
        if step % model.sheet_every == 0:
            model.draw_sheet(pipeline, folder / f"sheet-{step:06d}.png", ("novel",))

    trainer.run(on_step)
    print(f"Trained {trainer.step} steps.", flush=True)


def export(model: DemoModel, pipeline: Any, out: Path) -> None:
    """Write the pipeline in float16, and its prompts, to `out`."""
    pipeline.to(torch.float16).save_pretrained(out)
    text = json.dumps(make_prompts(model.scenes), indent=1) + "\n"
    (out / "prompts.json").write_text(text, encoding="utf-8")
    pipeline.to(torch.float32)

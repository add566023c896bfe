"""The image demo for engines without torch: its networks as ONNX, a few runs' inputs, a playback table.

``python examples/playback_export.py FOLDER [POLICY]`` writes into the folder

* ``denoiser.onnx`` and ``decoder.onnx``: the transformer and the VAE's decoder, at the demo's size;
* ``table.json``: the playback table of 10 of 30 steps (``--budget``);
* ``demo.json``: noise levels, guidance scale, and for each prompt the inputs and what torch makes of them;
* ``policy.otcache``, if POLICY is not given and the folder has none: the demo is calibrated on four prompts.

Needs ``otcache[diffusers]``, ``onnx`` and
``onnxscript``; those who read the folder, examples/playback_onnx.py and examples/browser, need none of these.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import otcache
from otcache_diffusers import demo

STEPS = 30
#: Pairs of runs that are timed, of every prompt.
ROUNDS = 3
BRANCHES = ("cond", "uncond")


class Denoiser(nn.Module):
    """The transformer of a FluxPipeline, with the positions of image and text as constants.

    Args:
        transformer: of the pipeline.
        image_ids: positions of the latent's tokens.
        text_ids: positions of the text's tokens.
    """

    def __init__(
        self, transformer: nn.Module, image_ids: torch.Tensor, text_ids: torch.Tensor
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.register_buffer("image_ids", image_ids)
        self.register_buffer("text_ids", text_ids)

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        pooled_projections: torch.Tensor,
        timestep: torch.Tensor,
    ) -> torch.Tensor:
        """Return the prediction at a noise level (``timestep``, 1 to 0)."""
        made: torch.Tensor = self.transformer(
            hidden_states=hidden_states,
            encoder_hidden_states=encoder_hidden_states,
            pooled_projections=pooled_projections,
            timestep=timestep,
            img_ids=self.image_ids,
            txt_ids=self.text_ids,
            return_dict=False,
        )[0]
        return made


class Decoder(nn.Module):
    """From the final latent of a FluxPipeline to the image, shape (1, 3, height, width), 0 to 1."""

    def __init__(self, pipe: Any) -> None:
        super().__init__()
        self.vae = pipe.vae
        self._unpack = pipe._unpack_latents
        self._factor = pipe.vae_scale_factor

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        """Decode one latent."""
        size, config = (demo.CALL["height"], demo.CALL["width"]), self.vae.config
        unpacked = self._unpack(latent, *size, self._factor)
        scaled = unpacked / config.scaling_factor + config.shift_factor
        image: torch.Tensor = self.vae.decode(scaled, return_dict=False)[0]
        return (image / 2 + 0.5).clamp(0, 1)


def export(network: nn.Module, inputs: dict[str, torch.Tensor], output: str, path: Path) -> None:
    """Write a network as ONNX, for inputs of these names and shapes."""
    torch.onnx.export(
        network.eval(),
        kwargs=inputs,
        f=path,
        input_names=list(inputs),
        output_names=[output],
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def inputs_of(pipe: Any, prompt: str, seed: int) -> dict[str, Any]:
    """Return the noise of a run, and what each branch is given of the text, by name."""
    noise, image_ids = pipe.prepare_latents(
        *(1, pipe.transformer.config.in_channels // 4, demo.CALL["height"], demo.CALL["width"]),
        *(torch.float32, "cpu", torch.Generator().manual_seed(seed)),
    )
    made: dict[str, Any] = {"noise": noise, "image_ids": image_ids}
    for branch, text in zip(BRANCHES, (prompt, demo.CALL["negative_prompt"]), strict=True):
        length = demo.CALL["max_sequence_length"]
        states, pooled, text_ids = pipe.encode_prompt(text, None, max_sequence_length=length)
        made[branch] = {"encoder_hidden_states": states, "pooled_projections": pooled}
        made["text_ids"] = text_ids
    return made


def computed_steps(pipe: Any, run: Callable[[], Any], cond: torch.Tensor) -> dict[str, list[int]]:
    """Run, and return the steps at which the transformer was really called, by branch."""
    made: dict[str, list[int]] = {branch: [] for branch in BRANCHES}

    def note(_: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        made[BRANCHES[not torch.equal(given[0], cond)]].append(pipe.scheduler.step_index or 0)

    with pipe.transformer.context_embedder.register_forward_pre_hook(note):
        run()
    return made


def torch_runs(pipe: Any, schedule: otcache.Schedule, prompt: str, seed: int) -> dict[str, Any]:
    """Make the inputs of a run, and run them in full and with steps skipped."""

    def run() -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        call = {**demo.CALL, "num_inference_steps": STEPS, "output_type": "latent"}
        latent: torch.Tensor = pipe(prompt, generator=generator, **call)[0]
        return latent

    def timed() -> tuple[torch.Tensor, float]:
        begin = time.perf_counter()
        return run(), time.perf_counter() - begin

    inputs, seconds = inputs_of(pipe, prompt, seed), []
    for _ in range(ROUNDS):
        full, full_seconds = timed()
        with otcache.accelerate(pipe, schedule):
            fast, fast_seconds = timed()
        seconds.append((full_seconds, fast_seconds))
    with otcache.accelerate(pipe, schedule):
        computed = computed_steps(pipe, run, inputs["cond"]["encoder_hidden_states"])
    return {
        "prompt": prompt,
        "noise": inputs["noise"],
        **{branch: inputs[branch] for branch in BRANCHES},
        "torch": {"full": full, "fast": fast, "computed": computed, "seconds": seconds},
    }


def calibrated(pipe: Any, budget: int) -> otcache.Policy:
    """Calibrate on four prompts, for one budget."""
    recipe = otcache.Recipe(ladder=(budget,), anchor_trials=4, climb_trials=2, gap_runs=0.0)
    prompts = [text for text, _ in demo.prompts()["calibration"][:4]]
    return otcache.plan(otcache.calibrate(pipe, prompts, STEPS, recipe=recipe, **demo.CALL))


def write(folder: Path, pipe: Any, policy: otcache.Policy, budget: int, count: int = 4) -> None:
    """Write what an engine needs, with the runs of as many held-out prompts."""
    inputs = inputs_of(pipe, "", 0)
    network = Denoiser(pipe.transformer, inputs["image_ids"], inputs["text_ids"])
    named = {"hidden_states": inputs["noise"], **inputs["cond"], "timestep": torch.ones(1)}
    export(network, named, "prediction", folder / "denoiser.onnx")
    export(Decoder(pipe), {"latent": inputs["noise"]}, "image", folder / "decoder.onnx")
    policy.export(budget).save(folder / "table.json")
    prompts = [text for text, _ in demo.prompts()["heldout"][:count]]
    schedule = policy.schedule(budget)
    runs = [torch_runs(pipe, schedule, text, 100 + i) for i, text in enumerate(prompts)]
    facts = {
        "grid": pipe.scheduler.sigmas,
        "scale": demo.CALL["true_cfg_scale"],
        "shapes": {name: list(value.shape) for name, value in named.items()},
        "runs": runs,
    }
    text = json.dumps(facts, default=lambda tensor: tensor.flatten().tolist())
    (folder / "demo.json").write_text(text + "\n", encoding="utf-8")


def main() -> None:
    """Write the folder, and print what torch took."""
    parser = argparse.ArgumentParser(description="Write the image demo for engines without torch.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("policy", type=Path, nargs="?", help="of the demo, of 30 steps")
    parser.add_argument("--budget", type=int, default=10)
    given = parser.parse_args()
    torch.set_num_threads(1)
    pipe = demo.load()
    given.folder.mkdir(parents=True, exist_ok=True)
    path = given.policy or given.folder / "policy.otcache"
    if not path.exists():
        calibrated(pipe, given.budget).save(path)
    with torch.no_grad():
        write(given.folder, pipe, otcache.load_policy(path), given.budget)
    print(f"written: {given.folder}")


if __name__ == "__main__":
    main()

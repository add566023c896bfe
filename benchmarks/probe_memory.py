"""Memory that recording a 720p video takes: ``python benchmarks/probe_memory.py OUT [--steps 50]``.

A real WanPipeline on latents of the true shape, 1 x 16 x 33 x 90 x 160 (129 frames of 720 x 1280), with a
stand-in for the denoiser that returns cheap outputs. Every row is a process of its own; its peak resident
memory (VmHWM) is compared with that of the bare pipeline. OUT/memory.json has the figures, OUT/memory.md is
the table. Ends with status 1 if the probe takes more than 3 latents + 256 MB.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

FRAMES, HEIGHT, WIDTH = 129, 720, 1280
LATENTS_ALLOWED, MB_ALLOWED = 3, 256
SAMPLERS = ("euler", "unipc")


def video_pipeline(sampler: str) -> Any:
    """Return a WanPipeline without text encoder or VAE, and with next to no denoiser."""
    import torch
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        UniPCMultistepScheduler,
        WanPipeline,
        WanTransformer3DModel,
    )

    class CheapDenoiser(WanTransformer3DModel):  # type: ignore[misc]  # theirs is untyped
        """Outputs of the right shape that depend on state, time and branch, for one temporary."""

        def forward(
            self,
            hidden_states: torch.Tensor,
            timestep: torch.Tensor,
            encoder_hidden_states: torch.Tensor,
            **_: Any,
        ) -> tuple[torch.Tensor]:
            t = float(timestep[0]) / 1000
            text = float(encoder_hidden_states.mean())
            return (hidden_states * (0.9 - 0.3 * t + 0.01 * text) + 0.1 * text * t,)

    class TextlessPipeline(WanPipeline):  # type: ignore[misc]  # theirs is untyped
        def encode_prompt(self, prompt: Any, **_: Any) -> tuple[torch.Tensor, torch.Tensor]:
            lengths = [float(len(text) % 7) for text in prompt]
            embeds = torch.tensor(lengths)[:, None, None].expand(-1, 4, 8)
            return embeds, torch.zeros_like(embeds)

    denoiser = CheapDenoiser(
        num_attention_heads=1,
        attention_head_dim=12,
        num_layers=1,
        ffn_dim=8,
        text_dim=8,
        freq_dim=8,
    )
    schedulers = {
        "euler": lambda: FlowMatchEulerDiscreteScheduler(shift=5.0),
        "unipc": lambda: UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0
        ),
    }
    pipe = TextlessPipeline(None, None, None, schedulers[sampler](), denoiser)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def peak_mb() -> float:
    """Return the most resident memory this process ever had, in MB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


def _digest(latents: Any) -> str:
    return hashlib.sha256(memoryview(latents).cast("B")).hexdigest()[:16]


def _bare(pipe: Any, call: dict[str, Any], num_steps: int, folder: Path) -> str:
    import torch

    generator = [torch.Generator("cpu").manual_seed(0)]
    latents = pipe(
        prompt=["a walk"],
        num_inference_steps=num_steps,
        generator=generator,
        output_type="latent",
        return_dict=False,
        **call,
    )[0]
    return _digest(latents.numpy().reshape(-1))


def _recorded(pipe: Any, call: dict[str, Any], num_steps: int, *keep: Any) -> list[Any]:
    from otcache_core.contracts import SampleRequest
    from otcache_core.storage.recordings import RecordingStorage
    from otcache_diffusers.recording.probe import TorchProbe

    request = SampleRequest(("a walk",), (0,), num_steps, call, 1, RecordingStorage(*keep))
    return list(TorchProbe().record(pipe, request))


def _probe(pipe: Any, call: dict[str, Any], num_steps: int, folder: Path) -> str:
    return _digest(_recorded(pipe, call, num_steps, 0, folder)[0].states[-1])


def _in_memory(pipe: Any, call: dict[str, Any], num_steps: int, folder: Path) -> str:
    return _digest(_recorded(pipe, call, num_steps, 2**40)[0].states[-1])


def _sketch(pipe: Any, call: dict[str, Any], num_steps: int, folder: Path) -> str:
    _recorded(pipe, call, num_steps, 0, folder, 2**16)
    return ""


def _costs(pipe: Any, call: dict[str, Any], num_steps: int, folder: Path) -> str:
    from otcache_core.identification import identify
    from otcache_core.plugins import Registry
    from otcache_core.storage.recordings import inner_products

    runs = _recorded(pipe, call, num_steps, 0, folder)
    for name in ("local", "gram", "mean-velocity"):
        Registry().create("cost_models", name).measure(runs)
    inner_products(runs[0].outputs)
    identify(runs)
    return _digest(runs[0].states[-1])


def _calibrate(pipe: Any, call: dict[str, Any], num_steps: int, folder: Path) -> str:
    import otcache

    recipe = otcache.Recipe(
        anchor_trials=4, climb_trials=2, cost_samples=1, batch_size=1, ladder=(3, 5)
    )
    found = otcache.calibrate(
        pipe, ["a walk"], num_steps, recipe=recipe, directory=folder / "made", **call
    )
    return hashlib.sha256(repr(found.ladder).encode()).hexdigest()[:16]


#: By the name of a row: what it says, and what runs.
RUNS: dict[str, tuple[str, Callable[[Any, dict[str, Any], int, Path], str]]] = {
    "bare": ("the pipeline alone", _bare),
    "probe": ("the probe (`TorchProbe.record`), to the disk", _probe),
    "costs": ("the probe, then `local`, `gram`, `mean-velocity`, H and the recurrence", _costs),
    "sketch": ("the probe, a sketch of 65,536 coordinates", _sketch),
    "in memory": ("the probe with all in memory", _in_memory),
    "calibrate": ("`otcache.calibrate`", _calibrate),
}


def alone(arguments: argparse.Namespace) -> None:
    """One row, in this process: print its figures."""
    import torch

    torch.set_num_threads(1)
    call = {"num_frames": FRAMES, "height": HEIGHT, "width": WIDTH, "guidance_scale": 3.0}
    pipe = video_pipeline(arguments.sampler)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        digest = RUNS[arguments.way][1](pipe, call, arguments.steps, arguments.out)
    notices = [str(one.message) for one in caught if one.category.__name__ == "OtcacheNotice"]
    print(json.dumps({"peak_mb": peak_mb(), "digest": digest, "notices": notices}))


def in_a_process(arguments: argparse.Namespace, way: str, sampler: str) -> dict[str, Any]:
    """One row, in a process of its own."""
    command = [sys.executable, __file__, str(arguments.out), "--way", way, "--sampler", sampler]
    command += ["--steps", str(arguments.steps)]
    # What is freed goes back to the system at once, so that a peak is of tensors, not of the allocator.
    plain = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**24)}
    ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=plain)
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return {"way": way, "sampler": sampler, **found}


def table(rows: list[dict[str, Any]], latent_mb: float, arguments: argparse.Namespace) -> str:
    """Return the figures as markdown."""
    bare = {row["sampler"]: row for row in rows if row["way"] == "bare"}
    lines = [
        f"N = {arguments.steps}, guidance, one sample; a latent takes {latent_mb:.1f} MB, states and "
        f"outputs of the run {(2 * arguments.steps + 1) * latent_mb / 1000:.2f} GB.",
        "",
        "| sampler | | peak resident | over the bare run | in latents | same result bit for bit |",
        "|---|---|--:|--:|--:|---|",
    ]
    for row in rows:
        over = row["peak_mb"] - bare[row["sampler"]]["peak_mb"]
        same = {bare[row["sampler"]]["digest"]: "yes", "": "-"}.get(row["digest"], "**no**")
        same = "-" if row["way"] in ("bare", "calibrate") else same
        figures = (
            ("-", "-") if row["way"] == "bare" else (f"{over:+.0f} MB", f"{over / latent_mb:.1f}")
        )
        cells = (row["sampler"], RUNS[row["way"]][0], f"{row['peak_mb']:.0f} MB", *figures, same)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def main() -> int:
    """Measure every row, write, check; 0 if the bound is kept."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=50)
    rows = ["bare", "probe", "costs", "sketch"]
    parser.add_argument("--ways", nargs="+", choices=RUNS, default=rows)
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=list(SAMPLERS))
    parser.add_argument("--way", choices=RUNS, help="this row alone, in this process")
    parser.add_argument("--sampler", choices=SAMPLERS, default="euler")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.way is not None:
        alone(arguments)
        return 0
    latent_mb = 4 * 16 * ((FRAMES - 1) // 4 + 1) * (HEIGHT // 8) * (WIDTH // 8) / 1e6
    rows = []
    for sampler in arguments.samplers:
        rows += [in_a_process(arguments, way, sampler) for way in arguments.ways]
    facts = {"latent_mb": latent_mb, "num_steps": arguments.steps, "rows": rows}
    (arguments.out / "memory.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    text = table(rows, latent_mb, arguments)
    (arguments.out / "memory.md").write_text(text, encoding="utf-8")
    print(text)
    bare = {row["sampler"]: row["peak_mb"] for row in rows if row["way"] == "bare"}
    allowed = LATENTS_ALLOWED * latent_mb + MB_ALLOWED
    over = [r["peak_mb"] - bare[r["sampler"]] for r in rows if r["way"] == "probe"]
    return int(any(more > allowed for more in over))


if __name__ == "__main__":
    sys.exit(main())

"""Follow a playback table with ONNX Runtime: no torch, no diffusers, and of otcache ``otcache-core`` alone.

``python examples/playback_export.py FOLDER`` writes the demo's networks and inputs;
``python examples/playback_onnx.py FOLDER`` runs them in full and by the table, compares with torch's latents,
and writes the figures into the folder. Needs ``otcache-core`` and ``onnxruntime``.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped,import-not-found,unused-ignore]
from numpy.typing import NDArray

from otcache_core import Playback, PlaybackTable

Array = NDArray[np.float32]
Denoiser = Callable[[Array, float, dict[str, Array]], Array]
BRANCHES = ("cond", "uncond")
#: Pairs of runs that are timed, of every prompt.
ROUNDS = 3


def session(path: Path, threads: int = 1) -> onnxruntime.InferenceSession:
    """Open a network for the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def denoiser(network: onnxruntime.InferenceSession) -> Denoiser:
    """Return the denoiser as a function of state, noise level and a branch's text."""

    def call(x: Array, level: float, text: dict[str, Array]) -> Array:
        given = {"hidden_states": x, "timestep": np.array([level], np.float32), **text}
        made: Array = network.run(["prediction"], given)[0]
        return made

    return call


def sample(
    denoise: Denoiser, facts: dict[str, Any], run: dict[str, Any], table: PlaybackTable | None
) -> tuple[Array, dict[str, list[int]]]:
    """Sample with Euler and guidance; return the latent, and the steps that each branch computed.

    Args:
        denoise: the denoiser.
        facts: noise levels and guidance scale.
        run: noise, and what each branch is given of the text.
        table: what to follow; None computes every step.
    """
    playback = Playback(table) if table else None
    if playback:
        playback.begin()
    levels, x = facts["grid"], run["noise"]
    computed: dict[str, list[int]] = {branch: [] for branch in BRANCHES}
    for step in range(len(levels) - 1):
        v: dict[str, Array] = {}
        for branch in BRANCHES:
            output = playback.forecast(branch, step, x) if playback else None
            if output is None:
                output = denoise(x, levels[step], run[branch])
                computed[branch].append(step)
                if playback:
                    playback.keep(branch, step, output, x)
            v[branch] = output
        guided = v["uncond"] + np.float32(facts["scale"]) * (v["cond"] - v["uncond"])
        x = x + np.float32(levels[step + 1] - levels[step]) * guided
    return x, computed


def read(folder: Path) -> tuple[dict[str, Any], PlaybackTable]:
    """Read what playback_export.py wrote, as arrays."""
    facts = json.loads((folder / "demo.json").read_text(encoding="utf-8"))
    shapes = facts["shapes"]
    for run in facts["runs"]:
        run["noise"] = array(run["noise"], shapes["hidden_states"])
        for branch in BRANCHES:
            run[branch] = {name: array(row, shapes[name]) for name, row in run[branch].items()}
        for name in ("full", "fast"):
            run["torch"][name] = array(run["torch"][name], shapes["hidden_states"])
    return facts, PlaybackTable.load(folder / "table.json")


def array(row: list[float], shape: list[int]) -> Array:
    """Return a flat list as an array."""
    return np.array(row, np.float32).reshape(shape)


def measure(denoise: Denoiser, facts: dict[str, Any], table: PlaybackTable) -> dict[str, Any]:
    """Run every prompt in full and by the table, in turns, and compare with torch."""
    calls, seconds, difference, same = [0, 0], [], 0.0, True
    sample(denoise, facts, facts["runs"][0], table)  # the first run allocates
    for run in ROUNDS * facts["runs"]:
        times = [time.perf_counter()]
        for i, (name, followed) in enumerate((("full", None), ("fast", table))):
            latent, computed = sample(denoise, facts, run, followed)
            times.append(time.perf_counter())
            calls[i] += sum(map(len, computed.values()))
            difference = max(difference, float(np.abs(latent - run["torch"][name]).max()))
            same = same and (name == "full" or computed == run["torch"]["computed"])
        seconds.append(np.diff(times).tolist())
    found = {"calls": [count // ROUNDS for count in calls], "seconds": seconds}
    return {**found, "difference": difference, "same_steps": same}


def main(folder: Path) -> None:
    """Run the demo, print the figures, and write them to ``onnxruntime.json``."""
    facts, table = read(folder)
    found = measure(denoiser(session(folder / "denoiser.onnx")), facts, table)
    found["engine"] = f"onnxruntime {onnxruntime.__version__}"
    (folder / "onnxruntime.json").write_text(json.dumps(found) + "\n", encoding="utf-8")
    pairs, n, budget = np.array(found["seconds"]), table.num_steps, table.budget
    (full, fast), speedup = np.median(pairs, axis=0), np.median(pairs[:, 0] / pairs[:, 1])
    print(f"{found['engine']}: {found['calls'][1]} denoiser calls of {found['calls'][0]}")
    print(f"largest difference from torch {found['difference']:.1e}")
    print(f"a run takes {full:.2f} s in full, {fast:.2f} s at B = {budget}")
    print(f"speedup {speedup:.2f}, N / B = {n / budget:.2f}")
    if not found["same_steps"]:
        raise SystemExit("the steps computed are not those that torch computed.")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Write docs/engines.md from the result files of benchmarks/engines: one an engine.

nox -s optimum                          # runs the pipelines, then this
python tools/engines.py build/optimum/*.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

OUT = Path(__file__).parent.parent / "docs" / "engines.md"
INTRODUCTION = """\
# Pipelines on ONNX Runtime and OpenVINO

optimum's pipelines of diffusers call an engine in place of a torch module: `ORTUnet` and `ORTTransformer` of
optimum-onnx, `OVModelUnet` and `OVModelTransformer` of optimum-intel. They are calibrated, planned and
accelerated as any pipeline is:

```python
from optimum.onnxruntime import ORTStableDiffusionPipeline

pipe = ORTStableDiffusionPipeline.from_pretrained("a-model", export=True)
calibration = otcache.calibrate(pipe, prompts, num_steps=24)
policy = otcache.plan(calibration)
with otcache.accelerate(pipe, policy, budget=8):
    image = pipe("a red circle", num_inference_steps=24).images[0]
```

What holds for such a denoiser, any object with a `__call__` that is a pipeline's `unet` or `transformer`:

- It stays the very object in the pipeline. Inside the context it is of a subclass of its class, since Python
  looks up `__call__` on the class; `isinstance` and `__class__` answer as before, its attributes are not
  touched, and copies and pickles are of the class it had. On exit, also by an exception, nothing remains.
- Pipelines that share it, with a scheduler each, follow a schedule each, as those that share a module do; one
  that is not accelerated computes in full.
- Outputs in memory that the engine uses again are copied before they are kept. An engine that writes its
  output over its input (optimum-onnx with IO binding) has the input put back, so that a computed step leaves
  what a skipped one does. Without guidance that input is the sampler's own latent: then optimum-onnx 0.1.0
  with IO binding gives other images than without, and inside the context it does not.
- Numpy arrays come and go as such. A pipeline that takes no `torch.Generator` (diffusers' own ONNX pipelines)
  is accelerated, and not calibrated.
- Blocks of an engine cannot be seen: `torch-blocks` and caches of other libraries refuse it, and its
  multiply-adds are not counted. A policy of the module that was exported has another `model_class` in its
  provenance, and the configuration's hash is the same.
- Refused are functions and `functools.partial`: write a class whose `__call__` calls them.

Made by `nox -s optimum`, which runs `benchmarks/engines` in an environment of its own for each engine and
then `tools/engines.py` on the results; edit those, not this file. Exported are otcache's demo (a trained Flux
in miniature, true guidance) and a Stable Diffusion of random weights (DDIM, guidance 7.5): the errors of the
second say that a run is followed, and nothing about any model.

The error is the RMSE of the final latents against the full run, its geometric mean over {samples} held-out
prompts, at B = N/3: **otcache** (uniform reuse). Calls are counted at the denoiser's `forward`. Seconds are
medians of {timed} runs of each kind in turns on {cores} CPU cores, text encoders included.
What else the machine does meanwhile is in them.
"""
HEAD = (
    *("pipeline", "denoiser", "N", "all computed: identical", "calls at N/3", "error"),
    *("seconds, full", "seconds, N/3", "speedup beside N/B"),
)


def document(results: Sequence[dict[str, Any]]) -> tuple[str, list[str]]:
    """Return the whole document, and what is wrong."""
    first = results[0]
    parts = [INTRODUCTION.format(**{k: first[k] for k in ("samples", "timed", "cores")})]
    problems: list[str] = []
    for result in results:
        listed = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
        parts += [f"## {listed}", ""]
        parts += [_line(HEAD), _line(["---"] * len(HEAD))]
        for row in result["rows"]:
            wrong = _problems(row)
            problems += [
                f"{result['engine']}, {row['pipeline']}, {row['note']}: {w}" for w in wrong
            ]
            parts.append(_row(row))
        parts.append("")
    if problems:
        parts += ["Wrong:", "", *(f"- {problem}" for problem in problems), ""]
    return "\n".join(parts), problems


def _problems(row: dict[str, Any]) -> list[str]:
    if row["failed"]:
        return [row["failed"]]
    found = [f"{name} remains on the denoiser" for name in row["left"]]
    if not row["same"]:
        found.append("the schedule that computes all steps gives other latents")
    computed, calls = row["calls"]
    if computed * row["steps"] != calls * row["budget"]:
        found.append(f"{computed} calls of {calls} were made, not B/N of them")
    if row["errors"]["otcache"] > row["errors"]["uniform reuse"]:
        found.append("worse than uniform reuse")
    return found


def _row(row: dict[str, Any]) -> str:
    named = f"{row['pipeline']}: {row['note']}"
    if row["failed"]:
        return _line([named, row["denoiser"], row["steps"], f"failed: {row['failed']}", *[""] * 5])
    computed, calls = row["calls"]
    full, short = row["seconds"]
    errors = row["errors"]
    return _line(
        [
            *(named, f"`{row['denoiser']}`", row["steps"], "yes" if row["same"] else "no"),
            f"{computed} of {calls}",
            f"**{errors['otcache']:.2g}** ({errors['uniform reuse']:.2g})",
            *(f"{full:.2f}", f"{short:.2f}"),
            f"{full / short:.2f} beside {row['steps'] / row['budget']:.2f}",
        ]
    )


def _line(cells: Sequence[Any]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def main(arguments: Sequence[str]) -> int:
    """Write the document; return 1 if something is wrong, else 0."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args(arguments)
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(given.results)]
    text, problems = document(results)
    given.out.write_text(text.rstrip() + "\n", encoding="utf-8")
    print(f"{given.out}: {sum(len(r['rows']) for r in results)} pipelines", *problems, sep="\n")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

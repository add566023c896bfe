"""Calibrate, plan and run a loop and a bare module; then ask for what needs the libraries that are missing.

Arguments: ``library=Error``, the libraries whose import raises something, installed or not. Prints JSON.
"""

from __future__ import annotations

import builtins
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

LIBRARIES = ("diffusers", "transformers", "PIL", "skimage", "accelerate", "peft")


class Broken:
    """A finder under which importing some libraries raises."""

    def __init__(self, errors: dict[str, type[Exception]]) -> None:
        self._errors = errors

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Raise the error of a library; None leaves the others to the next finder."""
        library = name.partition(".")[0]
        if library in self._errors:
            error = self._errors[library](f"{library} does not fit this torch\nand more")
            if isinstance(error, ImportError):
                error.name = library
            raise error


def loop_and_module() -> dict[str, Any]:
    """Return what runs of a loop, of a module and of a loop that serves were computed."""
    from toy import STEPS, make_loop

    import otcache

    loop = make_loop()
    recipe = otcache.Recipe(ladder=(4,), cost_samples=1, anchor_trials=2, climb_trials=0)
    calibration = otcache.calibrate(loop, ["a"], STEPS, seeds=[0, 1], recipe=recipe, progress=False)
    policy = otcache.plan(calibration)
    with otcache.accelerate(loop, policy.schedule(budget=4)) as run:
        loop(["a"], [2], STEPS)
    with otcache.accelerate(loop.denoiser, policy.schedule(budget=4)) as bare:
        loop(["a"], [2], STEPS)
    handle = otcache.enable(loop, policy)
    with handle.request(budget=4) as served:
        loop(["a"], [2], STEPS)
    handle.remove()
    versions = sorted(calibration.provenance["versions"])
    computed = [each.report.computed for each in (run, bare, served)]
    return {"computed": computed, "versions": versions}


def refused() -> dict[str, str]:
    """Return what is said where a library is needed."""
    from otcache_core.errors import OtcacheError
    from otcache_core.plugins import Registry
    from otcache_diffusers.metrics.real_images import read_images
    from otcache_diffusers.recording.probe import TorchProbe

    folder = Path(tempfile.mkdtemp())
    for name in ("model_index.json", "a.png"):
        (folder / name).touch()
    asked: dict[str, Callable[[], Any]] = {
        "ssim": lambda: Registry().create("metrics", "ssim"),
        "demo": lambda: Registry().create("demos", "image").load(),
        "folder": lambda: TorchProbe().open(str(folder)),
        "images": lambda: next(read_images(folder)),
    }
    found = {}
    for name, ask in asked.items():
        try:
            ask()
        except OtcacheError as error:
            found[name] = str(error)
    return found


def main(errors: dict[str, type[Exception]]) -> dict[str, Any]:
    """Return what ran, what was refused, and which libraries were imported."""
    sys.meta_path.insert(0, Broken(errors))
    ran = loop_and_module()
    loaded = [name for name in LIBRARIES if name in sys.modules]
    return {**ran, "loaded": loaded, "refused": refused()}


if __name__ == "__main__":
    given = dict(argument.split("=") for argument in sys.argv[1:])
    kinds = {library: getattr(builtins, kind) for library, kind in given.items()}
    sys.stdout.write(json.dumps(main(kinds)) + "\n")

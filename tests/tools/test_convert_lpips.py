"""The weights that ``lpips-vgg`` asks for are those that the script makes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from otcache_core import FileError, OtcacheError

pytest.importorskip("otcache_diffusers")
sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import convert_lpips

from otcache_diffusers.metrics.lpips import LpipsVgg


@pytest.mark.remedy(
    "make it with tools/convert_lpips.py --network vgg --out FILE (30 MB, too large"
)
@pytest.mark.remedy("make the file with tools/convert_lpips.py --network vgg --out FILE")
def test_the_file_it_writes_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OtcacheError, match="make it with tools/convert_lpips"):
        LpipsVgg()
    x = np.random.default_rng(0).random((1, 16, 16, 3))
    other = tmp_path / "other.safetensors"
    save_file({"conv0.weight": np.zeros((1, 3, 3, 3))}, other)
    with pytest.raises(FileError, match="make the file with"):
        LpipsVgg(other)(x, x)
    monkeypatch.setattr(sys, "argv", ["", "--network", "vgg"])
    with pytest.raises(SystemExit):
        convert_lpips.main()  # not without the --out that the advice has
    _, name, convolutions = convert_lpips.NETWORKS["vgg"]
    shapes = [(3, 3, 3 if layer == 0 else 2, 2) for layer in range(convolutions)]
    tree = {name: {f"Conv_{i}": _convolution(shape) for i, shape in enumerate(shapes)}}
    tree |= {f"NetLinLayer_{i}": {"Conv_0": _convolution((1, 1, 2, 1))} for i in range(5)}
    save_file(convert_lpips.convert(tree, name, convolutions), other)
    assert LpipsVgg(other)(x, x) == pytest.approx(0.0)


def _convolution(shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    return {"kernel": np.ones(shape), "bias": np.zeros(shape[-1])}

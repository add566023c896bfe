"""Libraries that not everybody has, and what several versions of diffusers have in common."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tiny
from torch import nn

from otcache_core.errors import OtcacheError
from otcache_diffusers.compat import is_a, is_pipeline, load, pipeline_classes
from otcache_diffusers.metrics.pairwise import Ssim

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.mark.remedy("pip install 'otcache-diffusers[pipelines]'")
def test_a_missing_library_is_named_and_comes_with_the_extra() -> None:
    def missing(name: str) -> ModuleType:
        raise ModuleNotFoundError(name, name="skimage")

    with pytest.MonkeyPatch.context() as without:
        without.setattr("importlib.import_module", missing)
        with pytest.raises(OtcacheError, match=r"^ssim needs scikit-image: pip install"):
            Ssim()
    assert Ssim().name == "ssim"
    extra = PROJECT["project"]["optional-dependencies"]["pipelines"]
    names = {line.split(">")[0] for line in extra}
    assert names == {"diffusers", "transformers", "Pillow", "scikit-image"}


@pytest.mark.remedy("pip install --upgrade 'otcache-diffusers[pipelines]'")
def test_a_library_that_does_not_fit_is_named_with_its_reason_s_first_line() -> None:
    class Lazy(ModuleType):
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("operator torchvision::nms does not exist\nand a traceback")

    with pytest.MonkeyPatch.context() as broken:
        broken.setitem(sys.modules, "diffusers", Lazy("diffusers"))
        with pytest.raises(
            OtcacheError, match=r"beside torch .*: operator torchvision::nms does not exist\): pip"
        ):
            load("diffusers:FluxPipeline", "the image demo")
    assert load("diffusers:FluxPipeline", "the image demo").__name__ == "FluxPipeline"


def test_the_library_that_broke_is_the_one_to_upgrade(monkeypatch: pytest.MonkeyPatch) -> None:
    """Diffusers raises "look up to see its traceback" where a library that it imports is broken."""

    class Lazy(ModuleType):
        def __getattr__(self, name: str) -> Any:
            try:
                exec("raise OSError('libjpeg.so')", {"__name__": "PIL._imaging"})
            except OSError as error:
                raise RuntimeError("Failed to import because of the following error") from error

    monkeypatch.setitem(sys.modules, "diffusers", Lazy("diffusers"))
    with pytest.raises(OtcacheError, match=r"\(OSError: libjpeg.so\): pip .* Pillow$"):
        load("diffusers:FluxPipeline", "the image demo")


def test_pipelines_are_known_without_importing_diffusers(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tiny.flux().pipe
    assert is_pipeline(pipe)
    assert is_a(pipe.scheduler, "FlowMatchEulerDiscreteScheduler")
    assert not is_a(pipe.scheduler, "EulerDiscreteScheduler")
    assert not is_pipeline(nn.Linear(1, 1))
    assert not is_pipeline(type("DiffusionPipeline", (), {})())
    assert set(pipeline_classes()) & set(type(pipe).__mro__)
    monkeypatch.delitem(sys.modules, "diffusers.pipelines.pipeline_utils")
    assert not set(pipeline_classes()) & set(type(pipe).__mro__)

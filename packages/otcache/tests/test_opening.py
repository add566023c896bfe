"""What the command line names is opened."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from otcache.pipelines import find_demo, open_pipeline
from otcache_core import Demo, Info, PluginError, Registry, hookimpl

PROMPTS = {"calibration": (("a cat", "cat"),)}
IMAGES = Demo("image", "images", load=lambda: "image pipe", prompts=PROMPTS)
VIDEOS = Demo(
    "video", "videos", lambda: "video pipe", {"num_frames": 9}, PROMPTS, frames_per_second=8.0
)


class Demos:
    """Two demos, as otcache-diffusers and otcache-video offer them."""

    @hookimpl
    def otcache_provide_demos(self) -> list[Info]:
        return [Info("image", "fake_demos:IMAGES"), Info("video", "fake_demos:VIDEOS")]


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    module = types.ModuleType("fake_demos")
    module.IMAGES, module.VIDEOS = IMAGES, VIDEOS  # type: ignore[attr-defined]  # made here
    monkeypatch.setitem(sys.modules, "fake_demos", module)
    found = Registry(entry_points=False)
    found.register(Demos(), "fakes")
    return found


@pytest.fixture
def module_named_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Provide a user's own file ``demo.py`` in the working directory."""
    (tmp_path / "demo.py").write_text("def make():\n    return 'mine'\nvideo = make\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("demo", None)


@pytest.mark.parametrize(
    ("name", "demo"),
    [
        ("demo", IMAGES),
        ("demo:image", IMAGES),
        ("demo:video", VIDEOS),
        ("demo:fakes/video", VIDEOS),
        ("other:video", None),
        ("demonstration", None),
        ("./demo", None),
    ],
)
def test_demos_by_name(registry: Registry, name: str, demo: Demo | None) -> None:
    assert find_demo(name, registry) is demo


def test_a_demo_says_how_it_is_called(registry: Registry) -> None:
    opened = open_pipeline("demo:video", registry)
    assert (opened.target, opened.call, opened.prompts, opened.frames_per_second) == (
        "video pipe",
        {"num_frames": 9},
        ["a cat"],
        8.0,
    )
    assert open_pipeline("demo", registry).frames_per_second == 0


@pytest.mark.usefixtures("module_named_demo")
def test_a_module_that_is_called_demo_can_still_be_named(registry: Registry) -> None:
    assert open_pipeline("demo:make", registry).target == "mine"
    assert open_pipeline("demo:video", registry).target == "video pipe"


def test_an_unknown_demo_lists_those_there_are(registry: Registry) -> None:
    with pytest.raises(PluginError, match=r"demos has no 'sound': valid names are image, video"):
        open_pipeline("demo:sound", registry)


def test_no_demo_at_all() -> None:
    with pytest.raises(PluginError, match=r"none installed.*pip install 'otcache\[diffusers,video"):
        open_pipeline("demo", Registry(entry_points=False))

"""Published models as plugins."""

from __future__ import annotations

import sys
import types

import pytest

from otcache_core import OtcacheError
from otcache_core.models import Architecture, CallCost, Canvas
from otcache_core.plugins import Info, Registry, hookimpl

TOY = Architecture("Toy", "no guidance", "ToyNet", "here", lambda canvas, own: CallCost(1, 2, 3))


def make_toy() -> Architecture:
    return TOY


class Models:
    @hookimpl
    def otcache_provide_architectures(self) -> list[Info]:
        return [Info("made", f"{__name__}:TOY"), Info("called", f"{__name__}:make_toy")]


@pytest.mark.parametrize("name", ["made", "called"])
def test_an_architecture_is_a_value_or_a_function(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    here = types.ModuleType(__name__)
    here.TOY, here.make_toy = TOY, make_toy  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, __name__, here)
    registry = Registry(entry_points=False)
    registry.register(Models())
    assert registry.create("architectures", name) is TOY


@pytest.mark.parametrize("size", [(0, 8, 1), (8, -8, 1), (8, 8, 0)])
def test_a_canvas_has_a_size(size: tuple[int, int, int]) -> None:
    with pytest.raises(OtcacheError, match="must be at least 1, got"):
        Canvas(*size)

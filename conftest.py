"""Tests marked ``remedy("...")`` have to meet the message whose advice they follow; shared fixtures."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager

import pytest

from otcache_core.errors import OtcacheError, OtcacheNotice
from otcache_core.plugins import forget_installed


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what otcache stores for later out of the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTCACHE_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def plugins_anew() -> Iterator[None]:
    """Read the installed plugins anew in this test, and again after it."""
    forget_installed()
    yield
    forget_installed()


Install = Callable[..., None]


@pytest.fixture
def install(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    plugins_anew: None,
) -> Iterator[Install]:
    """Put a distribution with one plugin module on the path, also of child processes, as an installer would.

    ``install(distribution, source, point="plug", metadata="")``: its module is called as the distribution,
    with ``_plugin``; ``metadata`` is further lines of METADATA.
    """
    site = tmp_path_factory.mktemp("site")
    monkeypatch.syspath_prepend(str(site))
    places = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(places))
    modules = []

    def add(distribution: str, source: str, point: str = "plug", metadata: str = "") -> None:
        name = distribution.replace("-", "_")
        modules.append(f"{name}_plugin")
        (site / f"{name}_plugin.py").write_text(source)
        info = site / f"{name}-1.0.dist-info"
        info.mkdir()
        facts = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n{metadata}"
        (info / "METADATA").write_text(facts)
        (info / "entry_points.txt").write_text(f"[otcache]\n{point} = {name}_plugin\n")
        importlib.invalidate_caches()

    yield add
    for name in modules:
        sys.modules.pop(name, None)


@contextmanager
def _messages() -> Iterator[list[str]]:
    """Collect the texts of all errors and notices of ours that are made inside."""
    made: list[str] = []

    def note(self: Exception, *args: object) -> None:
        made.append(" ".join(map(str, args)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OtcacheError, "__init__", note)
        patch.setattr(OtcacheNotice, "__init__", note)
        yield made


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """Fail a marked test that never met its message."""
    fragments = [
        mark.args[0] for mark in item.iter_markers("remedy") if not mark.kwargs.get("value")
    ]
    if not fragments:
        return (yield)
    with _messages() as made:
        yield
    text = "\n".join(made)
    for fragment in fragments:
        pattern = re.escape(fragment).replace(r"\{\}", ".*?")
        if not re.search(pattern, text, re.DOTALL):
            pytest.fail(f"no error or notice said {fragment!r}; said was:\n{text}", pytrace=False)
    return None

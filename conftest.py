"""Tests marked ``remedy("...")`` have to meet the message whose advice they follow; shared fixtures."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import pytest

from otcache_core.errors import OtcacheError, OtcacheNotice
from otcache_core.plugins import forget_installed


@pytest.fixture
def plugins_anew() -> Iterator[None]:
    """Read the installed plugins anew in this test, and again after it."""
    forget_installed()
    yield
    forget_installed()


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

"""The kit of video writers passes a writer that keeps the contract, and fails those that do not."""

from __future__ import annotations

import pytest
from kit_fakes import Archive, ArchiveKit

from otcache_core.contracts import VideoWriter


class TestArchive(ArchiveKit): ...


@pytest.mark.parametrize("flaw", ["reversed", "one short", "bgr", "wide", "slow", "changes"])
def test_a_flaw_is_found(flaw: str) -> None:
    class Flawed(Archive):
        pass

    Flawed.flaw = flaw

    class Kit(ArchiveKit):
        def make_writer(self) -> VideoWriter:
            return Flawed()

    with pytest.raises(AssertionError):  # noqa: PT012  # either check may find it
        Kit().test_frames_order_rate_and_colours_are_the_videos()
        Kit().test_single_precision_will_do_and_is_not_changed()

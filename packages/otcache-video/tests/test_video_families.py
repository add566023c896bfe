"""The executor's laws on every family of video pipelines."""

from __future__ import annotations

import pytest
from video_families import FAMILIES

from otcache_diffusers.testing import Family, FamilyLaws

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


class TestVideoFamilies(FamilyLaws):
    title = "Video"

    @pytest.fixture(params=FAMILIES, ids=lambda family: family.name)
    def family(self, request: pytest.FixtureRequest) -> Family:
        made: Family = request.param
        return made

"""The executor's conformance tests on every family of image pipelines."""

from __future__ import annotations

import pytest
from families import FAMILIES, Family

from otcache_diffusers.testing import FamilyLaws

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


class TestFamilies(FamilyLaws):
    title = "Images"

    @pytest.fixture(scope="class", params=FAMILIES, ids=lambda family: family.name)
    def family(self, request: pytest.FixtureRequest) -> Family:
        made: Family = request.param
        return made

"""How outputs are kept: which names there are, and what a report makes of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from otcache_core import OtcacheError
from otcache_core.contracts import CacheStorage, RunReport


@pytest.mark.remedy("omit {} to keep outputs as they are")
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"dtype": "int8"},
            "CacheStorage.dtype must be None or one of 'fp32', 'bf16', 'fp16', got 'int8': omit dtype to "
            "keep outputs as they are.",
        ),
        (
            {"device": "cuda"},
            "CacheStorage.device must be None or one of 'cpu', got 'cuda': omit device to keep outputs "
            "as they are.",
        ),
        (
            {"dtype": ""},
            "CacheStorage.dtype must be None or one of 'fp32', 'bf16', 'fp16', got '': omit dtype",
        ),
        ({"dtype": ["bf16"]}, "CacheStorage.dtype must be None"),
    ],
)
def test_other_names_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(OtcacheError) as error:
        CacheStorage(**given)
    assert str(error.value).startswith(message)
    (name,) = given
    assert getattr(CacheStorage(), name) is None


def test_a_storage_is_a_value() -> None:
    assert CacheStorage("bf16", "cpu") == CacheStorage(dtype="bf16", device="cpu")
    assert len({CacheStorage(), CacheStorage(None, None), CacheStorage("fp32")}) == 2


def test_a_report_keeps_peaks_of_both_places_and_is_plain_data() -> None:
    report = RunReport(storage=CacheStorage("fp16", "cpu"))
    for held in ((0, 4), (3, 9), (1, 2)):
        report.hold(*held)
    data = json.loads(json.dumps(report.to_dict()))
    assert data["storage"] == {"dtype": "fp16", "device": "cpu"}
    assert (data["cached_bytes"], data["peak_cached_bytes"]) == (1, 3)
    assert (data["cached_host_bytes"], data["peak_cached_host_bytes"]) == (2, 9)

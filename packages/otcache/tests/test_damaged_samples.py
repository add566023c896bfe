"""Files of samples that are damaged, or name what is not an image."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from otcache.pipelines import read_samples
from otcache_core import FileError


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"prompt": "\\ud83d"}', "field 'prompt' must be text without lone surrogates"),
        ('{"strength": NaN}', "field 'strength' must be a finite number"),
        ('{"n": 18446744073709551616}', "field 'n' must be an integer of 64 bits"),
        ('{"a": ' + "[" * 70 + "]" * 70 + "}", "levels deep"),
        ('{"image": "pipe"}', "must be a file, got a named pipe"),
        ('{"image": "a\\u0000b"}', "cannot be read"),
        ('{"image": "' + "x" * 5000 + '"}', "cannot be read"),
        ('{"image": "damaged.png"}', "cannot be read"),
    ],
)
def test_a_damaged_sample_is_named_by_its_line(tmp_path: Path, line: str, reason: str) -> None:
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
    (tmp_path / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    path = tmp_path / "samples.jsonl"
    path.write_text(f'{{"prompt": "a cat"}}\n{line}\n', encoding="utf-8")
    with pytest.raises(FileError) as caught:
        read_samples(path)
    assert str(caught.value).startswith(f"{path}, line 2")
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 3000

"""Files of samples: prompts, and JSON lines with images beside them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from otcache.pipelines import read_samples
from otcache_core import FileError


def _file(folder: Path, text: str, name: str = "samples.jsonl") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_text_file_holds_prompts(tmp_path: Path) -> None:
    path = _file(tmp_path, '\ufeffa cat\r\n\n  {"prompt": "as it is"} \n', "prompts.txt")
    assert read_samples(path) == ["a cat", '{"prompt": "as it is"}']


def test_json_lines_are_mappings_or_prompts(tmp_path: Path) -> None:
    lines = [{"class_labels": 3}, "a cat", {"prompt": "line\u2028feed", "strength": 0.5}]
    text = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    assert read_samples(_file(tmp_path, text)) == lines


def test_images_are_opened_beside_the_file_in_colour(tmp_path: Path) -> None:
    (tmp_path / "seen").mkdir()
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    Image.fromarray(pixels).save(tmp_path / "seen" / "a.png")
    Image.fromarray(pixels[..., 0]).save(tmp_path / "m.png")
    line = {
        "prompt": "image.png",
        "image": "seen/a.png",
        "mask_image": "m.png",
        "ip_adapter_image": ["m.png"],
    }
    (sample,) = read_samples(_file(tmp_path, json.dumps(line)))
    assert isinstance(sample, dict)
    assert sample["prompt"] == "image.png"
    assert np.array_equal(np.asarray(sample["image"]), pixels)
    assert sample["mask_image"].mode == sample["ip_adapter_image"][0].mode == "RGB"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "must be a JSON object such as"),
        ("[" * 9999, "must be a JSON object such as"),
        ("[1]", "must be a JSON object such as"),
        ("3", "must be a JSON object such as"),
        ("{}", "must be a JSON object such as"),
        ('{"prompt": "a", "prompt": "b"}', "prompt is given twice"),
        ('{"image": 3}', "image: must be the path of an image, got 3"),
        ('{"image": "none.png"}', "image 'none.png' cannot be read: "),
        ('{"image": "."}', "image '.' cannot be read: "),
        ('{"image": "a\\u0000b"}', "cannot be read"),
        ('{"control_image": ["samples.jsonl"]}', "image 'samples.jsonl' cannot be read: "),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, line: str, message: str) -> None:
    path = _file(tmp_path, f'{{"prompt": "a"}}\n\n{line}\n')
    with pytest.raises(FileError) as caught:
        read_samples(path)
    assert f"{path}, line 3" in str(caught.value)
    assert message in str(caught.value)

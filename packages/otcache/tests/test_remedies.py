"""What an error of the facade advises is done here, and the error is gone."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from importlib.metadata import requires
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import comparison_fakes as fakes
import report_fakes

from otcache.calibration.recipe import Recipe
from otcache.calibration.record import _check_alike
from otcache.calibration.store import Store
from otcache.comparison.folder import Folder
from otcache.comparison.job import Question
from otcache.comparison.metrics import Measures
from otcache.media import save
from otcache.pipelines import _unique, read_lines
from otcache.report.images import stack_shape
from otcache.report.statistics import paired_ratio
from otcache.running import choose
from otcache_core import FileError, OtcacheError, PluginError, Registry
from otcache_core.plugins.lookups import EXTRAS
from otcache_core.testing import ToySampler


@pytest.mark.remedy("{} brings no prompts of its own: give --prompts FILE, one per line")
def test_prompts_are_given(tmp_path: Path) -> None:
    question = Question("nowhere:at_all")
    with pytest.raises(OtcacheError, match="give --prompts FILE, one per line"):
        question.job(Registry(entry_points=False))
    (tmp_path / "FILE").write_text("a cat\na dog\n", encoding="utf-8")
    given = replace(question, prompts=tmp_path / "FILE")
    assert given.job(Registry(entry_points=False)).calibration


@pytest.mark.remedy("name a new folder, or give --force to replace the comparison in it")
def test_a_folder_of_another_comparison(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "old")
    folder.begin(fakes.job(), overwrite=False)
    with pytest.raises(FileError, match="or give --force"):
        folder.begin(fakes.job(num_steps=9), overwrite=False)
    Folder(tmp_path / "new").begin(fakes.job(num_steps=9), overwrite=False)
    folder.begin(fakes.job(num_steps=9), overwrite=True)  # as --force


@pytest.mark.remedy("choose another folder or delete this one")
def test_a_folder_of_another_calibration(tmp_path: Path) -> None:
    old = tmp_path / "old"
    Store(old, {"model": "toy"})
    with pytest.raises(OtcacheError, match="choose another folder or delete this one"):
        Store(old, {"model": "other"})
    Store(tmp_path / "new", {"model": "other"})
    (old / "identity.json").unlink()
    (old / "samples").rmdir()
    Store(old, {"model": "other"})


@pytest.mark.remedy("cannot keep a calibration here: {}: name another folder")
def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="name another folder"):
        Store(tmp_path / "file", {"model": "toy"})
    Store(tmp_path / "folder", {"model": "toy"})


@pytest.mark.remedy("no image metrics are installed: pip install 'otcache[diffusers]'")
@pytest.mark.remedy("no {} are installed: pip install 'otcache[diffusers]'")
@pytest.mark.remedy("videos need: pip install 'otcache[video]'")
@pytest.mark.remedy("More {} come with: pip install 'otcache[{}]'")
def test_the_extras_that_are_named_bring_what_is_missing(tmp_path: Path) -> None:
    bare = Registry(entry_points=False)
    with pytest.raises(OtcacheError, match=r"metrics are installed: pip install 'otcache\[diff"):
        Measures.choose((), "nowhere", bare)
    with pytest.raises(OtcacheError, match=r"probes are installed: pip install 'otcache\[diff"):
        choose(bare, "probes", object())
    with pytest.raises(OtcacheError, match=r"videos need: pip install 'otcache\[video\]'"):
        save(None, np.zeros((2, 4, 4, 3)), 8.0, bare)
    with pytest.raises(PluginError, match=r"come with: pip install 'otcache\["):
        bare.get("probes", "torch")
    lines = requires("otcache") or []
    extras = {"diffusers", "video", *(extra for extras in EXTRAS.values() for extra in extras)}
    for extra in extras:
        mine = [line for line in lines if line.partition("extra ==")[2].strip(" '\"") == extra]
        assert [line for line in mine if re.match(rf"otcache-{extra}(\[|==)", line)], extra


@pytest.mark.remedy("{}, line {}: must be UTF-8, got the byte {}: save the file as UTF-8")
def test_a_file_of_prompts_is_saved_as_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("na\xefve", encoding="cp1252")
    with pytest.raises(FileError, match=r"save the file as UTF-8"):
        read_lines(path)
    path.write_text("na\xefve", encoding="utf-8")
    assert read_lines(path) == [(1, "na\xefve")]


@pytest.mark.remedy("videos cannot play without: set Results.frames_per_second")
def test_videos_play_at_a_rate() -> None:
    results = replace(report_fakes.fake_results((5,)), frames_per_second=0.0)
    videos = {("full run", results.num_steps): np.zeros((len(results.labels), 2, 4, 4, 3))}
    with pytest.raises(OtcacheError, match=r"set Results\.frames_per_second"):
        stack_shape(results, videos)
    assert stack_shape(replace(results, frames_per_second=8.0), videos)[1] == 2


@pytest.mark.remedy("a ratio of means needs finite values: compare RMSE, not PSNR")
def test_ratios_are_of_what_is_finite() -> None:
    with pytest.raises(OtcacheError, match="compare RMSE, not PSNR"):
        paired_ratio([30.0, np.inf], [20.0, 25.0])  # PSNR of equal images
    assert paired_ratio([0.1, 0.0], [0.2, 0.1]).mean == pytest.approx(1 / 3)


@pytest.mark.remedy("{}: {} is given twice: give it once")
def test_an_argument_of_a_line_is_given_once() -> None:
    with pytest.raises(FileError, match="prompt is given twice: give it once"):
        _unique("f, line 1", [("prompt", "a"), ("prompt", "b")])
    assert _unique("f, line 1", [("prompt", "b")]) == {"prompt": "b"}


@pytest.mark.remedy("{}: raise num_inference_steps, {}, or strength")
def test_a_run_of_few_steps_makes_more() -> None:
    with pytest.raises(OtcacheError, match="raise num_inference_steps, 10, or strength"):
        Recipe().resolve(3, 10)  # 10 at a strength of 0.3
    assert Recipe().resolve(6, 20).ladder
    assert Recipe().resolve(7, 10).ladder


@pytest.mark.remedy("give all samples one strength, height, width and size of image")
def test_samples_are_of_one_size() -> None:
    first, *others = ToySampler(num_steps=6).trajectories()
    (longer, *_), (wider, *_) = (
        ToySampler(num_steps=7).trajectories(),
        ToySampler(num_steps=6, dim=8).trajectories(),
    )
    for other in (longer, wider):
        with pytest.raises(OtcacheError, match="give all samples one strength, height"):
            _check_alike(first, [other])
    _check_alike(first, others)

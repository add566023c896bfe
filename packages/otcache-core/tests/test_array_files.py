"""Array files written row by row and mapped: what safetensors itself reads and writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from safetensors.numpy import load_file

from otcache_core.errors import FileError
from otcache_core.storage.array_files import load_arrays, map_arrays, save_arrays
from otcache_core.storage.recordings import mapped

FLOATS = st.sampled_from([np.float64, np.float32, np.float16]).flatmap(
    lambda kind: arrays(kind, array_shapes(min_dims=1, max_dims=2, min_side=0, max_side=5))
)
FILES = st.dictionaries(st.text("abc", min_size=1), FLOATS, min_size=1, max_size=4)
FACTS = st.dictionaries(st.text(min_size=1), st.text(), max_size=3)


@given(FILES, FACTS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_safetensors_reads_what_was_streamed_and_maps_hold_what_it_wrote(
    tmp_path: Path, made: dict[str, np.ndarray], facts: dict[str, str]
) -> None:
    path = tmp_path / "a.safetensors"
    made = {name: np.nan_to_num(array) for name, array in made.items()}
    save_arrays(path, made, facts)
    assert load_arrays(path)[1] == facts
    _same(load_file(path), made)
    _same(map_arrays(path)[0], made)
    save_arrays(path, made, facts)
    found, read = map_arrays(path)
    assert read == facts
    _same(found, made)


def _same(found: dict[str, np.ndarray], made: dict[str, np.ndarray]) -> None:
    assert set(found) == set(made)
    for name, array in found.items():
        assert array.dtype == made[name].dtype
        np.testing.assert_array_equal(array, made[name])


def test_arrays_are_mapped_and_may_not_be_written(tmp_path: Path) -> None:
    save_arrays(tmp_path / "a", {"x": np.ones((2, 3))}, {})
    x = map_arrays(tmp_path / "a")[0]["x"]
    assert mapped(x)
    with pytest.raises(ValueError, match="read-only"):
        x[0, 0] = 2


@pytest.mark.parametrize("length", [0, 5, 20, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "a"
    save_arrays(path, {"x": np.ones((2, 3))}, {"label": "b"})
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(FileError, match="truncated or not a safetensors file"):
        map_arrays(path)


def test_a_missing_file_and_a_missing_folder_are_errors(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot be read"):
        map_arrays(tmp_path / "none")
    with pytest.raises(FileError, match="cannot be written"):
        save_arrays(tmp_path / "none" / "a", {"x": np.ones(3)}, {})


def test_what_breaks_on_the_way_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    save_arrays(path, {"x": np.ones(3)}, {})
    with pytest.raises(FileError, match="real numbers that NumPy knows"):
        save_arrays(path, {"x": np.ones(3, dtype=complex)}, {})
    assert map_arrays(path)[0]["x"].tolist() == [1, 1, 1]
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]

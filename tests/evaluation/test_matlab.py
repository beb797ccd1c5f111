"""MATLAB files are read as SciPy reads them, and damaged ones are told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgepose.errors import InvalidInputError
from edgepose.evaluation.matlab import read_arrays

scipy_io = pytest.importorskip("scipy.io")


@pytest.mark.parametrize("compressed", [False, True])
def test_arrays_of_all_kinds(tmp_path: Path, compressed: bool) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "doubles": rng.normal(size=(3, 14, 5)),
        "floats": rng.normal(size=(2, 3)).astype(np.float32),
        "small": np.arange(3, dtype=np.uint8)[None],
        "whole": rng.integers(-(2**31), 2**31, (4, 1), np.int32),
        "switches": rng.integers(0, 2, (2, 2)) > 0,
        "none": np.zeros((0, 3)),
        "a_name_longer_than_four": np.array([[7]], np.int16),
    }
    others = {"text": "words", "cells": np.array([[1, "two"]], object), "waves": np.array([[1 + 2j]])}
    path = tmp_path / "arrays.mat"
    scipy_io.savemat(path, {**others, **arrays}, do_compression=compressed)
    found = read_arrays(path)
    assert set(found) == set(arrays)
    for name, values in arrays.items():
        np.testing.assert_array_equal(found[name], values)
        assert found[name].dtype.itemsize == values.dtype.itemsize


def test_real_files(shared: Path) -> None:
    paths = [shared / "data/lsp/joints.mat", shared / "data/mpii/gt_valid_with_headboxes.mat"]
    if not all(path.is_file() for path in paths):
        pytest.skip(f"no data sets in {shared / 'data'}")
    for path in paths:
        expected = scipy_io.loadmat(path)
        found = read_arrays(path)
        assert len(found) >= 2
        for name, values in found.items():
            np.testing.assert_array_equal(values, expected[name])


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "joints.mat"
    with pytest.raises(InvalidInputError, match=r"cannot read .*joints\.mat; FileNotFoundError"):
        read_arrays(path)
    path.write_bytes(b"MATLAB 7.3 MAT-file, Platform: GLNXA64" + bytes(200))
    with pytest.raises(InvalidInputError, match=r"begins with b'MATLAB 7.3.*level 5"):
        read_arrays(path)
    for compressed in (False, True):
        scipy_io.savemat(path, {"joints": np.ones((3, 4))}, do_compression=compressed)
        whole = path.read_bytes()
        for length in range(129, len(whole) - 1):
            path.write_bytes(whole[:length])
            with pytest.raises(InvalidInputError, match="cannot read"):
                read_arrays(path)

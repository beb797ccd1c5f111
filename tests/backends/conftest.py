"""Fixtures for TensorRT engines."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import tensorrt
from tests.fakes.engines import Rig


@pytest.fixture
def rigs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    """Makes fake GPUs with a version of TensorRT; each must end with all given back."""
    made: list[Rig] = []

    def make(version: str = "10.3.0", **knobs: Any) -> Rig:
        made.append(Rig(monkeypatch, tmp_path, version, **knobs))
        return made[-1]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield make
        gc.collect()
        for rig in made:
            rig.cuda.check()
            assert rig.control.default_stream == 0


@pytest.fixture(params=tensorrt.VERSIONS)
def rig(request: pytest.FixtureRequest, rigs: Callable[..., Rig]) -> Rig:
    """A fake GPU with each version of TensorRT in turn."""
    return rigs(request.param)

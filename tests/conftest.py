"""Fixtures shared by the whole suite."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from edgepose import BackendUnavailableError
from edgepose.backends.openvino import import_openvino


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with the reference data, or a skip where it is absent.

    ``EDGEPOSE_SHARED`` names it; the default is ``../shared`` beside the checkout.
    """
    default = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("EDGEPOSE_SHARED") or default)
    if not (folder / "specs").is_dir():
        pytest.skip(f"no reference data in {folder}; set EDGEPOSE_SHARED to its folder")
    return folder


@pytest.fixture(params=["onnxruntime", "openvino"])
def runtime(request: pytest.FixtureRequest) -> str:
    """Each runtime in turn, or a skip where it is not installed."""
    if request.param == "openvino":
        request.getfixturevalue("openvino")
    else:
        pytest.importorskip("onnxruntime")
    return str(request.param)


@pytest.fixture
def openvino() -> Any:
    """OpenVINO, imported as edgepose does, or a skip where it is not installed."""
    try:
        return import_openvino()
    except BackendUnavailableError as error:
        pytest.skip(str(error))

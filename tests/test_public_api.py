"""What `import edgepose` offers, and what it must not cost."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import edgepose

PUBLIC = {
    "Annotated", "annotate",
    "BackendUnavailableError", "BuildError", "CalibrationError", "Decoder", "EdgePoseError",
    "EngineMismatchError", "Estimator", "EstimatorInfo", "Frame", "FrameSource", "Grouping",
    "InvalidInputError", "Joint", "ModelFormatError", "ModelNotFoundError", "ModelSpec", "OneEuro",
    "OnnxDetector", "Palette", "ParityError", "Person", "PoseResult", "PoseStream", "Skeleton", "Skip",
    "Source", "SourceStatus", "Timings", "Tracker", "__version__", "coco17", "crowdpose14", "draw_heatmaps",
    "draw_pose", "kernels", "lsp14", "mpii16", "open_source", "read_image",
    "serve",
}  # fmt: skip


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_public_names_are_these() -> None:
    assert set(edgepose.__all__) == PUBLIC
    assert set(dir(edgepose)) >= PUBLIC
    for name in PUBLIC:
        assert getattr(edgepose, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Estimater'"):
        edgepose.Estimater  # noqa: B018


def test_public_classes_and_functions_are_documented() -> None:
    for name in PUBLIC - {"__version__", "coco17", "crowdpose14", "lsp14", "mpii16"}:
        assert (getattr(edgepose, name).__doc__ or "").strip(), name


def test_modules_export_what_they_list() -> None:
    for module in (
        "annotation",
        "catalog",
        "detectors",
        "drawing",
        "errors",
        "estimator",
        "oks",
        "result",
        "serve",
        "skeleton",
        "smoothing",
        "sources",
        "spec",
        "streams.capture",
        "streams.stream",
        "tracking",
    ):
        loaded = importlib.import_module(f"edgepose.{module}")
        assert [name for name in loaded.__all__ if not hasattr(loaded, name)] == []


def test_heavy_packages_are_not_loaded() -> None:
    """By the import, and by everything short of opening a model."""
    code = """
import sys, edgepose
from edgepose import *
from edgepose import cli, estimator
heavy = {"torch", "numba", "onnxruntime", "openvino", "onnx", "cv2", "pandas", "supervision"}
heavy |= {"training", "scipy", "fastapi", "uvicorn", "prometheus_client", "ray", "pyarrow"}
print(sorted(heavy & set(sys.modules)))
"""
    assert run_python(code) == "[]"


def test_the_import_alone_does_not_load_numpy() -> None:
    assert run_python("import sys, edgepose; print('numpy' in sys.modules)") == "False"


def test_missing_packages_name_the_extra() -> None:
    code = """
import sys
sys.modules["cv2"] = sys.modules["onnxruntime"] = None
import edgepose
for call in (lambda: edgepose.read_image("a.jpg"), lambda: edgepose.open_source(0)):
    try:
        call()
    except edgepose.BackendUnavailableError as error:
        print(error)
"""
    lines = run_python(code).splitlines()
    assert len(lines) == 2
    assert all('pip install "edgepose[cpu]"' in line for line in lines)


def test_one_version() -> None:
    project = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    stated = re.search(r'^version = "(.+)"$', project, re.MULTILINE)
    if stated is None:
        assert 'dynamic = ["version"]' in project
    else:
        assert stated[1] == edgepose.__version__


def test_marked_as_typed() -> None:
    assert (Path(edgepose.__file__).parent / "py.typed").is_file()

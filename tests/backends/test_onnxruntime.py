"""ONNX Runtime on the CPU: what it tells, and to whom. CUDA has a file of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")


def test_nothing_is_reported_home(tmp_path: Path) -> None:
    """ONNX Runtime from 1.29 on would write an identity to the home directory, and events to send."""
    home = tmp_path / "home"
    home.mkdir()
    code = "import edgepose; edgepose.Estimator().close()"
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    environment = {**kept, "HOME": str(home), "TMPDIR": str(home)}  # without CI, which silences it too
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=root)
    assert [file for file in home.rglob("*") if file.is_file() and "numba" not in str(file)] == []

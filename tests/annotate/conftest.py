"""A model and a folder of pictures for bulk runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import color_model, spots

ROOT = Path(__file__).parents[2]
COUNT = 200
"""Good pictures of the folder: 7 shards."""
BROKEN = ("0050b.png", "0190b.png")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    return str(color_model(tmp_path_factory.mktemp("model") / "colors.onnx"))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures that all differ, and two files that are none."""
    cv2 = pytest.importorskip("cv2")
    folder = tmp_path_factory.mktemp("data") / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(COUNT):
        height, width = rng.integers(100, 160, 2)
        picture = spots((height, width), rng.uniform(20, 80, (3, 2)).tolist())
        cv2.imwrite(str(folder / f"{number:04d}.png"), picture)
    for name in BROKEN:
        (folder / name).write_bytes(b"no picture")
    return folder


@pytest.fixture
def arrow() -> Any:
    """Parquet by Arrow, or a skip where it is not installed."""
    return pytest.importorskip("pyarrow.parquet")


@pytest.fixture(autouse=True)
def in_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEPOSE_KERNELS", "numpy")
    monkeypatch.chdir(tmp_path)


def start(*arguments: str) -> subprocess.Popen[str]:
    """``edgepose annotate`` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "edgepose", "annotate", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        # A shell's job in the background ignores the signal, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


def parts_of(output: str) -> list[str]:
    """Names of the finished parts of an unfinished run."""
    return sorted(path.name for path in Path(f"{output}.parts").glob("*.jsonl"))

"""Model cards: every figure comes from the file and the logs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgepose import Estimator
from edgepose.errors import InvalidInputError
from training.card import GOAL, read_runs, write_card
from training.config import load_config
from training.data.lsp import load_lsp
from training.export import export, model_spec
from training.loop import build_network
from training.metrics import lsp_torso, pck


def test_a_card_tells_what_the_file_scores(
    write_config: Callable[..., Path], small_data: Path, tmp_path: Path
) -> None:
    config = load_config(write_config(name="carded"))
    provenance = {"commands": ["python -m training train x.yaml"], "config": {"seed": 11}}
    model = tmp_path / "carded.onnx"
    export(build_network(config), model_spec(config, provenance), model)
    lines = [
        {"epoch": 1, "loss": 0.5, "lr": 0.1, "seconds": 60.0},
        {"epoch": 2, "loss": 0.25, "lr": 0.0, "seconds": 90.0, "pck": 12.5},
    ]
    run = tmp_path / "first"
    run.mkdir()
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    people = load_lsp(small_data / "lsp", 1, 10)
    write_card(model, people, read_runs([run]), "on a test machine")

    with Estimator(model) as estimator:
        found = np.stack([estimator(image).keypoints[0] for image in people.images])
    mean = pck(found, people.joints, lsp_torso(people.joints)).mean()
    text = model.with_suffix(".md").read_text()
    assert f"| mean | {mean:.2f} | " in text
    assert f"{GOAL - mean:.2f} points\nbelow" in text
    assert "| first | 2 | 0.25000 | 2 |" in text
    assert "Seed 11." in text
    assert "2 epochs in all, on a test machine." in text
    assert "python -m training train x.yaml" in text
    assert model.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_runs_without_a_log_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"found no log\.jsonl"):
        read_runs([tmp_path])

"""Model cards: every figure comes from the file and the logs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgepose import Estimator
from edgepose.errors import InvalidInputError
from edgepose.evaluation.coco import Picture, PictureSet
from edgepose.evaluation.lsp import load_lsp
from edgepose.evaluation.metrics import lsp_torso, pck
from edgepose.skeleton import coco17
from training import card
from training.card import GOAL, read_runs, write_card
from training.config import load_config
from training.evaluate_mosaics import held_out_mosaics, measure_mosaics
from training.export import export, model_spec
from training.loop import build_network


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


def test_the_card_of_a_bottom_up_model(
    write_config: Callable[..., Path], small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(
        write_config(
            name="carded", model="higherlpn50", task="bottomup", input_size=[64, 64], coordinates="legacy"
        )
    )
    network = build_network(config)
    network.head.final_layers[0].bias.data[:14] = 0.3  # type: ignore[union-attr,index,operator]
    model = tmp_path / "several.onnx"
    export(network, model_spec(config, {"limits": "It sees ghosts."}), model)
    run = tmp_path / "only"
    run.mkdir()
    (run / "log.jsonl").write_text(json.dumps({"epoch": 1, "loss": 0.5, "seconds": 6.0, "AP": 0.25}) + "\n")
    people = load_lsp(small_data / "lsp", 1, 10)
    joints = np.concatenate([people.joints[:1], np.zeros((1, 3, 2), np.float32)], 1)[0]
    visible = np.ones(17, np.float32)
    box = np.array([[0, 0, 47, 63]], np.float32)
    cv2.imwrite(str(tmp_path / "one.png"), people.images[0])
    picture = Picture(1, tmp_path / "one.png", (64, 48), joints[None], visible[None], box, np.array([900.0]))
    pictures = PictureSet(coco17, (picture,))
    monkeypatch.setattr(card, "MOSAICS", 3)
    write_card(model, people, read_runs([run]), "on a test machine", pictures)

    text = model.with_suffix(".md").read_text()
    columns = []
    for side in (2, 3):
        for flip in (False, True):
            with Estimator(model, flip_test=flip) as estimator:
                columns.append(measure_mosaics(estimator, held_out_mosaics(people, 3, side)))
    assert columns[0]["persons"] > 0
    for name, label in (
        ("AP50", "AP50"),
        ("persons", "persons found a mosaic"),
        ("pck_mean", "PCK@0.2, mean"),
    ):
        digits = 3 if name == "AP50" else 2
        assert f"| {label} | {' | '.join(f'{c[name]:.{digits}f}' for c in columns)} |" in text
    assert "1 whole pictures of COCO val2017 with 1 labelled people" in text
    assert "the 12 joints" in text
    assert "| AP, large | nan | nan |" in text
    assert "It sees ghosts." in text
    assert "| only | 1 | 0.50000 | 0 |" in text


def test_runs_without_a_log_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"found no log\.jsonl"):
        read_runs([tmp_path])


def test_stages_follow_each_other_in_the_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    run.mkdir()
    lines = [
        {"stage": s, "epoch": e, "loss": 1.0, "seconds": 1.0, **({"pck": 50.0} if e == 2 else {})}
        for s in range(2)
        for e in (1, 2)
    ]
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    figures: list[Any] = []
    monkeypatch.setattr(card.plt, "close", figures.append)
    card.plot(card.read_runs([run, run]), tmp_path / "curves.png")
    drawn = [[list(curve.get_xdata()) for curve in axes.lines] for axes in figures[0].axes]
    assert drawn == [[[1, 2, 3, 4], [5, 6, 7, 8]], [[2, 4], [6, 8]]]
    monkeypatch.undo()
    card.plt.close(figures[0])

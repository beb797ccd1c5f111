"""`python -m training evaluate` on bottom-up configurations."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgepose.evaluation.lsp import load_lsp
from edgepose.pipeline.poses import Poses
from training import evaluate_bottomup
from training.__main__ import main
from training.config import load_config
from training.evaluate_bottomup import evaluate_pictures
from training.evaluate_mosaics import held_out_mosaics
from training.export import model_spec
from training.models import create
from training.tasks import load_pictures

Write = Callable[..., Path]


@pytest.fixture
def weights(tmp_path: Path) -> Callable[[int], str]:
    """Write the initial weights of the network for tests, which find several people a picture."""

    def write(joints: int) -> str:
        torch.manual_seed(0)
        network = create("plain_stages", joints=joints)
        for layer in (network.low.final_layer, network.high):  # type: ignore[union-attr]
            layer.bias.data.fill_(0.3)  # type: ignore[union-attr,operator]
        torch.save(network.state_dict(), tmp_path / "weights.pt")
        return str(tmp_path / "weights.pt")

    return write


def told(truth: Iterable[Any], shift: float = 0) -> list[Poses]:
    """The people of pictures or mosaics as results, moved by so many pixels."""
    found = []
    for picture in truth:
        shown = picture.visible > 0
        joints = np.where(shown[..., None], picture.joints + shift, np.nan).astype(np.float32)
        scores = np.ones(len(joints), np.float32)
        found.append(Poses(joints, shown.astype(np.float32), None, scores, picture.boxes))
    return found


def test_figures_of_annotated_pictures(
    write_bottom_up: Write, weights: Callable[[int], str], capsys: pytest.CaptureFixture[str]
) -> None:
    path, file = write_bottom_up(), weights(17)  # without data to train on
    command = ["evaluate", str(path), "--weights", file]
    assert main([*command, "--json", "--flip-test", "--scales", "0.5", "1"]) == 0
    figures = json.loads(capsys.readouterr().out)
    config = load_config(path)
    network = create(config.model, **config.options)
    network.load_state_dict(torch.load(file))
    pictures = load_pictures(config, "validation")
    expected = evaluate_pictures(network, model_spec(config), pictures, flip_test=True, scales=(0.5, 1))
    kept = {name: value for name, value in expected.items() if not np.isnan(value)}
    assert figures == pytest.approx(kept)
    assert {"AP", "AP50", "AP75", "AR"} <= set(figures)

    assert main(command) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == list(figures)
    assert all(0 <= float(value) <= 1 for _, value in lines)


@pytest.mark.parametrize("crowded", [False, True])
def test_options_and_pictures_reach_the_evaluation(
    write_bottom_up: Write,
    weights: Callable[[int], str],
    small_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    crowded: bool,
) -> None:
    content = json.loads((small_data / "coco/people.json").read_text())
    if crowded:  # as CrowdPose: a crowd index a picture
        for i, image in enumerate(content["images"]):
            image["crowdIndex"] = 0.05 if i < 3 else 0.95
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco/images").symlink_to(small_data / "coco/images")
    (tmp_path / "coco/people.json").write_text(json.dumps(content))
    path = write_bottom_up(data={"root": str(tmp_path)})
    pictures = load_pictures(load_config(path), "validation").pictures
    given: dict[str, Any] = {}

    def predict(_: Any, __: Any, images: Iterable[NDArray[np.uint8]], **options: Any) -> list[Poses]:
        given.update(options)
        assert len(list(images)) == len(pictures)
        return [*told(pictures[:3]), *told(pictures[3:], shift=60)]

    monkeypatch.setattr(evaluate_bottomup, "predict_pictures", predict)
    command = ["evaluate", str(path), "--weights", weights(17), "--json"]
    assert main([*command, "--flip-test", "--scales", "0.5", "1", "2"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (given["flip_test"], list(given["scales"])) == (True, [0.5, 1, 2])
    assert figures["AR"] == pytest.approx(0.5)
    if crowded:
        assert (figures["AP_easy"], figures["AP_hard"]) == (1, 0)
        assert "AP_medium" not in figures  # no picture counts
    else:
        assert "AP_easy" not in figures
    assert main(command) == 0
    assert (given["flip_test"], list(given["scales"])) == (False, [1])


def test_mosaics_of_the_test_pictures(
    write_bottom_up: Write,
    weights: Callable[[int], str],
    lsp_test_set: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = write_bottom_up(mosaics=True, data={"root": str(lsp_test_set)})
    mosaics = held_out_mosaics(load_lsp(lsp_test_set / "lsp", 1001, 2000))

    def predict(_: Any, __: Any, images: Iterable[NDArray[np.uint8]], **___: Any) -> list[Poses]:
        assert all(np.array_equal(a, m.image) for a, m in zip(images, mosaics, strict=True))
        return [poses.take(np.arange(3)) for poses in told(mosaics)]

    monkeypatch.setattr(evaluate_bottomup, "predict_pictures", predict)
    assert main(["evaluate", str(path), "--weights", weights(14), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["persons"] == 3
    assert figures["AR"] == pytest.approx(0.75)
    assert figures["pck_mean"] == pytest.approx(75, abs=1)


def test_what_cannot_be_evaluated(
    write_bottom_up: Write, weights: Callable[[int], str], capsys: pytest.CaptureFixture[str]
) -> None:
    path, file = str(write_bottom_up(data={"validation_annotations": None})), weights(17)
    assert main(["evaluate", path, "--weights", file]) == 1
    assert "no validation pictures; found data.validation_annotations None" in capsys.readouterr().err
    path = str(write_bottom_up())
    assert main(["evaluate", path, "--weights", file, "--scales", "0.5", "100"]) == 1
    assert "scale" in capsys.readouterr().err
    assert main(["evaluate", path, "skeleton=lsp14", "--weights", weights(14)]) == 1
    assert "a person has 17 joints, lsp14 has 14" in capsys.readouterr().err

"""Comparing models: the figures are those of differences made on purpose."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import color_model, color_spec, people_model, people_picture, people_spec, spots

from edgepose import Decoder, Grouping, InvalidInputError, ModelFormatError, ParityError
from edgepose.backends import Backend, open_backend
from edgepose.builder.layers import compare_layers
from edgepose.builder.parity import TOLERANCES, Parity, compare
from edgepose.cli import main

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
cv2 = pytest.importorskip("cv2")

PICTURES = [
    spots((64, 48), [(12, 20), (30, 40), (24, 12)]),
    spots((128, 96), [(30, 50), (60, 80), (50, 100)]),
]
CROWD = people_picture((128, 200), [[(30, 40), (50, 60)], [(150, 80), (170, 40)]], peaks=[0.9, 0.3])


def test_a_model_equals_itself(tmp_path: Path) -> None:
    model = color_model(tmp_path / "a.onnx")
    parity = compare(model, model, PICTURES)
    assert parity == Parity(2, 2, 0, 0, 0, 0, 0, 1, 1, 0, 0)
    TOLERANCES["fp32"].check(parity, "a.onnx")


def test_the_runtimes_of_one_file_agree(
    tmp_path: Path, openvino: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = str(people_model(tmp_path / "a.onnx"))
    cv2.imwrite(str(tmp_path / "0.png"), CROWD)
    opened: list[str] = []

    def spy(path: Path, *, runtime: str, threads: int | None) -> Backend:
        opened.append(runtime)
        return open_backend(path, runtime=runtime, threads=threads)

    monkeypatch.setattr("edgepose.builder.parity.open_backend", spy)
    command = ["compare", model, model, "--pictures", str(tmp_path / "0.png"), "--tolerance", "fp32"]
    for names in ("openvino", "onnxruntime,openvino", "auto"):
        assert main([*command, "--runtime", names]) == 0
    assert main(command) == 0
    assert opened == ["openvino", "openvino", "onnxruntime", "openvino", "auto", "auto", "auto", "auto"]
    for flag in ("--limit", "--threads"):
        for value in ("0", "-1"):
            with pytest.raises(SystemExit):
                main([*command, flag, value])
            assert "give a whole number of at least 1" in capsys.readouterr().err
    for names in ("tensorflow", "auto,", "auto,auto,auto"):
        with pytest.raises(SystemExit):
            main([*command, "--runtime", names])
    assert (
        "give one or two of auto, onnxruntime, onnxruntime-tensorrt, openvino, tensorrt"
        in capsys.readouterr().err
    )


def test_a_known_difference(tmp_path: Path) -> None:
    first = color_model(tmp_path / "a.onnx")
    halved = color_model(tmp_path / "b.onnx", mask=np.full((1, 3, 16, 12), 0.75))
    parity = compare(first, halved, PICTURES)
    assert parity.heatmap_rms == pytest.approx(0.25, abs=1e-6)
    assert parity.heatmap_max == pytest.approx(0.25, abs=0.01)
    assert parity.keypoint_max < 1e-3  # the peaks stay where they are
    assert parity.pck == 1
    with pytest.raises(ParityError, match="heatmap_rms out of bounds on 2 pictures") as caught:
        TOLERANCES["fp16"].check(parity, "b.onnx")
    assert "heatmap_rms            0.25  (at most 0.01)" in str(caught.value)


def test_joints_elsewhere(tmp_path: Path) -> None:
    first = color_model(tmp_path / "a.onnx", color_spec(decoder=Decoder("argmax", refine=None)))
    swapped = color_model(
        tmp_path / "b.onnx", color_spec(decoder=Decoder("argmax", refine=None)), channels=(0, 2, 2)
    )
    parity = compare(first, swapped, PICTURES[:1])
    # One joint of three goes from (30, 40) to (24, 12), on a grid of 4 pixels.
    assert parity.keypoint_median == 0
    assert parity.keypoint_max == pytest.approx(np.hypot(6, 28), abs=4)
    assert parity.pck == pytest.approx(2 / 3)
    assert 0.5 < parity.oks < 0.8
    # Distances count in pixels of the input, whatever the picture's size.
    large = cv2.resize(PICTURES[0], None, fx=4, fy=4)
    assert compare(first, swapped, [large]).keypoint_max == pytest.approx(parity.keypoint_max, abs=3)


def test_a_person_of_a_single_joint_has_a_size(tmp_path: Path) -> None:
    """One pixel of the input, however many of the picture that is."""
    ramp = np.ones((1, 3, 16, 12), np.float32) * np.linspace(0.5, 1, 12, dtype=np.float32)
    first, second = color_model(tmp_path / "a.onnx"), color_model(tmp_path / "b.onnx", mask=ramp)
    parity = compare(first, second, [spots((768, 576), [(300, 400)])])
    assert parity.persons == 1
    assert 0.1 / 12 < parity.keypoint_max < 0.1  # a tenth of a pixel of the picture, and of the input
    assert parity.pck == 1


def test_persons_lost_and_added(tmp_path: Path) -> None:
    first = people_model(tmp_path / "a.onnx")
    blind = people_model(tmp_path / "b.onnx", people_spec(grouping=Grouping(0.5, refine=False)))
    parity = compare(first, blind, [CROWD, CROWD])
    assert (parity.persons, parity.lost, parity.added) == (4, 2, 0)
    assert parity.oks == pytest.approx(0.5)
    assert (parity.keypoint_max, parity.heatmap_rms, parity.pck) == (0, 0, 1)
    assert compare(blind, first, [CROWD]).added == 1
    nobody = compare(first, blind, [np.zeros((130, 130, 3), np.uint8)])
    assert (nobody.persons, nobody.added) == (0, 0)
    assert np.isnan([nobody.oks, nobody.pck, nobody.keypoint_p95]).all()
    TOLERANCES["fp32"].check(nobody, "b.onnx")  # the maps are the same
    with pytest.raises(ParityError, match="found nobody on 1 pictures"):
        TOLERANCES["int8"].check(replace(nobody, heatmap_rms=0.01), "b.onnx")
    assert nobody.to_dict()["oks"] is None
    invented = compare(blind, first, [np.zeros((130, 130, 3), np.uint8), CROWD])
    assert (invented.persons, invented.added) == (1, 1)
    assert invented.oks == pytest.approx(0.5)  # a person too many counts as one too few does


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    first, people = color_model(tmp_path / "a.onnx"), people_model(tmp_path / "b.onnx")
    with pytest.raises(InvalidInputError, match=r"topdown of colors3 and\s+bottomup of pair2"):
        compare(first, people, PICTURES)
    with pytest.raises(InvalidInputError, match="found no pictures"):
        compare(first, first, [])


def test_models_of_other_sizes_have_joints_that_compare(tmp_path: Path) -> None:
    first = color_model(tmp_path / "a.onnx")
    other = color_model(tmp_path / "b.onnx", color_spec(input_size=(128, 96)))
    parity = compare(first, other, PICTURES)
    assert np.isnan([parity.heatmap_rms, parity.heatmap_max]).all()
    assert "heatmap_rms            none  (at most 0.1)" in parity.table(TOLERANCES["int8"])
    assert TOLERANCES["int8"].broken(parity) == []
    assert 0 < parity.keypoint_max < 1.5


def test_layers_say_where_a_difference_begins(tmp_path: Path) -> None:
    first = color_model(tmp_path / "a.onnx")
    other = color_model(tmp_path / "b.onnx", mask=np.full((1, 3, 16, 12), 0.5))
    found = compare_layers(first, other, PICTURES[1])
    assert list(found) == ["picked", "small", "heatmaps"]
    assert found["picked"] == found["small"] == 0
    assert found["heatmaps"] == pytest.approx(0.5)
    renamed = onnx.load(str(other))
    for node in renamed.graph.node:
        for names in (node.input, node.output):
            names[:] = [f"{name}_" if name in ("picked", "small") else name for name in names]
    renamed.graph.output[0].name = "heatmaps"
    onnx.save(renamed, str(other))
    assert list(compare_layers(first, other, PICTURES[1])) == ["heatmaps"]
    wide = color_model(tmp_path / "c.onnx", color_spec(input_size=(64, 64)))
    with pytest.raises(ModelFormatError, match="same input"):
        compare_layers(first, wide, PICTURES[0])


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = str(color_model(tmp_path / "a.onnx"))
    other = str(color_model(tmp_path / "b.onnx", mask=np.full((1, 3, 16, 12), 0.75)))
    for index, picture in enumerate(PICTURES):
        cv2.imwrite(str(tmp_path / f"{index}.png"), picture)
    pictures = ["--pictures", str(tmp_path / "*.png")]
    assert main(["compare", first, other, *pictures, "--tolerance", "fp16"]) == 1
    output = capsys.readouterr()
    assert "heatmap_rms            0.25  (at most 0.01)" in output.out
    assert "differs from its source by too much" in output.err
    assert main(["compare", first, other, *pictures, "--limit", "1", "--layers", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["pictures"] == 1
    assert list(data["layers"]) == ["picked", "small", "heatmaps"]
    assert main(["compare", first, other, *pictures, "--layers"]) == 0
    assert "      0.25  heatmaps" in capsys.readouterr().out
    assert main(["compare", first, "none.onnx", *pictures]) == 1
    assert "model not found" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["compare", first])


def test_a_report_is_plain_json(tmp_path: Path) -> None:
    model = color_model(tmp_path / "a.onnx", replace(color_spec(), name="x"))
    assert json.loads(json.dumps(compare(model, model, PICTURES).to_dict()))["pictures"] == 2

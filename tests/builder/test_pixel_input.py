"""`edgepose build --input uint8`: the network takes the pictures' own bytes and computes the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import color_model, color_spec, people_model, people_picture, people_spec, pixel_model, spots

from edgepose import BuildError, Estimator, InvalidInputError, ParityError, kernels
from edgepose.backends import open_backend, read_model_spec
from edgepose.builder.build import Options, build
from edgepose.builder.graph import Graph
from edgepose.builder.layers import compare_layers
from edgepose.builder.parity import TOLERANCES, compare, record_batches
from edgepose.builder.passes.pixel_input import take_pixels
from edgepose.cli import build as command
from edgepose.cli import main
from edgepose.estimator import resolve_model

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxslim")
pytest.importorskip("onnxruntime")
cv2 = pytest.importorskip("cv2")

SPEC = color_spec(color="rgb", mean=(0.4, 0.5, 0.3), std=(0.2, 0.3, 0.25))
PICTURES = [spots((64, 48), [(12, 20), (30, 40), (24, 12)]), spots((90, 70), [(30, 50), (60, 80), (50, 20)])]
PIXELS = Options(input="uint8")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return color_model(tmp_path / "source.onnx", SPEC)


@pytest.mark.parametrize("size", [("height", "width"), (64, 96)])
def test_the_graph(tmp_path: Path, size: Any) -> None:
    """Two convolutions take the picture; the free axes keep their names."""
    spec = people_spec(mean=(0.4, 0.5, 0.3), std=(0.2, 0.3, 0.25))
    path = people_model(tmp_path / "a.onnx", spec, size=size)
    model = onnx.load(path)
    take_pixels(Graph(model), spec)
    (image,) = model.graph.input
    axes = image.type.tensor_type.shape.dim
    assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [axis.dim_value or axis.dim_param for axis in axes] == ["batch", *size, 3]
    kinds = [node.op_type for node in model.graph.node]
    assert kinds[:3] == ["Transpose", "Cast", "BatchNormalization"]
    onnx.helper.set_model_props(model, {"edgepose": replace(spec, input_format="uint8_nhwc").to_json()})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, tmp_path / "b.onnx")
    levels = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), np.uint8)
    normal = ((levels / 255 - spec.mean) / spec.std).transpose(0, 3, 1, 2).astype(np.float32)
    expected = open_backend(path, device="cpu").run(np.ascontiguousarray(normal))
    found = open_backend(tmp_path / "b.onnx", device="cpu").run(levels)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-5 * np.abs(values).max())


def test_graphs_with_branches_are_refused(source: Path) -> None:
    model = onnx.load(source)
    value = onnx.helper.make_tensor_value_info("inner", onnx.TensorProto.FLOAT, None)
    node = onnx.helper.make_node("Identity", ["image"], ["inner"])
    branch = onnx.helper.make_graph([node], "branch", [], [value])
    model.graph.node.append(
        onnx.helper.make_node("If", ["which"], ["chosen"], then_branch=branch, else_branch=branch)
    )
    with pytest.raises(BuildError, match="branches or loops"):
        take_pixels(Graph(model), SPEC)


def test_what_is_written(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "fast.onnx"
    report = build(source, output, PICTURES, PIXELS)
    spec = read_model_spec(output)
    assert spec == replace(
        SPEC, input_format="uint8_nhwc", provenance=spec.provenance, parity=spec.parity
    )  # fmt: skip
    assert report.input == spec.provenance["built"]["input"] == "uint8"
    assert report.parity.heatmap_rms < 1e-6
    assert report.rounding is not None
    assert 1e-5 < report.rounding.heatmap_rms < 5e-3
    assert spec.parity == {"built": report.parity.to_dict(), "rounding": report.rounding.to_dict()}
    assert json.loads(json.dumps(report.to_dict()))["rounding"]["pictures"] == 2
    with Estimator(source) as before, Estimator(output) as after:
        for picture in PICTURES:
            np.testing.assert_allclose(after(picture).keypoints, before(picture).keypoints, atol=1)
    again = tmp_path / "again.onnx"
    build(source, again, PICTURES, PIXELS)
    assert again.read_bytes() == output.read_bytes()
    plain = build(source, again, PICTURES)
    assert (plain.input, plain.rounding) == ("float32", None)
    assert "rounding" not in plain.to_dict()
    assert read_model_spec(again).provenance["built"]["input"] == "float32"


def test_a_source_that_takes_bytes_stays_so(source: Path, tmp_path: Path) -> None:
    pixels, output = pixel_model(tmp_path / "pixels.onnx", source), tmp_path / "fast.onnx"
    with pytest.raises(InvalidInputError, match="found a file that takes uint8; build it with input uint8"):
        build(pixels, output, PICTURES)
    assert not output.exists()
    report = build(pixels, output, PICTURES, PIXELS)
    assert report.rounding is None
    assert report.parity.heatmap_rms < 1e-6
    assert read_model_spec(output).input_format == "uint8_nhwc"
    assert len(onnx.load(output).graph.input[0].type.tensor_type.shape.dim) == 4


def test_channels_that_are_mixed_up_are_noticed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both models see the same wrong pixels, but the pictures as the source takes them are others."""
    honest = kernels.Kernels.crop_pixels

    def mixed(self: Any, image: Any, affine: Any, size: Any, rgb: bool, *, out: Any = None) -> Any:
        return honest(self, image, affine, size, not rgb, out=out)

    monkeypatch.setattr(kernels.Kernels, "crop_pixels", mixed)
    with pytest.raises(ParityError, match="cannot take uint8; found heatmap_rms"):
        build(source, tmp_path / "fast.onnx", PICTURES, PIXELS)
    assert [file.name for file in tmp_path.iterdir()] == ["source.onnx"]


def test_a_wrong_mean_is_noticed_on_the_same_pixels(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgepose.builder import build as build_module

    def wrong(graph: Graph, spec: Any) -> None:
        take_pixels(graph, replace(spec, mean=(0.401, 0.5, 0.3)))

    monkeypatch.setattr(build_module, "take_pixels", wrong)
    with pytest.raises(ParityError, match="heatmap_rms out of bounds on 2 pictures"):
        build(source, tmp_path / "fast.onnx", PICTURES, PIXELS)


def test_the_same_pixels_of_a_bottom_up_model(tmp_path: Path) -> None:
    first = people_model(tmp_path / "a.onnx", people_spec(mean=(0.1, 0.1, 0.1)))
    second = pixel_model(tmp_path / "b.onnx", first)
    crowd = [people_picture((130, 201), [[(30, 40), (50, 60)], [(150, 80), (170, 40)]])]
    same, whole = (compare(first, second, crowd, same_pixels=same) for same in (True, False))
    TOLERANCES["fp32"].check(same, "b.onnx")
    assert same.heatmap_rms < 1e-6 < 1e-5 < whole.heatmap_rms < 1e-2
    assert same.persons == whole.persons == 2
    (batch,) = record_batches(second, crowd)
    assert (batch.shape, batch.dtype) == ((1, 128, 256, 3), np.uint8)


def test_layers_of_models_of_both_forms(source: Path, tmp_path: Path) -> None:
    differences = compare_layers(source, pixel_model(tmp_path / "b.onnx", source), PICTURES[0])
    assert set(differences) == {"picked", "small", "heatmaps"}
    assert 0 < max(differences.values()) < 1e-2


def test_int8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calibrated on bytes; the first quantised value is the normalised picture."""
    # So few pictures calibrate badly: no search for the layers to blame.
    loose = replace(TOLERANCES["int8"], heatmap_rms=1, keypoint_p95=np.inf, pck=0)
    monkeypatch.setitem(TOLERANCES, "int8", loose)
    photo = cv2.imread(str(command.SAMPLE))
    views = [np.ascontiguousarray(photo[16 * i :, 8 * i :]) for i in range(10)]
    output = tmp_path / "small.onnx"
    options = Options("int8", views[:8], activations="int8", max_drop=0.5, input="uint8")
    report = build(resolve_model(None), output, views[8:], options)
    spec = read_model_spec(output)
    assert (spec.precision, spec.input_format) == ("int8", "uint8_nhwc")
    assert report.parity.oks > 0.5
    assert report.rounding is not None
    users: dict[str, list[Any]] = {}
    for node in onnx.load(output).graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    value = "image"
    for kind in ("Transpose", "Cast", "BatchNormalization", "QuantizeLinear"):
        (node,) = users[value]
        assert node.op_type == kind
        value = node.output[0]


def test_command_line(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), PICTURES[0])
    output = str(tmp_path / "fast.onnx")
    arguments = [
        "build",
        str(source),
        "-o",
        output,
        "--pictures",
        str(tmp_path / "a.png"),
        "--input",
        "uint8",
    ]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"{output}  fp32, input uint8, 0.0 MB")
    assert "rounding of the pictures alone:\npictures                  1" in text
    assert main([*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["input"] == "uint8"
    assert 0 < report["rounding"]["heatmap_rms"] < 1e-2
    with pytest.raises(SystemExit):
        main([*arguments, "--input", "float16"])
    with pytest.raises(InvalidInputError, match="unknown input; found 'int8'"):
        build(source, tmp_path / "fast.onnx", PICTURES, Options(input="int8"))

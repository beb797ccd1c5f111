"""Quantisation: what becomes of the graph, how far the results move, and which layers stay in float."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgepose import CalibrationError, Estimator, InvalidInputError, ParityError
from edgepose.backends import read_model_spec
from edgepose.builder.build import Options, build
from edgepose.builder.parity import TOLERANCES, Parity, record_batches
from edgepose.builder.passes import rewrite
from edgepose.builder.quantize import METHODS, Quantizer
from edgepose.builder.search import quantize_within
from edgepose.builder.source import load_source
from edgepose.cli import build as command
from edgepose.cli import main
from edgepose.estimator import resolve_model

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxslim")
pytest.importorskip("onnxruntime")
cv2 = pytest.importorskip("cv2")

MODEL = resolve_model(None)
PHOTO = cv2.imread(str(command.SAMPLE))
EQUAL = Parity(10, 10, 0, 0, 0, 0, 0, 1, 1, 0, 0)


def views(count: int) -> list[np.ndarray]:
    """Views of the packaged photo."""
    rng = np.random.default_rng(0)
    height, width = PHOTO.shape[:2]
    found = []
    for _ in range(count):
        y, x = (int(v) for v in rng.integers(0, [height // 4, width // 4]))
        view = PHOTO[y : y + height * 3 // 4, x : x + width * 3 // 4]
        found.append(np.ascontiguousarray(view[:, :: 1 if rng.random() < 0.5 else -1]))
    return found


def small_person() -> np.ndarray:
    """The packaged photo at half its size, in which the multi-person model finds somebody."""
    picture = np.full_like(PHOTO, 128)
    half = cv2.resize(PHOTO, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    picture[: half.shape[0], : half.shape[1]] = half
    return picture


@pytest.fixture(scope="module")
def float_model() -> Any:
    return rewrite(load_source(MODEL).model)[0]


@pytest.fixture(scope="module")
def batches() -> list[np.ndarray]:
    return record_batches(MODEL, views(12))


@pytest.mark.parametrize("activations", ["uint8", "int8"])
def test_the_graph(float_model: Any, batches: list[np.ndarray], activations: str) -> None:
    quantizer = Quantizer(float_model, batches, activations)
    before = float_model.SerializeToString()
    model = quantizer.quantize("minmax")
    assert float_model.SerializeToString() == before
    onnx.checker.check_model(model, full_check=True)
    constants = {item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer}
    producers = {name: node for node in model.graph.node for name in node.output}
    kinds: Counter[str] = Counter()
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            kinds[str(constants[node.input[2]].dtype)] += 1
            if activations == "int8":
                assert constants[node.input[2]] == 0
        if node.op_type != "Conv":
            continue
        made = producers.get(node.input[1])
        if node.name in quantizer.heads:
            assert made is None  # a float constant
            continue
        assert made is not None
        weight, scale, zero = (constants[name] for name in made.input)
        assert weight.dtype == np.int8
        assert scale.shape == (weight.shape[0],)
        assert not zero.any()
    assert set(kinds) == {activations}
    assert [name for name in quantizer.heads if "final_layer" in name]
    # The same again, and with a layer in float.
    assert quantizer.quantize("minmax").SerializeToString() == model.SerializeToString()
    layer = quantizer.candidates()[5]
    kept = quantizer.quantize("minmax", [layer])
    (node,) = (node for node in kept.graph.node if node.name == layer)
    assert node.input[1] in {item.name for item in kept.graph.initializer}


def test_the_graph_for_tensorrt(float_model: Any, batches: list[np.ndarray]) -> None:
    """Weights and biases stay in float; every pair is of signed 8 bits around 0, a weight's by channel."""
    quantizer = Quantizer(float_model, batches, "int8", tensorrt=True)
    model = quantizer.quantize("minmax")
    onnx.checker.check_model(model, full_check=True)
    constants = {item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer}
    producers = {name: node for node in model.graph.node for name in node.output}
    weights = 0
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = constants[node.input[2]]
            assert zero.dtype == np.int8
            assert not zero.any()
            assert node.op_type == "QuantizeLinear" or node.input[0] in producers
        if node.op_type == "Conv" and node.name not in quantizer.heads:
            dequantized = producers[node.input[1]]
            quantized = producers[dequantized.input[0]]
            weight = constants[quantized.input[0]]
            assert weight.dtype == np.float32
            assert constants[quantized.input[1]].shape == (weight.shape[0],)
            assert all(constants[name].dtype == np.float32 for name in node.input[2:])
            weights += 1
    assert weights > 40


def test_a_build_in_int8(tmp_path: Path) -> None:
    output = tmp_path / "small.onnx"
    options = Options("int8", calibration=views(12), max_drop=0.1)
    report = build(MODEL, output, views(20)[12:], options)
    assert report.precision == "int8"
    assert report.bytes[1] < 0.4 * report.bytes[0]
    assert report.quantization["pictures"] == 12
    assert set(report.quantization["tried"]) == set(METHODS)
    assert 0.9 <= report.parity.oks < 1
    assert report.milliseconds == {}
    spec = read_model_spec(output)
    assert spec.precision == "int8"
    assert spec.provenance["built"]["quantization"]["method"] == report.quantization["method"]
    with Estimator(MODEL) as before, Estimator(output) as after:
        difference = before(PHOTO).keypoints - after(PHOTO).keypoints
        assert np.median(np.abs(difference)) < 0.02 * PHOTO.shape[0]
    with pytest.raises(InvalidInputError, match="found a file of int8"):
        build(output, tmp_path / "again.onnx", views(1))
    again = tmp_path / "again.onnx"
    build(MODEL, again, views(20)[12:], options)
    assert again.read_bytes() == output.read_bytes()


def test_pictures_of_any_shape_calibrate_a_bottom_up_model(tmp_path: Path) -> None:
    pictures = [view[:, : view.shape[1] * 2 // 3] if i % 2 else view for i, view in enumerate(views(8))]
    shapes = {batch.shape for batch in record_batches(resolve_model("multi"), pictures)}
    assert len(shapes) == 2
    options = Options("int8", calibration=pictures, max_drop=1)
    loose = replace(TOLERANCES["int8"], heatmap_rms=1, keypoint_p95=np.inf, pck=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TOLERANCES, "int8", loose)
        with pytest.raises(InvalidInputError, match="found nobody on 2 pictures"):
            build(resolve_model("multi"), tmp_path / "small.onnx", pictures[:2], options)
        report = build(resolve_model("multi"), tmp_path / "small.onnx", [small_person()], options)
    assert report.parity.persons >= 1
    assert set(report.quantization["tried"]) == set(METHODS)
    assert report.precision == "int8"


def test_auto_takes_the_faster_one_that_is_good_enough(tmp_path: Path) -> None:
    output = tmp_path / "auto.onnx"
    options = Options("auto", calibration=views(8), max_drop=0.1)
    report = build(MODEL, output, views(3), options)
    kinds = ["uint8"] + ["int8"] * (importlib.util.find_spec("openvino") is not None)
    assert set(report.milliseconds) == {"fp32", *(f"int8, {kind} activations" for kind in kinds)}
    fastest = min(report.milliseconds, key=lambda name: report.milliseconds[name])
    assert report.precision == fastest.partition(",")[0]
    if report.quantization:
        assert report.quantization["activations"] in fastest
    assert read_model_spec(output).precision == report.precision


class FakeQuantizer:
    """Layers by name, of which some do harm."""

    def __init__(self, harm: dict[str, float]) -> None:
        self.harm = harm
        self.made: list[tuple[str, tuple[str, ...]]] = []

    def candidates(self) -> list[str]:
        return list(self.harm)

    def quantize(self, method: str = "minmax", keep: Sequence[str] = ()) -> Any:
        self.made.append((method, tuple(keep)))
        return method, sum(value for name, value in self.harm.items() if name not in keep)


def measured(model: tuple[str, float]) -> Parity:
    method, harm = model
    extra = {"minmax": 0.02, "entropy": 0.0, "percentile": 0.01}[method]
    return replace(EQUAL, oks=1 - harm - extra, heatmap_rms=(harm + extra) / 10)


def within(quantizer: Any) -> Any:
    return quantize_within(quantizer, measured, measured, TOLERANCES["int8"], "net")  # type: ignore[arg-type]


def test_the_most_similar_calibration_is_taken() -> None:
    quantizer = FakeQuantizer({"a": 0.005, "b": 0.001})
    found = within(quantizer)
    assert (found.method, found.kept, found.gains) == ("entropy", (), {})
    assert found.tried == {"minmax": 0.974, "entropy": 0.994, "percentile": 0.984}
    assert len(quantizer.made) == 3


def test_layers_that_do_most_harm_stay_in_float() -> None:
    found = within(FakeQuantizer({"a": 0.001, "b": 0.05, "c": 0.002, "d": 0.03, "e": 0.004, "f": 0}))
    assert found.method == "entropy"
    assert found.kept == ("b", "d")
    assert found.gains["b"] == pytest.approx(0.005)
    assert found.parity.oks == pytest.approx(0.993)


def test_a_model_that_cannot_be_quantised() -> None:
    with pytest.raises(ParityError, match=r"(?s)found oks out of bounds on 10 pictures with 2 of 4 layers"):
        within(FakeQuantizer(dict.fromkeys("abcd", 0.1)))


def test_refusals(float_model: Any, batches: list[np.ndarray], tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="found 3; give at least 8"):
        Quantizer(float_model, batches[:3])
    with pytest.raises(InvalidInputError, match="'int4'"):
        Quantizer(float_model, batches, "int4")
    with pytest.raises(InvalidInputError, match="'guess'"):
        Quantizer(float_model, batches).quantize("guess")
    with pytest.raises(CalibrationError, match="cannot calibrate by minmax"):
        Quantizer(float_model, [np.zeros((1, 3, 8, 8), np.float32)] * 8).quantize()
    output = tmp_path / "a.onnx"
    for options, words in (
        (Options("int8"), "needs pictures to calibrate on"),
        (Options("int4"), "unknown precision"),
        (Options("int8", views(8), max_drop=2), "max_drop"),
    ):
        with pytest.raises(InvalidInputError, match=words):
            build(MODEL, output, views(1), options)
    assert not output.exists()


def test_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "calib").mkdir()
    for index, view in enumerate(views(9)):
        cv2.imwrite(str(tmp_path / f"calib/{index}.png"), view)
    output = str(tmp_path / "small.onnx")
    arguments = ["build", "lpn50-lsp", "-o", output, "--precision", "int8", "--max-drop", "0.2"]
    calibrated = [*arguments, "--calib", str(tmp_path / "calib")]
    assert main(calibrated) == 0
    text = capsys.readouterr().out
    assert "activations: uint8" in text
    assert "int8, 4." in text
    # Signed ones are too coarse for the maps on so few pictures: no search for the layers to blame.
    monkeypatch.setitem(TOLERANCES, "int8", replace(TOLERANCES["int8"], heatmap_rms=1))
    assert main([*calibrated, "--activations", "int8"]) == 0
    text = capsys.readouterr().out
    assert "activations: int8" in text
    assert "int8, 4." in text
    assert main(arguments) == 1
    assert "needs pictures to calibrate on" in capsys.readouterr().err

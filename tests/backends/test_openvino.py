"""OpenVINO gives what ONNX Runtime gives, by the same file, and leaves no trace."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import color_model, color_spec, people_model

from edgepose import BackendUnavailableError, ModelFormatError
from edgepose.backends import open_backend, read_model_spec
from edgepose.backends.openvino import COMPILED_SHAPES, OpenVinoBackend, import_openvino
from edgepose.estimator import resolve_model

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
try:
    import_openvino()
except BackendUnavailableError as error:
    pytest.skip(str(error), allow_module_level=True)

helper = onnx.helper


def assert_same(path: Path, shapes: list[tuple[int, ...]], tolerance: float = 1e-4) -> None:
    """Both runtimes give the same, within a share of each output's largest value; thrice in turn."""
    reference, backend = (open_backend(path, runtime=name) for name in ("onnxruntime", "openvino"))
    assert (reference.spec, reference.input_size) == (backend.spec, backend.input_size)
    rng = np.random.default_rng(0)
    batches = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    for batch in batches * 3:
        expected, found = reference.run(batch), backend.run(batch)
        assert list(found) == list(expected)
        for name, values in expected.items():
            assert found[name].dtype == values.dtype
            scale = float(np.abs(values).max())
            np.testing.assert_allclose(found[name], values, atol=tolerance * scale, rtol=0)
    reference.close()
    backend.close()


def test_the_packaged_top_down_model() -> None:
    # bfloat16, which processors that have it would use, differs by some thousandths.
    size = read_model_spec(resolve_model(None)).input_size
    assert_same(resolve_model(None), [(n, 3, *size) for n in (1, 3, 8)])


def test_the_packaged_bottom_up_model() -> None:
    assert_same(resolve_model("multi"), [(1, 3, 256, 256), (2, 3, 128, 192), (1, 3, 320, 256)])


def test_tiny_models(tmp_path: Path) -> None:
    assert_same(color_model(tmp_path / "a.onnx"), [(n, 3, 64, 48) for n in (1, 2, 5)], 1e-5)
    people = people_model(tmp_path / "b.onnx", tag_maps=1, outputs=("tags", "heatmaps_high"))
    assert_same(people, [(1, 3, 64, 64), (3, 3, 32, 96), (2, 3, 128, 64)], 1e-6)


def test_half_precision_outputs(tmp_path: Path) -> None:
    path = color_model(tmp_path / "a.onnx", output_name="wide")
    model = onnx.load(path)
    model.graph.node.append(helper.make_node("Cast", ["wide"], ["heatmaps"], to=onnx.TensorProto.FLOAT16))
    output = model.graph.output[0]
    output.name, output.type.tensor_type.elem_type = "heatmaps", onnx.TensorProto.FLOAT16
    onnx.save(model, path)
    assert_same(path, [(2, 3, 64, 48)], 1e-3)


def test_outputs_that_share_a_value_keep_their_names(tmp_path: Path) -> None:
    path = people_model(tmp_path / "a.onnx", outputs=("heatmaps", "tags"))
    model = onnx.load(path)
    model.graph.node.append(helper.make_node("Identity", ["heatmaps"], ["heatmaps_again"]))
    again = model.graph.output.add()
    again.CopyFrom(model.graph.output[0])
    again.name = "heatmaps_again"
    onnx.save(model, path)
    assert_same(path, [(1, 3, 64, 64)], 1e-6)


def quantised_model(path: Path) -> Path:
    """A top-down model whose first convolution is int8 and whose last one is not."""
    rng = np.random.default_rng(0)
    nodes, values = [], []

    def value(name: str, array: Any) -> str:
        values.append(onnx.numpy_helper.from_array(np.asarray(array), name))
        return name

    def quantised(source: str, scale: float, zero: int) -> str:
        parameters = [value(f"{source}_scale", np.float32(scale)), value(f"{source}_zero", np.uint8(zero))]
        nodes.append(helper.make_node("QuantizeLinear", [source, *parameters], [f"{source}_q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{source}_q", *parameters], [f"{source}_dq"]))
        return f"{source}_dq"

    weights = [
        value("weights", rng.integers(-127, 128, (32, 3, 3, 3), dtype=np.int8)),
        value("weights_scale", np.full(32, 0.002, np.float32)),
        value("weights_zero", np.zeros(32, np.int8)),
    ]
    nodes.append(helper.make_node("DequantizeLinear", weights, ["weights_dq"], axis=0))
    nodes.append(
        helper.make_node("Conv", [quantised("image", 1 / 32, 128), "weights_dq"], ["a"], pads=[1] * 4)
    )
    nodes.append(helper.make_node("Relu", ["a"], ["b"]))
    last = value("last", rng.standard_normal((3, 32, 1, 1)).astype(np.float32))
    nodes.append(helper.make_node("Conv", [quantised("b", 1 / 64, 0), last], ["heatmaps"]))
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "quantised",
        [helper.make_tensor_value_info("image", kind, ["batch", 3, 64, 48])],
        [helper.make_tensor_value_info("heatmaps", kind, ["batch", 3, 64, 48])],
        values,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"edgepose": color_spec(precision="int8").to_json()})
    onnx.save(model, path)
    return path


def precisions(request: Any) -> Counter[str]:
    """How many convolutions run in which precision."""

    def told(operation: Any, key: str) -> str:
        entry = operation.get_rt_info()[key]
        return str(getattr(entry, "value", entry))

    operations = request.get_compiled_model().get_runtime_model().get_ops()
    return Counter(
        told(op, "runtimePrecision") for op in operations if told(op, "layerType") == "Convolution"
    )


def test_quantised_layers_stay_int8_and_the_others_float32(tmp_path: Path) -> None:
    path = quantised_model(tmp_path / "a.onnx")
    assert_same(path, [(1, 3, 64, 48), (4, 3, 64, 48)], 0.02)
    backend = OpenVinoBackend(path)
    assert backend.describe()["precision"] == "f32"
    for _ in range(2):
        backend.run(np.zeros((1, 3, 64, 48), np.float32))
    for request in (backend._any_shape, *backend._by_shape.values()):
        assert precisions(request) == {"u8": 1, "f32": 1}
    assert len(backend._by_shape) == 1


def test_shapes_that_come_again_get_networks_of_their_own(tmp_path: Path) -> None:
    backend = OpenVinoBackend(color_model(tmp_path / "a.onnx"))
    counts = [1, 2, 1, 3, 4, 2, 3, 4, 3, 1]
    own = []
    for count in counts:
        assert len(backend.run(np.zeros((count, 3, 64, 48), np.float32))["heatmaps"]) == count
        own.append(len(backend._by_shape))
    assert COMPILED_SHAPES == 2
    assert own == [0, 0, 1, 1, 1, 2, 2, 2, 2, 2]
    assert [shape[0] for shape in backend._by_shape] == [1, 2]


def test_a_damaged_graph_names_the_runtime(tmp_path: Path) -> None:
    path = color_model(tmp_path / "a.onnx")
    model = onnx.load(path)
    model.graph.node[0].input[1] = "nothing"
    onnx.save(model, path)
    with pytest.raises(ModelFormatError, match=r"cannot run .*; openvino 20\S+ says: (?!Exception from)"):
        open_backend(path, runtime="openvino")


def test_nothing_is_sent_or_written(tmp_path: Path) -> None:
    """The import of OpenVINO alone would write to the home directory and report itself."""
    path = color_model(tmp_path / "a.onnx")
    home, temporary = tmp_path / "home", tmp_path / "temporary"
    for folder in (home, temporary):
        folder.mkdir()
    code = f"""
import pathlib, socket, sys, numpy as np
def refuse(*arguments):
    print("connects", arguments)
socket.socket.connect = refuse
from edgepose.backends import open_backend
backend = open_backend(pathlib.Path({str(path)!r}), runtime="openvino")
for _ in range(3):
    backend.run(np.zeros((1, 3, 64, 48), np.float32))
from edgepose.diagnosis import _openvino
print(_openvino()["error"], "openvino_telemetry" in sys.modules)
import openvino
print(hasattr(openvino, "convert_model"))
"""
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "HOME": str(home),
        "TMPDIR": str(temporary),
    }
    for name in ("CI", "XDG_CACHE_HOME"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
        cwd=home,
        check=False,
    )
    assert done.stdout.split() == ["None", "False", "True"], done.stderr
    assert list(home.iterdir()) == list(temporary.iterdir()) == []

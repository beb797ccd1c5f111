"""Small ONNX detectors: some give fixed outputs, others find what is bright."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def fixed_detector(
    path: Path,
    outputs: Mapping[str, np.ndarray],
    *,
    size: tuple[int | str, int | str] = (64, 96),
    batch: int | str = "batch",
    stem: Sequence[str] = (),
    metadata: Mapping[str, str] | None = None,
    half: bool = False,
    input_name: str = "images",
    inputs: int = 1,
) -> Path:
    """Write a detector that gives the same outputs for each picture.

    Args:
        outputs: of one picture, (1, ...); floating point or int64.
        stem: operators between the input and the rest: Cast, Identity or Slice.
        half: take and give float16.
        inputs: how many; all but the first do nothing.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    nodes, initializers, infos = [], [], []
    last = input_name
    for operator in stem:
        arguments = {"Slice": ["starts", "ends", "axes", "steps"]}.get(operator, [])
        attributes = {"to": kind} if operator == "Cast" else {}
        nodes.append(helper.make_node(operator, [last, *arguments], [f"{last}_"], **attributes))
        last += "_"
    for name, value in (("starts", 0), ("ends", 1 << 30), ("axes", 3), ("steps", 2)):
        if "Slice" in stem:
            initializers.append(numpy_helper.from_array(np.array([value]), name))
    nodes.append(helper.make_node("ReduceMean", [last], ["mean"], axes=[1, 2, 3], keepdims=1))
    nodes.append(helper.make_node("Mul", ["mean", "nothing"], ["zero"]))
    dtype = np.float16 if half else np.float32
    initializers.append(numpy_helper.from_array(np.zeros(1, dtype), "nothing"))
    for name, value in outputs.items():
        shape = numpy_helper.from_array(np.array([-1] + [1] * (value.ndim - 1)), f"{name}_shape")
        whole = value.dtype == np.int64
        initializers += [shape, numpy_helper.from_array(value.astype(dtype), f"{name}_values")]
        nodes.append(helper.make_node("Reshape", ["zero", f"{name}_shape"], [f"{name}_zero"]))
        added = f"{name}_added" if whole else name
        nodes.append(helper.make_node("Add", [f"{name}_values", f"{name}_zero"], [added]))
        if whole:
            nodes.append(helper.make_node("Cast", [added], [name], to=TensorProto.INT64))
        sides = [batch, *(f"{name}_{axis}" for axis in range(1, value.ndim))]
        infos.append(helper.make_tensor_value_info(name, TensorProto.INT64 if whole else kind, sides))
    ports = [helper.make_tensor_value_info(input_name, kind, [batch, 3, *size])]
    ports += [helper.make_tensor_value_info(f"extra{i}", kind, [1]) for i in range(inputs - 1)]
    return _save(path, helper.make_graph(nodes, "fixed", ports, infos, initializers), metadata or {}, onnx)


def bright_detector(
    path: Path,
    kind: str,
    *,
    channel: int,
    limit: float,
    size: tuple[int, int] = (64, 96),
    batch: int | str = "batch",
) -> Path:
    """Write a detector that finds the box of all values above a limit in one channel of its input.

    The score is 1, or 0 where there is none.

    Args:
        kind: ``"dets"`` for MMDeploy's outputs, ``"rows"`` for those of YOLOv8 without doubles.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Slice", ["normal", "from", "to", "axis"], ["channel"]),
        helper.make_node("Greater", ["channel", "limit"], ["above"]),
        helper.make_node("Cast", ["above"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["mask"], ["found"], axes=[2, 3], keepdims=0),
    ]
    nodes.insert(0, helper.make_node("Mul", ["input", "one"], ["normal"]))
    for side, axis in (("x", 2), ("y", 3)):
        nodes.append(helper.make_node("ReduceMax", ["mask"], [f"line_{side}"], axes=[axis], keepdims=0))
        for end, late in (("low", 0), ("last", 1)):
            name = f"{end}_{side}"
            attributes = {"axis": 2, "keepdims": 0, "select_last_index": late}
            nodes.append(helper.make_node("ArgMax", [f"line_{side}"], [f"{name}_number"], **attributes))
            nodes.append(helper.make_node("Cast", [f"{name}_number"], [name], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Add", [f"last_{side}", "one"], [f"high_{side}"]))
    columns = ["low_x", "low_y", "high_x", "high_y", "found"]
    if kind == "rows":
        nodes.append(helper.make_node("Mul", ["found", "zero"], ["class"]))
        columns.append("class")
    main = "dets" if kind == "dets" else "output0"
    nodes.append(helper.make_node("Concat", columns, ["row"], axis=1))
    nodes.append(helper.make_node("Unsqueeze", ["row", "row_axis"], [main]))
    infos = [helper.make_tensor_value_info(main, TensorProto.FLOAT, [batch, "n", len(columns)])]
    if kind == "dets":
        nodes.append(helper.make_node("Mul", ["found", "zero"], ["class"]))
        nodes.append(helper.make_node("Cast", ["class"], ["labels"], to=TensorProto.INT64))
        infos.append(helper.make_tensor_value_info("labels", TensorProto.INT64, [batch, "n"]))
    constants: dict[str, Any] = {
        "from": np.array([channel]),
        "to": np.array([channel + 1]),
        "axis": np.array([1]),
        "row_axis": np.array([1]),
        "limit": np.array([limit], np.float32),
        "one": np.ones(1, np.float32),
        "zero": np.zeros(1, np.float32),
    }
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    port = helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 3, *size])
    return _save(path, helper.make_graph(nodes, "bright", [port], infos, initializers), {}, onnx)


def _save(path: Path, graph: Any, metadata: Mapping[str, str], onnx: Any) -> Path:
    opset = onnx.helper.make_opsetid("", 17)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8)
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def cells(size: tuple[int, int], strides: Sequence[int] = (8, 16, 32)) -> list[tuple[int, int, int]]:
    """Column, row and stride of each cell of a detector's grids, in their order."""
    return [
        (x, y, stride)
        for stride in strides
        for y in range(size[0] // stride)
        for x in range(size[1] // stride)
    ]

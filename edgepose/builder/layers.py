"""Where two ONNX files of the same network begin to differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepose.backends.base import INPUT, Batch, default_threads
from edgepose.builder.parity import record_batches
from edgepose.builder.source import load_source
from edgepose.errors import InvalidInputError, ModelFormatError
from edgepose.optional import first_line, require

__all__ = ["compare_layers"]


def compare_layers(
    first: Path, second: Path, image: NDArray[np.uint8], *, threads: int | None = None
) -> dict[str, float]:
    """Differences of the values that both graphs name, in the order of the first.

    Args:
        first: the ONNX file to measure against.
        second: one that was made of it, whose values keep their names.
        image: BGR uint8 (H, W, 3), prepared as for the first model and given to both; for each as it takes
            it where the forms of their inputs differ.
        threads: of each network.

    Returns:
        by name of the value: root mean square of the difference over that of the first's value.

    Raises:
        InvalidInputError: the graphs share no value, or do not take the same input.
        ModelNotFoundError, ModelFormatError, BackendUnavailableError: a file cannot be run.
    """
    onnx = require("onnx", "comparing layers", "edgepose[build]")
    sources = [load_source(path) for path in (first, second)]
    models = [source.model for source in sources]
    batches = 2 * record_batches(first, [image], threads)
    if sources[0].spec.input_format != sources[1].spec.input_format:
        batches[1:] = record_batches(second, [image], threads)
    names = [_values(onnx, model.graph) for model in models]
    shared = [name for name in names[0] if name in names[1]]
    if not shared:
        raise InvalidInputError(
            f"cannot compare layers of {first} and {second}; found no value of the same name; give a file "
            "that was built from the other"
        )
    runs = [_run(onnx, model, shared, batch, path, threads)
            for model, batch, path in zip(models, batches, (first, second), strict=True)]  # fmt: skip
    return {
        name: _difference(a, b)
        for name, a, b in zip(shared, *runs, strict=True)
        if a.shape == b.shape and a.dtype.kind == "f"
    }


def _values(onnx: Any, graph: Any) -> list[str]:
    """Names of the floating-point values that the nodes of a graph make, in order."""
    kinds = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16}
    typed = {
        item.name for item in (*graph.value_info, *graph.output) if item.type.tensor_type.elem_type in kinds
    }
    return [
        name for node in graph.node if node.op_type != "Constant" for name in node.output if name in typed
    ]


def _run(
    onnx: Any, model: Any, names: list[str], batch: Batch, path: Path, threads: int | None
) -> list[NDArray[Any]]:
    """Run a graph as it stands, without the runtime's own rewriting, and return these values."""
    ort = require("onnxruntime", "comparing layers", "edgepose[cpu]")
    known = {item.name for item in model.graph.output}
    typed = {item.name: item for item in model.graph.value_info}
    model.graph.output.extend(typed[name] for name in names if name not in known)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads or default_threads()
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return list(session.run(names, {INPUT: batch}))
    except Exception as error:  # ONNX Runtime's errors have no common base
        raise ModelFormatError(
            f"cannot run the layers of {path}; found {first_line(error)}; give models that take the "
            "same input"
        ) from error


def _difference(first: NDArray[Any], second: NDArray[Any]) -> float:
    a, b = first.astype(np.float64), second.astype(np.float64)
    scale = float(np.sqrt(np.square(a).mean()))
    error = float(np.sqrt(np.square(a - b).mean()))
    return error / scale if scale else error

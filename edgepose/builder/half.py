"""Half precision in the graph: weights and maps in float16; input, outputs and their layers in float32.

That is the only form that TensorRT takes in all its versions and ONNX Runtime too. It halves the file. A CPU
without arithmetic of its own for it converts at every step, and is slower than in float32: it is meant for
GPUs. The converter is ONNX Runtime's; it leaves in float32 what half precision serves badly.
"""

from __future__ import annotations

from typing import Any

from edgepose.builder.graph import Graph, copy_of
from edgepose.errors import BuildError
from edgepose.optional import first_line, require

__all__ = ["halve"]


def halve(model: Any) -> Any:
    """A copy of a model in half precision.

    Args:
        model: ``onnx.ModelProto`` in float32, simplified; it stays as it is.

    Raises:
        BackendUnavailableError: onnx or onnxruntime is not installed.
        BuildError: the converter fails on this model.
    """
    float16 = require("onnxruntime.transformers.float16", "half precision", "edgepose[cpu]")
    tools = require("onnxruntime.quantization.onnx_model", "half precision", "edgepose[cpu]")
    copied = copy_of(model)
    try:
        half = float16.convert_float_to_float16(
            copied, keep_io_types=True, node_block_list=Graph(copied).output_layers()
        )
        whole = tools.ONNXModel(half)
        whole.topological_sort()  # the converter puts its casts at the end
    except Exception as error:  # its errors have no common base
        raise BuildError(
            f"cannot convert the model to half precision; onnxruntime says: {first_line(error)}; "
            "build it in fp32"
        ) from error
    return whole.model

"""A model as a Triton inference server loads it: a folder with its configuration and one version of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from edgepose._files import write_whole
from edgepose.builder.candidates import Candidate
from edgepose.builder.tensorrt import EngineOptions
from edgepose.errors import BuildError
from edgepose.optional import require
from edgepose.spec import METADATA_KEY, ModelSpec

__all__ = ["write_repository"]

ONNX_BATCH = 8
"""Largest batch of an ONNX file where none was asked for; its own is free."""
_TYPES = {"FLOAT": "TYPE_FP32", "FLOAT16": "TYPE_FP16", "UINT8": "TYPE_UINT8"}


def write_repository(folder: Path, model: Candidate, spec: ModelSpec, options: EngineOptions) -> Path:
    """Write ``folder/NAME/config.pbtxt``, and ``folder/NAME/1/model.plan`` or ``model.onnx``.

    NAME is the spec's; an older model of that name is replaced. The configuration has the network's inputs
    and outputs, its largest batch, the batches to prefer and, as the parameter ``edgepose``, the spec.

    Args:
        folder: the model repository.
        model: what was built.
        spec: its whole description.
        options: with the batch that was asked for.

    Returns:
        ``folder/NAME``.

    Raises:
        BuildError: the network has a type of tensor that is not known here.
        OSError: the folder cannot be written.
    """
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", spec.name)
    home = folder / name
    version = home / "1"
    version.mkdir(parents=True, exist_ok=True)
    files = {True: version / "model.plan", False: version / "model.onnx"}
    is_plan = model.plan is not None
    if model.plan is None:
        _, usual, largest = options.batch or (1, ONNX_BATCH, ONNX_BATCH)
        model.write(spec, files[False])
    else:
        profile = model.plan.built.profile
        usual, largest = profile["opt"][0], profile["max"][0]
        write_whole(files[True], model.plan.content)
    files[not is_plan].unlink(missing_ok=True)
    lines = [
        f"name: {_quoted(name)}",
        f"platform: {_quoted('tensorrt_plan' if is_plan else 'onnxruntime_onnx')}",
        f"max_batch_size: {largest}",
        *_ports(model.model),
    ]
    if largest > 1:
        preferred = ", ".join(map(str, sorted({usual, largest} - {1})))
        lines.append(f"dynamic_batching {{ preferred_batch_size: [ {preferred} ] }}")
    lines += [
        f"instance_group [ {{ count: 1 kind: {'KIND_GPU' if is_plan else 'KIND_AUTO'} }} ]",
        f"parameters {{ key: {_quoted(METADATA_KEY)} value {{ string_value: "
        f"{_quoted(json.dumps(spec.to_dict()))} }} }}",
    ]
    write_whole(home / "config.pbtxt", "".join(f"{line}\n" for line in lines).encode())
    return home


def _ports(model: Any) -> Iterable[str]:
    """Inputs and outputs of an ``onnx.ModelProto``, without the batch, which Triton adds."""
    onnx = require("onnx", "building a model", "edgepose[build]")
    graph = onnx.shape_inference.infer_shapes(model).graph
    constants = {item.name for item in graph.initializer}
    for kind, values in (("input", graph.input), ("output", graph.output)):
        for value in values:
            if value.name in constants:
                continue
            tensor = value.type.tensor_type
            found = onnx.TensorProto.DataType.Name(tensor.elem_type)
            if found not in _TYPES:
                raise BuildError(
                    f"cannot describe {value.name!r} to Triton; found the type {found}; report it"
                )
            dims = ", ".join(str(axis.dim_value or -1) for axis in tensor.shape.dim[1:])
            yield (
                f"{kind} [ {{ name: {_quoted(value.name)} data_type: {_TYPES[found]} dims: [ {dims} ] }} ]"
            )


def _quoted(text: str) -> str:
    """A string of protocol buffers' text format; ASCII, as JSON and names are."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'

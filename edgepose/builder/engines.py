"""From ONNX candidates to TensorRT engines, each compared with the source on this machine's GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from edgepose.backends.base import INPUT, sides_of
from edgepose.builder.candidates import Candidate, Job
from edgepose.builder.graph import copy_of
from edgepose.builder.parity import TOLERANCES
from edgepose.builder.tensorrt import EngineOptions, Size, Steps, build_plan, input_profile
from edgepose.errors import ParityError
from edgepose.spec import ModelSpec

__all__ = ["engine_candidates", "fixed_size"]


def engine_candidates(
    job: Job,
    candidates: Sequence[Candidate],
    options: EngineOptions,
    command: str,
    steps: Steps | None = None,
) -> list[Candidate]:
    """Build an engine of each ONNX candidate; those that keep their bounds.

    Args:
        job: what is built.
        candidates: of `edgepose.builder.candidates.onnx_candidates`, for TensorRT.
        options: checked.
        command: the command line that builds the engine again.
        steps: shows the progress of TensorRT.

    Raises:
        BackendUnavailableError, InvalidInputError, BuildError: as `build_plan`.
        ParityError: none keeps its bounds.
    """
    found: list[Candidate] = []
    broken: ParityError | None = None
    for candidate in candidates:
        bare = copy_of(candidate.model)
        del bare.metadata_props[:]  # which a plan does not hold
        plan = build_plan(
            bare.SerializeToString(deterministic=True),
            job.spec,
            options,
            input_profile(job.spec, options, fixed_size(bare, job.spec)),
            half=candidate.precision == "fp16",
            quantized=candidate.precision == "int8",
            command=command,
            steps=steps,
        )
        engine = replace(candidate, plan=plan)
        path = job.part.with_suffix(".engine")
        engine.write(job.spec, path)
        engine = replace(engine, parity=job.measure(path))
        tolerance = TOLERANCES[engine.precision]
        if engine.precision == "int8":
            tolerance = replace(tolerance, oks=1 - job.max_drop)
        try:
            tolerance.check(engine.parity, f"the engine of {job.source.spec.name}")
        except ParityError as error:
            broken = error
        else:
            found.append(engine)
    if broken is not None and not found:
        raise broken
    return found


def fixed_size(model: Any, spec: ModelSpec) -> Size | None:
    """The height and width that an ``onnx.ModelProto`` takes, None where they are free."""
    (image,) = (item for item in model.graph.input if item.name == INPUT)
    height, width = image.type.tensor_type.shape.dim[sides_of(spec)]
    return (height.dim_value, width.dim_value) if height.dim_value and width.dim_value else None

"""The models that a build chooses from: each within its bounds, and timed where there are several."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgepose._files import write_whole
from edgepose.backends import open_backend
from edgepose.backends.engine_file import write_engine, write_raw_plan
from edgepose.builder.half import halve
from edgepose.builder.parity import TOLERANCES, Parity, compare, record_batches
from edgepose.builder.quantize import Quantizer
from edgepose.builder.search import quantize_within
from edgepose.builder.source import Source
from edgepose.builder.tensorrt import Plan
from edgepose.errors import BuildError, InvalidInputError, ParityError
from edgepose.optional import first_line, require
from edgepose.spec import METADATA_KEY, ModelSpec

__all__ = ["Candidate", "Images", "Job", "Precision", "onnx_candidates", "times_of", "write_onnx"]

Precision = Literal["fp32", "fp16", "int8"]
Images = Sequence[NDArray[np.uint8]]

PROBES = 8
"""Pictures that the search for sensitive layers looks at."""
ROUNDS, RUNS = 5, 4
"""Turns of each candidate when they are timed, and runs in a turn."""
PAUSE = 0.02
"""Seconds before a turn, in which the threads of the one before come to rest."""


@dataclass(frozen=True)
class Job:
    """What all steps of a build share.

    Attributes:
        source: the model that everything is measured against.
        spec: of the output, as far as it is known.
        part: an ONNX file that each step may write.
        images: to verify on.
        calibration: for int8.
        max_drop, threads: as in `edgepose.builder.build.Options`.
    """

    source: Source
    spec: ModelSpec
    part: Path
    images: Images
    calibration: Images
    max_drop: float
    threads: int | None

    def measure(self, path: Path, images: Images | None = None) -> Parity:
        """How far a file's results lie from the source's; where inputs differ in kind, on whole grey levels.

        Raises:
            InvalidInputError: neither finds anybody on the pictures, so that the figures do not tell.
        """
        pictures = self.images if images is None else images
        same = self.spec.input_format != self.source.spec.input_format
        parity = compare(self.source.path, path, pictures, threads=self.threads, same_pixels=same)
        if images is None and not parity.conclusive:
            raise InvalidInputError(
                f"nothing to verify on; found nobody on {parity.pictures} pictures; give some that show "
                "people"
            )
        return parity


@dataclass(frozen=True)
class Candidate:
    """A model that could be written.

    Attributes:
        precision: of its graph.
        model: ``onnx.ModelProto``.
        parity: against the source.
        quantization: of int8: how it was calibrated, what was tried and which layers stayed in float.
        plan: that TensorRT made of the model, where an engine is to be written.
    """

    precision: Precision
    model: Any
    parity: Parity
    quantization: dict[str, Any] = field(default_factory=dict)
    plan: Plan | None = None

    def describe(self, spec: ModelSpec) -> ModelSpec:
        """A spec with this precision and, of an engine, what it was built with."""
        provenance = dict(spec.provenance)
        if self.plan is not None:
            provenance["engine"] = self.plan.built.to_dict()
        return replace(spec, precision=self.precision, provenance=provenance)

    def write(self, spec: ModelSpec, path: Path, *, raw_plan: bool = False) -> None:
        """Write the file, with what `describe` makes of a spec."""
        described = self.describe(spec)
        if self.plan is None:
            write_onnx(self.model, described, path)
        elif raw_plan:
            write_raw_plan(path, described, self.plan.content)
        else:
            write_engine(path, described, self.plan.content)

    @property
    def label(self) -> str:
        """The precision and, of int8, its activations."""
        if self.quantization:
            return f"{self.precision}, {self.quantization['activations']} activations"
        return self.precision


def onnx_candidates(
    job: Job,
    model: Any,
    precisions: Sequence[Precision],
    activations: Sequence[str],
    *,
    small: tuple[Any, Mapping[str, tuple[float, float]]] | None = None,
    tensorrt: bool = False,
) -> list[Candidate]:
    """The models of the precisions that were asked for, each within its bounds.

    Args:
        job: what is built.
        model: ``onnx.ModelProto`` in float, rewritten.
        precisions: int8 last; it may break its bounds where there is another one.
        activations: kinds of int8.
        small: what is quantised in place of the model with uint8 activations, and its known ranges.
        tensorrt: TensorRT will run them.

    Raises:
        ParityError: none keeps its bounds.
        BuildError, CalibrationError: a step fails.
    """

    def measure(candidate: Any, pictures: Images | None = None) -> Parity:
        write_onnx(candidate, job.spec, job.part)
        return job.measure(job.part, pictures)

    name = job.source.spec.name
    found = []
    for precision in precisions:
        if precision != "int8":
            candidate = halve(model) if precision == "fp16" else model
            parity = measure(candidate)
            TOLERANCES[precision].check(parity, name)
            found.append(Candidate(precision, candidate, parity))
    if "int8" not in precisions:
        return found
    write_onnx(model, job.spec, job.part)
    batches = record_batches(job.part, job.calibration, job.threads)
    tolerance = replace(TOLERANCES["int8"], oks=1 - job.max_drop)
    for kind in activations:
        if small is not None and kind == "uint8":
            quantizer = Quantizer(small[0], batches, kind, small[1])
        else:
            quantizer = Quantizer(model, batches, kind, tensorrt=tensorrt)
        try:
            best = quantize_within(
                quantizer,
                measure,
                lambda candidate: measure(candidate, job.images[:PROBES]),
                tolerance,
                name,
            )
        except ParityError:
            if not found:
                raise
            continue  # auto: what keeps its bounds
        notes: dict[str, Any] = {
            "activations": kind,
            "pictures": len(batches),
            "method": best.method,
            "tried": best.tried,
            "float": list(best.kept),
        }
        if best.gains:
            notes["gains"] = {name: float(f"{gain:.3g}") for name, gain in best.gains.items() if gain > 0}
        found.append(Candidate("int8", best.model, best.parity, notes))
    return found


def times_of(candidates: Sequence[Candidate], job: Job, suffix: str) -> dict[str, float]:
    """Median time of each candidate's network on one picture in ms, taken in turns.

    Args:
        candidates: at least one.
        job: what is built.
        suffix: of the files, by which a runtime is chosen.
    """
    backends = {}
    part = job.part.with_suffix(suffix)
    try:
        for candidate in candidates:
            built = {**job.spec.provenance, "built": {"quantization": candidate.quantization}}
            candidate.write(replace(job.spec, provenance=built), part)
            backends[candidate.label] = open_backend(part, threads=job.threads)
        (batch,) = record_batches(part, job.images[:1], job.threads)
        times: dict[str, list[float]] = {name: [] for name in backends}
        for _ in range(ROUNDS):
            for name, backend in backends.items():
                time.sleep(PAUSE)
                for run in range(RUNS + 1):
                    start = time.perf_counter()
                    backend.run(batch)
                    if run:  # before the first, another one had the caches
                        times[name].append(1e3 * (time.perf_counter() - start))
        return {name: statistics.median(values) for name, values in times.items()}
    finally:
        for backend in backends.values():
            backend.close()


def write_onnx(model: Any, spec: ModelSpec, path: Path) -> None:
    """Write an ONNX file with its description; the same bytes for the same model.

    Raises:
        BuildError: the graph is not valid.
    """
    onnx = require("onnx", "building a model", "edgepose[build]")
    others = {item.key: item.value for item in model.metadata_props if item.key != METADATA_KEY}
    onnx.helper.set_model_props(model, {**others, METADATA_KEY: spec.to_json()})
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise BuildError(f"the rewritten graph is not valid; {first_line(error)}; report it") from error
    write_whole(path, model.SerializeToString(deterministic=True))

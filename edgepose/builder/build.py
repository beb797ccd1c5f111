"""From an exported ONNX file to a faster one that is shown to compute the same, or nearly so."""

from __future__ import annotations

import importlib.util
import platform
import statistics
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

import edgepose
from edgepose.backends import open_backend
from edgepose.backends.base import INPUT, sides_of
from edgepose.builder.graph import Graph, copy_of
from edgepose.builder.half import halve
from edgepose.builder.parity import TOLERANCES, Parity, compare, record_batches
from edgepose.builder.passes import rewrite
from edgepose.builder.passes.byte_stem import LEVELS, take_bytes_as_quantised
from edgepose.builder.passes.pixel_input import take_pixels
from edgepose.builder.quantize import Quantizer
from edgepose.builder.search import quantize_within
from edgepose.builder.source import Source, load_source
from edgepose.errors import BuildError, InvalidInputError, ParityError
from edgepose.optional import first_line, require
from edgepose.spec import METADATA_KEY, ModelSpec

__all__ = ["INPUTS", "PRECISIONS", "Options", "Report", "build"]

Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS = ("fp32", "fp16", "int8", "auto")
INPUTS = ("float32", "uint8")
SIZE_STEP = 32
"""Networks halve their input up to five times."""
PROBES = 8
"""Pictures that the search for sensitive layers looks at."""
ROUNDING = 1e-2
"""`Parity.heatmap_rms` that whole grey levels may cause; as much as half precision may."""
ROUNDS, RUNS = 5, 4
"""Turns of each candidate when they are timed, and runs in a turn."""
PAUSE = 0.02
"""Seconds before a turn, in which the threads of the one before come to rest."""

Images = Sequence[NDArray[np.uint8]]


@dataclass(frozen=True)
class Options:
    """What to build.

    Attributes:
        precision: ``"fp32"``; ``"fp16"``, for GPUs; ``"int8"``; or ``"auto"``: fp32 and int8, of which
            the fastest one on this machine is kept, int8 only within `max_drop`.
        calibration: BGR uint8 (H, W, 3) pictures of people by which int8 is calibrated, some hundred.
        activations: of int8, see `edgepose.builder.quantize`; None: as ONNX Runtime runs them best on this
            machine; with `auto`, where OpenVINO is installed on x86, both.
        max_drop: of int8: by how much the mean object keypoint similarity to the source may fall below 1.
        threads: CPU threads of verification and timing; None: all that this process may use.
        input: ``"float32"``, or ``"uint8"``: the network takes the pictures' own values and normalises them
            itself, see `ModelSpec.input_format`.
        size: of a bottom-up model: fix the input's height and width, multiples of `SIZE_STEP`; None: as in
            the source, mostly free. Pictures are then fitted into it.
    """

    precision: str = "fp32"
    calibration: Images = ()
    activations: str | None = None
    max_drop: float = 0.03
    threads: int | None = None
    input: str = "float32"
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Report:
    """What a build did.

    Attributes:
        source, output: the files.
        precision: of the output.
        passes: how often each rewriting of the graph applied.
        quantization: of int8: how it was calibrated, what was tried and which layers stayed in float.
        parity: of the output against the source, as measured on the pictures; where the output takes uint8
            and the source float32, on the same whole grey levels.
        bytes: size of source and output.
        milliseconds: median time of the network on one picture by precision and, of int8, activations,
            where `auto` had to choose.
        seconds: how long the build took.
        input: form of the output's input.
        rounding: where that is uint8 and the source's float32: what the whole grey levels alone change, from
            pictures to persons; else None.
    """

    source: Path
    output: Path
    precision: str
    passes: dict[str, int]
    quantization: dict[str, Any]
    parity: Parity
    bytes: tuple[int, int]
    milliseconds: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    input: str = "float32"
    rounding: Parity | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready form."""
        return {
            "source": str(self.source),
            "output": str(self.output),
            "precision": self.precision,
            "input": self.input,
            "passes": self.passes,
            "quantization": self.quantization,
            "parity": self.parity.to_dict(),
            **({} if self.rounding is None else {"rounding": self.rounding.to_dict()}),
            "bytes": list(self.bytes),
            "milliseconds": {name: round(value, 3) for name, value in self.milliseconds.items()},
            "seconds": round(self.seconds, 2),
        }


@dataclass(frozen=True)
class _Candidate:
    precision: Precision
    model: Any
    parity: Parity
    quantization: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The precision and, of int8, its activations."""
        if self.quantization:
            return f"{self.precision}, {self.quantization['activations']} activations"
        return self.precision


def build(source: Path, output: Path, images: Images, options: Options | None = None) -> Report:
    """Rewrite a model's graph for speed, verify the result on pictures, and write it.

    The output appears whole, when it has been verified; with a fixed precision the same inputs give the same
    bytes. It carries the source's description, with what was done under ``provenance["built"]`` and the
    differences under ``parity``.

    Args:
        source: an ONNX file in float with its description inside.
        output: the ONNX file to write; an older one is replaced.
        images: BGR uint8 (H, W, 3) pictures that show people, to verify on.
        options: what to build.

    Raises:
        InvalidInputError: there are no pictures, models that differ find nobody on them, an option is not
            usable, or the output cannot be written.
        ModelNotFoundError, ModelFormatError: the source is not usable.
        BackendUnavailableError: a package is missing.
        BuildError, CalibrationError: a step fails.
        ParityError: the result differs from the source by more than is allowed; nothing is written.
    """
    started = time.perf_counter()
    options = options or Options()
    _check(source, output, images, options)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInputError(f"cannot write {output}; {error.strerror}; check the path") from error
    loaded = load_source(source)
    if loaded.spec.precision != "fp32":
        raise InvalidInputError(
            f"cannot build from {source}; found a file of {loaded.spec.precision}; give the one in fp32 that "
            "it was made from"
        )
    spec = loaded.spec
    if spec.input_format == "uint8_nhwc" and options.input == "float32":
        raise InvalidInputError(
            f"cannot build from {source} with input float32; found a file that takes uint8; build it with "
            "input uint8, or give the one that it was made from"
        )
    model, passes = rewrite(_of_size(loaded.model, spec, options.size))
    rounds = options.input == "uint8" and spec.input_format == "float32_nchw"
    known: dict[str, tuple[float, float]] = {}
    small = None  # what is quantised, where that is not the same
    if rounds:
        small, known = _of_bytes(model, spec, options)
        take_pixels(Graph(model), spec)
        spec = replace(spec, input_format="uint8_nhwc")
    part = output.with_name(f"{output.name}.{uuid.uuid4().hex[:8]}.part.onnx")  # two builds may run at once
    times: dict[str, float] = {}
    try:
        rounding = _rounding(loaded, model, spec, part, images, options) if rounds else None
        candidates = _candidates(loaded, model, small, known, spec, part, images, options)
        if len(candidates) > 1:
            times = _times(candidates, spec, part, images[0], options.threads)
        best = min(candidates, key=lambda candidate: times.get(candidate.label, 0))
        built: dict[str, Any] = {"passes": passes, "input": options.input, "with": _versions(best.precision)}
        if options.size:
            built["size"] = list(options.size)
        if best.quantization:
            built["quantization"] = best.quantization
        parity = {**spec.parity, "built": best.parity.to_dict()}
        if rounding is not None:
            parity["rounding"] = rounding.to_dict()
        provenance = {**spec.provenance, "built": built}
        spec = replace(spec, precision=best.precision, provenance=provenance, parity=parity)
        _write(best.model, spec, part)
        part.replace(output)
    except OSError as error:
        raise InvalidInputError(f"cannot write {output}; {error.strerror}; check the path") from error
    finally:
        part.unlink(missing_ok=True)
    return Report(
        source, output, best.precision, passes, best.quantization, best.parity,
        (source.stat().st_size, output.stat().st_size), times, time.perf_counter() - started,
        options.input, rounding,
    )  # fmt: skip


def _check(source: Path, output: Path, images: Images, options: Options) -> None:
    if options.precision not in PRECISIONS:
        raise InvalidInputError(
            f"unknown precision; found {options.precision!r}; give one of {', '.join(PRECISIONS)}"
        )
    if options.input not in INPUTS:
        raise InvalidInputError(f"unknown input; found {options.input!r}; give one of {', '.join(INPUTS)}")
    if options.size and any(side < SIZE_STEP or side % SIZE_STEP for side in options.size):
        raise InvalidInputError(
            f"size is not usable; found {options.size[0]}x{options.size[1]}; give height and width as "
            f"multiples of {SIZE_STEP}"
        )
    if not 0 <= options.max_drop <= 1:
        raise InvalidInputError(
            f"max_drop is not usable; found {options.max_drop}; give a number from 0 to 1"
        )
    if not len(images):
        raise InvalidInputError("nothing to verify on; found no pictures; give some that show people")
    if options.precision in ("int8", "auto") and not len(options.calibration):
        raise InvalidInputError(
            f"precision {options.precision} needs pictures to calibrate on; found none; give some hundred of "
            "people, as the camera will see them"
        )
    if output.suffix.lower() != ".onnx":
        raise InvalidInputError(
            f"cannot build {output}; found the suffix {output.suffix!r}; name an .onnx file"
        )
    if output.exists() and source.exists() and output.samefile(source):
        raise InvalidInputError(f"cannot build {output} from itself; give another name")


def _rounding(
    loaded: Source, model: Any, spec: ModelSpec, part: Path, images: Images, options: Options
) -> Parity:
    """What whole grey levels change, from pictures to persons.

    Maps follow the pictures steadily, whole persons do not where they are hard to tell apart, so that only
    the maps are checked: channels or positions that were mixed up would show in them.
    """
    _write(model, spec, part)
    parity = compare(loaded.path, part, images, threads=options.threads)
    if not parity.heatmap_rms <= ROUNDING:
        raise ParityError(
            f"{spec.name} cannot take uint8; found heatmap_rms above {ROUNDING:g} from the rounding of "
            f"{parity.pictures} pictures; build it with input float32\n{parity.table()}"
        )
    return parity


def _of_size(model: Any, spec: ModelSpec, size: tuple[int, int] | None) -> Any:
    """A copy of the model whose input has this height and width."""
    if size is None:
        return model
    copied = copy_of(model)
    (image,) = (item for item in copied.graph.input if item.name == INPUT)
    axes = image.type.tensor_type.shape.dim
    sides = axes[sides_of(spec)]
    if spec.task != "bottomup" or any(axis.dim_value for axis in sides):
        raise InvalidInputError(
            f"cannot fix the size of {spec.name!r}; found a model of one size; leave size out"
        )
    for axis, side in zip(sides, size, strict=True):
        axis.dim_value = side
    return copied


def _of_bytes(model: Any, spec: ModelSpec, options: Options) -> tuple[Any, dict[str, tuple[float, float]]]:
    """A copy of the model whose first layer takes bytes as quantised values, and their range; else None."""
    if options.precision not in ("int8", "auto") or "uint8" not in _activations(options):
        return None, {}
    copied = copy_of(model)
    levels = take_bytes_as_quantised(Graph(copied), spec)
    return (None, {}) if levels is None else (copied, {LEVELS: levels})


def _candidates(
    loaded: Source,
    model: Any,
    small: Any,
    known: dict[str, tuple[float, float]],
    spec: ModelSpec,
    part: Path,
    images: Images,
    options: Options,
) -> list[_Candidate]:
    """The models of the precisions that were asked for, each within its bounds."""

    def measure(candidate: Any, pictures: Images = images) -> Parity:
        _write(candidate, spec, part)
        same = spec.input_format != loaded.spec.input_format
        parity = compare(loaded.path, part, pictures, threads=options.threads, same_pixels=same)
        if pictures is images and not parity.conclusive:
            raise InvalidInputError(
                f"nothing to verify on; found nobody on {parity.pictures} pictures; give some that show "
                "people"
            )
        return parity

    found = []
    if options.precision != "int8":
        precision: Precision = "fp16" if options.precision == "fp16" else "fp32"
        candidate = halve(model) if precision == "fp16" else model
        parity = measure(candidate)
        TOLERANCES[precision].check(parity, loaded.spec.name)
        found.append(_Candidate(precision, candidate, parity))
    if options.precision not in ("int8", "auto"):
        return found
    _write(model, spec, part)
    batches = record_batches(part, options.calibration, options.threads)
    tolerance = replace(TOLERANCES["int8"], oks=1 - options.max_drop)
    for activations in _activations(options):
        if small is not None and activations == "uint8":
            quantizer = Quantizer(small, batches, activations, known)
        else:
            quantizer = Quantizer(model, batches, activations)
        try:
            best = quantize_within(
                quantizer,
                measure,
                lambda candidate: measure(candidate, images[:PROBES]),
                tolerance,
                loaded.spec.name,
            )
        except ParityError:
            if not found:
                raise
            continue  # auto: what keeps its bounds
        notes: dict[str, Any] = {
            "activations": activations,
            "pictures": len(batches),
            "method": best.method,
            "tried": best.tried,
            "float": list(best.kept),
        }
        if best.gains:
            notes["gains"] = {name: float(f"{gain:.3g}") for name, gain in best.gains.items() if gain > 0}
        found.append(_Candidate("int8", best.model, best.parity, notes))
    return found


def _activations(options: Options) -> list[str]:
    """The kinds of int8 to build: what was asked for, or what may run fastest here."""
    if options.activations:
        return [options.activations]
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    if options.precision == "auto" and x86 and importlib.util.find_spec("openvino"):
        return ["uint8", "int8"]  # for ONNX Runtime, and for OpenVINO
    return ["uint8" if x86 else "int8"]


def _times(
    candidates: Sequence[_Candidate],
    spec: ModelSpec,
    part: Path,
    image: NDArray[np.uint8],
    threads: int | None,
) -> dict[str, float]:
    """Median time of each candidate's network on one picture in ms, taken in turns."""
    backends = {}
    try:
        for candidate in candidates:
            built = {"quantization": candidate.quantization}  # by which a runtime is chosen
            _write(
                candidate.model,
                replace(spec, precision=candidate.precision, provenance={"built": built}),
                part,
            )
            backends[candidate.label] = open_backend(part, threads=threads)
        (batch,) = record_batches(part, [image], threads)
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


def _versions(precision: str) -> dict[str, str]:
    """Of what took part in the build."""
    names = ["onnx", "onnxslim"] + ["onnxruntime"] * (precision != "fp32")
    versions = {name: require(name, "building a model", "edgepose[build]").__version__ for name in names}
    return {"edgepose": edgepose.__version__, **versions}


def _write(model: Any, spec: ModelSpec, path: Path) -> None:
    onnx = require("onnx", "building a model", "edgepose[build]")
    others = {item.key: item.value for item in model.metadata_props if item.key != METADATA_KEY}
    onnx.helper.set_model_props(model, {**others, METADATA_KEY: spec.to_json()})
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise BuildError(f"the rewritten graph is not valid; {first_line(error)}; report it") from error
    path.write_bytes(model.SerializeToString(deterministic=True))

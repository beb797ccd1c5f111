"""From an exported ONNX file to a faster one or an engine that is shown to compute the same, or nearly so."""

from __future__ import annotations

import importlib.util
import platform
import shlex
import time
import uuid
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import edgepose
from edgepose.backends.base import INPUT, sides_of
from edgepose.backends.engine_file import ENGINE_SUFFIXES
from edgepose.builder.candidates import (
    Candidate,
    Images,
    Job,
    Precision,
    onnx_candidates,
    times_of,
    write_onnx,
)
from edgepose.builder.engines import engine_candidates
from edgepose.builder.graph import Graph, copy_of
from edgepose.builder.parity import Parity, compare
from edgepose.builder.passes import rewrite
from edgepose.builder.passes.byte_stem import LEVELS, take_bytes_as_quantised
from edgepose.builder.passes.pixel_input import take_pixels
from edgepose.builder.source import Source, load_source
from edgepose.builder.tensorrt import EngineOptions, Steps, check_environment
from edgepose.builder.triton import write_repository
from edgepose.errors import InvalidInputError, ParityError
from edgepose.optional import require
from edgepose.spec import ModelSpec

__all__ = ["INPUTS", "PRECISIONS", "Options", "Report", "build"]

PRECISIONS = ("fp32", "fp16", "int8", "auto")
INPUTS = ("float32", "uint8")
SIZE_STEP = 32
"""Networks halve their input up to five times."""
ROUNDING = 2e-2
"""`Parity.heatmap_rms` that whole grey levels may cause, some 0.5 to 1 % by network and picture; channels or
positions that were mixed up cause many times as much."""


@dataclass(frozen=True)
class Options:
    """What to build.

    Attributes:
        precision: ``"fp32"``; ``"fp16"``, for GPUs; ``"int8"``; or ``"auto"``: the fastest on this machine,
            of an ONNX file in fp32 and int8, of an engine in fp16 and int8 or, without calibration pictures,
            in fp32 and fp16; int8 only within `max_drop`. None: fp16 for engines, else fp32.
        calibration: BGR uint8 (H, W, 3) pictures of people by which int8 is calibrated, some hundred.
        activations: of int8, see `edgepose.builder.quantize`; None: as ONNX Runtime runs them best on this
            machine; with `auto`, where OpenVINO is installed on x86, both. Engines have signed ones.
        max_drop: of int8: by how much the mean object keypoint similarity to the source may fall below 1.
        threads: CPU threads of verification and timing; None: all that this process may use.
        input: ``"float32"``, or ``"uint8"``: the network takes the pictures' own values and normalises them
            itself, see `ModelSpec.input_format`.
        size: of a bottom-up model: fix the input's height and width, multiples of `SIZE_STEP`; None: as in
            the source, mostly free. Pictures are then fitted into it.
        engine: how TensorRT builds.
        triton_repo: folder into which the output is also written as a model of a Triton server.
        command: the command line that does this, for the engine to tell; None: one with what it needs.
    """

    precision: str | None = None
    calibration: Images = ()
    activations: str | None = None
    max_drop: float = 0.03
    threads: int | None = None
    input: str = "float32"
    size: tuple[int, int] | None = None
    engine: EngineOptions = field(default_factory=EngineOptions)
    triton_repo: Path | None = None
    command: str | None = None


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
        engine: what the engine was built with, see `edgepose.backends.engine_file.EngineBuild`; else None.
        triton: folder of the model of a Triton server, if one was asked for.
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
    engine: dict[str, Any] | None = None
    triton: Path | None = None

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
            **({} if self.engine is None else {"engine": self.engine}),
            **({} if self.triton is None else {"triton": str(self.triton)}),
            "bytes": list(self.bytes),
            "milliseconds": {name: round(value, 3) for name, value in self.milliseconds.items()},
            "seconds": round(self.seconds, 2),
        }


def build(
    source: Path, output: Path, images: Images, options: Options | None = None, steps: Steps | None = None
) -> Report:
    """Rewrite a model's graph for speed, verify the result on pictures, and write it.

    The output appears whole, when it has been verified; with a fixed precision the same inputs give the same
    ONNX bytes. It carries the source's description, with what was done under ``provenance["built"]``, what an
    engine was built with under ``provenance["engine"]``, and the differences under ``parity``.

    Args:
        source: an ONNX file in float with its description inside.
        output: the file to write, an older one is replaced: ``.onnx``; ``.engine``, a TensorRT engine; or
            ``.plan``, the same as a bare plan with a side-car.
        images: BGR uint8 (H, W, 3) pictures that show people, to verify on.
        options: what to build.
        steps: shows the progress of TensorRT.

    Raises:
        InvalidInputError: there are no pictures, models that differ find nobody on them, an option is not
            usable, or the output cannot be written.
        ModelNotFoundError, ModelFormatError: the source is not usable.
        BackendUnavailableError: a package is missing, or a GPU for an engine.
        BuildError, CalibrationError: a step fails.
        ParityError: the result differs from the source by more than is allowed; nothing is written.
    """
    started = time.perf_counter()
    options = options or Options()
    is_engine = output.suffix.lower() in ENGINE_SUFFIXES
    precisions = _precisions(options, is_engine)
    _check(source, output, images, options, is_engine)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInputError(f"cannot write {output}; {error.strerror}; check the path") from error
    if is_engine:
        check_environment()  # before anything that takes time
    loaded = load_source(source)
    _check_source(loaded, options)
    spec = loaded.spec
    model, passes = rewrite(_of_size(loaded.model, spec, options.size), tensorrt=is_engine)
    rounds = options.input == "uint8" and spec.input_format == "float32_nchw"
    activations = _activations(options, is_engine)
    small = None  # what is quantised, where that is not the same
    if rounds:
        if "int8" in precisions and "uint8" in activations:
            small = _of_bytes(model, spec)
        take_pixels(Graph(model), spec)
        spec = replace(spec, input_format="uint8_nhwc")
    # Two builds may run at once.
    part = output.with_name(f"{output.name}.{uuid.uuid4().hex[:8]}.part.onnx")
    job = Job(loaded, spec, part, images, options.calibration, options.max_drop, options.threads)
    times: dict[str, float] = {}
    try:
        rounding = _rounding(job, model) if rounds else None
        candidates = onnx_candidates(job, model, precisions, activations, small=small, tensorrt=is_engine)
        if is_engine:
            command = options.command or _command(source, output, options)
            candidates = engine_candidates(job, candidates, options.engine, command, steps)
        suffix = ".engine" if is_engine else ".onnx"
        if len(candidates) > 1:
            times = times_of(candidates, job, suffix)
        best = min(candidates, key=lambda candidate: times.get(candidate.label, 0))
        spec = best.describe(_described(spec, best, passes, options, rounding))
        raw = is_engine and (options.engine.raw_plan or output.suffix.lower() == ".plan")
        if raw:
            best.write(spec, output, raw_plan=True)
        else:
            best.write(spec, part.with_suffix(suffix))
            part.with_suffix(suffix).replace(output)
        triton = None
        if options.triton_repo is not None:
            triton = write_repository(options.triton_repo, best, spec, options.engine)
    except OSError as error:
        raise InvalidInputError(f"cannot write {output}; {error.strerror}; check the path") from error
    finally:
        part.unlink(missing_ok=True)
        part.with_suffix(".engine").unlink(missing_ok=True)
    return Report(
        source, output, best.precision, passes, best.quantization, best.parity,
        (source.stat().st_size, output.stat().st_size), times, time.perf_counter() - started,
        options.input, rounding, None if best.plan is None else best.plan.built.to_dict(), triton,
    )  # fmt: skip


def _precisions(options: Options, is_engine: bool) -> tuple[Precision, ...]:
    """What to build, int8 last."""
    single: dict[str, Precision] = {"fp32": "fp32", "fp16": "fp16", "int8": "int8"}
    asked = options.precision or ("fp16" if is_engine else "fp32")
    if asked in single:
        return (single[asked],)
    if asked != "auto":
        raise InvalidInputError(f"unknown precision; found {asked!r}; give one of {', '.join(PRECISIONS)}")
    if not is_engine:
        return ("fp32", "int8")
    return ("fp16", "int8") if len(options.calibration) else ("fp32", "fp16")


def _check(source: Path, output: Path, images: Images, options: Options, is_engine: bool) -> None:
    if options.input not in INPUTS:
        raise InvalidInputError(f"unknown input; found {options.input!r}; give one of {', '.join(INPUTS)}")
    for size in [options.size or (SIZE_STEP, SIZE_STEP), *(options.engine.sizes or ())]:
        if any(side < SIZE_STEP or side % SIZE_STEP for side in size):
            raise InvalidInputError(
                f"size is not usable; found {size[0]}x{size[1]}; give height and width as multiples of "
                f"{SIZE_STEP}"
            )
    if not 0 <= options.max_drop <= 1:
        raise InvalidInputError(
            f"max_drop is not usable; found {options.max_drop}; give a number from 0 to 1"
        )
    if not len(images):
        raise InvalidInputError("nothing to verify on; found no pictures; give some that show people")
    if "int8" in _precisions(options, is_engine) and not len(options.calibration):
        raise InvalidInputError(
            f"precision {options.precision} needs pictures to calibrate on; found none; give some hundred of "
            "people, as the camera will see them"
        )
    if output.suffix.lower() not in (".onnx", *ENGINE_SUFFIXES):
        raise InvalidInputError(
            f"cannot build {output}; found the suffix {output.suffix!r}; name an .onnx or .engine file"
        )
    if output.exists() and source.exists() and output.samefile(source):
        raise InvalidInputError(f"cannot build {output} from itself; give another name")
    options.engine.check()
    if is_engine and options.activations == "uint8":
        raise InvalidInputError(
            f"cannot build {output} with activations uint8; found an engine, which takes int8 alone; leave "
            "activations out"
        )
    if options.triton_repo is not None and (options.engine.batch or (1,))[0] != 1:
        raise InvalidInputError(
            f"a Triton server runs batches from 1 on; found batch {options.engine.batch}; give one that "
            "begins with 1"
        )
    for_engines = options.engine
    if options.triton_repo is not None:
        for_engines = replace(for_engines, batch=None)  # which Triton is told
    if not is_engine and for_engines != EngineOptions():
        names = [name for name, value in vars(EngineOptions()).items() if vars(for_engines)[name] != value]
        raise InvalidInputError(
            f"cannot build {output} with {', '.join(names)}; found an ONNX file, which has no such thing; "
            "name an .engine file, or leave that out"
        )


def _check_source(loaded: Source, options: Options) -> None:
    spec = loaded.spec
    if spec.precision != "fp32":
        raise InvalidInputError(
            f"cannot build from {loaded.path}; found a file of {spec.precision}; give the one in fp32 that "
            "it was made from"
        )
    if spec.input_format == "uint8_nhwc" and options.input == "float32":
        raise InvalidInputError(
            f"cannot build from {loaded.path} with input float32; found a file that takes uint8; build it "
            "with input uint8, or give the one that it was made from"
        )


def _described(
    spec: ModelSpec, best: Candidate, passes: dict[str, int], options: Options, rounding: Parity | None
) -> ModelSpec:
    """The output's spec, with what was done and measured."""
    built: dict[str, Any] = {"passes": passes, "input": options.input, "with": _versions(best.precision)}
    if options.size:
        built["size"] = list(options.size)
    if best.quantization:
        built["quantization"] = best.quantization
    parity = {**spec.parity, "built": best.parity.to_dict()}
    if rounding is not None:
        parity["rounding"] = rounding.to_dict()
    return replace(spec, provenance={**spec.provenance, "built": built}, parity=parity)


def _command(source: Path, output: Path, options: Options) -> str:
    """A command line for what was built, as far as it is known here."""
    words = ["edgepose", "build", str(source), "-o", str(output)]
    if options.precision:
        words += ["--precision", options.precision]
    if options.size:
        words += ["--size", f"{options.size[0]}x{options.size[1]}"]
    return shlex.join(words)


def _rounding(job: Job, model: Any) -> Parity:
    """What whole grey levels change, from pictures to persons.

    Maps follow the pictures steadily, whole persons do not where they are hard to tell apart, so that only
    the maps are checked: channels or positions that were mixed up would show in them.
    """
    write_onnx(model, job.spec, job.part)
    parity = compare(job.source.path, job.part, job.images, threads=job.threads)
    if not parity.heatmap_rms <= ROUNDING:
        raise ParityError(
            f"{job.spec.name} cannot take uint8; found heatmap_rms above {ROUNDING:g} from the rounding of "
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


def _of_bytes(model: Any, spec: ModelSpec) -> tuple[Any, dict[str, tuple[float, float]]] | None:
    """A copy of the model whose first layer takes bytes as quantised values, and their range; else None."""
    copied = copy_of(model)
    levels = take_bytes_as_quantised(Graph(copied), spec)
    return None if levels is None else (copied, {LEVELS: levels})


def _activations(options: Options, is_engine: bool) -> list[str]:
    """The kinds of int8 to build: what was asked for, or what may run fastest here."""
    if is_engine:
        return ["int8"]
    if options.activations:
        return [options.activations]
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    if options.precision == "auto" and x86 and importlib.util.find_spec("openvino"):
        return ["uint8", "int8"]  # for ONNX Runtime, and for OpenVINO
    return ["uint8" if x86 else "int8"]


def _versions(precision: str) -> dict[str, str]:
    """Of what took part in the build."""
    names = ["onnx", "onnxslim"] + ["onnxruntime"] * (precision != "fp32")
    versions = {name: require(name, "building a model", "edgepose[build]").__version__ for name in names}
    return {"edgepose": edgepose.__version__, **versions}

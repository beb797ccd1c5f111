"""Engine files made by a fake TensorRT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgepose.backends.engine_file import EngineBuild, this_system, write_engine, write_raw_plan
from edgepose.backends.onnx_metadata import read_spec
from tests.fakes import tensorrt

__all__ = ["make_engine", "make_plan"]


def make_plan(trt: Any, model: bytes, profile: Sequence[Sequence[int]] | None, *flags: str) -> bytes:
    """A plan of an ONNX model.

    Args:
        profile: least, usual and greatest shape of the input ``image``; None: its shape is fixed.
        flags: names of builder flags.
    """
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    kinds = trt.NetworkDefinitionCreationFlag
    explicit = getattr(kinds, "EXPLICIT_BATCH", None)
    network = builder.create_network(0 if explicit is None else 1 << int(explicit))
    assert trt.OnnxParser(network, logger).parse(model)
    config = builder.create_builder_config()
    for flag in flags:
        config.set_flag(getattr(trt.BuilderFlag, flag))
    if hasattr(trt.PreviewFeature, "PROFILE_SHARING_0806"):
        config.set_preview_feature(trt.PreviewFeature.PROFILE_SHARING_0806, True)
    if profile is not None:
        shapes = builder.create_optimization_profile()
        shapes.set_shape("image", *profile)
        assert config.add_optimization_profile(shapes) == 0
    plan = builder.build_serialized_network(network, config)
    tensorrt.control(trt).logger = None  # the next logger counts
    return bytes(plan)


def make_engine(
    path: Path,
    trt: Any,
    source: Path,
    *,
    batches: tuple[int, int] = (1, 4),
    sides: tuple[tuple[int, int], tuple[int, int]] | None = None,
    fixed: bool = False,
    plan: bytes | None = None,
    **built: Any,
) -> Path:
    """Write an engine of an ONNX file; with the suffix ``.plan`` a bare one.

    Args:
        batches: least and greatest n.
        sides: least and greatest (height, width); None: those of the spec.
        fixed: the ONNX file fixes the input's shape itself, and there is no profile.
        plan: in place of the one that is built.
        built: of `EngineBuild`, where it shall say something else than what is true.
    """
    spec = read_spec(source)
    low, high = sides or (spec.input_size, spec.input_size)
    nhwc = spec.input_format == "uint8_nhwc"
    shapes = [
        (n, *size, 3) if nhwc else (n, 3, *size)
        for n, size in ((batches[0], low), (batches[0], low), (batches[1], high))
    ]
    compatible = built.get("version_compatible", False)
    flags = ("VERSION_COMPATIBLE",) if compatible else ()
    switches = tensorrt.control(trt)
    about: dict[str, Any] = {
        "edgepose": "0.1.0",
        "tensorrt": switches.version,
        "sm": ".".join(map(str, switches.sm)),
        "system": this_system(),
        "cuda": "12.6",
        "gpu": "Fake GPU",
        "onnx_sha256": "ab" * 32,
        "flags": flags,
        "profile": dict(zip(("min", "opt", "max"), shapes, strict=True)),
        "precision": spec.precision,
        "typing": "strong",
        "command": f"edgepose build {source.name} -o {path.name}",
    }
    if plan is None:
        plan = make_plan(trt, source.read_bytes(), None if fixed else shapes, *flags)
    engine = EngineBuild(**{**about, **built}).to_dict()
    write = write_raw_plan if path.suffix == ".plan" else write_engine
    write(path, replace(spec, provenance={**spec.provenance, "engine": engine}), plan)
    return path

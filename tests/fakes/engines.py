"""Engine files made by a fake TensorRT, and all that runs them without a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import color_model, color_spec

from edgepose.backends.engine_file import EngineBuild, this_system, write_engine, write_raw_plan
from edgepose.backends.onnx_metadata import read_spec
from edgepose.backends.onnxruntime import OnnxRuntimeBackend
from edgepose.backends.tensorrt import TensorRtBackend
from tests.fakes import pycuda, tensorrt

__all__ = ["Rig", "make_engine", "make_plan", "pictures"]


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


class Rig:
    """A fake GPU with a fake TensorRT, a model, and engines of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, version: str, **knobs: Any) -> None:
        self.cuda = pycuda.install(monkeypatch, **knobs)
        self.trt = tensorrt.install(monkeypatch, version, check_memory=self.cuda.covers)
        self.control = tensorrt.control(self.trt)
        self.version = version
        self.folder = folder

    def source(self, **changes: Any) -> Path:
        path = self.folder / "a.onnx"
        return path if path.exists() and not changes else color_model(path, color_spec(**changes))

    def engine(self, name: str = "a.engine", source: Path | None = None, **options: Any) -> Path:
        return make_engine(self.folder / name, self.trt, source or self.source(), **options)

    def open(self, **options: Any) -> TensorRtBackend:
        return TensorRtBackend(self.engine(**options))

    def reference(self, batch: np.ndarray, source: Path | None = None) -> dict[str, np.ndarray]:
        backend = OnnxRuntimeBackend(source or self.source(), device="cpu", threads=1)
        found = backend.run(batch)
        backend.close()
        return found


def pictures(count: int, size: tuple[int, int] = (64, 48)) -> np.ndarray:
    return np.random.default_rng(count).random((count, 3, *size), np.float32)

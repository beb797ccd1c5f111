"""``edgepose info FILE``: what a model file says about itself. Needs no runtime and no GPU."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from edgepose.backends import read_model_spec
from edgepose.backends.base import sides_of
from edgepose.backends.engine_file import ENGINE_SUFFIXES, EngineBuild
from edgepose.backends.onnx_metadata import read_input_shape
from edgepose.estimator import DEFAULT_MODEL, resolve_model
from edgepose.spec import Grouping, ModelSpec

__all__ = ["add_parser", "engine_rows"]


def add_parser(verbs: Any) -> None:
    """Add the verb to the command line."""
    parser = verbs.add_parser("info", help="describe a model file", description=__doc__)
    parser.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        help=f"an .onnx or .engine file, or the name of a packaged model (default: {DEFAULT_MODEL})",
    )
    parser.add_argument("--json", action="store_true", help="print the whole ModelSpec as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the description."""
    path = resolve_model(arguments.file)
    spec = read_model_spec(path)
    if arguments.json:
        print(json.dumps({"path": str(path), **spec.to_dict()}, indent=2, ensure_ascii=False))
    else:
        print("\n".join(f"{name:<12} {value}" for name, value in _rows(path, spec)))
    return 0


def _rows(path: Path, spec: ModelSpec) -> list[tuple[str, str]]:
    is_engine = path.suffix.lower() in ENGINE_SUFFIXES
    shape = _profile_shape(EngineBuild.of(spec)) if is_engine else read_input_shape(path) or []
    provenance = dict(spec.provenance)
    if is_engine:
        provenance.pop("engine")
    rows = [
        ("model", spec.name),
        ("file", f"{path} ({path.stat().st_size / 1e6:.1f} MB)"),
        ("task", spec.task),
        *_input_rows(shape, spec),
        ("mean", " ".join(f"{value:g}" for value in spec.mean)),
        ("std", " ".join(f"{value:g}" for value in spec.std)),
        ("coordinates", spec.coordinates),
        *(_top_down_rows(spec) if spec.grouping is None else _grouping_rows(spec.grouping, spec)),
        ("precision", spec.precision),
        *(engine_rows(EngineBuild.of(spec).to_dict()) if is_engine else []),
        ("skeleton", f"{spec.skeleton.name}, {len(spec.skeleton)} joints"),
        ("joints", ", ".join(spec.skeleton.joints)),
    ]
    for title, values in (("provenance", provenance), ("parity", spec.parity)):
        for key, value in values.items():
            rows.append((title, f"{key}: {value if isinstance(value, str) else json.dumps(value)}"))
            title = ""
    return rows


def engine_rows(engine: dict[str, Any]) -> list[tuple[str, str]]:
    """Names and values of what an engine was built with, given as `EngineBuild.to_dict` does."""
    profile = ", ".join(
        f"{name} {'x'.join(map(str, engine['profile'][name]))}" for name in ("min", "opt", "max")
    )
    typing = f"{engine['typing']}ly typed, flags: {' '.join(engine['flags']) or 'none'}"
    rows = [
        (
            "built for",
            f"TensorRT {engine['tensorrt']}, {engine['gpu']}, SM {engine['sm']}, {engine['system']}",
        ),
        ("", f"CUDA {engine['cuda']}, edgepose {engine['edgepose']}"),
        ("", f"runs on later TensorRT: {'yes' if engine['version_compatible'] else 'no'}"),
        ("", f"runs on other GPUs: {engine['hardware_compatible'] or 'no'}"),
        ("profile", profile),
        ("typing", typing),
        ("onnx sha256", engine["onnx_sha256"]),
        ("rebuild", engine["command"]),
    ]
    if engine["dla"] is not None:
        rows.insert(4, ("", f"DLA core {engine['dla']}, the GPU for the rest"))
    return rows


def _profile_shape(built: EngineBuild) -> list[int | None]:
    """The input's shape: None for an axis that is free."""
    least, largest = built.profile["min"], built.profile["max"]
    return [low if low == high else None for low, high in zip(least, largest, strict=True)]


def _input_rows(shape: list[int | None], spec: ModelSpec) -> list[tuple[str, str]]:
    """The input's size and batch; those of the file where the description leaves them open."""
    batch = shape[0] if len(shape) == 4 else None
    height, width = shape[sides_of(spec)] if len(shape) == 4 else (None, None)
    if spec.grouping is None:
        height, width = spec.input_size
    fixed = height is not None and width is not None
    size = f"{height} x {width} (height x width)" if fixed else f"shorter side {spec.input_size[0]}"
    form = ", uint8 NHWC" if spec.input_format == "uint8_nhwc" else ""
    return [("input", f"{size}, {spec.color}{form}"), ("batch", "free" if batch is None else str(batch))]


def _top_down_rows(spec: ModelSpec) -> list[tuple[str, str]]:
    decoder = spec.decoder
    steps: list[str] = [decoder.name]
    if decoder.name == "soft_argmax":
        steps.append(f"beta {decoder.beta:g}")
    if decoder.refine:
        steps.append(f"refine {decoder.refine}")
    if decoder.bias:
        steps.append(f"bias {decoder.bias:g} px")
    return [("padding", f"{spec.padding:g}"), ("decoder", ", ".join(steps))]


def _grouping_rows(grouping: Grouping, spec: ModelSpec) -> list[tuple[str, str]]:
    switches = ("use_detection_val", "ignore_too_much", "adjust", "refine", "project_to_image")
    return [
        ("grouping", f"peaks above {grouping.detection_threshold:g} in {grouping.window}x{grouping.window}"),
        ("", f"tags nearer than {grouping.tag_threshold:g}, {grouping.max_people} people per joint"),
        ("", ", ".join(f"{name} {'on' if getattr(grouping, name) else 'off'}" for name in switches)),
        ("", "order: " + ", ".join(spec.skeleton.joints[joint] for joint in grouping.joint_order)),
    ]

"""From an exported ONNX file to a faster one that is shown to compute the same."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import edgepose
from edgepose.builder.parity import TOLERANCES, Parity, compare
from edgepose.builder.passes import rewrite
from edgepose.builder.source import Source, load_source
from edgepose.errors import BuildError, InvalidInputError
from edgepose.optional import require
from edgepose.spec import METADATA_KEY, ModelSpec

__all__ = ["Report", "build"]


@dataclass(frozen=True)
class Report:
    """What a build did.

    Attributes:
        source, output: the files.
        passes: how often each rewriting of the graph applied.
        parity: of the output against the source, as measured on the pictures.
        bytes: size of source and output.
        seconds: how long it took.
    """

    source: Path
    output: Path
    passes: dict[str, int]
    parity: Parity
    bytes: tuple[int, int]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready form."""
        return {
            "source": str(self.source),
            "output": str(self.output),
            "passes": self.passes,
            "parity": self.parity.to_dict(),
            "bytes": list(self.bytes),
            "seconds": round(self.seconds, 2),
        }


def build(
    source: Path, output: Path, images: Sequence[NDArray[np.uint8]], *, threads: int | None = None
) -> Report:
    """Rewrite a model's graph for speed, verify the result on pictures, and write it.

    The output appears whole, when it has been verified; the same inputs give the same bytes. It carries the
    source's description, with what was done under ``provenance["built"]`` and the differences under
    ``parity``.

    Args:
        source: an ONNX file with its description inside.
        output: the ONNX file to write; an older one is replaced.
        images: BGR uint8 (H, W, 3) pictures that show people, to verify on.
        threads: of the verification.

    Raises:
        InvalidInputError: there are no pictures, or the output cannot be written there.
        ModelNotFoundError, ModelFormatError: the source is not usable.
        BackendUnavailableError: a package is missing.
        BuildError: a step fails.
        ParityError: the result differs from the source by more than `TOLERANCES` allow; nothing is written.
    """
    started = time.perf_counter()
    if not len(images):
        raise InvalidInputError("nothing to verify on; found no pictures; give some that show people")
    if output.suffix.lower() != ".onnx":
        raise InvalidInputError(
            f"cannot build {output}; found the suffix {output.suffix!r}; name an .onnx file"
        )
    if output.exists() and output.samefile(source):
        raise InvalidInputError(f"cannot build {output} from itself; give another name")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInputError(f"cannot write {output}; {error.strerror}; check the path") from error
    loaded = load_source(source)
    model, passes = rewrite(loaded.model)
    part = output.with_name(output.name + ".part.onnx")
    try:
        _write(model, _described(loaded, passes), part)
        parity = compare(source, part, images, threads=threads)
        TOLERANCES["fp32"].check(parity, output.name)
        spec = replace(_described(loaded, passes), parity={**loaded.spec.parity, "built": parity.to_dict()})
        _write(model, spec, part)
        part.replace(output)
    except OSError as error:
        raise InvalidInputError(f"cannot write {output}; {error.strerror}; check the path") from error
    finally:
        part.unlink(missing_ok=True)
    sizes = source.stat().st_size, output.stat().st_size
    return Report(source, output, passes, parity, sizes, time.perf_counter() - started)


def _described(source: Source, passes: dict[str, int]) -> ModelSpec:
    """The source's description with what was done to it."""
    versions = {"edgepose": edgepose.__version__}
    for name in ("onnx", "onnxslim"):
        versions[name] = require(name, "building a model", "edgepose[build]").__version__
    built = {"passes": passes, "with": versions}
    return replace(source.spec, provenance={**source.spec.provenance, "built": built})


def _write(model: Any, spec: ModelSpec, path: Path) -> None:
    onnx = require("onnx", "building a model", "edgepose[build]")
    others = {item.key: item.value for item in model.metadata_props if item.key != METADATA_KEY}
    onnx.helper.set_model_props(model, {**others, METADATA_KEY: spec.to_json()})
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise BuildError(
            f"the rewritten graph is not valid; {str(error).splitlines()[0]}; report it"
        ) from error
    path.write_bytes(model.SerializeToString(deterministic=True))

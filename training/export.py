"""Networks to ONNX files that describe themselves."""

from __future__ import annotations

import platform
import warnings
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

import edgepose
from edgepose.errors import ParityError
from edgepose.skeleton import Skeleton
from edgepose.spec import METADATA_KEY, ModelSpec
from training.config import TrainConfig

__all__ = ["export", "model_spec", "onnx_difference"]

OPSET = 17
"""The newest that ONNX Runtime 1.17 and TensorRT 8.6 to 11 all take."""

TOLERANCE = 1e-4
"""Largest difference of PyTorch and ONNX Runtime, in standard deviations of the output."""


def model_spec(config: TrainConfig, skeleton: Skeleton, provenance: Mapping[str, Any] | None = None) -> ModelSpec:
    """The description of the network that a configuration trains."""
    height, width = config.input_size
    return ModelSpec(
        name=config.name,
        skeleton=skeleton,
        input_size=(height, width),
        color=config.color,  # type: ignore[arg-type]
        padding=config.padding,
        coordinates=config.coordinates,  # type: ignore[arg-type]
        provenance=dict(provenance or {}),
    )


def export(network: nn.Module, spec: ModelSpec, path: str | PathLike[str]) -> float:
    """Write an ONNX file with its spec inside, and check it against PyTorch.

    Input ``image`` (n, 3, h, w) float32, normalised; output ``heatmaps`` (n, k, h/4, w/4); n is free.

    Returns:
        largest difference of PyTorch and ONNX Runtime in standard deviations of the output.

    Raises:
        ParityError: the two differ by more than `TOLERANCE`; no file is left.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    network = network.eval().cpu().to(memory_format=torch.contiguous_format)
    part = path.with_suffix(".part")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        torch.onnx.export(
            network,
            (torch.zeros(2, 3, *spec.input_size),),
            str(part),
            input_names=["image"],
            output_names=["heatmaps"],
            dynamic_axes={"image": {0: "n"}, "heatmaps": {0: "n"}},
            opset_version=OPSET,
            dynamo=False,
        )
    model = onnx.load(str(part))
    versions = {
        "edgepose": edgepose.__version__, "torch": torch.__version__, "onnx": onnx.__version__,
        "python": platform.python_version(),
    }  # fmt: skip
    data = spec.to_dict()
    data["provenance"] = {**data["provenance"], "exported_with": versions}
    onnx.helper.set_model_props(model, {METADATA_KEY: ModelSpec.from_dict(data).to_json()})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(part))
    difference = onnx_difference(network, part, spec.input_size)
    if not difference <= TOLERANCE:
        part.unlink()
        raise ParityError(
            f"the exported file differs from the network; found {difference:.2e} standard deviations, "
            f"at most {TOLERANCE:.0e} is allowed; export with other versions of torch or onnxruntime"
        )
    part.replace(path)
    return difference


@torch.no_grad()
def onnx_difference(network: nn.Module, path: Path, size: tuple[int, int]) -> float:
    """Largest difference of an ONNX file to its network, in standard deviations of the output."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst = 0.0
    for batch in (1, 3):
        image = np.random.default_rng(batch).standard_normal((batch, 3, *size)).astype(np.float32)
        expected = network(torch.from_numpy(image)).numpy()
        (found,) = session.run(None, {"image": image})
        worst = max(worst, float(np.abs(found - expected).max() / expected.std()))
    return worst

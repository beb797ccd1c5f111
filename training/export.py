"""Networks to ONNX files that describe themselves."""

from __future__ import annotations

import copy
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
from edgepose.errors import ModelFormatError, ParityError
from edgepose.skeleton import SKELETONS
from edgepose.spec import METADATA_KEY, Decoder, ModelSpec
from training.config import TrainConfig

__all__ = ["check_output", "export", "model_spec", "onnx_difference"]

OPSET = 17
"""The newest that ONNX Runtime 1.17 and TensorRT 8.6 to 11 all take; the first with LayerNormalization."""

TOLERANCE = 1e-4
"""Largest difference of PyTorch and ONNX Runtime, in standard deviations of the output."""


def model_spec(config: TrainConfig, provenance: Mapping[str, Any] | None = None) -> ModelSpec:
    """The description of the network that a configuration stands for."""
    height, width = config.input_size
    decoder = config.decoder
    return ModelSpec(
        name=config.name,
        skeleton=SKELETONS[config.skeleton],
        input_size=(height, width),
        color=config.color,  # type: ignore[arg-type]
        padding=config.padding,
        coordinates=config.coordinates,  # type: ignore[arg-type]
        decoder=Decoder(decoder.name, decoder.beta, decoder.refine, decoder.bias),  # type: ignore[arg-type]
        provenance=dict(provenance or {}),
    )


@torch.no_grad()
def check_output(network: nn.Module, spec: ModelSpec) -> None:
    """Run the network once, without changing it.

    Raises:
        ModelFormatError: its output is not one map of a quarter of the input per joint.
    """
    training = network.training
    device = next(network.parameters()).device
    found = tuple(network.eval()(torch.zeros(1, 3, *spec.input_size, device=device)).shape[1:])
    network.train(training)
    height, width = spec.input_size
    expected = (len(spec.skeleton), height // 4, width // 4)
    if found != expected:
        raise ModelFormatError(
            f"network and configuration of {spec.name!r} do not fit; found heatmaps {found}, expected "
            f"{expected}; take a multiple of 32 for both sides of input_size, and joints from the skeleton"
        )


def export(network: nn.Module, spec: ModelSpec, path: str | PathLike[str]) -> float:
    """Write an ONNX file with its spec inside, and check it against PyTorch.

    Input ``image`` (n, 3, h, w) float32, normalised; output ``heatmaps`` (n, k, h/4, w/4); n is free.
    The network stays as it is. The file appears when all is well, replacing an older one; else none.

    Returns:
        largest difference of PyTorch and ONNX Runtime in standard deviations of the output.

    Raises:
        ModelFormatError: the network's output does not fit the spec.
        ParityError: PyTorch and ONNX Runtime differ by more than `TOLERANCE`.
    """
    check_output(network, spec)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    network = copy.deepcopy(network).eval().cpu().float().to(memory_format=torch.contiguous_format)
    part = path.with_name(path.name + ".part")
    try:
        _write(network, spec, part)
        difference = onnx_difference(network, part, spec.input_size)
        if not difference <= TOLERANCE:
            raise ParityError(
                f"the exported file differs from the network; found {difference:.2e} standard deviations, "
                f"at most {TOLERANCE:.0e} is allowed; export with other versions of torch or onnxruntime"
            )
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return difference


def _write(network: nn.Module, spec: ModelSpec, path: Path) -> None:
    with warnings.catch_warnings():
        # The TorchScript exporter gives TensorRT 8.6 and ONNX Runtime 1.17 the plainest graph; the
        # constants that it warns of are the sizes of the maps, which are fixed.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        torch.onnx.export(
            network,
            (torch.zeros(2, 3, *spec.input_size),),
            str(path),
            input_names=["image"],
            output_names=["heatmaps"],
            dynamic_axes={"image": {0: "batch"}, "heatmaps": {0: "batch"}},
            opset_version=OPSET,
            dynamo=False,
        )
    model = onnx.load(str(path))
    versions = {
        "edgepose": edgepose.__version__, "torch": torch.__version__, "onnx": onnx.__version__,
        "python": platform.python_version(),
    }  # fmt: skip
    data = spec.to_dict()
    data["provenance"] = {**data["provenance"], "exported_with": versions}
    onnx.helper.set_model_props(model, {METADATA_KEY: ModelSpec.from_dict(data).to_json()})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))


@torch.no_grad()
def onnx_difference(network: nn.Module, path: Path, size: tuple[int, int]) -> float:
    """Largest difference of an ONNX file to its network, in standard deviations of the output."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    worst = 0.0
    for batch in (1, 3):
        image = np.random.default_rng(batch).standard_normal((batch, 3, *size)).astype(np.float32)
        expected = network(torch.from_numpy(image)).numpy()
        (found,) = session.run(None, {"image": image})
        worst = max(worst, float(np.abs(found - expected).max() / expected.std()))
    return worst

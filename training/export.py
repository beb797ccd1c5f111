"""Networks to ONNX files that describe themselves."""

from __future__ import annotations

import copy
import itertools
import platform
import warnings
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

import edgepose
from edgepose.errors import ModelFormatError, ParityError
from edgepose.skeleton import SKELETONS
from edgepose.spec import METADATA_KEY, Decoder, Grouping, ModelSpec
from training.config import TrainConfig
from training.models.outputs import final_heatmaps

__all__ = ["check_output", "export", "model_spec", "onnx_difference"]

OPSET = 17
"""The newest that ONNX Runtime 1.17 and TensorRT 8.6 to 11 all take; the first with LayerNormalization."""

TOLERANCE = 1e-4
"""Largest difference of PyTorch and ONNX Runtime, in standard deviations of the output."""

FLAT = 1e-2
"""Least standard deviation that differences are measured by: heatmaps reach 1 at a joint, and those of a
trained network on noise are so flat that rounding alone would look large."""

BOTTOM_UP_SIZES = ((128, 128), (96, 160))
"""Inputs on which bottom-up networks, which take any multiple of 32, are checked."""


def model_spec(config: TrainConfig, provenance: Mapping[str, Any] | None = None) -> ModelSpec:
    """The description of the network that a configuration stands for."""
    height, width = config.input_size
    decoder = config.decoder
    return ModelSpec(
        name=config.name,
        skeleton=SKELETONS[config.skeleton],
        input_size=(height, width),
        task=config.task,  # type: ignore[arg-type]
        color=config.color,  # type: ignore[arg-type]
        mean=tuple(config.mean),  # type: ignore[arg-type]
        std=tuple(config.std),  # type: ignore[arg-type]
        padding=config.padding,
        coordinates=config.coordinates,  # type: ignore[arg-type]
        decoder=Decoder(decoder.name, decoder.beta, decoder.refine, decoder.bias),  # type: ignore[arg-type]
        grouping=Grouping(**config.grouping) if config.task == "bottomup" else None,
        provenance=dict(provenance or {}),
    )


@torch.no_grad()
def check_output(network: nn.Module, spec: ModelSpec) -> None:
    """Run the network, without changing it.

    Raises:
        ModelFormatError: top-down, its output is not one map of a quarter of the input per joint;
            bottom-up, its outputs are not of a quarter of the input, half, and so on, with a map per
            joint and, in one of them at least, tags: as many maps or a multiple, or one for all joints.
    """
    training, device = network.training, next(network.parameters()).device
    network.eval()
    runs = []
    for size in _sizes(spec):
        outputs = network(torch.zeros(1, 3, *size, device=device))
        if spec.task == "topdown":
            outputs = final_heatmaps(network, outputs)
        runs.append((size, [outputs] if isinstance(outputs, Tensor) else outputs))
    network.train(training)
    joints = len(spec.skeleton)
    for (height, width), outputs in runs:
        found = [tuple(output.shape[1:]) for output in outputs]
        sides = [(height // 4 << stage, width // 4 << stage) for stage in range(len(found))]
        if spec.task == "topdown":
            expected = [(joints, *sides[0])]
            fits = found == expected
            fitting = getattr(network, "sides", "a multiple of 32")
            advice = f"take {fitting} for both sides of input_size, and joints from the skeleton"
        else:
            expected = [(joints * (1 + (stage == 0)), *side) for stage, side in enumerate(sides)]
            channels = {shape[0] for shape in found}
            fits = all(c == joints + 1 or (c > 0 and c % joints == 0) for c in channels) and channels != {
                joints
            }
            fits = fits and [shape[1:] for shape in found] == sides
            advice = "take a bottom-up network, and joints from the skeleton"
        if not fits:
            raise ModelFormatError(
                f"network and configuration of {spec.name!r} do not fit; found heatmaps "
                f"{', '.join(map(str, found))}, expected {', '.join(map(str, expected))}; {advice}"
            )


def _sizes(spec: ModelSpec) -> Sequence[tuple[int, int]]:
    """Inputs (height, width) to check a network on."""
    return BOTTOM_UP_SIZES if spec.task == "bottomup" else [spec.input_size]


def _named(outputs: Sequence[Tensor], joints: int) -> dict[str, Tensor]:
    """Heatmaps and tags of a bottom-up network by their names in a model file."""
    heatmaps, tags = {}, {}
    for stage, output in enumerate(outputs):
        suffix = "" if stage == 0 else "_high" if stage == 1 else f"_high{stage}"
        channels = int(output.shape[1])  # a plain number, which the exported graph need not compute
        heatmaps[f"heatmaps{suffix}"] = output if channels == joints else output[:, :joints]
        if channels > joints:
            tags[f"tags{suffix}"] = output[:, joints:channels]
    return heatmaps | tags


@torch.no_grad()
def export(network: nn.Module, spec: ModelSpec, path: str | PathLike[str]) -> float:
    """Write an ONNX file with its spec inside, and check it against PyTorch.

    Input ``image`` (n, 3, h, w) float32, normalised. Outputs, top-down: ``heatmaps`` (n, k, h/4, w/4),
    where n is free. Bottom-up, where n, h and w are free, sides multiples of 32: ``heatmaps``
    (n, k, h/4, w/4), ``heatmaps_high`` (n, k, h/2, w/2) and, for further deconvolutions,
    ``heatmaps_high2``, ...; then ``tags`` (n, k or 1, h/4, w/4), and ``tags_high``, ... where the
    network has tags at those sizes; tags of d numbers have d k channels, all joints' first ones first.

    The network stays as it is. The file appears when all is well, replacing an older one; else none.

    Returns:
        largest difference of PyTorch and ONNX Runtime in standard deviations of an output.

    Raises:
        ModelFormatError: the network's output does not fit the spec.
        ParityError: PyTorch and ONNX Runtime differ by more than `TOLERANCE`.
    """
    check_output(network, spec)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    network = copy.deepcopy(network).eval().cpu().float().to(memory_format=torch.contiguous_format)
    names = ["heatmaps"]
    # Hooks, not a network around this one: its nodes keep their names.
    if spec.task == "bottomup":
        joints = len(spec.skeleton)
        names = list(_named(network(torch.zeros(1, 3, *BOTTOM_UP_SIZES[0])), joints))
        network.register_forward_hook(lambda _, __, outputs: tuple(_named(outputs, joints).values()))
    else:
        network.register_forward_hook(lambda module, _, outputs: final_heatmaps(module, outputs))
    part = path.with_name(path.name + ".part")
    try:
        _write(network, spec, names, part)
        difference = onnx_difference(network, part, _sizes(spec))
        if not difference <= TOLERANCE:
            raise ParityError(
                f"the exported file differs from the network; found {difference:.2e} standard deviations, "
                f"at most {TOLERANCE:.0e} is allowed; export with other versions of torch or onnxruntime"
            )
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return difference


def _write(network: nn.Module, spec: ModelSpec, names: list[str], path: Path) -> None:
    axes = {name: {0: "batch"} for name in ("image", *names)}
    if spec.task == "bottomup":
        for name, free in axes.items():
            free |= {2: f"{name}_height", 3: f"{name}_width"}
    with warnings.catch_warnings():
        # The TorchScript exporter gives TensorRT 8.6 and ONNX Runtime 1.17 the plainest graph; the
        # constants that it warns of are fixed numbers of channels.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        torch.onnx.export(
            network,
            (torch.zeros(2, 3, *_sizes(spec)[-1]),),
            str(path),
            input_names=["image"],
            output_names=names,
            dynamic_axes=axes,
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
def onnx_difference(network: nn.Module, path: Path, sizes: Sequence[tuple[int, int]]) -> float:
    """Largest difference of an ONNX file to its network, in standard deviations of an output.

    Args:
        network: its outputs are those of the file, in the same order.
        path: the ONNX file.
        sizes: inputs (height, width) to compare on.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    worst = 0.0
    for size, batch in itertools.product(sizes, (1, 3)):
        image = np.random.default_rng(batch).standard_normal((batch, 3, *size)).astype(np.float32)
        results = session.run(None, {"image": image})
        outputs = network(torch.from_numpy(image))
        outputs = [outputs] if isinstance(outputs, Tensor) else outputs
        for output, found in zip(outputs, results, strict=True):
            expected = output.numpy()
            worst = max(worst, float(np.abs(found - expected).max() / max(expected.std(), FLAT)))
    return worst

"""A network's trainable weights from the ONNX file that was exported from it."""

from __future__ import annotations

from os import PathLike

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from edgepose.errors import ModelFormatError

__all__ = ["recover_weights"]


@torch.no_grad()
def recover_weights(network: nn.Module, path: str | PathLike[str], images: Tensor) -> None:
    """Load an exported file into the network it was made of, in place, ready to be trained further.

    Export folds batch norms into convolutions. The file's function is kept, and the norms' statistics
    are measured anew on `images`, so that training mode starts from the same function as well.

    Args:
        network: of the same architecture and options.
        path: an ONNX file written by `training.export`.
        images: network input (n, 3, h, w), some hundred typical pictures.

    Raises:
        ModelFormatError: the file is of another network.
    """
    graph = onnx.load(str(path)).graph
    stored = {item.name: torch.from_numpy(numpy_helper.to_array(item).copy()) for item in graph.initializer}
    for node in graph.node:
        if node.op_type == "Identity" and node.input[0] in stored:  # equal tensors are stored once
            stored[node.output[0]] = stored[node.input[0]]
    own = network.state_dict()
    folded = _norm_after(network, images[:1])
    values = {key: value for key, value in stored.items() if key in own}
    biases: dict[str, Tensor] = {}
    for node in graph.node:
        if node.op_type in ("Conv", "ConvTranspose"):
            name = _module_name(node.name)
            values[f"{name}.weight"] = stored[node.input[1]]
            if name in folded and len(node.input) > 2:
                biases[name] = stored[node.input[2]]
    norms = {f"{norm}." for name, norm in folded.items() if name in biases}
    missing = [k for k in own if k not in values and not any(k.startswith(n) for n in norms)]
    missing = [k for k in missing if not k.endswith("num_batches_tracked")]
    differing = [k for k, v in values.items() if k not in own or own[k].shape != v.shape]
    if missing or differing:
        raise ModelFormatError(
            f"{path} is not an export of {type(network).__name__}; found {len(missing)} tensors missing and "
            f"{len(differing)} of another shape ({', '.join((missing + differing)[:3])}); create the network "
            "with the options it was exported with"
        )
    network.load_state_dict(values, strict=False)
    modules = dict(network.named_modules())
    for name, bias in biases.items():
        norm = modules[folded[name]]
        assert isinstance(norm, nn.BatchNorm2d)
        norm.weight.fill_(1)
        norm.bias.copy_(bias)
        norm.running_mean.zero_()  # type: ignore[union-attr]
        norm.running_var.fill_(1 - norm.eps)  # type: ignore[union-attr]
    handles = [
        module.register_forward_pre_hook(_measure_norm)
        for module in modules.values()
        if isinstance(module, nn.BatchNorm2d)
    ]
    training = network.training
    network.eval()(images)
    network.train(training)
    for handle in handles:
        handle.remove()


def _measure_norm(norm: nn.BatchNorm2d, inputs: tuple[Tensor, ...]) -> None:
    """Give a norm the statistics of its input, and the scale and shift with which it computes the same."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean, variance = inputs[0].mean((0, 2, 3)), inputs[0].var((0, 2, 3), unbiased=False)
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()
    norm.bias.add_(factor * (mean - norm.running_mean))
    norm.weight.copy_(factor * (variance + norm.eps).sqrt())
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)


def _norm_after(network: nn.Module, image: Tensor) -> dict[str, str]:
    """Name of the batch norm that directly follows each convolution."""
    pairs: dict[str, str] = {}
    outputs: dict[int, tuple[str, Tensor]] = {}
    handles = []
    for name, module in network.named_modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):

            def keep(_: nn.Module, __: object, output: Tensor, name: str = name) -> None:
                outputs[id(output)] = name, output  # held, so that the id stays its own

            handles.append(module.register_forward_hook(keep))
        elif isinstance(module, nn.BatchNorm2d):

            def pair(_: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
                if id(inputs[0]) in outputs:
                    pairs[outputs[id(inputs[0])][0]] = name

            handles.append(module.register_forward_pre_hook(pair))
    training = network.training
    network.eval()(image)
    network.train(training)
    for handle in handles:
        handle.remove()
    return pairs


def _module_name(node: str) -> str:
    """``/layer1/layer1.0/conv1/Conv`` is layer1.0.conv1."""
    parts: list[str] = []
    for part in node.strip("/").split("/")[:-1]:
        if parts and part.startswith(parts[-1] + "."):
            parts.pop()
        parts.append(part)
    return ".".join(parts)

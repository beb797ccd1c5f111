"""Small ONNX models whose heatmaps follow from the picture, so that every joint is known exactly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgepose import Decoder, ModelSpec, Skeleton

# Joint j lights up where channel j of the picture (blue, green, red) does.
COLORS3 = Skeleton("colors3", ("blue", "green", "red"), ((0, 1), (1, 2)), (), (0.05,) * 3)
SIDES2 = Skeleton("sides2", ("left_hand", "right_hand"), ((0, 1),), ((0, 1),), (0.05,) * 2)


def color_spec(**changes: Any) -> ModelSpec:
    """Spec of `color_model`: pixels reach the network as value / 255, in BGR order."""
    values: dict[str, Any] = {
        "name": "colors",
        "skeleton": COLORS3,
        "input_size": (64, 48),
        "color": "bgr",
        "mean": (0.0, 0.0, 0.0),
        "std": (1.0, 1.0, 1.0),
        "decoder": Decoder("argmax", refine="taylor"),
    }
    return ModelSpec(**{**values, **changes})


def color_model(
    path: Path,
    spec: ModelSpec | None = None,
    *,
    channels: Sequence[int] | None = None,
    mask: np.ndarray | None = None,
    metadata: dict[str, str] | None = None,
    input_name: str = "image",
    output_name: str = "heatmaps",
    batch: int | str = "batch",
    input_size: tuple[int, int] | None = None,
) -> Path:
    """Write a model whose heatmap j is a quarter-size copy of one channel of its input.

    Args:
        spec: written as metadata; its coordinates decide how the quarter-size grid lies in the input.
        channels: the channel of each joint; its own index by default.
        mask: (1, k, h / 4, w / 4), multiplied onto the heatmaps.
        metadata: written in place of the spec.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    spec = spec or color_spec()
    joints = len(spec.skeleton)
    height, width = input_size or spec.input_size
    weights = np.zeros((joints, 3, 1, 1), np.float32)
    weights[np.arange(joints), list(channels or range(joints))] = 1
    mode = "align_corners" if spec.coordinates == "udp" else "asymmetric"
    mask = np.ones((1, 1, 1, 1), np.float32) if mask is None else mask.astype(np.float32)
    nodes = [
        helper.make_node("Conv", [input_name, "weights"], ["picked"]),
        helper.make_node(
            "Resize", ["picked", "", "scales"], ["small"], mode="linear", coordinate_transformation_mode=mode
        ),
        helper.make_node("Mul", ["small", "mask"], [output_name]),
    ]
    graph = helper.make_graph(
        nodes,
        "colors",
        [helper.make_tensor_value_info(input_name, TensorProto.FLOAT, [batch, 3, height, width])],
        [
            helper.make_tensor_value_info(
                output_name, TensorProto.FLOAT, [batch, joints, height // 4, width // 4]
            )
        ],
        [
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(np.array([1, 1, 0.25, 0.25], np.float32), "scales"),
            numpy_helper.from_array(mask, "mask"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"edgepose": spec.to_json()} if metadata is None else metadata)
    onnx.save(model, path)
    return path


def spots(size: tuple[int, int], centers: Sequence[tuple[float, float]], radius: float = 20.0) -> np.ndarray:
    """A black BGR picture with one Gaussian spot per channel, at the given x, y."""
    y, x = np.mgrid[: size[0], : size[1]]
    picture = np.zeros((*size, 3))
    for channel, (cx, cy) in enumerate(centers):
        picture[:, :, channel] = 255 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * radius**2))
    return np.rint(picture).astype(np.uint8)

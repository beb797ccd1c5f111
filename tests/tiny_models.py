"""Small ONNX models whose heatmaps follow from the picture, so that every joint is known exactly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgepose import Decoder, Grouping, ModelSpec, Skeleton

# Joint j lights up where channel j of the picture (blue, green, red) does.
COLORS3 = Skeleton("colors3", ("blue", "green", "red"), ((0, 1), (1, 2)), (), (0.05,) * 3)
# Of a bottom-up model: the red channel tells the person.
PAIR2 = Skeleton("pair2", ("blue", "green"), ((0, 1),), (), (0.05,) * 2)
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


def pixel_model(path: Path, source: Path) -> Path:
    """Write a model that takes the pictures' own values, (n, h, w, 3) uint8, and does what another does."""
    import dataclasses

    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(source)
    graph = model.graph
    spec = ModelSpec.from_json(model.metadata_props[0].value)
    for node in graph.node:
        node.input[:] = ["normal" if name == "image" else name for name in node.input]
    steps = [
        helper.make_node("Cast", ["image"], ["number"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["number", "pixel_mean"], ["centered"]),
        helper.make_node("Div", ["centered", "pixel_std"], ["divided"]),
        helper.make_node("Transpose", ["divided"], ["normal"], perm=[0, 3, 1, 2]),
    ]
    for place, step in enumerate(steps):
        graph.node.insert(place, step)
    for name, values in (("pixel_mean", spec.mean), ("pixel_std", spec.std)):
        graph.initializer.append(numpy_helper.from_array(255 * np.array(values, np.float32), name))
    sides = [axis.dim_value or axis.dim_param for axis in graph.input[0].type.tensor_type.shape.dim]
    shape = [sides[0], *sides[2:], 3]
    graph.input[0].CopyFrom(helper.make_tensor_value_info("image", TensorProto.UINT8, shape))
    spec = dataclasses.replace(spec, input_format="uint8_nhwc")
    helper.set_model_props(model, {"edgepose": spec.to_json()})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


def spots(size: tuple[int, int], centers: Sequence[tuple[float, float]], radius: float = 20.0) -> np.ndarray:
    """A black BGR picture with one Gaussian spot per channel, at the given x, y."""
    y, x = np.mgrid[: size[0], : size[1]]
    picture = np.zeros((*size, 3))
    for channel, (cx, cy) in enumerate(centers):
        picture[:, :, channel] = 255 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * radius**2))
    return np.rint(picture).astype(np.uint8)


def people_spec(**changes: Any) -> ModelSpec:
    """Spec of `people_model`."""
    values: dict[str, Any] = {
        "name": "people",
        "skeleton": PAIR2,
        "input_size": (128, 128),
        "task": "bottomup",
        "coordinates": "legacy",
        "color": "bgr",
        "mean": (0.0, 0.0, 0.0),
        "std": (1.0, 1.0, 1.0),
        "grouping": Grouping(refine=False),
    }
    return ModelSpec(**{**values, **changes})


def people_model(
    path: Path,
    spec: ModelSpec | None = None,
    *,
    size: tuple[int | str, int | str] = ("height", "width"),
    outputs: Sequence[str] = ("heatmaps", "heatmaps_high", "tags"),
    joints: int = 2,
    tag_maps: int = 2,
) -> Path:
    """Write a bottom-up model: heatmaps are the blue and green channel, the tag is 10 times the red one.

    Args:
        spec: written as metadata.
        size: height and width of the input; names leave them free.
        outputs: which outputs, in this order.
        joints: channels of the heatmaps, blue and green in turn.
        tag_maps: channels of the tags.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    heat, red = np.zeros((joints, 3, 1, 1), np.float32), np.zeros((tag_maps, 3, 1, 1), np.float32)
    heat[np.arange(joints), np.arange(joints) % 2] = 1
    red[:, 2] = 10

    def pooled(source: str, result: str, step: int) -> Any:
        window = {"kernel_shape": [step, step], "strides": [step, step]}
        return helper.make_node("AveragePool", [source], [result], **window)

    nodes = {
        "heatmaps": [pooled("heat", "heatmaps", 4)],
        "heatmaps_high": [pooled("heat", "heatmaps_high", 2)],
        "tags": [helper.make_node("Conv", ["image", "red_weights"], ["red"]), pooled("red", "tags", 4)],
    }
    sides = [["batch", tag_maps if name == "tags" else joints, None, None] for name in outputs]
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "heat_weights"], ["heat"]),
            *(node for name in outputs for node in nodes[name]),
        ],
        "people",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, *size])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in zip(outputs, sides, strict=True)
        ],
        [
            numpy_helper.from_array(heat, "heat_weights"),
            numpy_helper.from_array(red, "red_weights"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"edgepose": (spec or people_spec()).to_json()})
    onnx.save(model, path)
    return path


def people_picture(
    size: tuple[int, int],
    people: Sequence[Sequence[tuple[float, float] | None]],
    *,
    radius: float = 5.0,
    peaks: Sequence[float] | None = None,
) -> np.ndarray:
    """A picture for `people_model`: per person the places of the blue and green joint, None if missing.

    Args:
        peaks: heights of the persons' spots, from 0 to 1; 0.9 by default.
    """
    y, x = np.mgrid[: size[0], : size[1]]
    picture = np.zeros((*size, 3))
    for index, person in enumerate(people):
        for channel, place in enumerate(person):
            if place is None:
                continue
            squared = (x - place[0]) ** 2 + (y - place[1]) ** 2
            spot = 255 * (0.9 if peaks is None else peaks[index]) * np.exp(-squared / (2 * radius**2))
            picture[:, :, channel] = np.maximum(picture[:, :, channel], spot)
            picture[squared < (3 * radius) ** 2, 2] = 255 * (index + 1) / (len(people) + 1)
    return np.rint(picture).astype(np.uint8)

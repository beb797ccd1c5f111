"""What rtmlib does with the same networks: its classes, its own drawing and the loop of its README.

It is no dependency: install it where the benchmark runs, ``pip install rtmlib onnx``.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgepose.spec import ModelSpec

__all__ = ["detector_file", "one_stage_file", "peer", "peer_loop", "peer_version"]

DETECTOR_SIDE = 416
STRIDES = (8, 16, 32)
CHANNELS = (24, 48, 96, 192, 256)
DRAWN_JOINTS = 17
"""rtmlib draws skeletons of certain numbers of joints alone; ours are filled up to this one."""
NOTHING = 1e-20
"""Factor by which made networks add what they computed to the boxes that are wanted."""

Model = Callable[[NDArray[np.uint8]], tuple[NDArray[Any], NDArray[Any]]]


def peer_version() -> str | None:
    """The installed version, None where there is none."""
    try:
        return metadata.version("rtmlib")
    except metadata.PackageNotFoundError:
        return None


def detector_file(path: Path, boxes: NDArray[np.float32], size: tuple[int, int]) -> Path:
    """A network with a YOLOX's input and output, random weights and about the size of YOLOX-Nano (some 1.1
    GFLOPs), which finds the same boxes in each picture.

    Args:
        boxes: (n, 4) xyxy in pixels of pictures of (height, width) `size`.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    nodes, weights = [], []

    def constant(name: str, value: Any) -> str:
        weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def convolve(source: str, name: str, inside: int, outside: int, kernel: int, stride: int = 1) -> str:
        weight = rng.normal(0, (2 / (inside * kernel**2)) ** 0.5, (outside, inside, kernel, kernel))
        constant(f"{name}.weight", weight.astype(np.float32))
        pads = [kernel // 2] * 4
        shape = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": pads}
        nodes.append(helper.make_node("Conv", [source, f"{name}.weight"], [f"{name}.conv"], **shape))
        nodes.append(helper.make_node("Relu", [f"{name}.conv"], [name]))
        return name

    found, inside, rows = "images", 3, []
    constant("rows", np.array([0, 6, -1], np.int64))
    for stage, outside in enumerate(CHANNELS):
        found = convolve(found, f"down{stage}", inside, outside, 3, 2)
        inside = outside
        if stage >= 2:
            found = convolve(found, f"narrow{stage}", outside, outside // 2, 1)
            found = convolve(found, f"wide{stage}", outside // 2, outside, 3)
            head = convolve(found, f"head{stage}", outside, 6, 1)
            nodes.append(helper.make_node("Reshape", [head, "rows"], [f"rows{stage}"]))
            rows.append(f"rows{stage}")
    nodes.append(helper.make_node("Concat", rows, ["cells"], axis=2))
    nodes.append(helper.make_node("Transpose", ["cells"], ["computed"], perm=[0, 2, 1]))
    constant("nothing", np.float32(NOTHING))
    constant("wanted", _cells(boxes, size))
    nodes.append(helper.make_node("Mul", ["computed", "nothing"], ["little"]))
    nodes.append(helper.make_node("Add", ["little", "wanted"], ["output"]))
    side = DETECTOR_SIDE
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, side, side])
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, None, 6])
    graph = helper.make_graph(nodes, "detector", [image], [output], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def _cells(boxes: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """A YOLOX's output (1, a, 6) for boxes: centre in cells and logarithm of the size, objectness, class."""
    counts = [(DETECTOR_SIDE // stride) ** 2 for stride in STRIDES]
    output = np.zeros((1, sum(counts), 6), np.float32)
    scale = min(DETECTOR_SIDE / side for side in size)
    columns = DETECTOR_SIDE // STRIDES[-1]
    for box in boxes * scale:
        sides = (box[2:] - box[:2]) / STRIDES[-1]
        middle = (box[2:] + box[:2]) / 2 / STRIDES[-1]
        x, y = np.clip(middle.astype(int), 0, columns - 1)
        row = sum(counts[:-1]) + y * columns + x
        output[0, row] = [*(middle - (x, y)), *np.log(sides), 1, 1]
    return output


def one_stage_file(path: Path, model: Path, spec: ModelSpec, joints: NDArray[np.float32]) -> Path:
    """A packaged bottom-up network with an RTMO's outputs, which are the same people in each picture.

    rtmlib has no class that decodes its maps, so none are decoded there.

    Args:
        joints: (n, k, 2) in pixels of the input.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    network = onnx.load(model)
    graph = network.graph
    low, high = joints.min(axis=1), joints.max(axis=1)
    scores = np.ones((len(joints), 1), np.float32)
    wanted = {
        "dets": np.concatenate([low, high, scores], axis=1)[None],
        "keypoints": np.concatenate([joints, np.ones((*joints.shape[:2], 1), np.float32)], axis=2)[None],
    }
    nothing = numpy_helper.from_array(np.float32(NOTHING), "nothing")
    graph.initializer.append(nothing)
    peaks = []
    for output in graph.output:
        peak = f"{output.name}.peak"
        graph.node.append(helper.make_node("ReduceMax", [output.name], [peak], keepdims=0))
        peaks.append(peak)
    graph.node.append(helper.make_node("Sum", peaks, ["peaks"]))
    graph.node.append(helper.make_node("Mul", ["peaks", "nothing"], ["little"]))
    del graph.output[:]
    for name, value in wanted.items():
        graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), f"{name}.wanted"))
        graph.node.append(helper.make_node("Add", [f"{name}.wanted", "little"], [name]))
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape))
    del network.metadata_props[:]
    onnx.save(network, path)
    return path


def peer(pose: Path, pose_size: tuple[int, int], detector: Path | None = None) -> Model:
    """rtmlib's own way from a picture to joints: `Custom` with YOLOX and ViTPose, its class for networks that
    give heatmaps, or RTMO where there is no detector. Sizes are (height, width)."""
    import rtmlib

    with contextlib.redirect_stdout(sys.stderr):  # it prints what it loads
        if detector is None:
            return rtmlib.RTMO(str(pose), model_input_size=pose_size)  # type: ignore[no-any-return]
        return rtmlib.Custom(  # type: ignore[no-any-return]
            det_class="YOLOX",
            det=str(detector),
            det_input_size=(DETECTOR_SIDE, DETECTOR_SIDE),
            pose_class="ViTPose",
            pose=str(pose),
            pose_input_size=pose_size[::-1],
        )


def peer_loop(model: Model, video: Path, draw: bool, output: Path | None, size: Sequence[int]) -> int:
    """The loop of its README; how many frames there were."""
    import rtmlib

    capture = cv2.VideoCapture(str(video))
    writer = None
    if output is not None:
        writer = cv2.VideoWriter(str(output), cv2.VideoWriter.fourcc(*"mp4v"), 25, (size[1], size[0]))
    count = 0
    while capture.isOpened():
        usable, frame = capture.read()
        if not usable:
            break
        keypoints, scores = model(frame)
        count += 1
        if draw:
            missing = DRAWN_JOINTS - keypoints.shape[1]
            if missing > 0:
                keypoints = np.pad(keypoints, ((0, 0), (0, missing), (0, 0)), mode="edge")
                scores = np.pad(scores, ((0, 0), (0, missing)), mode="edge")
            frame = rtmlib.draw_skeleton(frame.copy(), keypoints, scores, kpt_thr=0.2)
        if writer is not None:
            writer.write(frame)
    capture.release()
    if writer is not None:
        writer.release()
    return count

"""Object detectors of other projects as finders of persons."""

from __future__ import annotations

import gc
import math
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_detectors import bright_detector, cells, fixed_detector
from tiny_models import color_model

from edgepose import (
    BackendUnavailableError,
    Estimator,
    InvalidInputError,
    ModelFormatError,
    ModelNotFoundError,
    OnnxDetector,
)
from edgepose.backends.onnx_metadata import read_first_operators
from edgepose.detectors import FAMILIES, nms
from edgepose.detectors.decode import decode, holds_pixels
from edgepose.detectors.families import Layout, grid_cells, person_class_of, recognise
from edgepose.pipeline.gpu.device_picture import DevicePicture
from tests.fakes import onnxruntime, pycuda

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
cv2 = pytest.importorskip("cv2")

SIZE = (64, 96)
COUNT = len(cells(SIZE))
YOLOX, RTMDET, YOLOV8 = (FAMILIES[name] for name in ("yolox", "rtmdet", "yolov8"))
GREY = np.full((64, 96, 3), 90, np.uint8)


def overlap(a: Any, b: Any) -> float:
    """Intersection over union, one number after another."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    areas = [max(box[2] - box[0], 0) * max(box[3] - box[1], 0) for box in (a, b)]
    whole = sum(areas) - shared
    return shared / whole if whole > 0 else 0.0


def slow_nms(boxes: Any, scores: Any, threshold: float) -> list[int]:
    """Each box in turn by its score, against all that are kept."""
    kept: list[int] = []
    for index in sorted(range(len(scores)), key=lambda i: (-scores[i], i)):
        if all(overlap(boxes[index], boxes[other]) <= threshold for other in kept):
            kept.append(index)
    return kept


def slow_boxes(family: str, values: np.ndarray, size: tuple[int, int], person: int, pixels: bool) -> Any:
    """All boxes and scores of one picture's outputs (a, 5 + c) or (4 + c, a), cell after cell."""
    found = []
    strides = (8, 16, 32) if len(values) == len(cells(size)) else (8, 16, 32, 64)
    if family == "yolox":
        for row, (x, y, stride) in zip(values.tolist(), cells(size, strides), strict=True):
            cx, cy, w, h = row[:4]
            if not pixels:
                cx, cy, w, h = (
                    (cx + x) * stride,
                    (cy + y) * stride,
                    math.exp(w) * stride,
                    math.exp(h) * stride,
                )
            found.append(([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], row[4] * row[5 + person]))
    else:
        for place in range(values.shape[1]):
            cx, cy, w, h = (float(values[i, place]) for i in range(4))
            corners = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
            found.append((corners, float(values[4 + person, place])))
    return found


boxes_of_any_kind = st.lists(
    st.tuples(
        st.integers(0, 12), st.integers(0, 12), st.integers(0, 8), st.integers(0, 8), st.integers(0, 4)
    ),
    max_size=25,
)


@given(boxes_of_any_kind, st.sampled_from([0, 0.25, 0.5, 0.65, 1]))
@settings(max_examples=200, deadline=None)
def test_suppression_is_that_of_brute_force(given_boxes: Any, threshold: float) -> None:
    rows = np.array(given_boxes, np.float32).reshape(-1, 5)
    boxes = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1)
    scores = rows[:, 4] / 4
    assert nms(boxes, scores, threshold).tolist() == slow_nms(boxes.tolist(), scores.tolist(), threshold)


class TestDecode:
    """Against a reference that goes cell by cell."""

    @settings(max_examples=60, deadline=None)
    @given(
        seed=st.integers(0, 1 << 30),
        family=st.sampled_from(["yolox", "yolov8"]),
        pixels=st.booleans(),
        size=st.sampled_from([(32, 32), SIZE, (128, 64)]),
        classes=st.integers(1, 3),
        threshold=st.sampled_from([0.0, 0.3, 0.7]),
        pictures=st.integers(1, 2),
        four=st.booleans(),
    )
    def test_grids_and_anchors(
        self,
        seed: int,
        family: str,
        pixels: bool,
        size: tuple[int, int],
        classes: int,
        threshold: float,
        pictures: int,
        four: bool,
    ) -> None:
        rng = np.random.default_rng(seed)
        strides = (8, 16, 32, 64) if four and min(size) >= 64 else (8, 16, 32)
        count = len(cells(size, strides))
        person = int(rng.integers(classes))
        if family == "yolox":
            values = rng.uniform(-1, 2, (pictures, count, 5 + classes)).astype(np.float32)
            values[..., 4:] = rng.uniform(0, 1, values[..., 4:].shape)
            if pixels:
                values[..., :4] *= 30
            layout = Layout(YOLOX, "grid", ("output",), strides, classes)
        else:
            values = rng.uniform(1, 60, (pictures, 4 + classes, count)).astype(np.float32)
            values[:, 4:] = rng.uniform(0, 1, values[:, 4:].shape)
            layout = Layout(YOLOV8, "anchors", ("output",), (), classes)
        options: dict[str, Any] = {"person_class": person, "score_threshold": threshold, "iou_threshold": 0.5}
        found = decode(layout, [values], size, in_pixels=pixels, **options)
        assert len(found) == pictures
        for picture, candidates in zip(values, found, strict=True):
            slow = slow_boxes(family, picture, size, person, pixels)
            good = [each for each in slow if each[1] >= threshold]
            kept = slow_nms([box for box, _ in good], [score for _, score in good], 0.5)
            boxes, scores = [good[i][0] for i in kept], [good[i][1] for i in kept]
            np.testing.assert_allclose(candidates.scores, scores, rtol=1e-6)
            np.testing.assert_allclose(candidates.boxes, np.reshape(boxes, (-1, 4)), rtol=1e-5, atol=1e-4)

    def test_rows_and_dets_keep_what_they_are_given(self) -> None:
        rows = [[5, 6, 25, 36, 0.4, 0], [5, 6, 25, 37, 0.9, 0], [1, 2, 30, 40, 0.8, 1], [0, 0, 9, 9, 0.2, 0]]
        expected = [[5, 6, 25, 37], [5, 6, 25, 36]]
        values = np.array([rows], np.float32)
        labels = values[:, :, 5].astype(np.int64)
        for layout, outputs in (
            (Layout(YOLOV8, "rows", ("a",)), [values]),
            (Layout(RTMDET, "dets", ("a", "b")), [values[:, :, :5], labels]),
            (Layout(RTMDET, "dets", ("a",)), [np.delete(values, 2, axis=1)[:, :, :5]]),
        ):
            (found,) = decode(layout, outputs, SIZE)
            assert found.boxes.tolist() == expected
            np.testing.assert_allclose(found.scores, [0.9, 0.4], rtol=1e-6)
        (other,) = decode(Layout(YOLOV8, "rows", ("a",)), [values], SIZE, person_class=1)
        assert other.boxes.tolist() == [[1, 2, 30, 40]]

    def test_padding_of_a_batch_is_no_person(self) -> None:
        dets = np.zeros((1, 3, 5), np.float32)
        dets[0, 0] = [1, 2, 30, 40, 1e-6]
        for filler in (-1, 0):
            labels = np.array([[0, filler, filler]])
            (found,) = decode(Layout(RTMDET, "dets", ("a", "b")), [dets, labels], SIZE, score_threshold=0)
            assert found.boxes.tolist() == [[1, 2, 30, 40]]

    def test_scores_of_half_precision_stay_within_one(self) -> None:
        values = np.array([[[1, 2, 30, 40, 1.001, 0]]], np.float16)
        (found,) = decode(Layout(YOLOV8, "rows", ("a",)), [values], SIZE)
        assert found.scores.tolist() == [1]
        assert found.boxes.dtype == found.scores.dtype == np.float32

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_boxes_that_are_no_numbers(self, bad: float) -> None:
        values = np.array([[[1, 2, bad, 40, 0.5, 0]]], np.float32)
        with pytest.raises(InvalidInputError, match="NaN or infinity"):
            decode(Layout(YOLOV8, "rows", ("a",)), [values], SIZE)
        values[..., 4] = 0.1  # and below the threshold nobody minds
        assert len(decode(Layout(YOLOV8, "rows", ("a",)), [values], SIZE)[0].boxes) == 0

    def test_a_huge_box_stays_finite(self) -> None:
        values = np.zeros((1, COUNT, 6), np.float32)
        values[0, 7] = [0.5, 0.5, 200, 200, 1, 1]
        (found,) = decode(Layout(YOLOX, "grid", ("a",), (8, 16, 32), 1), [values], SIZE)
        assert np.isfinite(found.boxes).all()
        assert found.boxes[0, 2] - found.boxes[0, 0] > 1e6

    def test_the_best_candidates_are_looked_at(self) -> None:
        size = (256, 512)
        count = len(cells(size))
        rng = np.random.default_rng(0)
        values = np.zeros((1, 5, count), np.float32)
        values[0, 0], values[0, 1], values[0, 2:4] = np.arange(count) * 3, 5, 2  # none overlaps another
        values[0, 4] = rng.permutation(count) / count
        (found,) = decode(Layout(YOLOV8, "anchors", ("a",), (), 1), [values], size, score_threshold=0)
        assert len(found.scores) == 1000 < count
        assert found.scores.tolist() == sorted(values[0, 4].tolist(), reverse=True)[:1000]


class TestRecognise:
    @pytest.mark.parametrize(
        ("outputs", "options", "family", "kind"),
        [
            ({"output": (1, 8400, 85)}, {}, "yolox", "grid"),
            ({"output": (1, 8500, 85)}, {}, "yolox", "grid"),
            ({"output": (2, 8400, 6)}, {}, "yolox", "grid"),
            ({"output0": (1, 84, 8400)}, {}, "yolov8", "anchors"),
            ({"output0": (1, 5, 8400)}, {}, "yolov8", "anchors"),
            ({"output0": (1, 84, 33600)}, {"family": "yolov8"}, "yolov8", "anchors"),
            ({"output0": (1, 84, 33600)}, {"metadata": {"task": "detect"}}, "yolov8", "anchors"),
            ({"output0": (1, 300, 6)}, {}, "yolov8", "rows"),
            ({"output0": (1, 0, 6)}, {}, "yolov8", "rows"),
            ({"output0": (1, 8400, 6)}, {"family": "yolov8"}, "yolov8", "rows"),
            ({"dets": (1, 100, 5), "labels": (1, 100)}, {}, "rtmdet", "dets"),
            ({"labels": (1, 0), "dets": (1, 0, 5)}, {}, "rtmdet", "dets"),
            ({"dets": (1, 7, 5)}, {"family": "rtmdet"}, "rtmdet", "dets"),
            ({"dets": (1, 100, 5), "labels": (1, 100)}, {"first": {"Slice"}}, "yolox", "dets"),
            ({"dets": (1, 100, 5), "labels": (1, 100)}, {"family": "yolox"}, "yolox", "dets"),
            ({"dets": (1, 100, 5), "labels": (1, 100)}, {"family": "yolov8"}, "yolov8", "dets"),
            (
                {"dets": (1, 9, 5), "labels": (1, 9)},
                {"first": {"Slice"}, "family": "rtmdet"},
                "rtmdet",
                "dets",
            ),
        ],
    )
    def test_by_shape(self, outputs: Any, options: Any, family: str, kind: str) -> None:
        found = recognise("a.onnx", outputs, (640, 640), **options)
        assert (found.family.name, found.kind) == (family, kind)
        if kind == "dets":
            assert [len(outputs[name]) for name in found.outputs] == [3, 2][: len(outputs)]
        if kind == "grid":
            assert grid_cells((640, 640), found.strides) == outputs["output"][1]
            assert found.classes == outputs["output"][2] - 5

    @pytest.mark.parametrize(
        ("outputs", "family"),
        [
            ({"output": (1, 25200, 85)}, None),
            ({"output": (1, 8400, 85)}, "rtmdet"),
            ({"output": (1, 300, 6)}, "yolox"),
            ({"output": (1, 84, 8400)}, "yolox"),
            ({"dets": (1, 9, 5), "labels": (1, 8)}, None),
            ({"boxes": (1, 9, 4), "scores": (1, 9, 80)}, None),
            ({"output": (100, 7)}, None),
            ({"output": (1, 8400, 4)}, None),
            ({}, None),
        ],
    )
    def test_unknown_outputs_are_told(self, outputs: Any, family: str | None) -> None:
        with pytest.raises(ModelFormatError) as caught:
            recognise("some.onnx", outputs, (640, 640), family=family)
        message = str(caught.value)
        for name, shape in outputs.items():
            assert f"{name} {list(shape)}" in message
        assert "some.onnx" in message
        assert "640x640" in message
        assert (family or "any known family") in message

    def test_models_for_other_tasks(self) -> None:
        with pytest.raises(ModelFormatError, match="task 'pose'"):
            recognise("a.onnx", {"output0": (1, 56, 8400)}, (640, 640), metadata={"task": "pose"})

    @pytest.mark.parametrize(
        ("names", "person"),
        [
            ({}, 0),
            ({0: "cat", 1: "Person"}, 1),
            ({0: "head"}, 0),
            ({0: "0", 1: "1", 2: "2"}, 0),
            ({"7": "pedestrian"}, 7),
        ],
    )
    def test_the_class_of_persons(self, names: Any, person: int) -> None:
        assert person_class_of("a.onnx", {"names": str(names)}) == person

    def test_metadata_that_is_no_dictionary(self) -> None:
        for names in ("", "[1, 2", "5", "{'a': 'person'}", "__import__('os')", "[" * 10000):
            assert person_class_of("a.onnx", {"names": names}) == 0

    def test_no_class_of_persons(self) -> None:
        with pytest.raises(InvalidInputError, match="'cat', 'dog'; give person_class="):
            person_class_of("a.onnx", {"names": "{0: 'cat', 1: 'dog'}"})


def test_offsets_are_told_from_pixels() -> None:
    rng = np.random.default_rng(0)
    x = np.array([(column + 0.5) * stride for column, _, stride in cells((640, 640))])
    values = np.zeros((1, 8400, 85), np.float32)
    values[0, :, 0] = x + rng.normal(0, 20, 8400)
    assert holds_pixels(values, 640)
    values[0, :, 0] = rng.normal(0.5, 3, 8400)
    assert not holds_pixels(values, 640)


def test_what_an_input_goes_into(tmp_path: Path) -> None:
    values = {"output": np.zeros((1, COUNT, 6), np.float32)}
    for stem, expected in (
        ((), "ReduceMean"),
        (("Slice",), "Slice"),
        (("Cast", "Identity", "Slice"), "Slice"),
    ):
        path = fixed_detector(tmp_path / "a.onnx", values, stem=stem)
        assert read_first_operators(path, "images") == {expected}
    assert read_first_operators(path, "other") == set()


@pytest.fixture(scope="module")
def outputs() -> dict[str, dict[str, np.ndarray]]:
    """Of each kind, one person at 20, 10, 60, 50 of the input, with a double, and another object."""
    boxes = np.array([[20, 10, 60, 50], [21, 10, 60, 50], [2, 3, 40, 60]], np.float32)
    scores = np.array([[0.8, 0.1], [0.7, 0.1], [0.1, 0.9]], np.float32)
    centers, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    rows = np.concatenate([boxes[[0, 2]], scores[[0, 2]].max(axis=1)[:, None], [[0], [1]]], axis=1)
    anchors = np.zeros((1, 6, COUNT), np.float32)
    anchors[0, :, 40:43] = np.concatenate([centers, sides, scores], axis=1).T
    grid = np.zeros((1, COUNT, 7), np.float32)
    pixels = grid.copy()
    for index, (x, y, stride) in enumerate(cells(SIZE)):
        grid[0, index, :2] = 0.5
        pixels[0, index, :2] = (x + 0.5) * stride, (y + 0.5) * stride
        if 40 <= index < 43:
            which = index - 40
            grid[0, index, :2] = centers[which] / stride - (x, y)
            grid[0, index, 2:4] = np.log(sides[which] / stride)
            pixels[0, index, :4] = *centers[which], *sides[which]
            for values in (grid, pixels):
                values[0, index, 4:] = 1, *scores[which]
    rows = rows.astype(np.float32)[None]
    return {
        "grid": {"output": grid},
        "pixels": {"output": pixels},
        "anchors": {"output0": anchors},
        "rows": {"output0": rows},
        "dets": {"dets": rows[:, :, :5], "labels": rows[:, :, 5].astype(np.int64)},
    }


KINDS = ("grid", "pixels", "anchors", "rows", "dets")


class TestOnnxDetector:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("half", [False, True])
    def test_each_kind_of_outputs(self, kind: str, half: bool, outputs: Any, tmp_path: Path) -> None:
        path = fixed_detector(tmp_path / "a.onnx", outputs[kind], half=half)
        with OnnxDetector(path, kernels="numpy") as detector:
            found = detector(GREY)
            told = detector.describe()
        assert told["outputs"] == ("grid" if kind == "pixels" else kind)
        assert (told["input_size"], told["person_class"], told["batch"]) == ([64, 96], 0, 8)
        assert told["backend"]["name"] == "onnxruntime"
        np.testing.assert_allclose(found, [[19.5, 9.5, 59.5, 49.5, 0.8]], atol=0.1 if half else 1e-4)

    def test_doubles_by_the_threshold(self, outputs: Any, tmp_path: Path) -> None:
        path = fixed_detector(tmp_path / "a.onnx", outputs["anchors"])
        for threshold, count in ((1.0, 2), (0.98, 2), (0.97, 1), (None, 1)):
            with OnnxDetector(path, iou_threshold=threshold, kernels="numpy") as detector:
                assert len(detector(GREY)) == count
        with OnnxDetector(path, person_class=1, kernels="numpy") as detector:
            np.testing.assert_allclose(detector(GREY), [[1.5, 2.5, 39.5, 59.5, 0.9]], atol=1e-5)
        with OnnxDetector(path, score_threshold=0.85, kernels="numpy") as detector:
            assert detector(GREY).shape == (0, 5)

    @pytest.mark.parametrize("batch", ["batch", 1, 3])
    @pytest.mark.parametrize(
        ("family", "kind", "channel", "limit"),
        [
            ("yolox", "dets", 0, 150),
            ("rtmdet", "dets", 0, (150 - 103.53) / 57.375),
            ("yolov8", "rows", 2, 150 / 255),
        ],
    )
    def test_boxes_lie_in_the_picture(
        self, family: str, kind: str, channel: int, limit: float, batch: int | str, tmp_path: Path
    ) -> None:
        """What is found is exactly what is blue, wherever and however large the picture lies in the input."""
        path = bright_detector(tmp_path / "a.onnx", kind, channel=channel, limit=limit, batch=batch)
        pictures, expected = [], []
        # As large as the input, half of it, twice, narrow, and low.
        for height, width in ((64, 96), (32, 48), (128, 192), (64, 40), (20, 96), (64, 41)):
            picture = np.zeros((height, width, 3), np.uint8)
            x, y, right, low = 4, 6, width - 8, height - 4
            picture[y:low, x:right, 0] = 255
            picture[y : y + 2, :, 1:] = 255  # other colours elsewhere
            pictures.append(picture)
            expected.append([x - 0.5, y - 0.5, right - 0.5, low - 0.5, 1])
        pictures.append(np.zeros((64, 96, 3), np.uint8))
        with OnnxDetector(path, family=family, kernels="numpy") as detector:
            found = detector.find(pictures)
            alone = [detector(picture) for picture in pictures]
        assert [truncated for _, truncated in found] == [False] * 7
        for (boxes, _), single, wanted in zip(found[:6], alone, expected, strict=False):
            np.testing.assert_allclose(boxes, [wanted], atol=1e-4)
            np.testing.assert_array_equal(boxes, single)
        assert found[6][0].shape == (0, 5)

    def test_boxes_are_cut_at_the_edges(self, tmp_path: Path) -> None:
        rows = np.array([[[-20, -30, 200, 300, 0.9, 0]]], np.float32)
        path = fixed_detector(tmp_path / "a.onnx", {"output0": rows})
        with OnnxDetector(path, kernels="numpy") as detector:
            np.testing.assert_allclose(detector(np.zeros((30, 50, 3), np.uint8)), [[0, 0, 49, 29, 0.9]])

    @pytest.mark.parametrize("family", ["yolox", "rtmdet", "yolov8"])
    @pytest.mark.parametrize("shape", [(128, 192), (200, 90), (60, 240), (128, 150)])
    def test_pictures_are_prepared_as_the_family_does(
        self, family: str, shape: tuple[int, int], outputs: Any, tmp_path: Path
    ) -> None:
        """Against OpenCV's resize and border, and the families' published means and deviations."""
        kind = "rows" if family == "yolov8" else "dets"
        path = fixed_detector(tmp_path / "a.onnx", outputs[kind])
        rng = np.random.default_rng(0)
        picture = cv2.resize(
            rng.integers(0, 256, (9, 9, 3), np.uint8), shape[::-1], interpolation=cv2.INTER_CUBIC
        )
        seen = []
        with OnnxDetector(path, family=family, kernels="numpy") as detector:
            infer = detector._network.infer
            detector._network.infer = lambda batch, names: seen.append(batch.copy()) or infer(batch, names)
            detector(picture)
        scale = min(64 / shape[0], 96 / shape[1])
        height, width = round(shape[0] * scale), round(shape[1] * scale)
        top, left = ((64 - height) // 2, (96 - width) // 2) if family == "yolov8" else (0, 0)
        wanted = np.full((64, 96, 3), 114, np.uint8)
        wanted[top : top + height, left : left + width] = cv2.resize(picture, (width, height))
        values = wanted.astype(np.float32)
        if family == "yolov8":
            values = values[:, :, ::-1] / 255
        elif family == "rtmdet":
            values = (values - (103.53, 116.28, 123.675)) / (57.375, 57.12, 58.395)
        unit = {"yolox": 1, "rtmdet": 1 / 57.12, "yolov8": 1 / 255}[family]
        ((batch,),) = seen
        difference = np.abs(batch - values.transpose(2, 0, 1)) / unit  # grey levels
        inside = difference[:, top + 1 : top + height - 1, left + 1 : left + width - 1]
        assert inside.max() < 1.1
        outside = np.ones((64, 96), bool)
        outside[max(top - 1, 0) : top + height + 1, max(left - 1, 0) : left + width + 1] = False
        assert difference[:, outside].max(initial=0) < 0.01

    def test_yolox_is_told_from_rtmdet_by_its_first_layer(self, outputs: Any, tmp_path: Path) -> None:
        for stem, family in ((("Slice",), "yolox"), ((), "rtmdet")):
            path = fixed_detector(tmp_path / "a.onnx", outputs["dets"], stem=stem)
            with OnnxDetector(path) as detector:
                assert detector.describe()["family"] == family
                assert repr(detector) == f"OnnxDetector('a.onnx', {family}, dets)"

    def test_metadata_of_ultralytics(self, outputs: Any, tmp_path: Path) -> None:
        metadata = {"task": "detect", "names": "{0: 'dog', 1: 'person'}", "imgsz": "[64, 96]"}
        size = ("height", "width")
        path = fixed_detector(tmp_path / "a.onnx", outputs["anchors"], size=size, metadata=metadata)
        with OnnxDetector(path) as detector:
            assert detector.describe()["input_size"] == [64, 96]
            np.testing.assert_allclose(detector(GREY), [[1.5, 2.5, 39.5, 59.5, 0.9]], atol=1e-5)
        with OnnxDetector(path, person_class=0) as detector:
            np.testing.assert_allclose(detector(GREY)[:, 4], 0.8)
        posing = {**metadata, "task": "pose"}
        with pytest.raises(ModelFormatError, match="task 'pose'"):
            OnnxDetector(fixed_detector(tmp_path / "b.onnx", outputs["anchors"], metadata=posing))

    def test_free_sizes(self, outputs: Any, tmp_path: Path) -> None:
        path = fixed_detector(tmp_path / "a.onnx", outputs["dets"], size=("height", "width"))
        with OnnxDetector(path) as detector:
            assert detector.describe()["input_size"] == [640, 640]
        with OnnxDetector(path, input_size=(320, 416)) as detector:
            assert detector.describe()["input_size"] == [320, 416]

    def test_by_each_runtime(self, outputs: Any, tmp_path: Path, runtime: str) -> None:
        for kind in KINDS:
            path = fixed_detector(tmp_path / "a.onnx", outputs[kind])
            with OnnxDetector(path, runtime=runtime, threads=1) as detector:
                backend = detector.describe()["backend"]
                assert (backend["name"], backend["threads"], backend["device"]) == (runtime, 1, "cpu")
                found = [boxes for boxes, _ in detector.find([GREY, GREY, GREY])]
            assert len(found) == 3
            np.testing.assert_allclose(found[2], [[19.5, 9.5, 59.5, 49.5, 0.8]], atol=1e-4)

    def test_on_cuda(self, outputs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """On a stand-in for the GPU."""
        cuda = pycuda.install(monkeypatch, devices=2)
        gpu = onnxruntime.install(monkeypatch, cuda.covers)
        path = fixed_detector(tmp_path / "a.onnx", outputs["grid"])
        single = color_model(tmp_path / "colors.onnx")
        with Estimator(single, detector=path, device="cuda:1", kernels="numpy") as estimator:
            own = estimator._own_finder
            assert isinstance(own, OnnxDetector)
            assert own.describe()["backend"]["device"] == "cuda:1"
            asked = [session.asked[onnxruntime.CUDA]["device_id"] for session in gpu.sessions]
            assert asked == ["1", "1"]
            np.testing.assert_allclose(own(GREY), [[19.5, 9.5, 59.5, 49.5, 0.8]], atol=1e-4)
        gpu.loads.clear()
        with pytest.raises(BackendUnavailableError, match="device 'cuda' cannot serve"):
            OnnxDetector(path, device="cuda")
        gc.collect()
        cuda.check()

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"family": "ssd"}, "found 'ssd'; give 'yolox', 'rtmdet', 'yolov8'"),
            ({"person_class": -1}, "person_class is not usable"),
            ({"person_class": 2}, "person_class 2 is out of range; found 2 classes"),
            ({"score_threshold": 2}, "score_threshold is not usable"),
            ({"iou_threshold": -1}, "iou_threshold is not usable"),
            ({"threads": 0}, "threads is not usable"),
            ({"input_size": 640}, "input_size is not usable"),
            ({"input_size": (64, 90)}, "multiples of 32"),
            ({"input_size": (64, 128)}, r"input_size cannot be \(64, 128\)"),
            ({"runtime": "tensorrt"}, "only ONNX files run without a description"),
            ({"runtime": "fast"}, "unknown runtime 'fast'"),
            ({"kernels": "fortran"}, "fortran"),
        ],
    )
    def test_unusable_options(self, options: Any, words: str, outputs: Any, tmp_path: Path) -> None:
        path = fixed_detector(tmp_path / "a.onnx", outputs["anchors"])
        with pytest.raises(InvalidInputError, match=words):
            OnnxDetector(path, **options)

    def test_suppression_that_the_file_does_itself(self, outputs: Any, tmp_path: Path) -> None:
        for kind in ("rows", "dets"):
            path = fixed_detector(tmp_path / "a.onnx", outputs[kind])
            with pytest.raises(InvalidInputError, match="iou_threshold cannot be used"):
                OnnxDetector(path, iou_threshold=0.5)

    def test_a_detector_is_no_model(self, outputs: Any, tmp_path: Path) -> None:
        path = fixed_detector(tmp_path / "a.onnx", outputs["rows"])
        with pytest.raises(ModelFormatError, match="an object detector goes to detector="):
            Estimator(path)

    def test_unusable_files(self, outputs: Any, tmp_path: Path) -> None:
        with pytest.raises(ModelNotFoundError, match="missing"):
            OnnxDetector(tmp_path / "missing.onnx")
        (tmp_path / "noise.onnx").write_bytes(b"\x01" * 100)
        with pytest.raises(ModelFormatError, match="noise"):
            OnnxDetector(tmp_path / "noise.onnx")
        with pytest.raises(InvalidInputError, match="a model of edgepose"):
            OnnxDetector(color_model(tmp_path / "own.onnx"))
        two = fixed_detector(tmp_path / "two.onnx", outputs["rows"], inputs=2)
        with pytest.raises(ModelFormatError, match=r"images tensor\(float\) .*extra0 tensor\(float\) \[1\]"):
            OnnxDetector(two)
        strange = fixed_detector(tmp_path / "strange.onnx", {"logits": np.zeros((1, 7, 9), np.float32)})
        with pytest.raises(ModelFormatError, match=r"logits \[1, 7, 9\] for an input of 96x64"):
            OnnxDetector(strange)
        with pytest.raises(TypeError, match="did you mean 'family'"):
            OnnxDetector(strange, famly="yolox")  # type: ignore[call-arg]

    def test_pictures_that_it_cannot_read(self, outputs: Any, tmp_path: Path) -> None:
        with OnnxDetector(fixed_detector(tmp_path / "a.onnx", outputs["rows"])) as detector:
            with pytest.raises(InvalidInputError, match="four channels"):
                detector(np.zeros((5, 5, 4), np.uint8))
            with pytest.raises(InvalidInputError, match="device memory"):
                detector.find([DevicePicture((64, 96, 3), 1, 288)])  # type: ignore[list-item]
            assert detector.find([]) == []

    def test_copies_threads_and_the_end(self, outputs: Any, tmp_path: Path) -> None:
        path = bright_detector(tmp_path / "a.onnx", "dets", channel=0, limit=150)
        pictures = []
        for start in range(0, 40, 4):
            picture = np.zeros((64, 96, 3), np.uint8)
            picture[10:20, start : start + 8, 0] = 255
            pictures.append(picture)
        detector = OnnxDetector(path, family="yolox", score_threshold=0.25, kernels="numpy")
        expected = [detector(picture) for picture in pictures]
        assert len({tuple(boxes[0]) for boxes in expected}) == 10
        with pickle.loads(pickle.dumps(detector)) as copy:
            assert copy.describe() == detector.describe()
            assert copy._options == detector._options
            detector.warmup(1)
            detector.close()
            detector.close()
            with pytest.raises(BackendUnavailableError, match="detector is closed"):
                detector(pictures[0])
            with ThreadPoolExecutor(4) as pool:
                for found, wanted in zip(pool.map(copy, pictures * 3), expected * 3, strict=True):
                    np.testing.assert_array_equal(found, wanted)


class TestInEstimator:
    @pytest.fixture
    def single(self, tmp_path: Path) -> Path:
        return color_model(tmp_path / "colors.onnx")

    @pytest.fixture
    def finder(self, tmp_path: Path) -> Path:
        """Finds what is bright in the red channel."""
        return bright_detector(tmp_path / "finder.onnx", "rows", channel=0, limit=0.6, size=(128, 96))

    @staticmethod
    def picture(x: int, y: int) -> np.ndarray:
        picture = np.zeros((128, 96, 3), np.uint8)
        picture[y : y + 40, x : x + 30] = 255
        return picture

    def test_by_path(self, single: Path, finder: Path, runtime: str) -> None:
        pictures = [self.picture(10, 20), self.picture(40, 70), np.zeros((128, 96, 3), np.uint8)]
        options: dict[str, Any] = {"score_threshold": 0.05, "kernels": "numpy", "threads": 1}
        with Estimator(single, detector=finder, runtime=runtime, **options) as estimator:
            results = estimator(pictures)
            own = estimator._own_finder
            assert isinstance(own, OnnxDetector)
            backend = own.describe()["backend"]
            assert (backend["name"], backend["threads"]) == (runtime, 1)
            assert own._options["score_threshold"] == 0.05
            assert own._options["kernels"] == "numpy"
            estimator.warmup(1)
            for result, corner in zip(results, ((10, 20), (40, 70)), strict=False):
                x, y = corner
                assert result.boxes.tolist() == [[x - 0.5, y - 0.5, x + 29.5, y + 39.5]]
                given = estimator(pictures[0] if x == 10 else pictures[1], boxes=result.boxes)
                np.testing.assert_array_equal(result.keypoints, given.keypoints)
            assert len(results[2]) == 0
            data = pickle.dumps(estimator)
        with pytest.raises(BackendUnavailableError, match="closed"):
            own(pictures[0])
        with pickle.loads(data) as copy:
            assert copy(pictures[0]).boxes.tolist() == results[0].boxes.tolist()

    def test_lists_take_one_run(self, single: Path, finder: Path) -> None:
        with Estimator(single, detector=finder, kernels="numpy") as estimator:
            own = estimator._own_finder
            assert isinstance(own, OnnxDetector)
            runs, infer = [], own._network.infer
            own._network.infer = lambda batch, names: runs.append(len(batch)) or infer(batch, names)
            estimator([self.picture(10, 20)] * 11, boxes=[None, [[0, 0, 50, 50]], *[None] * 9])
        assert runs == [8, 2]

    def test_of_the_callers_own(self, single: Path, finder: Path) -> None:
        picture = self.picture(10, 20)
        with OnnxDetector(finder, family="yolov8", kernels="numpy") as own:
            with Estimator(single, detector=own, score_threshold=0, kernels="numpy") as estimator:
                expected = estimator(picture).boxes
                copy = pickle.loads(pickle.dumps(estimator))
            assert len(own(picture)) == 1  # still open
        assert copy(picture).boxes.tolist() == expected.tolist()
        copy.close()
        with pytest.raises(BackendUnavailableError, match="closed"):
            copy._own_finder(picture)

    def test_limits(self, single: Path, tmp_path: Path) -> None:
        rows = np.zeros((1, 3, 6), np.float32)
        rows[0, :, :5] = [[0, 0, 30, 40, 0.5], [40, 10, 80, 60, 0.9], [5, 50, 60, 60, 0.2]]
        path = fixed_detector(tmp_path / "a.onnx", {"output0": rows})
        picture = np.full((64, 96, 3), 255, np.uint8)
        with Estimator(single, detector=path, kernels="numpy") as estimator:
            assert len(estimator(picture)) == 2
            assert not estimator(picture).truncated
        with Estimator(single, detector=path, score_threshold=0, max_persons=1, kernels="numpy") as estimator:
            result = estimator(picture)
        assert result.truncated
        assert result.boxes.tolist() == [[39.5, 9.5, 79.5, 59.5]]

    def test_a_failure_leaves_nothing_open(
        self, single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        closed = []
        close = OnnxDetector.close
        monkeypatch.setattr(OnnxDetector, "close", lambda self: closed.append(self._path.name) or close(self))
        strange = fixed_detector(tmp_path / "strange.onnx", {"logits": np.zeros((1, 7, 9), np.float32)})
        with pytest.raises(ModelFormatError, match="as a detector"):
            Estimator(single, detector=strange)
        assert closed == ["strange.onnx"]

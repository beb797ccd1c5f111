"""The Estimator: inputs, options, threads, pickling, and errors that help."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import color_model, color_spec, spots

import edgepose
from edgepose import (
    BackendUnavailableError,
    Decoder,
    Estimator,
    Frame,
    InvalidInputError,
    ModelFormatError,
    ModelNotFoundError,
    PoseResult,
    Skip,
    open_source,
)
from edgepose.estimator import MODELS, resolve_model

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
cv2 = pytest.importorskip("cv2")

CENTERS = [(60.0, 50.0), (100.0, 120.0), (45.0, 140.0)]
PICTURE = spots((192, 144), CENTERS)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return color_model(tmp_path_factory.mktemp("model") / "colors.onnx")


@pytest.fixture(scope="module")
def estimator(model: Path) -> Iterator[Estimator]:
    with Estimator(model, kernels="numpy") as opened:
        yield opened


@pytest.fixture
def picture_file(tmp_path: Path) -> Path:
    path = tmp_path / "spots.png"
    cv2.imwrite(str(path), PICTURE)
    return path


def centers_of(result: PoseResult) -> np.ndarray:
    return np.asarray(result.keypoints[0])


def test_path_array_frame_and_list_agree(estimator: Estimator, picture_file: Path) -> None:
    expected = estimator(PICTURE)
    np.testing.assert_allclose(centers_of(expected), CENTERS, atol=1)
    (frame,) = open_source(picture_file)
    for image in (picture_file, str(picture_file), frame):
        result = estimator(image)
        assert np.array_equal(result.keypoints, expected.keypoints)
        assert result.source is not None
        assert result.source.path == str(picture_file)
    results = estimator([PICTURE, picture_file, frame])
    assert isinstance(results, list)
    assert len(results) == 3
    for result in results:
        np.testing.assert_allclose(result.keypoints, expected.keypoints, atol=1e-4)
    assert estimator([]) == []
    assert isinstance(estimator((PICTURE,)), list)


def test_the_first_call_imports_nothing(model: Path) -> None:
    """It would count as time of the call: 50 ms for numpy.ma alone."""
    code = f"""
import sys, numpy, edgepose
estimator = edgepose.Estimator({str(model)!r}, kernels="numpy")
before = set(sys.modules)
estimator(numpy.zeros((50, 40, 3), numpy.uint8))
print(sorted(set(sys.modules) - before))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_strided_pictures(estimator: Estimator) -> None:
    mirrored = np.ascontiguousarray(PICTURE[:, ::-1])[:, ::-1]
    assert np.array_equal(estimator(mirrored).keypoints, estimator(PICTURE).keypoints)


def test_result_describes_the_picture(estimator: Estimator) -> None:
    result = estimator(PICTURE)
    assert result.image_size == (192, 144)
    assert result.source is None
    assert not result.truncated
    times = result.timings
    assert 0 < times.preprocess + times.inference + times.postprocess <= times.total


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (3, 2)])
def test_tiny_pictures(estimator: Estimator, size: tuple[int, int]) -> None:
    result = estimator(np.full((*size, 3), 200, np.uint8))
    assert len(result) == 1
    assert result.image_size == size


def test_boxes_keep_order_and_scores(estimator: Estimator) -> None:
    boxes = [[0, 0, 143, 191, 0.5], [10, 10, 120, 170, 1.0], [0, 0, 143, 191, 0.25]]
    result = estimator(PICTURE, boxes=boxes)
    np.testing.assert_array_equal(result.boxes, np.array(boxes, np.float32)[:, :4])
    whole = estimator(PICTURE, boxes=[[0, 0, 143, 191]]).person_scores[0]
    np.testing.assert_allclose(result.person_scores[[0, 2]], [0.5 * whole, 0.25 * whole], rtol=1e-5)


@pytest.mark.parametrize("boxes", [[], np.zeros((0, 4)), np.zeros((0, 5))])
def test_no_boxes_give_no_persons(estimator: Estimator, boxes: Any) -> None:
    assert len(estimator(PICTURE, boxes=boxes)) == 0


@pytest.mark.parametrize("options", [{}, {"flip_test": True}])
@pytest.mark.parametrize("bias", [0.0, 3.0])
def test_heatmaps_and_their_places(tmp_path: Path, options: dict[str, Any], bias: float) -> None:
    spec = color_spec(decoder=Decoder("argmax", refine=None, bias=bias))
    boxes = [[0, 0, 143, 191], [10, 10, 120, 170]]
    with Estimator(color_model(tmp_path / "biased.onnx", spec), kernels="numpy", **options) as estimator:
        result = estimator(PICTURE, boxes=boxes)
        maps, affine = estimator.heatmaps(PICTURE, boxes)
        assert maps.shape == (2, 3, 16, 12)
        rows, columns = np.unravel_index(maps.reshape(2, 3, -1).argmax(axis=2), maps.shape[2:])
        points = np.stack([columns, rows, np.ones_like(rows)], axis=2)
        np.testing.assert_allclose(points @ affine.transpose(0, 2, 1), result.keypoints, atol=1e-3)
        np.testing.assert_allclose(maps.max(axis=(2, 3)), result.scores, rtol=1e-5)
        assert estimator.heatmaps(PICTURE)[0].shape == (1, 3, 16, 12)
        assert estimator.heatmaps(PICTURE, [])[0].shape[:2] == (0, 3)
        with pytest.raises(InvalidInputError, match="xyxy"):
            estimator.heatmaps(PICTURE, boxes=[1, 2])


def test_heatmaps_that_stay_on_a_device(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Estimator(model, kernels="numpy") as estimator:
        monkeypatch.setattr(estimator._top_down, "_crops", object())
        with pytest.raises(InvalidInputError, match='kernels="native"'):
            estimator.heatmaps(PICTURE)
        monkeypatch.undo()


def test_given_persons_are_never_dropped(model: Path) -> None:
    with Estimator(model, score_threshold=1.0, max_persons=2, kernels="numpy") as strict:
        result = strict(PICTURE, boxes=np.tile([0, 0, 143, 191, 0.01], (5, 1)))
        assert len(result) == 5
        assert not result.truncated
        assert len(strict(PICTURE)) == 1


@pytest.mark.parametrize(
    ("boxes", "words"),
    [
        ([[0, 0, np.nan, 9]], r"boxes\[0\] holds NaN"),
        ([[0, 0, 9, 9], [0, 0, np.inf, 9]], r"boxes\[1\] holds NaN"),
        ([[5, 5, 5, 9]], r"boxes\[0\] is empty"),
        ([[9, 9, 5, 5]], r"is empty.*x1 < x2"),
        ([[200, 0, 300, 50]], r"outside the picture of 144x192"),
        ([[-50, 0, -1, 50]], "outside the picture"),
        ([[0, 0, 2e9, 50]], "out of range"),
        ([[0, 0, 9, 9, 1.5]], "score outside 0 to 1"),
        ([0, 0, 9, 9], r"wrong shape; found \(4,\)"),
        ([[0, 0, 9]], "wrong shape"),
        (np.zeros((1, 2, 4)), "wrong shape"),
        ("boxes", "not an array"),
        ([[0, 0, 9], [0]], "not an array"),
    ],
)
def test_unusable_boxes_are_named(estimator: Estimator, boxes: Any, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        estimator(PICTURE, boxes=boxes)


def test_lists_name_the_bad_item(estimator: Estimator, tmp_path: Path) -> None:
    box = [[0, 0, 50, 50]]
    with pytest.raises(InvalidInputError, match=r"boxes\[1\]\[0\] is empty"):
        estimator([PICTURE, PICTURE], boxes=[box, [[5, 5, 5, 5]]])
    with pytest.raises(InvalidInputError, match="found 1 for 2 pictures"):
        estimator([PICTURE, PICTURE], boxes=[box])
    with pytest.raises(InvalidInputError, match=r"image\[1\] is grey"):
        estimator([PICTURE, PICTURE[:, :, 0]])
    assert [len(r) for r in estimator([PICTURE, PICTURE], boxes=[box * 3, None])] == [3, 1]


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("missing.jpg", "not found"),
        (".", "directory"),
        (np.zeros((5, 5, 3)), "float64"),
        (np.zeros((5, 5, 4), np.uint8), "four channels"),
        (None, "NoneType"),
        (3, "int"),
        (Frame(np.zeros((5, 5), np.uint8)), "grey"),
    ],
)
def test_unusable_pictures(estimator: Estimator, image: Any, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        estimator(image)


def test_a_video_is_for_stream(estimator: Estimator, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(InvalidInputError, match=r"Estimator\.stream"):
        estimator(tmp_path / "a.mp4")


class TestDetector:
    """Boxes from a callable, thresholds and caps."""

    def test_persons_under_the_threshold_are_dropped(self, model: Path) -> None:
        def detector(image: np.ndarray) -> Any:
            assert image is PICTURE
            return [[0, 0, 143, 191, 0.1], [0, 0, 143, 191, 0.9]]

        with Estimator(model, detector=detector, kernels="numpy") as estimator:
            result = estimator(PICTURE)
            assert len(result) == 1
            assert result.person_scores[0] > 0.8

    def test_the_cap_keeps_the_best_and_says_so(self, model: Path) -> None:
        boxes = np.array([[0, 0, 100 + i, 190, score] for i, score in enumerate([0.5, 0.9, 0.7, 0.8])])
        with Estimator(
            model, detector=lambda _: boxes, max_persons=2, score_threshold=0, kernels="numpy"
        ) as estimator:
            result = estimator(PICTURE)
        assert result.truncated
        assert result.boxes[:, 2].tolist() == [101, 103]

    @pytest.mark.timeout(20)
    def test_a_detector_may_call_its_own_estimator(self, model: Path) -> None:
        def detector(image: np.ndarray) -> Any:
            whole = estimator(image, boxes=[[0, 0, 143, 191]])
            return whole.boxes

        with Estimator(model, detector=detector, kernels="numpy") as estimator:
            assert len(estimator(PICTURE)) == 1

    @pytest.mark.parametrize("found", [[], np.zeros((0, 5))])
    def test_nobody_found(self, model: Path, found: Any) -> None:
        with Estimator(model, detector=lambda _: found, kernels="numpy") as estimator:
            assert len(estimator(PICTURE)) == 0

    def test_unusable_boxes_of_a_detector(self, model: Path, caplog: pytest.LogCaptureFixture) -> None:
        found: Any = [[0, 0, 143, 191], [900, 900, 950, 950], [5, 5, 5, 5]]
        with Estimator(model, detector=lambda _: found, score_threshold=0, kernels="numpy") as estimator:
            with caplog.at_level(logging.WARNING):
                assert len(estimator(PICTURE)) == 1
            assert "dropped 2" in caplog.text
            found = [[0, 0, np.nan, 5]]
            with pytest.raises(InvalidInputError, match="detector's boxes"):
                estimator(PICTURE)


def test_keypoint_threshold(model: Path) -> None:
    with Estimator(model, kernels="numpy") as plain:
        scores = plain(PICTURE).scores[0]
    middle = float(np.sort(scores)[1])
    with Estimator(model, keypoint_threshold=middle, kernels="numpy") as strict:
        result = strict(PICTURE)
    assert np.isnan(result.keypoints[0, :, 0]).tolist() == (scores < middle).tolist()
    assert np.array_equal(result.scores[0], scores)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("score_threshold", 1.5),
        ("score_threshold", "high"),
        ("keypoint_threshold", -0.1),
        ("keypoint_threshold", float("nan")),
        ("max_persons", 0),
        ("max_persons", 2.5),
        ("threads", 0),
        ("threads", True),
        ("detector", 5),
        ("kernels", "fortran"),
        ("device", "tpu"),
        ("device", None),
        ("flip_test", "no"),
    ],
)
def test_unusable_options_are_named(model: Path, option: str, value: Any) -> None:
    with pytest.raises(InvalidInputError, match=f"{option}|{value}"):
        Estimator(model, **{option: value})


def test_unknown_keywords_name_the_nearest(model: Path, estimator: Estimator) -> None:
    with pytest.raises(TypeError, match="unknown argument 'flip'; did you mean 'flip_test'"):
        Estimator(model, flip=True)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="did you mean 'score_threshold'"):
        Estimator(model, score_treshold=0.5)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="did you mean 'boxes'"):
        estimator(PICTURE, bboxes=[])  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="known: source, on_skip"):
        estimator.stream("x", zzz=1)  # type: ignore[call-arg]


class TestStream:
    """Results one by one, damaged items reported."""

    def test_directory(self, estimator: Estimator, tmp_path: Path) -> None:
        for name in ("a.png", "c.png"):
            cv2.imwrite(str(tmp_path / name), PICTURE)
        (tmp_path / "b.png").write_bytes(b"junk")
        skips: list[Skip] = []
        results = list(estimator.stream(tmp_path, on_skip=skips.append))
        assert [Path(str(result.source)).name for result in results] == ["a.png", "c.png"]
        assert [Path(skip.source).name for skip in skips] == ["b.png"]

    def test_video(self, estimator: Estimator, tmp_path: Path) -> None:
        path = tmp_path / "clip.avi"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (144, 192))
        for _ in range(5):
            writer.write(PICTURE)
        writer.release()
        results = list(estimator.stream(str(path)))
        assert [result.source.frame for result in results if result.source] == [0, 1, 2, 3, 4]
        np.testing.assert_allclose(centers_of(results[4]), CENTERS, atol=2)

    def test_a_missing_source_raises_at_once(self, estimator: Estimator) -> None:
        with pytest.raises(InvalidInputError, match="not found"):
            estimator.stream("missing.mp4")

    def test_a_lone_picture_raises(self, estimator: Estimator, tmp_path: Path) -> None:
        (tmp_path / "a.jpg").write_bytes(b"junk")
        with pytest.raises(InvalidInputError, match="not a picture"):
            list(estimator.stream(tmp_path / "a.jpg"))

    def test_frames_that_the_detector_fails_on_are_skipped(self, model: Path) -> None:
        answers = iter([[[0, 0, 143, 191]], [[0, 0, np.nan, 1]], [[0, 0, 143, 191]]])
        skips: list[Skip] = []
        with Estimator(model, detector=lambda _: next(answers), kernels="numpy") as estimator:
            assert len(list(estimator.stream([PICTURE] * 3, on_skip=skips.append))) == 2
        assert len(skips) == 1
        assert "NaN" in skips[0].reason


def test_threads_take_turns_and_get_their_own_results(model: Path) -> None:
    pictures = [spots((192, 144), [(40.0 + 8 * i, 60.0), (70, 100), (70, 140)]) for i in range(8)]
    with Estimator(model, kernels="numpy", flip_test=True) as estimator:
        expected = [estimator(picture).keypoints for picture in pictures]
        barrier = threading.Barrier(4)

        def work(start: int) -> None:
            barrier.wait()
            for i in range(40):
                index = (start + i) % len(pictures)
                assert np.array_equal(estimator(pictures[index]).keypoints, expected[index])

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))


def test_pickle_carries_the_recipe(model: Path, runtime: str) -> None:
    options: dict[str, Any] = {"flip_test": True, "keypoint_threshold": 0.1, "kernels": "numpy"}
    with Estimator(model, runtime=runtime, **options) as estimator:
        expected = estimator(PICTURE)
        data = pickle.dumps(estimator)
    assert len(data) < 1000
    with pickle.loads(data) as copy:
        assert np.array_equal(copy(PICTURE).keypoints, expected.keypoints)
        assert copy.info == estimator.info
        assert copy.info.backend["name"] == runtime


def test_every_runtime_finds_the_joints(model: Path, runtime: str) -> None:
    with Estimator(model, runtime=runtime, kernels="numpy") as estimator:
        for image in (PICTURE, [PICTURE] * 3):
            results = estimator(image)
            for result in results if isinstance(results, list) else [results]:
                np.testing.assert_allclose(centers_of(result), CENTERS, atol=1)
        assert repr(estimator) == f"Estimator('colors', {runtime} on cpu)"


def _in_child(estimator: Estimator) -> np.ndarray:
    return estimator(PICTURE).keypoints


def test_spawned_processes_open_the_model_themselves(estimator: Estimator) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        keypoints = pool.apply(_in_child, (estimator,))
    assert np.array_equal(keypoints, estimator(PICTURE).keypoints)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_copy_raises_instead_of_hanging(
    estimator: Estimator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimator, "_process", -1)
    with pytest.raises(BackendUnavailableError, match="fork"):
        estimator(PICTURE)


def test_a_closed_estimator_raises(model: Path) -> None:
    with Estimator(model, kernels="numpy") as estimator:
        pass
    estimator.close()
    with pytest.raises(BackendUnavailableError, match="closed"):
        estimator(PICTURE)


def test_warmup_and_info(estimator: Estimator, model: Path) -> None:
    estimator.warmup()
    info = estimator.info
    assert info.path == model
    assert info.spec == color_spec()
    assert info.backend["device"] == "cpu"
    assert info.kernels["soft_argmax"]["implementation"] == "numpy"
    assert info.to_dict()["spec"]["name"] == "colors"
    assert repr(estimator) == "Estimator('colors', onnxruntime on cpu)"


def test_the_environment_chooses_the_kernels(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEPOSE_KERNELS", "numpy")
    with Estimator(model) as estimator:
        assert estimator.info.kernels["soft_argmax"]["implementation"] == "numpy"


@pytest.mark.parametrize(
    ("name", "content", "error", "words"),
    [
        ("a.onnx", b"", ModelFormatError, "empty"),
        ("a.onnx", b"not a model", ModelFormatError, "not a complete ONNX"),
        ("a.onnx", None, ModelNotFoundError, "no such file"),
        ("a.pth", b"x", ModelFormatError, "export"),
        ("folder", "folder", ModelNotFoundError, "directory"),
        ("x" * 5000, None, ModelNotFoundError, "too long"),
    ],
)
def test_unusable_models(tmp_path: Path, name: str, content: Any, error: Any, words: str) -> None:
    path = tmp_path / name
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=words):
        Estimator(path)


def test_a_model_without_a_spec(tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match="no edgepose ModelSpec"):
        Estimator(color_model(tmp_path / "a.onnx", metadata={}))


def test_names_of_packaged_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelNotFoundError, match="no packaged model 'unknown'"):
        resolve_model("unknown")
    assert Path(edgepose.__file__).parent / "models" == MODELS
    monkeypatch.setattr("edgepose.estimator.MODELS", tmp_path)
    color_model(tmp_path / "lpn50-lsp.onnx", color_spec(decoder=Decoder("argmax")))
    assert resolve_model(None) == resolve_model("lpn50-lsp") == tmp_path / "lpn50-lsp.onnx"
    with Estimator(kernels="numpy") as estimator:
        assert estimator.info.spec.name == "colors"

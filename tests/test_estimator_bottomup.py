"""Bottom-up models in the Estimator, alone and as the person finder of a top-down model."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import COLORS3, color_model, color_spec, people_model, people_picture, people_spec, spots

from edgepose import (
    BackendUnavailableError,
    Estimator,
    EstimatorInfo,
    Frame,
    Grouping,
    InvalidInputError,
    ModelNotFoundError,
    PoseResult,
    Skeleton,
    Source,
)
from edgepose.backends.onnxruntime import OnnxRuntimeBackend
from edgepose.detectors import MARGIN, PersonFinder, person_boxes
from edgepose.estimator import ALIASES, resolve_model

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
cv2 = pytest.importorskip("cv2")

FIRST, SECOND = [(40.3, 50.2), (70.4, 60.1)], [(150.2, 80.7), (170.9, 100.3)]
HALF = [(100.3, 30.6), None]
SIZE = (130, 200)
PICTURE = people_picture(SIZE, [FIRST, SECOND, HALF], peaks=[0.7, 0.9, 0.8])
SHIFT = 0.5  # see tests/pipeline/test_bottomup.py


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return people_model(tmp_path_factory.mktemp("model") / "people.onnx")


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return color_model(tmp_path_factory.mktemp("model") / "colors.onnx")


@pytest.fixture(scope="module")
def estimator(model: Path) -> Iterator[Estimator]:
    with Estimator(model, kernels="numpy") as opened:
        yield opened


def test_all_persons_of_a_picture_the_best_first(estimator: Estimator) -> None:
    result = estimator(PICTURE)
    assert isinstance(result, PoseResult)
    expected = np.array([SECOND, FIRST, [HALF[0], (np.nan, np.nan)]])
    np.testing.assert_allclose(result.keypoints - SHIFT, expected, atol=0.7)
    assert np.all(np.diff(result.person_scores) < 0)
    np.testing.assert_allclose(result.person_scores, result.scores.mean(axis=1), rtol=1e-6)
    assert result.scores[2, 1] == 0
    np.testing.assert_array_equal(result.boxes[0, :2], result.keypoints[0].min(axis=0))
    np.testing.assert_array_equal(result.boxes[2], np.tile(result.keypoints[2, 0], 2))
    assert result.covariance is None
    assert result.image_size == SIZE
    assert not result.truncated
    assert result.timings.inference > 0


@pytest.mark.parametrize("options", [{}, {"flip_test": True, "scales": (0.5, 1.0)}])
def test_heatmaps_and_their_place(model: Path, options: dict[str, Any]) -> None:
    with Estimator(model, kernels="numpy", **options) as estimator:
        result = estimator(PICTURE)
        maps, affine = estimator.heatmaps(PICTURE)
        assert maps.shape[:2] == (1, len(result.skeleton))
        for joint, heat in enumerate(maps[0]):
            row, column = np.unravel_index(heat.argmax(), heat.shape)
            point = affine[0] @ (column, row, 1)
            known = result.keypoints[:, joint]
            assert np.nanmin(np.abs(known - point).max(axis=1)) < 1.5 * affine[0, 0, 0]
        with pytest.raises(InvalidInputError, match="bottom-up"):
            estimator.heatmaps(PICTURE, boxes=[[0, 0, 10, 10]])


def test_paths_frames_lists_and_streams(estimator: Estimator, tmp_path: Path) -> None:
    expected = estimator(PICTURE).keypoints
    path = tmp_path / "people.png"
    cv2.imwrite(str(path), PICTURE)
    wide = people_picture((100, 260), [FIRST])
    results = estimator([path, Frame(PICTURE, Source("somewhere")), wide, PICTURE])
    for index in (0, 1, 3):
        np.testing.assert_array_equal(results[index].keypoints, expected)
    np.testing.assert_allclose(results[2].keypoints[0] - SHIFT, FIRST, atol=0.7)
    assert [result.source and result.source.path for result in results] == [
        str(path), "somewhere", None, None,
    ]  # fmt: skip
    assert [len(result) for result in estimator.stream([PICTURE, wide])] == [3, 1]
    assert estimator([]) == []


@pytest.mark.parametrize("size", [(1, 1), (1, 60), (60, 1), (3, 2)])
def test_tiny_pictures_hold_nobody(estimator: Estimator, size: tuple[int, int]) -> None:
    result = estimator(np.zeros((*size, 3), np.uint8))
    assert (len(result), result.image_size) == (0, size)


def test_boxes_are_refused(estimator: Estimator) -> None:
    box = [[0, 0, 50, 50]]
    with pytest.raises(InvalidInputError, match="boxes cannot be used; 'people' is bottom-up"):
        estimator(PICTURE, boxes=box)
    with pytest.raises(InvalidInputError, match=r"boxes\[1\] cannot be used"):
        estimator([PICTURE, PICTURE], boxes=[None, box])
    assert len(estimator([PICTURE, PICTURE], boxes=[None, None])) == 2


class TestChoice:
    """Thresholds, limits and suppression."""

    def test_threshold(self, model: Path) -> None:
        faint = people_picture(SIZE, [FIRST, SECOND], peaks=[0.13, 0.9])
        for threshold, count in ((None, 2), (0.2, 1), (0.95, 0), (0, 2)):
            with Estimator(model, score_threshold=threshold, kernels="numpy") as estimator:
                assert len(estimator(faint)) == count

    def test_the_default_threshold_suits_scores_with_missing_joints(self, tmp_path: Path) -> None:
        """One joint of 17 is worth less than 0.1: a ghost."""
        skeleton = Skeleton("many", tuple(map(str, range(17))), (), (), (0.05,) * 17)
        path = people_model(tmp_path / "many.onnx", people_spec(skeleton=skeleton), joints=17, tag_maps=1)
        with Estimator(path, kernels="numpy") as estimator:
            assert len(estimator(people_picture(SIZE, [FIRST]))) == 1
            assert len(estimator(people_picture(SIZE, [[None, FIRST[1]]], peaks=[0.2]))) == 0

    def test_a_score_equal_to_the_threshold_is_enough(self, model: Path, estimator: Estimator) -> None:
        threshold = float(estimator(PICTURE).person_scores[1])
        with Estimator(model, score_threshold=threshold, kernels="numpy") as chooser:
            assert len(chooser(PICTURE)) == 2

    def test_the_limit_keeps_the_best_and_says_so(self, model: Path) -> None:
        with Estimator(model, max_persons=2, kernels="numpy") as estimator:
            result = estimator(PICTURE)
        assert result.truncated
        np.testing.assert_allclose(result.keypoints - SHIFT, [SECOND, FIRST], atol=0.7)
        with Estimator(model, max_persons=3, kernels="numpy") as estimator:
            assert not estimator(PICTURE).truncated

    def test_the_first_truncated_result_is_logged(
        self, model: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.WARNING, "edgepose")
        alone = people_picture(SIZE, [FIRST])
        with Estimator(model, max_persons=2, kernels="numpy") as estimator:
            estimator(alone)
            assert not caplog.records
            estimator([alone, PICTURE, PICTURE])
            estimator(PICTURE)
            assert len(caplog.records) == 1
            assert "raise max_persons, now 2 (told once)" in caplog.text
        with Estimator(model, max_persons=2, official_grouping=True, kernels="numpy") as estimator:
            estimator(PICTURE)
        assert "now 2, or leave out official_grouping" in caplog.text

    def test_similar_persons_are_suppressed(self, tmp_path: Path) -> None:
        """With spots this close, and joints this vague, both persons are about the same place."""
        vague = Skeleton("vague2", ("blue", "green"), ((0, 1),), (), (0.5, 0.5))
        path = people_model(tmp_path / "vague.onnx", people_spec(skeleton=vague))
        near = [(x + 2, y + 20) for x, y in FIRST]
        picture = people_picture(SIZE, [FIRST, near, SECOND], radius=3, peaks=[0.9, 0.8, 0.7])
        kept = {}
        for threshold in (None, 0.9, 0.3):
            with Estimator(path, nms_threshold=threshold, kernels="numpy") as estimator:
                kept[threshold] = [round(float(x)) for x in estimator(picture).keypoints[:, 0, 0]]
        assert kept == {
            None: [41, 43, 151], 0.9: [41, 43, 151], 0.3: [41, 151],
        }  # fmt: skip

    def test_keypoint_threshold(self, model: Path) -> None:
        with Estimator(model, keypoint_threshold=0.65, kernels="numpy") as estimator:
            result = estimator(PICTURE)
        assert np.isnan(result.keypoints[:, :, 0]).tolist() == [[False] * 2, [True] * 2, [False, True]]
        assert (result.scores[1] > 0).all()


class TestOptions:
    """What a bottom-up model does otherwise than the description says."""

    def test_flip_test_and_scales(self, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        heights = []
        run = OnnxRuntimeBackend.run
        monkeypatch.setattr(
            OnnxRuntimeBackend, "run", lambda self, batch: heights.append(batch.shape[2]) or run(self, batch)
        )
        with Estimator(model, flip_test=True, scales=(0.5, 1, 2), kernels="numpy") as estimator:
            result = estimator(PICTURE)
            np.testing.assert_allclose(result.keypoints[:2] - SHIFT, [SECOND, FIRST], atol=1.3)
        assert heights == [256, 256, 128, 128, 64, 64]

    def test_refine(self, tmp_path: Path) -> None:
        picture = PICTURE.copy()
        picture[:, :, 1] //= 12  # too faint for a peak
        path = people_model(tmp_path / "refine.onnx", people_spec(grouping=Grouping(refine=True)))
        missing = {}
        for refine in (None, True, False):
            with Estimator(path, refine=refine, score_threshold=0, kernels="numpy") as estimator:
                missing[refine] = int(np.isnan(estimator(picture).keypoints[:, 1, 0]).sum())
        assert missing[False] == 3
        assert missing[None] == missing[True] < 3

    def test_official_grouping(self, model: Path, estimator: Estimator) -> None:
        with Estimator(model, official_grouping=True, kernels="numpy") as official:
            np.testing.assert_array_equal(official(PICTURE).keypoints, estimator(PICTURE).keypoints)
            assert official._bottom_up is not None
            assert official._bottom_up._official

    def test_fixed_input_size(self, tmp_path: Path) -> None:
        path = people_model(tmp_path / "fixed.onnx", size=(160, 256))
        with Estimator(path, kernels="numpy") as estimator:
            result = estimator(PICTURE)
            np.testing.assert_allclose(result.keypoints[:2], [SECOND, FIRST], atol=1.2)
        with pytest.raises(InvalidInputError, match="256x160 alone"):
            Estimator(path, scales=(0.5, 1), kernels="numpy")

    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("scales", (0.5, 2)),
            ("scales", 1),
            ("refine", "yes"),
            ("official_grouping", None),
            ("nms_threshold", 2),
            ("nms_threshold", True),
            ("score_threshold", -1),
            ("detector", lambda _: []),
            ("detector", "multi"),
        ],
    )
    def test_unusable_ones_are_named(self, model: Path, option: str, value: Any, packaged: Path) -> None:
        with pytest.raises(InvalidInputError, match=option):
            Estimator(model, **{option: value})

    def test_a_model_that_was_opened_in_vain_is_closed(
        self, model: Path, single: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        opened: list[str] = []
        init, close = OnnxRuntimeBackend.__init__, OnnxRuntimeBackend.close

        def spy(self: OnnxRuntimeBackend, *arguments: Any, **options: Any) -> None:
            init(self, *arguments, **options)
            opened.append(self.spec.name)

        monkeypatch.setattr(OnnxRuntimeBackend, "__init__", spy)
        monkeypatch.setattr(
            OnnxRuntimeBackend, "close", lambda self: opened.remove(self.spec.name) or close(self)
        )
        for path, options in (
            (model, {"detector": len}),
            (single, {"refine": True}),
            (single, {"detector": 5}),
        ):
            with pytest.raises(InvalidInputError):
                Estimator(path, kernels="numpy", **options)
            assert opened == []

        def fail(path: Path, *rest: Any) -> EstimatorInfo:
            assert path != single, "after the finder is open"
            return EstimatorInfo(path, *rest)

        monkeypatch.setattr("edgepose.estimator.EstimatorInfo", fail)
        with pytest.raises(AssertionError, match="after"):
            Estimator(single, detector=model, kernels="numpy")
        assert opened == []

    @pytest.mark.parametrize(
        ("option", "value"), [("scales", (0.5, 1)), ("refine", False), ("official_grouping", True)]
    )
    def test_a_top_down_model_has_none_of_them(self, single: Path, option: str, value: Any) -> None:
        with pytest.raises(InvalidInputError, match=f"{option} serves bottom-up models"):
            Estimator(single, **{option: value})


class TestLife:
    """Threads, pickling, warming up, closing."""

    def test_threads_take_turns(self, model: Path) -> None:
        pictures = [people_picture((130, 150 + 30 * i), [FIRST]) for i in range(3)]
        with Estimator(model, flip_test=True, kernels="numpy") as estimator:
            expected = [estimator(picture).keypoints for picture in pictures]
            with ThreadPoolExecutor(4) as pool:
                for i, result in enumerate(pool.map(estimator, pictures * 6)):
                    np.testing.assert_array_equal(result.keypoints, expected[i % 3])

    def test_pickle_carries_the_recipe(self, model: Path) -> None:
        options = {"refine": True, "scales": [0.5, 1], "nms_threshold": 0.8, "flip_test": True}
        with Estimator(model, kernels="numpy", **options) as estimator:
            expected = estimator(PICTURE)
            data = pickle.dumps(estimator)
        with pickle.loads(data) as copy:
            np.testing.assert_array_equal(copy(PICTURE).keypoints, expected.keypoints)
            assert copy.info == estimator.info

    def test_warmup_info_and_close(self, model: Path) -> None:
        with Estimator(model, kernels="numpy") as estimator:
            estimator.warmup(1)
            assert estimator.info.spec == people_spec()
            assert estimator.info.to_dict()["spec"]["grouping"]["max_people"] == 30
            assert "people" in repr(estimator)
        with pytest.raises(BackendUnavailableError, match="closed"):
            estimator(PICTURE)


@pytest.fixture
def packaged(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packaged models that has the multi-person one."""
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / f"{ALIASES['multi']}.onnx").write_bytes(model.read_bytes())
    monkeypatch.setattr("edgepose.estimator.MODELS", folder)
    return folder


def test_aliases(packaged: Path) -> None:
    assert resolve_model("multi") == resolve_model(ALIASES["multi"])
    with Estimator("multi", kernels="numpy") as estimator:
        assert len(estimator(PICTURE)) == 3
    with pytest.raises(ModelNotFoundError, match=f"packaged are: {ALIASES['multi']}, multi;"):
        resolve_model("unknown")


# For a finder: persons of three joints or more, each with a box of some area.
CROSS = Skeleton("cross3", ("blue", "green", "again"), ((0, 1),), (), (0.05,) * 3)


class TestFinder:
    """A bottom-up model as the detector of a top-down one."""

    picture = people_picture(SIZE, [FIRST, SECOND], peaks=[0.9, 0.7])

    @pytest.fixture
    def finder(self, tmp_path: Path) -> Path:
        return people_model(tmp_path / "finder.onnx", people_spec(skeleton=CROSS), joints=3, tag_maps=1)

    def check(self, result: PoseResult) -> None:
        assert result.skeleton == COLORS3
        assert len(result) == 2
        for box, person in zip(result.boxes, (FIRST, SECOND), strict=True):
            low, high = np.min(person, axis=0), np.max(person, axis=0)
            margin = MARGIN * (high - low).max()
            np.testing.assert_allclose(box, [*(low - margin), *(high + margin)], atol=1.5)

    def test_by_path_and_as_an_estimator(self, single: Path, finder: Path) -> None:
        with Estimator(single, detector=finder, score_threshold=0, kernels="numpy") as estimator:
            self.check(estimator(self.picture))
            self.check(estimator([self.picture, self.picture])[1])
            estimator.warmup(1)
            own = estimator._own_finder
            assert own is not None
        with pytest.raises(BackendUnavailableError, match="closed"):
            own(self.picture)
        with Estimator(finder, kernels="numpy") as found:
            with Estimator(single, detector=found, score_threshold=0, kernels="numpy") as estimator:
                self.check(estimator(self.picture))
                assert len(estimator(self.picture, boxes=[[0, 0, 50, 50]])) == 1
            assert len(found(self.picture)) == 2  # the caller's own: still open

    def test_lists_are_searched_by_batched_runs(
        self, single: Path, finder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        batches = []
        run = OnnxRuntimeBackend.run
        monkeypatch.setattr(
            OnnxRuntimeBackend, "run", lambda self, batch: batches.append(batch.shape[0]) or run(self, batch)
        )
        box = [[0, 0, 50, 50]]
        other = people_picture(SIZE, [FIRST])
        with Estimator(single, detector=finder, score_threshold=0, kernels="numpy") as estimator:
            results = estimator([self.picture, other, self.picture, other], boxes=[None, box, None, None])
            assert batches == [3, 6]
            for index in (0, 2):
                self.check(results[index])
            assert results[1].boxes.tolist() == box
            np.testing.assert_array_equal(results[3].boxes, estimator(other).boxes)
            batches.clear()
            with pytest.raises(InvalidInputError, match=r"boxes\[1\]\[0\] is empty"):
                estimator([other, other], boxes=[None, [[5, 5, 5, 5]]])
            assert not batches

    def test_by_name_and_pickled(self, single: Path, finder: Path, packaged: Path) -> None:
        (packaged / f"{ALIASES['multi']}.onnx").write_bytes(finder.read_bytes())
        with Estimator(single, detector="multi", score_threshold=0, kernels="numpy") as estimator:
            self.check(estimator(self.picture))
            data = pickle.dumps(estimator)
        with pickle.loads(data) as copy:
            self.check(copy(self.picture))

    def test_a_copy_closes_the_finder_that_came_with_it(self, single: Path, finder: Path) -> None:
        with (
            Estimator(finder, score_threshold=0, kernels="numpy") as found,
            Estimator(single, detector=found, score_threshold=0, kernels="numpy") as estimator,
        ):
            other, copy = pickle.loads(pickle.dumps((found, estimator)))
            with copy:
                self.check(copy(self.picture))
                again = pickle.loads(pickle.dumps(copy))
            assert copy._own_finder not in (None, found, other)
            with pytest.raises(BackendUnavailableError, match="closed"):
                copy._own_finder(self.picture)
            with again, other:
                self.check(again(self.picture))
                assert len(other(self.picture)) == 2
            self.check(estimator(self.picture))

    def test_limits_and_options_reach_it(
        self, single: Path, finder: Path, caplog: pytest.LogCaptureFixture, runtime: str
    ) -> None:
        options: dict[str, Any] = {"max_persons": 1, "score_threshold": 0, "threads": 1, "kernels": "numpy"}
        with Estimator(single, detector=finder, runtime=runtime, **options) as estimator:
            result = estimator(self.picture)
            assert estimator._own_finder is not None
            assert estimator._own_finder.info.backend == estimator.info.backend
            assert (estimator.info.backend["name"], estimator.info.backend["threads"]) == (runtime, 1)
            kernels = estimator._own_finder.info.kernels.values()
            assert {kernel["implementation"] for kernel in kernels} == {"numpy"}
        assert (len(result), result.truncated) == (1, True)
        assert caplog.text.count("raise max_persons, now 1") == 1

    def test_persons_that_give_no_box_take_no_places(self, single: Path, finder: Path) -> None:
        """The second best is a person; the best one has joints of one kind alone."""
        people = [[FIRST[0], None], SECOND, [FIRST[1], (90.3, 100.2)]]
        picture = people_picture(SIZE, people, peaks=[0.95, 0.6, 0.5])
        options: dict[str, Any] = {"score_threshold": 0, "kernels": "numpy"}
        with Estimator(finder, **options) as everybody:
            assert np.isfinite(everybody(picture).keypoints).all(axis=2).sum(axis=1).tolist() == [2, 3, 3]
        for limit, truncated in ((1, True), (2, False)):
            with (
                Estimator(finder, max_persons=limit, **options) as own,
                Estimator(single, detector=own, **options) as by_own,
                Estimator(single, detector=finder, max_persons=limit, **options) as by_path,
            ):
                assert len(own(picture)) == limit
                for estimator in (by_own, by_path):
                    result = estimator(picture)
                    assert (len(result), result.truncated) == (limit, truncated)
                    assert 145 < result.boxes[0, 0] < 155

    def test_the_default_threshold_is_that_of_bottom_up_models(self, single: Path, finder: Path) -> None:
        picture = spots(SIZE, [(60.3, 40.2), (120.4, 90.1), (60.0, 40.0)], radius=5)
        picture[:, :, 2] = 100  # the tag, and the third colour of the top-down model
        picture = (picture * 0.27).astype(np.uint8)
        with Estimator(single, detector=finder, kernels="numpy") as estimator:
            result = estimator(picture)
            assert len(result) == 1
            # The score of the pose alone, which the finder's does not sink.
            assert 0.2 < result.person_scores[0] < 0.3
            given = estimator(picture, boxes=result.boxes)
            np.testing.assert_allclose(result.person_scores, given.person_scores, atol=0.05)
        with Estimator(single, detector=finder, score_threshold=0.3, kernels="numpy") as estimator:
            assert len(estimator(picture)) == 0

    def test_the_threshold_and_no_refining_reach_it(self, single: Path, tmp_path: Path) -> None:
        spec = people_spec(skeleton=CROSS, grouping=Grouping(refine=True))
        finder = people_model(tmp_path / "refining.onnx", spec, joints=3, tag_maps=1)
        found, faint = (
            people_picture(SIZE, [person], peaks=[peak])
            for person, peak in (([None, FIRST[1]], 0.25), ([FIRST[0], None], 0.08))
        )
        picture = np.maximum(found, faint)
        with Estimator(finder, score_threshold=0, kernels="numpy") as refining:
            assert np.isfinite(refining(picture).keypoints).all()
        for threshold, missing in ((0, [[True, False, True]]), (None, [])):
            with Estimator(single, detector=finder, score_threshold=threshold, kernels="numpy") as estimator:
                own = estimator._own_finder
                assert own is not None
                assert np.isnan(own(picture).keypoints[:, :, 0]).tolist() == missing

    def test_top_down_models_find_nobody(self, single: Path) -> None:
        with pytest.raises(InvalidInputError, match="'colors' is a top-down model"):
            Estimator(single, detector=single)
        with Estimator(single, kernels="numpy") as other, pytest.raises(InvalidInputError, match="top-down"):
            Estimator(single, detector=other)
        with pytest.raises(ModelNotFoundError, match="no packaged model 'yolo'"):
            Estimator(single, detector="yolo")

    def test_similar_persons_of_a_detector_are_suppressed(self, single: Path) -> None:
        picture = spots((192, 144), [(60.0, 50.0), (100.0, 120.0), (45.0, 140.0)])
        boxes = [[2, 0, 143, 190, 0.8], [0, 0, 143, 191, 0.9], [1, 0, 60, 60, 0.85]]
        for threshold, first in ((None, [2, 0, 1]), (0.7, [0, 1])):
            with Estimator(
                single, detector=lambda _: boxes, nms_threshold=threshold, score_threshold=0, kernels="numpy"
            ) as estimator:
                assert estimator(picture).boxes[:, 0].tolist() == first
                assert len(estimator(picture, boxes=boxes)) == 3


def test_boxes_around_persons() -> None:
    keypoints = np.array(
        [
            [[10, 20], [50, 30], [30, 100]],
            [[10, 20], [50, 30], [np.nan, np.nan]],  # too few joints
            [[-30, 5], [20, 300], [90, 40]],  # beyond the picture
            [[300, 20], [320, 30], [310, 40]],  # outside
            [[40, 40], [40, 40], [40, 40]],  # no area
        ],
        np.float32,
    )
    result = PoseResult(
        keypoints=keypoints,
        scores=np.ones((5, 3)),
        boxes=np.tile([0, 0, 99, 119], (5, 1)),  # with joints that fell below a threshold
        person_scores=[0.9, 0.8, 0.7, 0.6, 0.5],
        skeleton=CROSS,
        image_size=(120, 100),
        truncated=True,
    )
    expected = np.array([[2, 12, 58, 108], [0, 0, 99, 119]], np.float32)
    np.testing.assert_allclose(person_boxes(result), expected, rtol=1e-6)
    other = PoseResult.empty(CROSS, (10, 10))
    (boxes, truncated), nobody = PersonFinder(lambda _: [result, other], 30).find([])
    np.testing.assert_array_equal(boxes, person_boxes(result))
    assert truncated
    assert (nobody[0].shape, nobody[1]) == ((0, 4), False)


def test_persons_with_too_few_joints_give_no_box(single: Path, model: Path) -> None:
    """Of two joints, so this model finds nobody for another."""
    with Estimator(single, detector=model, kernels="numpy") as estimator:
        assert len(estimator(PICTURE)) == 0
        assert estimator.info.spec == color_spec()

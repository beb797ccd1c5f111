"""People from frame to frame: boxes between runs of the detector, identities, smoothing."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_models import color_model, spots

from edgepose import Estimator, Frame, PoseResult, open_source
from edgepose.streams.follow import Follower
from tests.fakes.estimator import pose

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
cv2 = pytest.importorskip("cv2")

SIZE = (192, 144)
CENTERS = np.array([(60.0, 50.0), (100.0, 120.0), (45.0, 140.0)])
BOX = [20.0, 25.0, 125.0, 165.0]


class FakeTracker:
    """Gives each person its row as identity, and keeps what it was given."""

    def __init__(self) -> None:
        self.frames: list[PoseResult] = []
        self.resets = 0
        self.boxes = np.zeros((0, 4), np.float32)

    def update(self, result: PoseResult) -> PoseResult:
        self.frames.append(result)
        return replace(result, track_ids=np.arange(1, len(result) + 1))

    def predict_boxes(self) -> np.ndarray:
        return self.boxes

    def reset(self) -> None:
        self.resets += 1


class FakeSmoother:
    """Moves every joint to (1, 1)."""

    def __init__(self) -> None:
        self.frames: list[PoseResult] = []
        self.resets = 0

    def update(self, result: PoseResult) -> PoseResult:
        self.frames.append(result)
        return replace(result, keypoints=np.ones_like(result.keypoints))

    def reset(self) -> None:
        self.resets += 1


class CountingDetector:
    """Finds a person wherever the picture shows something, and counts its calls."""

    def __init__(self, score: float = 1.0) -> None:
        self.calls = 0
        self.score = score

    def __call__(self, image: np.ndarray) -> list[list[float]]:
        self.calls += 1
        return [[*BOX, self.score]] if image.any() else []


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return color_model(tmp_path_factory.mktemp("model") / "colors.onnx")


def walk(frames: int, step: float = 2.0) -> list[np.ndarray]:
    """Somebody who walks to the right."""
    return [spots(SIZE, [(x + step * i, y) for x, y in CENTERS]) for i in range(frames)]


class TestDetectEvery:
    """Boxes of the last poses in place of the detector."""

    @pytest.mark.parametrize(("every", "calls"), [(1, 9), (3, 3), (4, 3), (100, 1)])
    def test_the_detector_looks_at_each_nth_frame(self, model: Path, every: int, calls: int) -> None:
        detector = CountingDetector()
        with Estimator(model, detector=detector, kernels="numpy") as estimator:
            results = list(estimator.stream(walk(9), detect_every=every))
            assert detector.calls == calls
            for i, result in enumerate(results):
                np.testing.assert_allclose(result.keypoints[0], CENTERS + np.array([2 * i, 0]), atol=2)

    def test_boxes_follow_the_joints(self, model: Path) -> None:
        with Estimator(model, detector=CountingDetector(), kernels="numpy") as estimator:
            results = list(estimator.stream(walk(4), detect_every=4))
        assert results[0].boxes.tolist() == [BOX]
        for before, after in itertools.pairwise(results):
            joints = before.keypoints[0]
            low, high = joints.min(axis=0), joints.max(axis=0)
            margin = 0.1 * (high - low).max()
            np.testing.assert_allclose(after.boxes[0], [*(low - margin), *(high + margin)], atol=1e-3)

    def test_scores_of_boxes_stay(self, model: Path) -> None:
        detector = CountingDetector(0.5)
        with Estimator(model, detector=detector, kernels="numpy") as estimator:
            results = list(estimator.stream(walk(4), detect_every=4))
        assert detector.calls == 1
        ratios = [result.person_scores[0] / result.scores[0].mean() for result in results]
        np.testing.assert_allclose(ratios, 0.5, atol=1e-4)

    def test_who_is_gone_is_not_reported(self, model: Path) -> None:
        """A box of the last frame is no person: the score decides, as it does for the detector's."""
        black = np.zeros((*SIZE, 3), np.uint8)
        detector = CountingDetector()
        with Estimator(model, detector=detector, kernels="numpy") as estimator:
            pictures = [*walk(2), black, black, black, *walk(3)]
            counts = [len(result) for result in estimator.stream(pictures, detect_every=4)]
        assert counts == [1, 1, 0, 0, 0, 0, 0, 1]
        assert detector.calls == 3, "at frames 0; 3, since nobody is left; and 7, four later"

    def test_an_empty_scene_costs_no_more_than_asked(self, model: Path) -> None:
        detector = CountingDetector()
        with Estimator(model, detector=detector, kernels="numpy") as estimator:
            assert len(list(estimator.stream([np.zeros((*SIZE, 3), np.uint8)] * 9, detect_every=3))) == 9
        assert detector.calls == 3

    def test_a_new_size_of_pictures_is_looked_at_anew(self, model: Path) -> None:
        detector = CountingDetector()
        with Estimator(model, detector=detector, kernels="numpy") as estimator:
            pictures = [*walk(2), *(picture[:-2] for picture in walk(2))]
            list(estimator.stream(pictures, detect_every=9))
        assert detector.calls == 2

    def test_several_sources_have_their_own(self, model: Path, tmp_path: Path) -> None:
        detector = CountingDetector()
        for name in "ab":
            (tmp_path / name).mkdir()
            for i, picture in enumerate(walk(6)):
                cv2.imwrite(str(tmp_path / name / f"{i}.png"), picture)
        with Estimator(model, detector=detector, kernels="numpy") as estimator:
            results = list(estimator.stream([tmp_path / "a", tmp_path / "b"], detect_every=3))
        assert (len(results), detector.calls) == (12, 4)

    def test_a_bottom_up_finder(self, shared: Path) -> None:
        """The packaged models on five people who exercise: most are where they are without it."""
        video = shared / "data/videos/terryky_posenet_pexels.mp4"
        found = {}
        with Estimator(detector="multi") as estimator:
            for every in (1, 4):
                with estimator.stream(video, every=2, detect_every=every) as results:
                    found[every] = [next(results) for _ in range(5)]
        for place, (expected, result) in enumerate(zip(found[1], found[4], strict=True)):
            apart = np.linalg.norm(expected.keypoints[None] - result.keypoints[:, None], axis=3)
            heights = result.boxes[:, 3] - result.boxes[:, 1]
            same = np.nanmedian(apart, axis=2).min(axis=1) < 0.05 * heights
            assert same.sum() >= 4
            assert same.all() or place in (1, 2, 3)


class TestTracking:
    """One tracker and one smoother for each source."""

    def test_each_source_has_its_own(self, model: Path) -> None:
        made: list[FakeTracker] = []

        def tracker() -> FakeTracker:
            made.append(FakeTracker())
            return made[-1]

        with Estimator(model, kernels="numpy") as estimator:
            sources = [open_source(walk(4)), open_source(walk(6))]
            results = list(estimator.stream(sources, track=tracker, smooth=FakeSmoother))
        assert [len(each.frames) for each in made] == [4, 6]
        assert all(result.track_ids is not None and result.track_ids.tolist() == [1] for result in results)
        assert all((result.keypoints == 1).all() for result in results)
        assert all((frame.keypoints != 1).all() for each in made for frame in each.frames)

    def test_smoothing_alone(self, model: Path) -> None:
        with Estimator(model, kernels="numpy") as estimator:
            results = list(estimator.stream(walk(3), smooth=FakeSmoother))
        assert all((result.keypoints == 1).all() for result in results)
        assert all(result.track_ids is None for result in results), "there is one person alone"

    def test_smoothing_several_people_tracks_them(self, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("edgepose.streams.stream.Tracker", FakeTracker)
        with Estimator(model, detector=CountingDetector(), kernels="numpy") as estimator:
            results = list(estimator.stream(walk(3), smooth=FakeSmoother))
        assert all(result.track_ids is not None and result.track_ids.tolist() == [1] for result in results)

    def test_a_new_size_of_pictures_begins_anew(self) -> None:
        tracker, smoother = FakeTracker(), FakeSmoother()
        follower = Follower(tracker, smoother, 1, 1.25)
        identities = []
        for size, persons in (((40, 30), 2), ((40, 30), 3), ((30, 40), 2), ((30, 40), 0), ((40, 30), 1)):
            assert follower.boxes(size) is None
            result = follower.update(pose(Frame(np.zeros((*size, 3), np.uint8)), persons))
            assert result.track_ids is not None
            identities.append(result.track_ids.tolist())
        assert (tracker.resets, smoother.resets) == (2, 2)
        assert identities == [[1, 2], [1, 2, 3], [4, 5], [], [6]], "no number is used twice"

    def test_boxes_come_from_the_tracker(self) -> None:
        tracker = FakeTracker()
        follower = Follower(tracker, None, 3, 1.25)
        frame = Frame(np.zeros((40, 30, 3), np.uint8))
        assert follower.boxes((40, 30)) is None
        follower.update(pose(frame))
        tracker.boxes = np.array([[1, 2, 9, 12], [50, 50, 60, 60], [5, 5, 5, 9]], np.float32)
        found = follower.boxes((40, 30))
        assert found is not None
        assert found.boxes.tolist() == [[1, 2, 9, 12]], "empty boxes and those outside are left out"
        assert found.scores.tolist() == [0.5]
        assert found.padding == 1.25
        follower.update(pose(frame, 0))
        tracker.boxes = np.zeros((0, 4), np.float32)
        assert follower.boxes((40, 30)) is None, "nobody is left of those the detector found"

    def test_the_real_ones(self, model: Path) -> None:
        """Numbers that stay, less jitter, and the same people where the detector looks less often."""
        rng = np.random.default_rng(0)
        pictures = [
            spots(SIZE, CENTERS + np.array([0.5 * i, 0]) + rng.normal(0, 1.5, (3, 2))) for i in range(40)
        ]
        found = {}
        with Estimator(model, detector=CountingDetector(), kernels="numpy") as estimator:
            for every in (1, 5):
                results = list(estimator.stream(pictures, track=True, smooth=True, detect_every=every))
                ids = [() if r.track_ids is None else tuple(r.track_ids.tolist()) for r in results]
                assert ids == [(), ()] + [(1,)] * 38, "a person is numbered when seen three times"
                found[every] = np.array([result.keypoints[0] for result in results[2:]])
            plain = np.array([result.keypoints[0] for result in estimator.stream(pictures)][2:])
        jitter = {every: np.abs(np.diff(each, 2, axis=0)).mean() for every, each in found.items()}
        assert max(jitter.values()) < 0.5 * np.abs(np.diff(plain, 2, axis=0)).mean()

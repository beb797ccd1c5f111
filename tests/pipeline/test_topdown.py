"""The top-down steps: joints land where the picture has them, in every mode."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tiny_models import SIDES2, color_model, color_spec, spots

from edgepose import Decoder, Estimator, Grouping, ModelFormatError, ModelSpec, kernels
from edgepose.pipeline import topdown
from edgepose.pipeline.topdown import person_score

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

CENTERS = [(60.0, 50.0), (100.0, 120.0), (45.0, 140.0)]
SIZE = (192, 144)


class Models:
    """Opens small models that live as long as a test."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._opened: list[Estimator] = []

    def __call__(self, spec: ModelSpec, model: dict[str, Any] | None = None, **options: Any) -> Estimator:
        path = self._folder / f"{len(self._opened)}.onnx"
        self._opened.append(Estimator(color_model(path, spec, **(model or {})), kernels="numpy", **options))
        return self._opened[-1]

    def close(self) -> None:
        for estimator in self._opened:
            estimator.close()


@pytest.fixture
def open_model(tmp_path: Path) -> Iterator[Models]:
    models = Models(tmp_path)
    yield models
    models.close()


@pytest.mark.parametrize("flip_test", [False, True])
@pytest.mark.parametrize("coordinates", ["udp", "legacy"])
def test_joints_of_the_whole_picture(open_model: Models, coordinates: Any, flip_test: bool) -> None:
    estimator = open_model(color_spec(coordinates=coordinates), flip_test=flip_test)
    result = estimator(spots(SIZE, CENTERS))
    # A heatmap pixel is 12 to 13 picture pixels. The legacy flip test is unbiased only if the shifted
    # mirror image lies exactly on the grid, which a sub-sampling by a whole factor gives.
    tolerance = 4.0 if coordinates == "legacy" and flip_test else 1.0
    np.testing.assert_allclose(result.keypoints[0], CENTERS, atol=tolerance)
    assert result.boxes.tolist() == [[0, 0, 143, 191]]
    assert (result.scores > 0.8).all()
    assert result.covariance is None


@pytest.mark.parametrize("coordinates", ["udp", "legacy"])
def test_joints_within_a_box(open_model: Models, coordinates: Any) -> None:
    """A box off the picture's centre and aspect, enlarged by the spec's padding, beyond the border."""
    estimator = open_model(color_spec(coordinates=coordinates))
    picture = spots((400, 500), [(300.0, 200.0), (340.0, 260.0), (280.0, 280.0)], radius=14)
    result = estimator(picture, boxes=[[250, 180, 370, 300]])
    np.testing.assert_allclose(result.keypoints[0], [[300, 200], [340, 260], [280, 280]], atol=1.0)
    near_border = spots((400, 500), [(32.0, 35.0), (60.0, 40.0), (35.0, 90.0)], radius=14)
    result = estimator(near_border, boxes=[[-20, -10, 80, 120]])
    np.testing.assert_allclose(result.keypoints[0], [[32, 35], [60, 40], [35, 90]], atol=1.0)


@pytest.mark.parametrize("coordinates", ["udp", "legacy"])
def test_soft_argmax_matches_the_moments_of_the_heatmap(open_model: Models, coordinates: Any) -> None:
    spec = color_spec(decoder=Decoder("soft_argmax", beta=30.0), coordinates=coordinates)
    estimator = open_model(spec)
    picture = spots(SIZE, CENTERS)
    result = estimator(picture)
    # The same heatmaps by sampling the picture itself, and their moments in picture pixels.
    y, x = np.mgrid[:16, :12].astype(float)
    if coordinates == "udp":
        x, y = x * 143 / 11, y * 191 / 15
    else:
        x, y = 71.5 + (x - 6) * (191 * 0.75) / 12, 95.5 + (y - 8) * (191 * 0.75) / 12
    for joint, (cx, cy) in enumerate(CENTERS):
        heat = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * 20.0**2))
        p = np.exp(30 * (heat - heat.max()))
        p /= p.sum()
        mean = np.array([(p * x).sum(), (p * y).sum()])
        np.testing.assert_allclose(result.keypoints[0, joint], mean, atol=1.0)
        dx, dy = x - mean[0], y - mean[1]
        moments = [[(p * dx * dx).sum(), (p * dx * dy).sum()], [(p * dx * dy).sum(), (p * dy * dy).sum()]]
        assert result.covariance is not None
        np.testing.assert_allclose(result.covariance[0, joint], moments, rtol=0.25, atol=8)


def test_quarter_step_follows_soft_argmax_and_padding_belongs_to_boxes(open_model: Models) -> None:
    """A quarter of a heatmap pixel is 1.25 times as long when the picture is given as a person's box."""
    plain = open_model(color_spec(decoder=Decoder("soft_argmax", beta=30.0)))
    quarter = open_model(color_spec(decoder=Decoder("soft_argmax", beta=30.0, refine="quarter")))
    picture = spots(SIZE, CENTERS)
    pixel = np.array([191 * 0.75 / 11, 191 / 15])
    for boxes, padding in ((None, 1.0), ([[0, 0, 143, 191]], 1.25)):
        steps = quarter(picture, boxes=boxes).keypoints - plain(picture, boxes=boxes).keypoints
        np.testing.assert_allclose(np.abs(steps[0]) / pixel, 0.25 * padding, atol=1e-4)


def test_bias_is_subtracted_in_picture_pixels(open_model: Models) -> None:
    decoder = Decoder("argmax", refine="taylor", bias=1.5)
    with_bias, without = open_model(color_spec(decoder=decoder)), open_model(color_spec())
    picture = spots(SIZE, CENTERS)
    difference = without(picture).keypoints - with_bias(picture).keypoints
    np.testing.assert_allclose(difference, 1.5, atol=1e-4)


def test_colour_order_mean_and_std_reach_the_network(open_model: Models) -> None:
    """In RGB order joint 0 sees the red spot; mean and std scale the heatmaps, and so the scores."""
    picture = spots(SIZE, CENTERS)
    swapped = open_model(color_spec(color="rgb"))(picture)
    np.testing.assert_allclose(swapped.keypoints[0], CENTERS[::-1], atol=1.0)
    plain = open_model(color_spec(decoder=Decoder("argmax")))(picture)
    spec = color_spec(mean=(0.1, 0.2, 0.3), std=(2.0, 2.0, 4.0), decoder=Decoder("argmax"))
    scaled = open_model(spec)(picture)
    expected = (plain.scores[0] - [0.1, 0.2, 0.3]) / [2, 2, 4]
    np.testing.assert_allclose(scaled.scores[0], expected, atol=1e-5)


@pytest.mark.parametrize("coordinates", ["udp", "legacy"])
def test_flip_test_exchanges_left_and_right(open_model: Models, coordinates: Any) -> None:
    """The model sees the left hand only in the right half of the picture; so mirrored maps must swap."""
    mask = np.zeros((1, 2, 16, 12))
    mask[:, 0, :, 6:] = 1
    mask[:, 1, :, :6] = 1
    spec = color_spec(skeleton=SIDES2, coordinates=coordinates, decoder=Decoder("argmax"))
    model = {"channels": (0, 0), "mask": mask}
    hands = spots(SIZE, [(117.0, 95.5), (0.0, 0.0), (0.0, 0.0)]) // 2
    hands += spots(SIZE, [(26.0, 51.0), (0.0, 0.0), (0.0, 0.0)]) // 2
    plain, flipped = open_model(spec, model), open_model(spec, model, flip_test=True)
    left, right = flipped(hands).keypoints[0]
    assert left[0] > 90
    assert right[0] < 50
    if coordinates == "udp":
        np.testing.assert_allclose(flipped(hands).keypoints, plain(hands).keypoints, atol=1e-3)
        np.testing.assert_allclose(flipped(hands).scores, plain(hands).scores, atol=0.02)


def test_no_peak_is_a_missing_joint(open_model: Models) -> None:
    estimator = open_model(color_spec(decoder=Decoder("argmax", refine="quarter")))
    picture = spots(SIZE, CENTERS)
    picture[:, :, 1] = 0
    result = estimator(picture)
    assert np.isnan(result.keypoints[0, 1]).all()
    assert result.scores[0, 1] == 0
    assert np.isfinite(result.keypoints[0, [0, 2]]).all()


def test_scores_that_are_no_numbers_are_missing_joints(open_model: Models) -> None:
    mask = np.ones((1, 3, 16, 12))
    mask[:, 0] = np.nan
    spec = color_spec(decoder=Decoder("soft_argmax"))
    result = open_model(spec, {"mask": mask})(spots(SIZE, CENTERS))
    assert np.isnan(result.keypoints[0, 0]).all()
    assert result.scores[0, 0] == 0
    assert np.isfinite(result.keypoints[0, 1:]).all()


def test_infinite_joints_are_missing(open_model: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    estimator = open_model(color_spec())
    crops = estimator._top_down._crops
    decode = crops._decode

    def far(heatmaps: np.ndarray) -> Any:
        joints = decode(heatmaps)
        joints.coords[0, 1, 0] = np.inf
        return joints

    monkeypatch.setattr(crops, "_decode", far)
    result = estimator(spots(SIZE, CENTERS))
    assert np.isnan(result.keypoints[0, 1]).all()
    assert result.scores[0, 1] == 0
    assert np.isfinite(result.keypoints[0, [0, 2]]).all()


def test_person_score_is_the_mean_of_the_joints_above_the_floor() -> None:
    scores = np.array([[0.9, 0.5, 0.2, 0.1], [0.1, 0.2, 0.0, 0.0]], np.float32)
    np.testing.assert_allclose(person_score(scores), [0.7, 0.0], atol=1e-6)


def test_many_crops_are_few_runs_and_keep_their_order(
    open_model: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    estimator = open_model(color_spec())
    batches: list[int] = []
    run = estimator._backend.run
    monkeypatch.setattr(estimator._backend, "run", lambda batch: batches.append(len(batch)) or run(batch))
    pictures = [spots(SIZE, [(x, 60.0), (70.0, 100.0), (70.0, 140.0)]) for x in (50.0, 70.0, 90.0)]
    boxes = [np.tile([0.0, 0, 143, 191], (n, 1)) for n in (4, 0, 6)]
    results = estimator(pictures, boxes=boxes)
    assert batches == [10]
    assert [len(result) for result in results] == [4, 0, 6]
    np.testing.assert_allclose(results[0].keypoints[:, 0, 0], 50, atol=1)
    np.testing.assert_allclose(results[2].keypoints[:, 0, 0], 90, atol=1)

    monkeypatch.setattr(topdown.HostCrops, "batch", 4)
    batches.clear()
    chunked = estimator(pictures, boxes=boxes)
    assert batches == [4, 4, 2]
    for whole, part in zip(results, chunked, strict=True):
        np.testing.assert_allclose(part.keypoints, whole.keypoints, atol=1e-4)


def test_results_do_not_share_the_buffers(open_model: Models) -> None:
    estimator = open_model(color_spec(decoder=Decoder("soft_argmax")), flip_test=True)
    first = estimator(spots(SIZE, CENTERS))
    before = first.keypoints.copy()
    estimator(spots(SIZE, CENTERS[::-1]))
    assert np.array_equal(first.keypoints, before)


def test_specs_that_this_pipeline_cannot_serve(open_model: Models) -> None:
    with pytest.raises(ModelFormatError, match="'colors' asks for a Taylor step"):
        open_model(color_spec(decoder=Decoder("soft_argmax", refine="taylor")))
    bottom_up = color_spec(task="bottomup", input_size=(64, 64), coordinates="legacy", grouping=Grouping())
    backend: Any = SimpleNamespace(spec=bottom_up)
    with pytest.raises(ModelFormatError, match="'colors' is bottomup"):
        topdown.TopDown(backend, kernels.get("numpy"))

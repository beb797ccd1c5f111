"""The bottom-up steps: equal to the official code, and exact where the answer is known."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import PAIR2, people_picture, people_spec

from edgepose import (
    BackendUnavailableError,
    Grouping,
    InvalidInputError,
    ModelFormatError,
    ModelSpec,
    coco17,
    kernels,
)
from edgepose.kernels.pose_maps import PoseMaps
from edgepose.pipeline import bottomup
from edgepose.pipeline.bottomup import (
    BottomUp,
    Decoded,
    check_scales,
    decode_maps,
    fitted_region,
    input_region,
    keypoint_boxes,
    map_pass,
    person_score,
    split_outputs,
    to_picture,
)

KERNELS = kernels.get("numpy")
PEOPLE = [[(40.3, 50.2), (70.4, 60.1)], [(150.2, 80.7), (170.9, 100.3)]]
SHIFT = 0.5  # adjust adds half a pixel, which makes up for joints cut to whole pixels in training


def network(batch: np.ndarray) -> dict[str, np.ndarray]:
    """What `tiny_models.people_model` does, in numpy."""

    def pooled(maps: np.ndarray, step: int) -> np.ndarray:
        n, k, h, w = maps.shape
        return maps.reshape(n, k, h // step, step, w // step, step).mean(axis=(3, 5), dtype=np.float32)

    tags = np.repeat(batch[:, 2:] * 10, 2, axis=1)
    return {
        "heatmaps": pooled(batch[:, :2], 4),
        "heatmaps_high": pooled(batch[:, :2], 2),
        "tags": pooled(tags, 4),
    }


def pipeline(run: Any = network, spec: ModelSpec | None = None, **options: Any) -> BottomUp:
    return BottomUp(run, spec or people_spec(), KERNELS, **options)


class TestRegions:
    """Which part of the plane the network sees, and at which size."""

    def test_sizes_are_the_official_ones(self, shared: Path) -> None:
        rows = json.loads(str(np.load(shared / "specs/parity/decode.npz")["meta"]))["higherhrnet_sizes"]
        assert rows
        for (height, width), side, scale, smallest, (w_r, h_r), center, extent in rows:
            found = input_region(height, width, side, scale, smallest)
            assert (found.size, found.center) == ((h_r, w_r), tuple(center))
            np.testing.assert_allclose(found.extent, np.array(extent) * 200, rtol=1e-12)

    @pytest.mark.parametrize(
        "scales", [(0.5, 1, 2), (0.75, 1.125), (0.3,), (0.4, 0.6, 1), (0.25, 0.375, 4), (1, 1.5)]
    )
    @pytest.mark.parametrize("size", [(427, 640), (640, 427), (100, 100), (51, 513), (1, 1)])
    def test_sizes_suit_a_network(self, size: tuple[int, int], scales: tuple[float, ...]) -> None:
        for scale in scales:
            region = input_region(*size, 512, scale, min(scales))
            assert all(side % 32 == 0 for side in region.size)
            # The picture lies within, but for the rounding of its centre.
            assert (region.affine()[0, :, 2] <= 0.5).all()

    @pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (3, 400), (40, 1000)])
    def test_long_pictures_do_not_blow_up(self, size: tuple[int, int]) -> None:
        region = input_region(*size, 512)
        assert min(region.size) == 512
        assert max(region.size) <= 512 * bottomup.MAX_ASPECT
        height, width = size
        assert region.extent[0] >= width
        assert region.extent[1] >= height
        assert region.extent[0] / region.size[1] == pytest.approx(region.extent[1] / region.size[0])

    @pytest.mark.parametrize(
        ("picture", "size", "factor"),
        [
            ((100, 200), (128, 128), 200 / 128),
            ((200, 100), (128, 192), 200 / 128),
            ((64, 96), (128, 192), 0.5),
        ],
    )
    def test_a_fixed_size_holds_the_whole_picture(
        self, picture: tuple[int, int], size: tuple[int, int], factor: float
    ) -> None:
        region = fitted_region(*picture, size)
        assert region.size == size
        np.testing.assert_allclose(region.affine()[0, [0, 1], [0, 1]], factor)
        middle = region.affine()[0] @ [size[1] / 2, size[0] / 2, 1]
        np.testing.assert_allclose(middle, [picture[1] / 2, picture[0] / 2])

    def test_a_fixed_size_equal_to_the_free_one_changes_nothing(self) -> None:
        free, fixed = input_region(427, 640, 512), fitted_region(427, 640, (512, 768))
        np.testing.assert_allclose(free.affine(), fixed.affine(), rtol=1e-12)

    def test_runs_too_large_for_the_memory_are_refused(self) -> None:
        spec = people_spec(input_size=(640, 640))
        for size in ((2160, 3840), (3840, 2160), (1, 10000)):
            regions = pipeline(spec=spec, scales=(0.5, 1, 2)).regions(*size)
            assert [math.prod(region.size) <= bottomup.MAX_PIXELS for region in regions] == [True] * 3
        runs: list[Any] = []
        steps = pipeline(runs.append, spec, scales=(1, 4))
        words = r"picture of 3000x300 pixels cannot be run at scale 4; found .* 25600x2560, .* smaller scales"
        with pytest.raises(InvalidInputError, match=words):
            steps([np.zeros((100, 100, 3), np.uint8), np.zeros((300, 3000, 3), np.uint8)])
        assert not runs
        assert steps.regions(300, 400)[0].size == (2560, 3584)
        assert pipeline(spec=spec, fixed_size=(8192, 8192)).regions(300, 400)[0].size == (8192, 8192)


@pytest.fixture(scope="module")
def recorded(shared: Path) -> tuple[list[dict[str, Any]], Any]:
    """Cases and arrays of the official path after the network."""
    arrays = np.load(shared / "specs/parity/aggregation.npz")
    return json.loads(str(arrays["meta"])), arrays


@pytest.fixture(params=kernels.AUTOMATIC)
def ops(request: pytest.FixtureRequest) -> kernels.Kernels:
    try:
        return kernels.get(request.param)
    except BackendUnavailableError as error:
        pytest.skip(str(error))


class TestParity:
    """The official results, from the network's outputs to the picture."""

    @staticmethod
    def replay(arrays: Any, number: int, case: dict[str, Any]) -> Any:
        """A network that gives the recorded outputs, in the order of the official runs."""
        names = [
            f"{number}_{step['scale']}_{flip}"
            for step in case["steps"]
            for flip in range(2 if case["flip"] else 1)
        ]
        sizes = [(s["height"], s["width"]) for s in case["steps"] for _ in range(2 if case["flip"] else 1)]
        runs = iter(zip(names, sizes, strict=True))

        def run(batch: np.ndarray) -> dict[str, np.ndarray]:
            name, size = next(runs)
            assert batch.shape == (1, 3, *size)
            outputs = [
                (arrays[f"{kind}_{name}"] / np.float32(1024)).astype(np.float32)[None]
                for kind in ("low", "high")
            ]
            return split_outputs(outputs, 17)

        return run

    @pytest.mark.parametrize("number", range(5))
    def test_persons_in_the_picture(self, recorded: Any, number: int, ops: kernels.Kernels) -> None:
        case, arrays = recorded[0][number], recorded[1]
        spec = ModelSpec(
            "recorded", coco17, (case["input_size"],) * 2, task="bottomup", coordinates="legacy",
            grouping=Grouping(project_to_image=case["project2image"]),
        )  # fmt: skip
        steps = BottomUp(
            self.replay(arrays, number, case), spec, ops, flip_test=case["flip"], scales=case["scales"],
            official=True,
        )  # fmt: skip
        image = np.zeros((*case["image"], 3), np.uint8)
        plan = steps.regions(*image.shape[:2])
        assert plan[-1].center == tuple(case["center"])
        (maps,) = steps.run_maps([image], [plan])
        assert maps.size == tuple(case["heatmaps"]["shape"][2:])
        decoded = decode_maps(maps, ops, spec.grouping or Grouping(), official=True)
        expected = arrays[f"people_{number}"]
        np.testing.assert_allclose(decoded.persons[:, :, 2:], expected[:, :, 2:], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(decoded.scores, arrays[f"scores_{number}"], rtol=1e-6)
        poses = to_picture(decoded, plan[-1], maps.size)
        found = expected[:, :, 2] > 0
        assert np.array_equal(np.isfinite(poses.keypoints[:, :, 0]), found)
        np.testing.assert_allclose(poses.keypoints[found], expected[found][:, :2], atol=1e-3)
        np.testing.assert_allclose(poses.scores, np.clip(expected[:, :, 2], 0, 1), rtol=1e-6)

    def test_the_whole_call_is_these_steps(self, recorded: Any) -> None:
        case, arrays = recorded[0][3], recorded[1]
        spec = ModelSpec(
            "recorded", coco17, (128, 128), task="bottomup", coordinates="legacy", grouping=Grouping()
        )
        steps = BottomUp(
            self.replay(arrays, 3, case), spec, KERNELS, flip_test=True, scales=(0.5, 1, 2), official=True
        )
        (poses,), times = steps([np.zeros((*case["image"], 3), np.uint8)])
        expected = arrays["people_3"]
        found = expected[:, :, 2] > 0
        np.testing.assert_allclose(poses.keypoints[found], expected[found][:, :2], atol=1e-3)
        assert len(poses) == len(expected)
        assert min(times.preprocess, times.inference, times.postprocess) > 0


@pytest.mark.parametrize("flip_test", [False, True])
@pytest.mark.parametrize("scales", [(1,), (0.5, 1, 2)])
@pytest.mark.parametrize("project", [True, False])
def test_joints_land_where_the_picture_has_them(
    flip_test: bool, scales: tuple[float, ...], project: bool
) -> None:
    # Maps half as large, or partly blurred by a scale of a half, say less well where a joint is.
    tolerance = 0.6 if project and scales == (1,) else 1.2
    spec = people_spec(grouping=Grouping(refine=False, project_to_image=project))
    steps = pipeline(spec=spec, flip_test=flip_test, scales=scales)
    for size in ((130, 200), (128, 256), (200, 180)):
        (poses,), _ = steps([people_picture(size, PEOPLE)])
        assert len(poses) == 2
        order = np.argsort(poses.keypoints[:, 0, 0])
        np.testing.assert_allclose(poses.keypoints[order] - SHIFT, PEOPLE, atol=tolerance)
        assert not poses.truncated


@pytest.mark.parametrize("size", [(128, 192), (256, 128), (96, 256)])
def test_a_fixed_input_size(size: tuple[int, int]) -> None:
    shapes = []

    def run(batch: np.ndarray) -> dict[str, np.ndarray]:
        shapes.append(batch.shape)
        return network(batch)

    (poses,), _ = pipeline(run, fixed_size=size)([people_picture((130, 200), PEOPLE, radius=8)])
    assert shapes == [(1, 3, *size)]
    factor = max(200 / size[1], 130 / size[0])
    order = np.argsort(poses.keypoints[:, 0, 0])
    np.testing.assert_allclose(poses.keypoints[order], PEOPLE, atol=1.1 * factor)


def test_the_border_is_black_and_colours_are_normalised() -> None:
    seen = []
    spec = people_spec(mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 4.0), color="rgb")
    steps = pipeline(lambda batch: seen.append(batch.copy()) or network(batch), spec, flip_test=True)
    image = np.full((128, 150, 3), (51, 102, 204), np.uint8)
    image[:, :75] = 0
    steps([image])
    batch, mirrored = seen
    assert batch.shape == (1, 3, 128, 192)
    np.testing.assert_array_equal(mirrored, batch[..., ::-1])
    black = -np.array([0.1, 0.1, 0.075])
    for column in (0, 20, 90, 175, 191):  # border, black half, border: the picture spans columns 21 to 170
        np.testing.assert_allclose(batch[0, :, 60, column], black, atol=1e-6)
    np.testing.assert_allclose(batch[0, :, 60, 120], [0.7, 0.1, -0.025], atol=1e-6)


def test_pictures_of_one_size_share_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []
    steps = pipeline(lambda batch: batches.append(len(batch)) or network(batch))
    sizes = [(130, 200)] * 3 + [(200, 130)] * 2 + [(130, 200)]
    pictures = [
        people_picture(size, [[(30.3 + 9 * i, 40.2), (60.4, 50.1 + 9 * i)]]) for i, size in enumerate(sizes)
    ]
    alone = [steps([picture])[0][0] for picture in pictures]
    batches.clear()
    together, _ = steps(pictures)
    assert batches == [3, 2, 1]
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one.keypoints, other.keypoints)
    monkeypatch.setattr(bottomup, "MAX_BATCH_PIXELS", 2 * 128 * 256)
    batches.clear()
    steps(pictures)
    assert batches == [2, 1, 2, 1]
    assert steps([]) == ([], bottomup.StageTimes())


def test_scores_and_missing_joints() -> None:
    people = [PEOPLE[0], [(100.3, 30.6), None]]
    (poses,), _ = pipeline()([people_picture((130, 200), people, peaks=[0.9, 0.6])])
    assert np.isnan(poses.keypoints[1, 1]).all()
    assert poses.scores[1, 1] == 0
    np.testing.assert_allclose(poses.person_scores, poses.scores.mean(axis=1), rtol=1e-6)
    np.testing.assert_array_equal(poses.boxes[1], np.tile(poses.keypoints[1, 0], 2))
    np.testing.assert_array_equal(poses.boxes[0, :2], poses.keypoints[0].min(axis=0))
    np.testing.assert_array_equal(poses.boxes[0, 2:], poses.keypoints[0].max(axis=0))


def test_refine_fills_joints_that_are_too_faint_for_a_peak() -> None:
    picture = people_picture((130, 200), PEOPLE)
    picture[:, :, 1] = np.where(np.arange(200) < 110, picture[:, :, 1], picture[:, :, 1] // 12)
    (plain,), _ = pipeline()([picture])
    (refined,), _ = pipeline(refine=True)([picture])
    row = int(np.argmax(plain.keypoints[:, 0, 0]))
    assert np.isnan(plain.keypoints[row, 1]).all()
    np.testing.assert_allclose(refined.keypoints[row, 1] - SHIFT, PEOPLE[1][1], atol=1)
    assert 0 < refined.scores[row, 1] < 0.1
    np.testing.assert_array_equal(refined.person_scores, plain.person_scores)
    (from_spec,), _ = pipeline(spec=people_spec(grouping=Grouping(refine=True)))([picture])
    np.testing.assert_array_equal(from_spec.keypoints, refined.keypoints)
    (off,), _ = pipeline(spec=people_spec(grouping=Grouping(refine=True)), refine=False)([picture])
    np.testing.assert_array_equal(off.keypoints, plain.keypoints)


def test_adjust_is_a_switch() -> None:
    picture = people_picture((130, 200), PEOPLE)
    grouping = Grouping(refine=False, adjust=False)
    spec = people_spec(grouping=grouping)
    steps = pipeline(spec=spec)
    (maps,) = steps.run_maps([picture], [steps.regions(130, 200)])
    persons = decode_maps(maps, KERNELS, spec.grouping or grouping).persons
    assert np.array_equal(persons[:, :, :2], np.trunc(persons[:, :, :2]))


def crowd(count: int) -> np.ndarray:
    columns = [(20.3 + 23 * (i % 8), 15.2 + 20 * (i // 8)) for i in range(count)]
    return people_picture((128, 200), [[place, None] for place in columns], radius=2)


@pytest.mark.parametrize(
    ("limit", "found", "truncated"),
    [(None, 4, True), (3, 4, True), (15, 15, True), (16, 16, False), (20, 16, False)],
)
def test_the_number_of_persons_is_bounded(limit: int | None, found: int, truncated: bool) -> None:
    grouping = Grouping(refine=False, max_people=4, tag_threshold=0.3)
    # One joint each: every peak becomes a person, and only the limit on peaks per joint cuts them.
    (poses,), _ = pipeline(spec=people_spec(grouping=grouping), max_persons=limit)([crowd(16)])
    assert (len(poses), poses.truncated) == (found, truncated)
    (official,), _ = pipeline(spec=people_spec(grouping=grouping), max_persons=limit, official=True)(
        [crowd(16)]
    )
    assert (len(official), official.truncated) == (4, True)


@pytest.mark.parametrize("official", [False, True])
def test_as_many_peaks_as_are_taken_leave_nobody_out(ops: kernels.Kernels, official: bool) -> None:
    """The official code asks for no more peaks than it takes, and so cannot know."""
    grouping = Grouping(refine=False, max_people=4, tag_threshold=0.3)
    for count in (3, 4, 5):
        steps = BottomUp(network, people_spec(grouping=grouping), ops, official=official)
        (poses,), _ = steps([crowd(count)])
        expected = count >= 4 if official else count > 4
        assert (len(poses), poses.truncated) == (min(count, 4), expected)


def test_persons_that_are_left_out_are_told() -> None:
    """Three joints of one kind and three of another, of six persons; no joint has as many as are taken."""
    grouping = Grouping(refine=False, max_people=4, tag_threshold=0.3)
    people = [[(20.3 + 30 * i, 40.2), None] for i in range(3)]
    people += [[None, (20.3 + 30 * i, 90.2)] for i in range(3)]
    picture = people_picture((128, 128), people, radius=3)
    for limit, found in ((4, 4), (5, 5), (6, 6), (5000, 6)):
        (poses,), _ = pipeline(spec=people_spec(grouping=grouping), max_persons=limit)([picture])
        assert (len(poses), poses.truncated) == (found, found < 6)


@pytest.mark.parametrize("refine", [False, True])
def test_warming_up_takes_all_steps(monkeypatch: pytest.MonkeyPatch, refine: bool) -> None:
    persons = []
    for name in ("adjust", "refine"):
        original = getattr(KERNELS, name)

        def spy(maps: PoseMaps, found: np.ndarray, original: Any = original) -> np.ndarray:
            persons.append(len(found))
            return original(maps, found)  # type: ignore[no-any-return]

        monkeypatch.setattr(KERNELS, name, spy)
    pipeline(refine=refine, flip_test=True, scales=(0.5, 1)).warmup(np.zeros((100, 150, 3), np.uint8))
    assert len(persons) == 1 + refine
    assert min(persons) > 0


def test_nobody() -> None:
    for options in ({}, {"refine": True, "official": True, "flip_test": True, "scales": (0.5, 1, 2)}):
        (poses,), _ = pipeline(**options)([np.zeros((100, 150, 3), np.uint8)])
        assert (len(poses), poses.keypoints.shape, poses.boxes.shape) == (0, (0, 2, 2), (0, 4))


def test_maps_that_are_no_numbers_hold_nobody() -> None:
    picture = people_picture((130, 200), PEOPLE)

    def run(batch: np.ndarray) -> dict[str, np.ndarray]:
        outputs = network(batch)
        outputs["heatmaps"][:, 1] = np.nan
        return outputs

    (poses,), _ = pipeline(run, refine=True)([picture])
    assert len(poses) == 2
    assert np.isnan(poses.keypoints[:, 1]).all()
    assert np.isfinite(poses.keypoints[:, 0]).all()
    assert np.isfinite(poses.person_scores).all()


def test_half_precision_outputs() -> None:
    def run(batch: np.ndarray) -> dict[str, np.ndarray]:
        return {name: value.astype(np.float16) for name, value in network(batch).items()}

    picture = people_picture((130, 200), PEOPLE)
    (half,), _ = pipeline(run)([picture])
    (full,), _ = pipeline()([picture])
    np.testing.assert_allclose(half.scores, full.scores, rtol=2e-3)
    np.testing.assert_allclose(half.keypoints, full.keypoints, atol=1.1)


def test_one_tag_for_all_joints_and_one_resolution() -> None:
    def run(batch: np.ndarray) -> dict[str, np.ndarray]:
        outputs = network(batch)
        return {"tags": outputs["tags"][:, :1], "heatmaps_high": outputs["heatmaps_high"]}

    (poses,), _ = pipeline(run)([people_picture((130, 200), PEOPLE)])
    order = np.argsort(poses.keypoints[:, 0, 0])
    np.testing.assert_allclose(poses.keypoints[order] - SHIFT, PEOPLE, atol=0.6)


def test_tags_of_several_numbers() -> None:
    """Neither number tells all persons apart; both together do."""
    people = [[(40.3, 30.2), (70.4, 40.1)], [(150.2, 30.7), (170.9, 50.3)], [(40.2, 100.4), (80.1, 90.4)]]
    picture = people_picture((130, 200), people)

    def run(batch: np.ndarray) -> dict[str, np.ndarray]:
        outputs = network(batch)
        n, _, h, w = outputs["tags"].shape
        right, below = np.zeros((2, n, 2, h, w), np.float32)
        right[..., w // 2 :] = below[:, :, h // 2 :] = 3
        right += np.linspace(0, 0.1, h, dtype=np.float32)[:, None]  # equal first numbers are one person
        outputs["tags"] = np.concatenate([right, below], axis=1)
        return outputs

    for options, count in (({}, 2), ({"flip_test": True}, 4)):
        steps = pipeline(run, **options)
        (maps,) = steps.run_maps([picture], [steps.regions(130, 200)])
        assert maps.tag_count == count
        (poses,), _ = steps([picture])
        order = np.lexsort((poses.keypoints[:, 0, 0], poses.keypoints[:, 0, 1] > 70))
        np.testing.assert_allclose(poses.keypoints[order] - SHIFT, people, atol=0.6)
    maps = map_pass(run(np.zeros((1, 3, 32, 64), np.float32)), 0, 2, flipped=False, tags=True)
    assert [item.shape for item in maps.tags] == [(2, 8, 16), (2, 8, 16)]
    assert (maps.tags[0][:, :, 8:] >= 3).all()
    assert (maps.tags[1][:, 4:] == 3).all()


def test_the_official_layout_gets_names() -> None:
    outputs: Sequence[np.ndarray] = [
        np.zeros((2, 4, 8, 8)), np.zeros((2, 2, 16, 16)), np.zeros((2, 3, 32, 32)),
    ]  # fmt: skip
    named = split_outputs(outputs, 2)
    assert {name: value.shape[1:] for name, value in named.items()} == {
        "heatmaps": (2, 8, 8),
        "tags": (2, 8, 8),
        "heatmaps_high": (2, 16, 16),
        "heatmaps_high2": (2, 32, 32),
        "tags_high2": (1, 32, 32),
    }


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tags": None}, "no tags"),
        ({"heatmaps": None, "heatmaps_high": None}, "no heatmaps"),
        ({"heatmaps": np.zeros((1, 3, 8, 8), np.float32)}, r"'heatmaps' does not fit; found float32 \(1, 3"),
        ({"tags": np.zeros((1, 3, 8, 8), np.float32)}, "channels 1, 2 or a multiple of it"),
        ({"tags": np.zeros((1, 0, 8, 8), np.float32)}, r"\(1, 0, 8, 8\)"),
        ({"tags": np.zeros((1, 2, 8), np.float32)}, r"\(1, 2, 8\)"),
        ({"tags": np.zeros((1, 2, 8, 8))}, "float64"),
        ({"heatmaps_high": np.zeros((1, 2, 8), np.float32)}, r"\(1, 2, 8\)"),
        ({"heatmaps_high": np.zeros((1, 2, 0, 8), np.float32)}, r"\(1, 2, 0, 8\)"),
        (
            {"heatmaps_high": np.zeros((1, 2, 4, 4), np.float32)},
            r"found .* \[\(8, 8\), \(4, 4\)\], expected rising",
        ),
        ({"heatmaps_high": np.zeros((1, 2, 4, 16), np.float32)}, "wrong order"),
    ],
)
def test_outputs_that_do_not_fit(changes: dict[str, Any], words: str) -> None:
    outputs = {**network(np.zeros((1, 3, 32, 32), np.float32)), **changes}
    outputs = {name: value for name, value in outputs.items() if value is not None}
    with pytest.raises(ModelFormatError, match=words):
        map_pass(outputs, 0, 2, flipped=False, tags=True)


@pytest.mark.parametrize(
    ("scales", "words"),
    [
        ((), "numbers from 0.25"),
        ((0.1, 1), "numbers from 0.25"),
        ((1, 8), "numbers from 0.25"),
        ((float("nan"), 1), "numbers from 0.25"),
        ("big", "numbers from 0.25"),
        ("12", "numbers from 0.25"),
        (["0.5", "1"], "numbers from 0.25 to 4,"),
        ([True], "numbers from 0.25"),
        ([[1.0]], "numbers from 0.25"),
        (2, "numbers from 0.25"),
        ((1, 1), "each scale once"),
        ((0.5, 2), "1 among several"),
        ((0.75, 1), "multiples of half the smallest"),
    ],
)
def test_unusable_scales(scales: Any, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        check_scales(scales)


def test_scales_and_fixed_sizes() -> None:
    assert check_scales([0.5, 1, 2]) == (2.0, 1.0, 0.5)
    assert check_scales((0.5,)) == (0.5,)
    # 0.6 * 2 / 0.4 is 3 but for rounding.
    assert check_scales((0.4, 0.6, 1)) == (1.0, 0.6, 0.4)
    assert check_scales(np.array([1, 2])) == (2.0, 1.0)
    assert check_scales((1.0,), (128, 128)) == (1.0,)
    with pytest.raises(InvalidInputError, match="192x128 alone"):
        pipeline(fixed_size=(128, 192), scales=(0.5, 1))


def test_a_top_down_spec_is_refused() -> None:
    with pytest.raises(ModelFormatError, match="give a bottom-up model"):
        pipeline(spec=ModelSpec("single", PAIR2, (64, 64)))


def test_small_steps() -> None:
    persons = np.zeros((2, 2, 4), np.float32)
    persons[0, 0] = 3, 4, 0.5, 1
    np.testing.assert_array_equal(person_score(persons), [0.25, 0])
    keypoints = np.array([[[1, 5], [3, 2]], [[np.nan] * 2, [3, 2]], [[np.nan] * 2] * 2], np.float32)
    np.testing.assert_array_equal(keypoint_boxes(keypoints), [[1, 2, 3, 5], [3, 2, 3, 2], [0, 0, 0, 0]])
    assert keypoint_boxes(keypoints[:0]).shape == (0, 4)
    region = input_region(128, 128, 128)
    persons[0, 0, 2] = 1.5
    poses = to_picture(Decoded(persons, np.array([1.5, np.nan], np.float32), True), region, (64, 64))
    np.testing.assert_array_equal(poses.keypoints[0, 0], [6, 8])
    np.testing.assert_array_equal(poses.scores, [[1, 0], [0, 0]])
    np.testing.assert_array_equal(poses.person_scores, [1, 0])
    assert poses.truncated


def test_maps_say_which_pass_is_which() -> None:
    steps = pipeline(flip_test=True, scales=(0.5, 1, 2))
    (maps,) = steps.run_maps([np.zeros((130, 200, 3), np.uint8)], [steps.regions(130, 200)])
    assert isinstance(maps, PoseMaps)
    assert [(item.flipped, len(item.tags)) for item in maps.passes] == [
        (False, 0), (True, 0), (False, 1), (True, 1), (False, 0), (True, 0),
    ]  # fmt: skip
    heights = [item.heatmaps[-1].shape[1] for item in maps.passes]
    assert heights == [128, 128, 64, 64, 32, 32]

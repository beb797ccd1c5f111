"""Drawing: the right joints, boxes, labels and maps, on a copy or in place, at every picture size."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgepose import InvalidInputError, Palette, PoseResult, coco17, draw_heatmaps, draw_pose, lsp14

pytest.importorskip("cv2")

LEFT, RIGHT, MIDDLE, PERSONS = Palette().left, Palette().right, Palette().middle, Palette().persons
LEFT_WRIST, RIGHT_WRIST = lsp14.index("left_wrist"), lsp14.index("right_wrist")


def pose(size: tuple[int, int], joints: dict[int, tuple[float, float, float]]) -> PoseResult:
    keypoints = np.full((1, 14, 2), np.nan)
    scores = np.zeros((1, 14))
    for joint, (x, y, score) in joints.items():
        keypoints[0, joint], scores[0, joint] = (x * size[1], y * size[0]), score
    return PoseResult(
        keypoints=keypoints,
        scores=scores,
        boxes=[[0, 0, size[1], size[0]]],
        person_scores=[1],
        skeleton=lsp14,
        image_size=size,
    )


@pytest.mark.parametrize("size", [(180, 320), (720, 1280), (2160, 3840)])
def test_sides_have_their_colours_at_every_size(size: tuple[int, int]) -> None:
    image = np.full((*size, 3), 90, np.uint8)
    result = pose(size, {LEFT_WRIST: (0.7, 0.5, 1), RIGHT_WRIST: (0.3, 0.5, 1)})
    drawn = result.draw(image)
    assert (image == 90).all()
    y = size[0] // 2
    assert np.abs(drawn[y, round(0.7 * size[1])] - np.array(LEFT)).max() < 40
    assert np.abs(drawn[y, round(0.3 * size[1])] - np.array(RIGHT)).max() < 40
    changed = (drawn != 90).any(axis=2)
    assert 0.00002 < changed.mean() < 0.01
    assert changed.any(axis=1).sum() >= 4


def test_lines_grow_with_the_person() -> None:
    limb = (lsp14.index("left_elbow"), LEFT_WRIST)

    def drawn(length: float) -> int:
        size = (1000, 1000)
        joints = {limb[0]: (0.1, 0.5, 1.0), limb[1]: (0.1 + length, 0.5, 1.0)}
        picture = pose(size, joints).draw(np.zeros((*size, 3), np.uint8))
        return int(picture[:, 100 + int(length * 500)].any(axis=1).sum())

    assert drawn(0.8) > drawn(0.2) >= 3


def test_several_persons_have_colours_of_their_own() -> None:
    elbow, size = lsp14.index("left_elbow"), (400, 400)
    keypoints = np.full((3, 14, 2), np.nan)
    for person in range(3):
        keypoints[person, [elbow, LEFT_WRIST]] = [[50, 100 * person + 80], [350, 100 * person + 80]]
    result = PoseResult(
        keypoints=keypoints,
        scores=np.ones((3, 14)),
        boxes=np.tile([0, 0, 399, 399], (3, 1)),
        person_scores=np.ones(3),
        skeleton=lsp14,
        image_size=size,
    )
    image = np.zeros((*size, 3), np.uint8)
    drawn = result.draw(image)
    assert [tuple(drawn[y, 200].tolist()) for y in (80, 180, 280)] == list(PERSONS[:3])
    assert np.abs(drawn[80, 350].astype(int) - LEFT).max() < 40
    with_tracks = replace(result, track_ids=np.array([len(PERSONS) + 4, 2, 0]))
    tracked = with_tracks.draw(image, ids=False)
    assert [tuple(tracked[y, 200].tolist()) for y in (80, 180, 280)] == [PERSONS[4], PERSONS[2], PERSONS[0]]
    assert tuple(result[[1]].draw(image)[180, 200].tolist()) == LEFT
    # A person with an identity keeps its colour when it is alone.
    assert tuple(with_tracks[[1]].draw(image, ids=False)[180, 200].tolist()) == PERSONS[2]
    assert tuple(result[[1]].draw(image, palette="persons")[180, 200].tolist()) == MIDDLE
    assert tuple(result.draw(image, palette="sides")[180, 200].tolist()) == LEFT
    own = Palette(persons=((1, 2, 3),), limbs="persons")
    assert tuple(result.draw(image, palette=own)[180, 200].tolist()) == (1, 2, 3)


def test_unsure_and_missing_joints_are_left_out() -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    assert not pose((100, 100), {LEFT_WRIST: (0.5, 0.5, 0.19)}).draw(image).any()
    assert pose((100, 100), {LEFT_WRIST: (0.5, 0.5, 0.2)}).draw(image).any()
    assert pose((100, 100), {LEFT_WRIST: (0.5, 0.5, 0.1)}).draw(image, min_score=0.05).any()
    assert not pose((100, 100), {}).draw(image).any()
    assert not PoseResult.empty(lsp14, (100, 100)).draw(image).any()


def test_joints_far_outside_do_no_harm() -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    result = pose((100, 100), {LEFT_WRIST: (1e7, 0.5, 1), lsp14.index("left_elbow"): (-3, 0.5, 1)})
    assert draw_pose(image, result).shape == image.shape


def test_strided_views_can_be_drawn_on() -> None:
    image = np.zeros((100, 200, 3), np.uint8)[:, ::2, ::-1]
    assert pose((100, 100), {LEFT_WRIST: (0.5, 0.5, 1)}).draw(image).any()


def test_other_arrays_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="grey"):
        draw_pose(np.zeros((10, 10), np.uint8), PoseResult.empty(lsp14, (10, 10)))


def made(size: tuple[int, int], n: int = 4, **fields: Any) -> PoseResult:
    """Persons with all joints anywhere in the picture."""
    rng = np.random.default_rng(n)
    keypoints = rng.uniform(0.1, 0.9, (n, 17, 2)) * (size[1], size[0])
    return PoseResult(
        keypoints=keypoints,
        scores=np.ones((n, 17)),
        boxes=np.concatenate([keypoints.min(axis=1), keypoints.max(axis=1)], axis=1),
        person_scores=np.full(n, 0.5),
        skeleton=coco17,
        image_size=size,
        **fields,
    )


@pytest.mark.parametrize("size", [(240, 320), (720, 1280), (2160, 3840)])
def test_a_tiny_person_is_not_covered_by_its_lines(size: tuple[int, int]) -> None:
    elbow = lsp14.index("left_elbow")
    reach = 40 / size[1]
    image = np.full((*size, 3), 200, np.uint8)
    joints = {elbow: (0.5, 0.5, 1.0), LEFT_WRIST: (0.5 + reach, 0.5, 1.0)}
    picture = pose(size, joints).draw(image)
    drawn = (np.abs(picture.astype(int) - 200) > 60).any(axis=2)  # not what smoothing hardly touches
    assert 3 <= drawn[:, size[1] // 2 + 20].sum() <= 5
    # The marks of two joints 40 pixels apart leave the limb between them to be seen.
    assert 3 <= drawn.any(axis=1).sum() <= 8


@pytest.mark.parametrize("size", [(240, 320), (2160, 3840)])
def test_boxes_have_the_persons_colour_and_stay_in_the_picture(size: tuple[int, int]) -> None:
    height, width = size
    image = np.full((*size, 3), 90, np.uint8)
    boxes = [[0.25 * width, 0.25 * height, 0.75 * width, 0.75 * height], [-1e6, -1e6, 1e6, 1e6]]
    result = replace(made(size, 2), keypoints=np.full((2, 17, 2), np.nan), boxes=np.array(boxes))
    assert (result.draw(image) == 90).all()
    drawn = result.draw(image, boxes=True)
    for x, y in ((0.25, 0.5), (0.75, 0.5), (0.5, 0.25), (0.5, 0.75)):
        assert tuple(drawn[round(y * height), round(x * width)].tolist()) == PERSONS[0]
    assert tuple(drawn[height // 2, 0].tolist()) == tuple(drawn[0, width // 2].tolist()) == PERSONS[1]
    assert (
        drawn[round(0.4 * height) : round(0.6 * height), round(0.4 * width) : round(0.6 * width)] == 90
    ).all()
    nowhere = replace(result, boxes=np.full((2, 4), np.nan))
    assert (nowhere.draw(image, boxes=True, scores=True) == 90).all()


def plates(result: PoseResult, image: NDArray[np.uint8], **options: Any) -> NDArray[np.bool_]:
    """Where labels were written."""
    bare = result.draw(image, ids=False)
    return np.asarray((result.draw(image, **options) != bare).any(axis=2))


@pytest.mark.parametrize("size", [(240, 320), (720, 1280), (2160, 3840)])
def test_labels_are_of_a_readable_size(size: tuple[int, int]) -> None:
    elbow = lsp14.index("left_elbow")
    result = pose(size, {elbow: (0.4, 0.5, 1), LEFT_WRIST: (0.6, 0.5, 1)})
    image = np.zeros((*size, 3), np.uint8)
    assert not plates(result, image).any()
    assert not plates(pose(size, {}), image, labels=["nobody"]).any()
    found = plates(replace(result, track_ids=np.array([3])), image)
    rows, columns = np.flatnonzero(found.any(axis=1)), np.flatnonzero(found.any(axis=0))
    high, wide = len(rows), len(columns)
    assert max(11, 0.013 * max(size)) < high < max(18, 0.03 * max(size))
    assert rows[-1] < size[0] / 2  # above the pose
    assert abs(columns.mean() - size[1] / 2) < 3
    assert plates(result, image, scores=True).any(axis=0).sum() > wide
    longer = plates(replace(result, track_ids=np.array([3])), image, labels=["Ada"], scores=True)
    assert longer.any(axis=0).sum() > plates(result, image, labels=["Ada"]).any(axis=0).sum() > wide


def test_letters_stand_out_from_their_plate() -> None:
    image = np.zeros((240, 320, 3), np.uint8)
    for i, color in enumerate((*PERSONS, LEFT, RIGHT, MIDDLE)):
        own = Palette(persons=(color,), limbs="persons")
        result = replace(pose(image.shape[:2], {LEFT_WRIST: (0.5, 0.5, 1)}), track_ids=np.array([8]))
        found = result.draw(image, palette=own)[plates(result, image)].astype(float)
        luma = np.sort(found @ (0.114, 0.587, 0.299))
        ground = float(np.dot(color, (0.114, 0.587, 0.299)))
        assert max(abs(luma[0] - ground), abs(luma[-1] - ground)) > 90, i


def test_labels_do_not_cover_each_other() -> None:
    size = (400, 600)
    point = np.full((3, 14, 2), np.nan)
    point[:, LEFT_WRIST] = [[300, 200], [303, 201], [305, 199]]
    base = pose(size, {})
    result = replace(
        base,
        keypoints=point,
        scores=np.ones((3, 14)),
        boxes=np.zeros((3, 4)),
        person_scores=np.ones(3),
    )
    image = np.zeros((*size, 3), np.uint8)
    areas = [plates(result[[i]], image, labels=["person"]).sum() for i in range(3)]
    assert plates(result, image, labels=["person"] * 3).sum() > 0.95 * sum(areas)


def test_labels_of_persons_without_a_box_stand_at_their_joints() -> None:
    image = np.full((400, 400, 3), 90, np.uint8)
    result = made((400, 400), 1)
    for unknown in ([np.nan] * 4, [-np.inf, 0, np.inf, 50]):
        boxless = replace(result, boxes=np.array([unknown]))
        assert (boxless.draw(image, boxes=True, scores=True) == result.draw(image, scores=True)).all()


def test_labels_at_the_border_stay_in_the_picture() -> None:
    image = np.zeros((120, 200, 3), np.uint8)
    whole = plates(pose((120, 200), {LEFT_WRIST: (0.5, 0.5, 1)}), image, labels=["person"]).sum()
    for x, y in ((0, 0), (0.99, 0), (0, 0.99), (0.99, 0.99)):
        found = plates(pose((120, 200), {LEFT_WRIST: (x, y, 1)}), image, labels=["person"]).sum()
        assert found > 0.8 * whole
    tiny = np.zeros((6, 9, 3), np.uint8)
    assert pose((6, 9), {LEFT_WRIST: (0.5, 0.5, 1)}).draw(tiny, labels=["a long text"]).shape == tiny.shape


def test_scores_fill_the_marks() -> None:
    def side(score: float) -> int:
        result = pose((400, 400), {LEFT_WRIST: (0.5, 0.5, score), RIGHT_WRIST: (0.01, 0.01, 1)})
        drawn = result.draw(np.zeros((400, 400, 3), np.uint8), scores=True)[150:250, 150:250]
        return int((np.abs(drawn.astype(int) - LEFT).max(axis=2) < 40).sum())

    assert side(1.0) > side(0.6) > side(0.25) > 0


def test_ellipses_follow_the_covariance() -> None:
    image = np.zeros((300, 300, 3), np.uint8)
    covariance = np.zeros((1, 14, 2, 2))
    covariance[0, LEFT_WRIST] = [[400, 0], [0, 25]]
    result = replace(pose((300, 300), {LEFT_WRIST: (0.5, 0.5, 1)}), covariance=covariance)

    def reach(**options: Any) -> tuple[int, int]:
        drawn = result.draw(image, **options).any(axis=2)
        return int(drawn.any(axis=0).sum()), int(drawn.any(axis=1).sum())

    assert max(reach()) < 12
    for sigmas in (2.0, 3.0):
        wide, high = reach(ellipses=sigmas)
        assert 0 <= wide - 2 * sigmas * 20 < 9  # and the line
        assert 0 <= high - 2 * sigmas * 5 < 9
    turn = np.array([[1, -1], [1, 1]]) / np.sqrt(2)
    covariance[0, LEFT_WRIST] = turn @ [[400, 0], [0, 25]] @ turn.T
    drawn = replace(result, covariance=covariance).draw(image, ellipses=2.0).any(axis=2)
    assert drawn[178 - 6 : 178 + 7, 178 - 6 : 178 + 7].any()  # 40 pixels along the diagonal, y down
    assert not drawn[122 - 6 : 122 + 7, 178 - 6 : 178 + 7].any()
    for useless in (np.nan, 1e12):
        covariance[:] = useless
        still = replace(result, covariance=covariance).draw(image, ellipses=2.0).any(axis=2)
        assert 0 < still.sum() < 12 * 12  # the mark alone
    with pytest.raises(InvalidInputError, match="without covariance"):
        pose((300, 300), {LEFT_WRIST: (0.5, 0.5, 1)}).draw(image, ellipses=2.0)
    assert not PoseResult.empty(lsp14, (300, 300)).draw(image, ellipses=2.0).any()


def test_in_place() -> None:
    image = np.zeros((120, 160, 3), np.uint8)
    options = {"boxes": True, "scores": True, "labels": list("abcd")}
    result = made((120, 160))
    copy = result.draw(image, **options)
    assert not image.any()
    window = np.zeros((140, 200, 3), np.uint8)[10:130, 20:180]
    for canvas in (image, window):
        assert result.draw(canvas, inplace=True, **options) is canvas
        assert np.array_equal(canvas, copy)
    for unusable, match in (
        (image[:, ::2], "strides"),
        (image[:, :, ::-1], "strides"),
        (image[::-1], "strides"),
    ):
        with pytest.raises(InvalidInputError, match=match):
            result.draw(unusable, inplace=True)
    image.setflags(write=False)
    with pytest.raises(InvalidInputError, match="read-only"):
        result.draw(image, inplace=True)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"palette": "rainbow"}, "palette is unknown; found 'rainbow'; give one of auto, sides, persons"),
        ({"labels": ["one"]}, "give 4 texts"),
        ({"labels": "abcd"}, "give 4 texts"),
        ({"ellipses": -1.0}, "ellipses is not usable"),
        ({"min_score": "high"}, "min_score is not usable"),
        ({"boxes": 1}, "boxes is not usable"),
        ({"ids": None}, "ids is not usable"),
        ({"inplace": "yes"}, "inplace is not usable"),
    ],
)
def test_unusable_options_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(InvalidInputError, match=match):
        made((50, 60)).draw(np.zeros((50, 60, 3), np.uint8), **options)


def test_picture_and_result_in_the_wrong_order_are_told() -> None:
    with pytest.raises(InvalidInputError, match="not a PoseResult; found ndarray"):
        draw_pose(made((50, 60)), np.zeros((50, 60, 3), np.uint8))  # type: ignore[arg-type]


def test_an_unknown_option_names_the_nearest() -> None:
    with pytest.raises(TypeError, match="did you mean 'boxes'"):
        made((50, 60)).draw(np.zeros((50, 60, 3), np.uint8), box=True)


@pytest.mark.parametrize(
    "fields",
    [
        {"left": (0, 0, 256)},
        {"left": (0, 0)},
        {"right": "red"},
        {"persons": ()},
        {"persons": (1, 2, 3)},
        {"limbs": "x"},
    ],
)
def test_unusable_palettes_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match=f"Palette.{next(iter(fields))} is"):
        Palette(**fields)


def test_colours_are_distinct_with_every_kind_of_colour_vision() -> None:
    # Linear RGB as dichromats see it, after Machado, Oliveira and Fernandes 2009, at full severity.
    kinds = np.array(
        [
            [1, 0, 0, 0, 1, 0, 0, 0, 1],
            [0.152286, 1.052583, -0.204868, 0.114503, 0.786281, 0.099216, -0.003882, -0.048116, 1.051998],
            [0.367322, 0.860646, -0.227968, 0.280085, 0.672501, 0.047413, -0.011820, 0.042940, 0.968881],
            [1.255528, -0.076749, -0.178779, -0.078411, 0.930809, 0.147602, 0.004733, 0.691367, 0.303900],
        ]
    ).reshape(4, 3, 3)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])

    def distances(colors: list[tuple[int, int, int]]) -> NDArray[np.float64]:
        """The least distance of each pair in CIELAB."""
        rgb = np.array(colors)[:, ::-1] / 255
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        seen = np.clip(np.einsum("vij,cj->vci", kinds, linear), 0, 1)
        xyz = seen @ to_xyz.T / to_xyz.sum(axis=1)
        f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
        x, y, z = np.moveaxis(f, -1, 0)
        lab = np.stack([116 * y, 500 * (x - y), 200 * (y - z)], axis=-1)
        return np.linalg.norm(lab[:, :, None] - lab[:, None], axis=-1).min(axis=0)

    persons = distances(list(PERSONS))
    assert persons[np.triu_indices(len(PERSONS), 1)].min() > 29
    assert min(persons[i, (i + 1) % len(PERSONS)] for i in range(len(PERSONS))) > 58
    sides = distances([LEFT, RIGHT, MIDDLE, Palette().outline])
    assert sides[np.triu_indices(4, 1)].min() > 44


def test_heatmaps_lie_where_their_affine_says() -> None:
    image = np.full((100, 200, 3), 50, np.uint8)
    maps = np.zeros((14, 8, 6), np.float32)
    maps[LEFT_WRIST, 2, 1], maps[RIGHT_WRIST, 5, 4] = 1, 0.5
    affine = np.array([[4.0, 0, 100], [0, 5.0, 30]])
    drawn = draw_heatmaps(image, maps, lsp14, affine=affine, opacity=1.0)
    assert (image == 50).all()
    assert tuple(drawn[40, 104].tolist()) == LEFT
    assert np.abs(drawn[55, 116] - (np.array(RIGHT) + 50) / 2).max() <= 1
    changed = (drawn != 50).any(axis=2)
    assert not changed[:, :100].any()
    assert not changed[:35].any()
    assert changed.sum() < 2 * (2 * 4 * 2 * 5)
    half = draw_heatmaps(image, maps, lsp14, affine=affine, opacity=0.5)
    assert np.abs(half[40, 104] - (np.array(LEFT) + 50) / 2).max() <= 1
    low = draw_heatmaps(image, maps / 4, lsp14, affine=affine, opacity=1.0, peak=0.25)
    assert np.abs(low.astype(int) - drawn).max() <= 1
    moved = affine.copy()
    moved[0, 2] -= 90
    both = draw_heatmaps(image, np.stack([maps, maps]), lsp14, affine=[affine, moved])
    assert (both[40, 104] == both[40, 14]).all()
    moved[0, 2] += 500
    outside = draw_heatmaps(image, maps, lsp14, affine=moved)
    assert (outside == 50).all()


@pytest.mark.parametrize("size", [(80, 60), (2160, 3840)])
def test_heatmaps_span_the_picture_by_default(size: tuple[int, int]) -> None:
    maps = np.zeros((14, 8, 6), np.float16)
    maps[LEFT_WRIST, 2, 1] = 1
    image = np.zeros((*size, 3), np.uint8)
    assert draw_heatmaps(image, maps, lsp14, inplace=True) is image
    rows, columns = np.nonzero(image.any(axis=2))
    assert abs(rows.mean() - (2.5 / 8 * size[0] - 0.5)) < 1
    assert abs(columns.mean() - (1.5 / 6 * size[1] - 0.5)) < 1


@pytest.mark.parametrize(
    ("maps", "options", "match"),
    [
        (np.zeros((13, 8, 6)), {}, "k = 14 joints"),
        (np.zeros((14, 8)), {}, "k = 14 joints"),
        (np.zeros((14, 0, 6)), {}, "k = 14 joints"),
        (np.zeros((14, 8, 6), np.uint8), {}, "uint8"),
        (np.zeros((14, 8, 6)), {"affine": np.zeros((2, 2, 3))}, r"\(1, 2, 3\)"),
        (np.zeros((14, 8, 6)), {"affine": np.full((2, 3), np.nan)}, "finite"),
        (np.zeros((14, 8, 6)), {"affine": [[1, 0, 0], [0, 1]]}, "affine does not fit"),
        (np.zeros((14, 8, 6)), {"affine": "upper left"}, "affine does not fit"),
        ([[0.0], [0.0, 1.0]], {}, "k = 14 joints"),
        (np.zeros((14, 8, 6)), {"opacity": 2}, "opacity"),
        (np.zeros((14, 8, 6)), {"peak": 0}, "peak"),
    ],
)
def test_unusable_heatmaps_are_refused(maps: Any, options: dict[str, Any], match: str) -> None:
    with pytest.raises(InvalidInputError, match=match):
        draw_heatmaps(np.zeros((40, 40, 3), np.uint8), maps, lsp14, **options)


def test_supervision_draws_the_same_joints_limbs_and_boxes() -> None:
    sv = pytest.importorskip("supervision")
    image = np.zeros((300, 400, 3), np.uint8)
    keypoints = made((300, 400), 2).keypoints.copy()
    keypoints[1, 3] = np.nan
    result = replace(made((300, 400), 2), keypoints=keypoints, track_ids=np.array([5, 8]))
    points = result.to_supervision()

    dots = sv.VertexAnnotator(radius=1).annotate(image.copy(), points)
    for x, y in keypoints[np.isfinite(keypoints).all(axis=2)]:
        assert dots[int(y), int(x)].any()
    assert not dots[:2, :2].any()  # where supervision would put a missing joint

    edges = [(a + 1, b + 1) for a, b in coco17.edges]
    lines = sv.EdgeAnnotator(thickness=1, edges=edges).annotate(image.copy(), points).any(axis=2)
    ours = result.draw(image, min_score=0, ids=False).any(axis=2)
    assert lines.sum() > 1000
    assert ours[lines].mean() > 0.99

    found = result.to_detections()
    assert np.array_equal(found.xyxy, result.boxes)
    assert found.tracker_id.tolist() == [5, 8]
    assert found.confidence.tolist() == [0.5, 0.5]
    boxes = sv.BoxAnnotator(thickness=1).annotate(image.copy(), found)
    x1, y1, x2, y2 = result.boxes[0].astype(int)
    assert boxes[y1, x1:x2].any(axis=1).all()
    assert boxes[y1:y2, x2].any(axis=1).all()
    labels = [str(number) for number in found.tracker_id]
    assert sv.LabelAnnotator().annotate(image.copy(), found, labels=labels).any()


@pytest.mark.parametrize("n", [0, 2])
def test_supervision_annotators_take_any_result(n: int) -> None:
    sv = pytest.importorskip("supervision")
    image = np.zeros((60, 80, 3), np.uint8)
    result = made((60, 80), n)
    assert len(result.to_detections()) == n
    assert result.to_detections().tracker_id is None
    assert sv.VertexAnnotator().annotate(image.copy(), result.to_supervision()).any() == bool(n)
    assert sv.BoxAnnotator().annotate(image.copy(), result.to_detections()).any() == bool(n)


def test_supervision_draws_our_ellipses() -> None:
    sv = pytest.importorskip("supervision")
    annotator = getattr(sv, "VertexEllipseOutlineAnnotator", None)
    if annotator is None:
        pytest.skip("this supervision draws no ellipses")
    image = np.zeros((300, 300, 3), np.uint8)
    covariance = np.zeros((1, 14, 2, 2))
    covariance[0, LEFT_WRIST] = [[400, 0], [0, 25]]
    result = replace(pose((300, 300), {LEFT_WRIST: (0.5, 0.5, 1)}), covariance=covariance)
    theirs = annotator(sigma=2.0, color=sv.Color.WHITE).annotate(image.copy(), result.to_supervision())
    ours = result.draw(image, ellipses=2.0)
    for axis in (0, 1):
        reach = [np.flatnonzero(drawn.any(axis=2).any(axis=axis)) for drawn in (theirs, ours)]
        assert np.abs(reach[0][[0, -1]] - reach[1][[0, -1]]).max() <= 4

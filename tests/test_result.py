"""PoseResult: well formed, immutable, indexable, and exact in every export."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from edgepose import InvalidInputError, Joint, PoseResult, Skeleton, Source, Timings, coco17, lsp14


def make(n: int = 3, **changes: Any) -> PoseResult:
    rng = np.random.default_rng(7)
    fields: dict[str, Any] = {
        "keypoints": rng.uniform(0, 500, (n, 17, 2)),
        "scores": rng.uniform(0, 1, (n, 17)),
        "boxes": np.tile([10.0, 20.0, 110.0, 220.0], (n, 1)),
        "person_scores": np.linspace(0.9, 0.1, n),
        "skeleton": coco17,
        "image_size": (480, 640),
    }
    fields.update(changes)
    if n:
        fields["keypoints"][0, 9] = np.nan
    return PoseResult(**fields)


@pytest.mark.parametrize("n", [0, 1, 3])
def test_every_view_is_well_formed(n: int) -> None:
    result = make(n, covariance=np.ones((n, 17, 2, 2)), track_ids=np.arange(n))
    assert len(result) == len(list(result)) == n
    assert result.keypoints.shape == (n, 17, 2)
    assert result.keypoints.dtype == result.scores.dtype == np.float32
    assert result.track_ids is not None
    assert result.track_ids.dtype == np.int64
    assert json.loads(result.to_json())["image_size"] == [480, 640]
    assert len(result.to_coco(5)) == n
    assert len(result[:0]) == 0
    assert len(result[result.person_scores > 2]) == 0


def test_empty_has_no_persons() -> None:
    result = PoseResult.empty(lsp14, (4, 6), truncated=True)
    assert len(result) == 0
    assert result.scores.shape == (0, 14)
    assert result.truncated
    assert repr(result) == "PoseResult(0 persons, lsp14, 6x4)"


def test_arrays_are_private_and_read_only() -> None:
    scores = np.full((1, 17), 0.5, np.float32)
    result = make(1, scores=scores)
    scores[:] = 0
    assert (result.scores == 0.5).all()
    for array in (result.keypoints, result.scores, result.boxes, result.person_scores):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    with pytest.raises(AttributeError):
        result.truncated = True  # type: ignore[misc]


def test_scores_are_clipped_and_half_missing_joints_are_missing() -> None:
    keypoints = np.zeros((1, 17, 2))
    keypoints[0, 3] = [np.inf, 5]
    result = make(1, keypoints=keypoints, scores=np.linspace(-1, 2, 17)[None])
    assert result.scores.min() == 0
    assert result.scores.max() == 1
    assert np.isnan(result.keypoints[0, 3]).all()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("keypoints", np.zeros((2, 17, 3))),
        ("keypoints", np.zeros((2, 14, 2))),
        ("scores", np.zeros((2, 14))),
        ("scores", np.full((2, 17), np.nan)),
        ("boxes", np.zeros((2, 5))),
        ("person_scores", np.zeros(3)),
        ("covariance", np.zeros((2, 17, 2))),
        ("track_ids", np.zeros((2, 1))),
        ("boxes", "boxes"),
    ],
)
def test_a_wrong_field_is_named(field: str, value: object) -> None:
    fields = make(2).__dict__ | {field: value}
    with pytest.raises(InvalidInputError, match=field):
        PoseResult(**fields)


def test_persons_are_mappings_by_joint_name() -> None:
    result = make(2, track_ids=[7, 8])
    person = result[-1]
    joint = person["left_wrist"]
    assert joint == Joint(*result.keypoints[1, 9].tolist(), float(result.scores[1, 9]))
    assert list(person) == list(coco17.joints)
    assert person.track_id == 8
    assert np.isnan(result[0]["left_wrist"].x)
    assert repr(result[0]).startswith("Person(coco17, 16 of 17 joints")
    assert person.get("tail") is None
    with pytest.raises(KeyError, match=r"no joint 'tail'.*left_wrist"):
        person["tail"]


def test_indices_select_persons() -> None:
    result = make(3, covariance=np.zeros((3, 17, 2, 2)), track_ids=[4, 5, 6], source=Source("a.jpg"))
    assert result[1:].track_ids.tolist() == [5, 6]  # type: ignore[union-attr]
    assert result[[2, 0]].track_ids.tolist() == [6, 4]  # type: ignore[union-attr]
    assert len(result[[]]) == 0
    confident = result[result.person_scores > 0.4]
    assert len(confident) == 2
    assert confident.source == Source("a.jpg")
    for outside in (3, -4):
        with pytest.raises(IndexError):
            result[outside]


@pytest.mark.parametrize("extras", [False, True])
@pytest.mark.parametrize("skeleton", [coco17, Skeleton("own", coco17.joints, (), (), coco17.sigmas)])
def test_dict_round_trip_is_exact(skeleton: Skeleton, extras: bool) -> None:
    result = make(
        3,
        skeleton=skeleton,
        source=Source("clip.mp4", 3, 120.0),
        timings=Timings(1.25, 2.5, 0.125, 4.0),
        truncated=True,
        covariance=np.random.default_rng(1).random((3, 17, 2, 2)) if extras else None,
        track_ids=[3, 1, 2] if extras else None,
    )
    again = PoseResult.from_dict(json.loads(result.to_json()))
    for name in ("keypoints", "scores", "boxes", "person_scores", "covariance", "track_ids"):
        a, b = getattr(result, name), getattr(again, name)
        assert (a is None and b is None) or np.array_equal(a, b, equal_nan=True), name
    for name in ("skeleton", "image_size", "timings", "source", "truncated"):
        assert getattr(again, name) == getattr(result, name)
    empty = PoseResult.from_dict(result[:0].to_dict())
    assert len(empty) == 0
    assert empty.source == result.source


def test_json_is_strict_and_missing_joints_are_null() -> None:
    data = json.loads(make(1).to_json(), parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert data["skeleton"] == "coco17"
    assert data["persons"][0]["keypoints"]["left_wrist"][:2] == [None, None]
    assert make(1, boxes=[[0.1, 0.2, 0.3, 0.4]]).to_dict()["persons"][0]["box"] == [0.1, 0.2, 0.3, 0.4]


@pytest.mark.parametrize("change", [{"skeleton": "elephant"}, {"persons": [{}]}, {"image_size": [1]}])
def test_a_damaged_dict_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match="not a PoseResult"):
        PoseResult.from_dict(make(1).to_dict() | change)


def test_coco_format() -> None:
    result = make(2)
    entries = result.to_coco(42)
    entry = entries[0]
    assert (entry["image_id"], entry["category_id"]) == (42, 1)
    assert entry["bbox"] == [10, 20, 100, 200]
    assert entry["score"] == pytest.approx(0.9)
    points = np.array(entry["keypoints"]).reshape(17, 3)
    assert points[9].tolist() == [0, 0, 0]
    assert (np.delete(points[:, 2], 9) == 1).all()
    assert np.array_equal(np.float32(points[0, :2]), result.keypoints[0, 0])
    assert entry["keypoint_scores"][0] == pytest.approx(float(result.scores[0, 0]))
    json.dumps(entries, allow_nan=False)


@pytest.mark.parametrize("n", [0, 2])
def test_dataframe_has_one_row_per_joint(n: int) -> None:
    pytest.importorskip("pandas")
    frame = make(n, source=Source("clip.mp4", 3, 120.0)).to_dataframe()
    assert len(frame) == 17 * n
    columns = ["source", "frame", "person", "track_id", "person_score", "joint", "x", "y", "score"]
    assert list(frame.columns) == columns
    types = make(1, source=Source("clip.mp4", 3, 120.0)).to_dataframe().dtypes
    assert frame.dtypes.to_dict() == types.to_dict()
    if n:
        wrist = frame[(frame.person == 0) & (frame.joint == "left_wrist")].iloc[0]
        assert np.isnan(wrist.x)
        assert (wrist.source, wrist.frame) == ("clip.mp4", 3)


@pytest.mark.parametrize("n", [0, 2])
def test_supervision(n: int) -> None:
    sv = pytest.importorskip("supervision")
    result = make(n, covariance=np.ones((n, 17, 2, 2)))
    points = result.to_supervision()
    assert isinstance(points, sv.KeyPoints)
    assert len(points) == n
    names = sv.KeyPoints.__dataclass_fields__
    scores = points.keypoint_confidence if "keypoint_confidence" in names else points.confidence
    assert np.array_equal(scores, result.scores)
    assert points.data["covariance"].shape == (n, 17, 2, 2)
    if n:
        assert points.xy[0, 9].tolist() == [0, 0]
        assert np.array_equal(points.xy[1], result.keypoints[1])

"""ModelSpec: what an artefact says about itself is read back exactly or refused by name."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepose import Decoder, Grouping, ModelFormatError, ModelSpec, Skeleton, coco17, crowdpose14, lsp14
from edgepose.backends import read_model_spec
from edgepose.estimator import MODELS
from edgepose.kernels.pose_maps import MAX_PERSONS

SPEC = ModelSpec(
    name="lpn50",
    skeleton=coco17,
    input_size=(256, 192),
    color="bgr",
    coordinates="legacy",
    decoder=Decoder("soft_argmax", 160.0, "quarter", 1.0),
    provenance={"data": ["COCO"], "seed": 1},
    parity={"heatmap_error": 1e-6},
)
BOTTOM_UP = ModelSpec(
    name="higher",
    skeleton=lsp14,
    input_size=(256, 256),
    task="bottomup",
    coordinates="legacy",
    grouping=Grouping(detection_threshold=0.05, max_people=12, refine=False),
)


BYTES = dataclasses.replace(SPEC, input_format="uint8_nhwc")


@pytest.mark.parametrize("spec", [SPEC, BOTTOM_UP, BYTES, ModelSpec("small", lsp14, (128, 128))])
def test_round_trip(spec: ModelSpec) -> None:
    assert ModelSpec.from_json(spec.to_json()) == spec
    assert ModelSpec.from_json(spec.to_json().encode()) == spec


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("skeleton", "coco17"),
        ("input_size", (0, 192)),
        ("input_size", (256.0, 192)),
        ("input_size", (256,)),
        ("input_size", (256, 1 << 20)),
        ("task", "both"),
        ("color", "BGR"),
        ("mean", (0.0, 0.0)),
        ("mean", (0.0, 0.0, float("nan"))),
        ("std", (0.0, 1.0, 1.0)),
        ("padding", -1.0),
        ("coordinates", "official"),
        ("precision", "fp8"),
        ("input_format", "uint8_nchw"),
        ("decoder", Decoder("dark")),  # type: ignore[arg-type]
        ("decoder", Decoder(beta=0.0)),
        ("decoder", Decoder(refine="half")),  # type: ignore[arg-type]
        ("decoder", Decoder(bias=float("inf"))),
    ],
)
def test_unusable_values_are_named(field: str, value: Any) -> None:
    with pytest.raises(ModelFormatError, match=field):
        dataclasses.replace(SPEC, **{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("grouping", None),
        ("grouping", {"window": 5}),
        ("input_size", (256, 192)),
        ("coordinates", "udp"),
    ],
)
def test_what_a_bottom_up_model_needs_is_named(field: str, value: Any) -> None:
    with pytest.raises(ModelFormatError, match=field):
        dataclasses.replace(BOTTOM_UP, **{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("detection_threshold", -0.1),
        ("detection_threshold", float("nan")),
        ("tag_threshold", 0),
        ("window", 4),
        ("window", 0),
        ("window", 5.0),
        ("max_people", 0),
        ("max_people", True),
        ("joint_order", (0, 1)),
        ("joint_order", (*range(13), 12)),
        ("joint_order", (*range(13), 13.0)),
        ("joint_order", 5),
        ("joint_order", "0123"),
        ("use_detection_val", 1),
        ("ignore_too_much", None),
        ("adjust", "yes"),
        ("refine", 0),
        ("project_to_image", None),
    ],
)
def test_unusable_groupings_are_named(field: str, value: Any) -> None:
    with pytest.raises(ModelFormatError, match=f"grouping.{field}"):
        dataclasses.replace(BOTTOM_UP, grouping=dataclasses.replace(Grouping(), **{field: value}))


def test_as_many_people_as_the_kernels_group() -> None:
    for people, usable in ((MAX_PERSONS, True), (MAX_PERSONS + 1, False)):
        with contextlib.nullcontext() if usable else pytest.raises(ModelFormatError, match="max_people"):
            dataclasses.replace(BOTTOM_UP, grouping=Grouping(max_people=people))


def test_a_top_down_model_has_no_grouping() -> None:
    with pytest.raises(ModelFormatError, match="grouping"):
        dataclasses.replace(SPEC, grouping=Grouping())
    assert "grouping" not in SPEC.to_dict()
    assert ModelSpec.from_dict(SPEC.to_dict() | {"grouping": None}) == SPEC


def test_files_from_before_grouping_still_load() -> None:
    spec = read_model_spec(MODELS / "lpn50-lsp.onnx")
    assert (spec.task, spec.grouping) == ("topdown", None)
    assert ModelSpec.from_dict(spec.to_dict()) == spec


def test_only_a_network_that_takes_bytes_says_so() -> None:
    """Readers that do not know the field take the other files as before."""
    assert "input_format" not in SPEC.to_dict()
    assert BYTES.to_dict()["input_format"] == "uint8_nhwc"
    assert ModelSpec.from_dict(SPEC.to_dict() | {"input_format": "float32_nchw"}) == SPEC
    assert read_model_spec(MODELS / "lpn50-lsp.onnx").input_format == "float32_nchw"


ARM = Skeleton("arm3", ("shoulder", "elbow", "wrist"), ((0, 1),), (), (0.1,) * 3)


@pytest.mark.parametrize(
    ("skeleton", "order"),
    [
        (coco17, (0, 1, 2, 3, 4, 5, 6, 11, 12, 7, 8, 9, 10, 13, 14, 15, 16)),
        (crowdpose14, (0, 1, 2, 3, 4, 5, 6, 11, 12, 7, 8, 9, 10, 13)),
        (ARM, (0, 1, 2)),
        (dataclasses.replace(ARM, name="coco17"), (0, 1, 2)),
    ],
)
def test_order_of_grouping(skeleton: Skeleton, order: tuple[int, ...]) -> None:
    spec = dataclasses.replace(BOTTOM_UP, skeleton=skeleton, grouping=Grouping())
    assert spec.grouping is not None
    assert spec.grouping.joint_order == order
    own = Grouping(joint_order=order[::-1])
    assert dataclasses.replace(spec, grouping=own).grouping == own


def test_an_order_given_as_a_list_equals_what_is_read_back() -> None:
    order: Any = [*range(1, 14), 0]
    spec = dataclasses.replace(BOTTOM_UP, grouping=Grouping(joint_order=order))
    assert ModelSpec.from_json(spec.to_json()) == spec
    assert hash(spec.grouping) == hash(Grouping(joint_order=tuple(order)))


def test_lsp_is_grouped_from_the_head_down() -> None:
    assert BOTTOM_UP.grouping is not None
    names = [lsp14.joints[joint].split("_")[-1] for joint in BOTTOM_UP.grouping.joint_order]
    assert names[:2] == ["neck", "top"]
    assert names[2::2] == names[3::2] == ["shoulder", "hip", "elbow", "wrist", "knee", "ankle"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format_version": 2}, "version 2"),
        ({"format_version": None}, "version None"),
        ({"colour": "bgr"}, r"unknown fields \['colour'\]"),
        ({"skeleton": {}}, "skeleton"),
        ({"skeleton": None}, "damaged"),
        ({"decoder": {"name": "argmax", "window": 3}}, "window"),
        ({"decoder": 5}, "damaged"),
        ({"input_size": 256}, "damaged"),
        ({"task": "bottomup", "coordinates": "legacy"}, "grouping"),
        ({"grouping": {"windows": 3}}, "windows"),
        ({"grouping": 5}, "damaged"),
        ({"mean": "abc"}, "mean"),
    ],
)
def test_damaged_dicts(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelFormatError, match=words):
        ModelSpec.from_dict(SPEC.to_dict() | change)


def test_missing_fields_are_named() -> None:
    data = SPEC.to_dict()
    del data["skeleton"]
    with pytest.raises(ModelFormatError, match=r"missing fields \['skeleton'\]"):
        ModelSpec.from_dict(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@given(st.sampled_from(sorted(BOTTOM_UP.to_dict())), json_values)
def test_any_value_in_any_field_is_taken_or_refused(field: str, value: Any) -> None:
    text = json.dumps(BOTTOM_UP.to_dict() | {field: value})
    with contextlib.suppress(ModelFormatError):
        ModelSpec.from_json(text)


@given(st.sampled_from([field.name for field in dataclasses.fields(Grouping)]), json_values)
def test_any_value_in_a_grouping_is_taken_or_refused(field: str, value: Any) -> None:
    data = BOTTOM_UP.to_dict()
    data["grouping"][field] = value
    with contextlib.suppress(ModelFormatError):
        ModelSpec.from_json(json.dumps(data))


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "[" * 100_000, b"\xff\xfe", " " * (1 << 20) + "{}"])
def test_texts_that_are_no_spec(text: str | bytes) -> None:
    with pytest.raises(ModelFormatError):
        ModelSpec.from_json(text)

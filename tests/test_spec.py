"""ModelSpec: what an artefact says about itself is read back exactly or refused by name."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepose import Decoder, ModelFormatError, ModelSpec, coco17, lsp14

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


@pytest.mark.parametrize("spec", [SPEC, ModelSpec("small", lsp14, (128, 128))])
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


@given(st.sampled_from(sorted(SPEC.to_dict())), json_values)
def test_any_value_in_any_field_is_taken_or_refused(field: str, value: Any) -> None:
    text = json.dumps(SPEC.to_dict() | {field: value})
    with contextlib.suppress(ModelFormatError):
        ModelSpec.from_json(text)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "[" * 100_000, b"\xff\xfe", " " * (1 << 20) + "{}"])
def test_texts_that_are_no_spec(text: str | bytes) -> None:
    with pytest.raises(ModelFormatError):
        ModelSpec.from_json(text)

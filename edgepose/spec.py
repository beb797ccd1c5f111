"""`ModelSpec`: everything that an artefact needs in order to run, carried inside it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from edgepose.errors import EdgePoseError, ModelFormatError
from edgepose.kernels.pose_maps import MAX_PERSONS
from edgepose.skeleton import Skeleton, coco17, crowdpose14, lsp14

__all__ = ["METADATA_KEY", "Decoder", "Grouping", "ModelSpec", "default_joint_order"]

METADATA_KEY = "edgepose"
"""Key of an ONNX file's ``metadata_props`` under which the spec stands as JSON."""

INPUT_FORMATS = ("float32_nchw", "uint8_nhwc")
"""Forms of a network's input, see `ModelSpec.input_format`."""
FORMAT_VERSION = 1
MAX_JSON_BYTES = 1 << 20
_LATER = ("grouping", "input_format")
"""Fields that the first readers do not know."""
_MAX_SIDE = 8192
_MAX_WINDOW = 63

# Trunk first: its joints are found best, and the first joints found make the persons that the later
# ones join. HigherHRNet's order for COCO; its code takes the first 14 entries for CrowdPose.
_COCO_ORDER = (0, 1, 2, 3, 4, 5, 6, 11, 12, 7, 8, 9, 10, 13, 14, 15, 16)
_JOINT_ORDERS = {
    coco17.name: _COCO_ORDER,
    crowdpose14.name: _COCO_ORDER[:14],
    lsp14.name: (12, 13, 9, 8, 3, 2, 10, 7, 11, 6, 4, 1, 5, 0),
}


def default_joint_order(skeleton: Skeleton) -> tuple[int, ...]:
    """The order in which joints are grouped to persons, for a skeleton that no `Grouping` says it for.

    HigherHRNet's for ``coco17`` and ``crowdpose14``, from the head down for ``lsp14``, else the
    skeleton's own.
    """
    order = _JOINT_ORDERS.get(skeleton.name, ())
    return order if len(order) == len(skeleton) else tuple(range(len(skeleton)))


@dataclass(frozen=True)
class Decoder:
    """How heatmaps become joints.

    Attributes:
        name: ``"soft_argmax"`` (Beta-Soft-Argmax, LPN section 3.4) or ``"argmax"``.
        beta: temperature of the softmax of ``"soft_argmax"``.
        refine: sub-pixel step after the peak: ``"quarter"``, ``"taylor"`` or None. LPN's official
            evaluation adds the quarter step to its soft coordinates as well.
        bias: constant subtracted from x and y in image pixels (1.0 in LPN's MPII setting).
    """

    name: Literal["soft_argmax", "argmax"] = "soft_argmax"
    beta: float = 160.0
    refine: Literal["quarter", "taylor"] | None = None
    bias: float = 0.0


@dataclass(frozen=True)
class Grouping:
    """How a bottom-up network's heatmaps and tags become persons.

    Source: associative embedding (Newell et al. 2017) as HigherHRNet (Cheng et al. 2020) runs it;
    the defaults are those of its COCO configuration.

    Attributes:
        detection_threshold: peaks must be higher.
        tag_threshold: a joint joins a person only if its tag lies nearer than this.
        window: side of the square in which a peak must be the largest pixel, odd.
        max_people: peaks taken per joint, and persons that a joint is compared with; an estimator's
            `max_persons` counts in its place where it is larger, except in the official grouping.
        joint_order: joint indices in the order in which they are grouped, kept as a tuple; empty:
            `ModelSpec` puts `default_joint_order` in its place.
        use_detection_val: prefer the higher peak where tags lie equally near.
        ignore_too_much: take no new joints once there are `max_people` persons.
        adjust: move joints a quarter pixel towards the larger neighbour.
        refine: fill a person's missing joints with the best-fitting pixels of the maps.
        project_to_image: group on maps of the input's size rather than of the network's largest output.

    Raises:
        ModelFormatError: `joint_order` is no sequence; `ModelSpec` checks the rest.
    """

    detection_threshold: float = 0.1
    tag_threshold: float = 1.0
    window: int = 5
    max_people: int = 30
    joint_order: tuple[int, ...] = ()
    use_detection_val: bool = True
    ignore_too_much: bool = False
    adjust: bool = True
    refine: bool = True
    project_to_image: bool = True

    def __post_init__(self) -> None:
        try:
            order = tuple(self.joint_order)
        except TypeError:
            _check(False, "grouping.joint_order", self.joint_order, "a sequence of joint indices")
        else:
            object.__setattr__(self, "joint_order", order)

    def check(self, joints: int) -> None:
        """Raise `ModelFormatError` unless this serves a skeleton of so many joints."""
        _check_number("grouping.detection_threshold", self.detection_threshold)
        low = self.detection_threshold >= 0
        _check(low, "grouping.detection_threshold", self.detection_threshold, "a number of at least 0")
        _check_number("grouping.tag_threshold", self.tag_threshold, positive=True)
        for name, limit in (("window", _MAX_WINDOW), ("max_people", MAX_PERSONS)):
            value = getattr(self, name)
            usable = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= limit
            _check(usable, f"grouping.{name}", value, f"a whole number from 1 to {limit}")
        _check(self.window % 2 == 1, "grouping.window", self.window, "an odd number")
        usable = all(type(joint) is int for joint in self.joint_order)
        usable = usable and sorted(self.joint_order) == list(range(joints))
        _check(usable, "grouping.joint_order", self.joint_order, f"every index from 0 to {joints - 1} once")
        for name in ("use_detection_val", "ignore_too_much", "adjust", "refine", "project_to_image"):
            value = getattr(self, name)
            _check(isinstance(value, bool), f"grouping.{name}", value, "true or false")


@dataclass(frozen=True)
class ModelSpec:
    """Description of a model, sufficient to run it.

    Attributes:
        name: the model's name, for instance ``"lpn50-lsp"``.
        task: ``"topdown"`` (one person per crop) or ``"bottomup"`` (all people of the picture).
        skeleton: the joints in the order of the heatmap channels.
        input_size: (height, width) of the network's input in pixels. A bottom-up model's is square:
            the length to which the shorter side of a picture is resized, rounded up to a multiple of 64;
            the other follows from the picture (see `edgepose.pipeline.bottomup`).
        color: channel order that the network was trained with.
        mean, std: per channel position, applied to value / 255; within the network where it takes bytes.
        padding: factor by which a person box is enlarged before cropping. The whole picture,
            taken as the box when none is given, is not enlarged.
        coordinates: ``"legacy"`` maps heatmap to image exactly as the official checkpoints were
            trained; ``"udp"`` is the unbiased mapping (see `edgepose.pipeline.geometry`). Bottom-up
            models are ``"legacy"``.
        decoder: how heatmaps become joints, top-down.
        grouping: how heatmaps and tags become persons; bottom-up models have one, top-down models None.
        precision: ``"fp32"``, ``"fp16"`` or ``"int8"``.
        provenance: where the weights come from (data, licence, command, seed, versions).
        parity: measured figures (accuracy, difference from the source).
        input_format: ``"float32_nchw"``: the network takes (n, 3, h, w) float32, normalised; or
            ``"uint8_nhwc"``: the pictures' own values, (n, h, w, 3) uint8, channels in the order of `color`.

    Raises:
        ModelFormatError: a value is not usable; the message names the field.
    """

    name: str
    skeleton: Skeleton
    input_size: tuple[int, int]
    task: Literal["topdown", "bottomup"] = "topdown"
    color: Literal["bgr", "rgb"] = "rgb"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    padding: float = 1.25
    coordinates: Literal["legacy", "udp"] = "udp"
    decoder: Decoder = field(default_factory=Decoder)
    grouping: Grouping | None = None
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    provenance: Mapping[str, Any] = field(default_factory=dict)
    parity: Mapping[str, Any] = field(default_factory=dict)
    input_format: Literal["float32_nchw", "uint8_nhwc"] = "float32_nchw"

    def __post_init__(self) -> None:
        _check(bool(self.name), "name", self.name, "a non-empty text")
        _check(isinstance(self.skeleton, Skeleton), "skeleton", self.skeleton, "a Skeleton")
        _check(
            len(self.input_size) == 2
            and all(isinstance(v, int) and 1 <= v <= _MAX_SIDE for v in self.input_size),
            "input_size", self.input_size, f"(height, width), whole numbers from 1 to {_MAX_SIDE}",
        )  # fmt: skip
        _check_choice("task", self.task, ("topdown", "bottomup"))
        _check_choice("color", self.color, ("bgr", "rgb"))
        _check_choice("coordinates", self.coordinates, ("legacy", "udp"))
        _check_choice("precision", self.precision, ("fp32", "fp16", "int8"))
        _check_choice("input_format", self.input_format, INPUT_FORMATS)
        _check_choice("decoder.name", self.decoder.name, ("soft_argmax", "argmax"))
        _check_choice("decoder.refine", self.decoder.refine, ("quarter", "taylor", None))
        _check_number("decoder.beta", self.decoder.beta, positive=True)
        _check_number("decoder.bias", self.decoder.bias)
        _check_number("padding", self.padding, positive=True)
        for field_name, values in (("mean", self.mean), ("std", self.std)):
            _check(len(values) == 3, field_name, values, "three numbers")
            for value in values:
                _check_number(field_name, value, positive=field_name == "std")
        if self.task == "topdown":
            _check(self.grouping is None, "grouping", self.grouping, "None for a top-down model")
        else:
            self._check_bottom_up()

    def _check_bottom_up(self) -> None:
        grouping = self.grouping
        if not isinstance(grouping, Grouping):
            _check(False, "grouping", grouping, "a Grouping for a bottom-up model")
            return
        if not grouping.joint_order:
            grouping = replace(grouping, joint_order=default_joint_order(self.skeleton))
            object.__setattr__(self, "grouping", grouping)
        grouping.check(len(self.skeleton))
        square = self.input_size[0] == self.input_size[1]
        _check(square, "input_size", self.input_size, "a square for a bottom-up model")
        legacy = self.coordinates == "legacy"
        _check(legacy, "coordinates", self.coordinates, "'legacy' for a bottom-up model")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready form; `from_dict` reads it back."""
        data: dict[str, Any] = {"format_version": FORMAT_VERSION}
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name in _LATER and value == item.default:  # as readers expect that do not know the field
                continue
            if isinstance(value, Skeleton):
                value = value.to_dict()
            elif isinstance(value, (Decoder, Grouping)):
                value = {part.name: getattr(value, part.name) for part in fields(value)}
                if "joint_order" in value:
                    value["joint_order"] = list(value["joint_order"])
            elif isinstance(value, tuple):
                value = list(value)
            elif isinstance(value, Mapping):
                value = dict(value)
            data[item.name] = value
        return data

    def to_json(self) -> str:
        """JSON text as it is stored in an artefact."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ModelSpec:
        """Read what `to_dict` wrote.

        Raises:
            ModelFormatError: a field is missing, unknown or not usable, or the format is newer.
        """
        values = dict(data)
        version = values.pop("format_version", None)
        if version != FORMAT_VERSION:
            raise ModelFormatError(
                f"unknown ModelSpec format; found version {version!r}, this edgepose reads "
                f"{FORMAT_VERSION}; upgrade edgepose or export the model again"
            )
        unknown = values.keys() - {item.name for item in fields(cls)}
        missing = {"name", "skeleton", "input_size"} - values.keys()
        if unknown or missing:
            raise ModelFormatError(
                f"not a ModelSpec; unknown fields {sorted(unknown)}, missing fields "
                f"{sorted(missing)}; export the model again"
            )
        try:
            values["skeleton"] = Skeleton.from_dict(values["skeleton"])
            if "decoder" in values:
                values["decoder"] = Decoder(**values["decoder"])
            if values.get("grouping") is not None:
                values["grouping"] = Grouping(**values["grouping"])
            for name in ("input_size", "mean", "std"):
                if name in values:
                    values[name] = tuple(values[name])
            return cls(**values)
        except ModelFormatError:
            raise
        except (EdgePoseError, TypeError, ValueError, AttributeError) as error:
            raise ModelFormatError(f"damaged ModelSpec; {error}; export the model again") from error

    @classmethod
    def from_json(cls, text: str | bytes) -> ModelSpec:
        """Read what `to_json` wrote.

        Raises:
            ModelFormatError: not JSON, larger than 1 MiB, or not a spec.
        """
        if len(text) > MAX_JSON_BYTES:
            raise ModelFormatError(
                f"ModelSpec too large; found {len(text)} bytes, at most {MAX_JSON_BYTES} are read; "
                "export the model again"
            )
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ModelFormatError(f"damaged ModelSpec; not JSON: {error}; export the model again") from error
        if not isinstance(data, dict):
            raise ModelFormatError(
                f"damaged ModelSpec; found a JSON {type(data).__name__}, expected an object; "
                "export the model again"
            )
        return cls.from_dict(data)


def _check(usable: bool, name: str, found: object, expected: str) -> None:
    if not usable:
        raise ModelFormatError(f"ModelSpec.{name} is not usable; found {found!r}; give {expected}")


def _check_choice(name: str, found: object, choices: tuple[object, ...]) -> None:
    _check(found in choices, name, found, "one of " + ", ".join(map(repr, choices)))


def _check_number(name: str, found: object, *, positive: bool = False) -> None:
    usable = isinstance(found, (int, float)) and not isinstance(found, bool) and math.isfinite(found)
    usable = usable and (not positive or found > 0)  # type: ignore[operator]
    _check(usable, name, found, "a positive number" if positive else "a finite number")

"""Skeletons: which joints a model predicts, how they connect, and how they mirror."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepose.errors import InvalidInputError

__all__ = ["SKELETONS", "Skeleton", "coco17", "crowdpose14", "lsp14", "mpii16"]


@dataclass(frozen=True)
class Skeleton:
    """The joints of a pose and the relations between them.

    Attributes:
        name: short identifier, for instance ``"coco17"``.
        joints: joint names in the order of the model's output channels. Left and right are the
            person's own (person-centric), not the viewer's.
        edges: pairs of joint indices to be drawn as limbs.
        flip_pairs: (left, right) pairs that change places when the picture is mirrored.
        sigmas: per-joint constants of Object Keypoint Similarity, one per joint.

    Raises:
        InvalidInputError: names are repeated, an index is out of range, a joint stands in two
            flip pairs, or the number of sigmas differs from the number of joints.
    """

    name: str
    joints: tuple[str, ...]
    edges: tuple[tuple[int, int], ...]
    flip_pairs: tuple[tuple[int, int], ...]
    sigmas: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.joints or len(set(self.joints)) != len(self.joints):
            raise InvalidInputError(
                f"skeleton {self.name!r}: joint names must be present and distinct; "
                f"found {list(self.joints)}; rename them"
            )
        for field, pairs in (("edges", self.edges), ("flip_pairs", self.flip_pairs)):
            for pair in pairs:
                if len(pair) != 2 or not all(0 <= j < len(self.joints) for j in pair):
                    raise InvalidInputError(
                        f"skeleton {self.name!r}: {field} holds {pair}; "
                        f"use two indices from 0 to {len(self.joints) - 1}"
                    )
        paired = [joint for pair in self.flip_pairs for joint in pair]
        if len(set(paired)) != len(paired):
            raise InvalidInputError(
                f"skeleton {self.name!r}: a joint stands in more than one flip pair; "
                f"found {self.flip_pairs}; list each joint once"
            )
        if len(self.sigmas) != len(self.joints):
            raise InvalidInputError(
                f"skeleton {self.name!r}: found {len(self.sigmas)} sigmas for "
                f"{len(self.joints)} joints; give one per joint"
            )

    def __len__(self) -> int:
        return len(self.joints)

    @cached_property
    def flip_permutation(self) -> NDArray[np.int64]:
        """Indices (k,) such that ``mirrored[flip_permutation]`` restores the joint order."""
        order = np.arange(len(self.joints))
        for left, right in self.flip_pairs:
            order[left], order[right] = right, left
        order.setflags(write=False)
        return order

    def index(self, joint: str) -> int:
        """Position of a joint by name.

        Raises:
            InvalidInputError: there is no such joint; the message lists those that there are.
        """
        try:
            return self.joints.index(joint)
        except ValueError:
            raise InvalidInputError(
                f"skeleton {self.name!r} has no joint {joint!r}; it has {', '.join(self.joints)}"
            ) from None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready form; `from_dict` reads it back."""
        return {
            "name": self.name,
            "joints": list(self.joints),
            "edges": [list(pair) for pair in self.edges],
            "flip_pairs": [list(pair) for pair in self.flip_pairs],
            "sigmas": list(self.sigmas),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Skeleton:
        """Read what `to_dict` wrote.

        Raises:
            InvalidInputError: a field is missing, of the wrong type, or inconsistent.
        """
        try:
            return cls(
                name=str(data["name"]),
                joints=tuple(str(joint) for joint in data["joints"]),
                edges=tuple((int(a), int(b)) for a, b in data["edges"]),
                flip_pairs=tuple((int(a), int(b)) for a, b in data["flip_pairs"]),
                sigmas=tuple(float(sigma) for sigma in data["sigmas"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, InvalidInputError):
                raise
            raise InvalidInputError(
                f"not a skeleton: {type(error).__name__}: {error}; "
                "give name, joints, edges, flip_pairs and sigmas"
            ) from error


def _skeleton(name: str, joints: str, edges: str, sigmas: dict[str, float]) -> Skeleton:
    """Build a skeleton from joint names, ``a-b`` edges and sigmas by name without its side."""
    names = tuple(joints.split())
    at = {joint: i for i, joint in enumerate(names)}

    def pairs(texts: Iterable[str]) -> tuple[tuple[int, int], ...]:
        return tuple((at[a], at[b]) for a, b in (text.split("-") for text in texts))

    return Skeleton(
        name=name,
        joints=names,
        edges=pairs(edges.split()),
        flip_pairs=tuple(
            (at[joint], at["right" + joint[4:]]) for joint in names if joint.startswith("left_")
        ),
        sigmas=tuple(sigmas[j.removeprefix("left_").removeprefix("right_")] for j in names),
    )


# COCO's published constants (cocodataset.org, keypoint evaluation), and CrowdPose's for head and neck.
# MPII and LSP publish none (they are scored by PCK): theirs are those of the same joint elsewhere.
_SIGMAS = {
    "nose": 0.026, "eye": 0.025, "ear": 0.035, "shoulder": 0.079, "elbow": 0.072, "wrist": 0.062,
    "hip": 0.107, "knee": 0.087, "ankle": 0.089, "head": 0.079, "neck": 0.079,
    "head_top": 0.079, "upper_neck": 0.079, "thorax": 0.079, "pelvis": 0.107,
}  # fmt: skip

_ARMS = "left_shoulder-left_elbow left_elbow-left_wrist right_shoulder-right_elbow right_elbow-right_wrist "
_LEGS = "left_hip-left_knee left_knee-left_ankle right_hip-right_knee right_knee-right_ankle "
_TRUNK = "left_shoulder-left_hip right_shoulder-right_hip left_hip-right_hip "

coco17 = _skeleton(
    "coco17",
    "nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow right_elbow "
    "left_wrist right_wrist left_hip right_hip left_knee right_knee left_ankle right_ankle",
    _ARMS + _LEGS + _TRUNK + "left_shoulder-right_shoulder nose-left_eye nose-right_eye "
    "left_eye-left_ear right_eye-right_ear",
    _SIGMAS,
)

mpii16 = _skeleton(
    "mpii16",
    "right_ankle right_knee right_hip left_hip left_knee left_ankle pelvis thorax upper_neck head_top "
    "right_wrist right_elbow right_shoulder left_shoulder left_elbow left_wrist",
    _ARMS + _LEGS + "left_hip-pelvis right_hip-pelvis pelvis-thorax thorax-upper_neck "
    "upper_neck-head_top left_shoulder-thorax right_shoulder-thorax",
    _SIGMAS,
)

lsp14 = _skeleton(
    "lsp14",
    "right_ankle right_knee right_hip left_hip left_knee left_ankle right_wrist right_elbow "
    "right_shoulder left_shoulder left_elbow left_wrist neck head_top",
    _ARMS + _LEGS + _TRUNK + "left_shoulder-neck right_shoulder-neck neck-head_top",
    _SIGMAS,
)

crowdpose14 = _skeleton(
    "crowdpose14",
    "left_shoulder right_shoulder left_elbow right_elbow left_wrist right_wrist left_hip right_hip "
    "left_knee right_knee left_ankle right_ankle head neck",
    _ARMS + _LEGS + _TRUNK + "left_shoulder-neck right_shoulder-neck neck-head",
    _SIGMAS,
)

SKELETONS: dict[str, Skeleton] = {s.name: s for s in (coco17, mpii16, lsp14, crowdpose14)}
"""The known skeletons by name."""

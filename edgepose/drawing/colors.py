"""The colours of joints, limbs and persons."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from edgepose.errors import InvalidInputError
from edgepose.skeleton import Skeleton

__all__ = ["Color", "Palette", "to_palette"]

Color = tuple[int, int, int]

LIMBS = ("auto", "sides", "persons")


@dataclass(frozen=True)
class Palette:
    """The colours of a drawing, as BGR from 0 to 255.

    The colours that are given here stay distinct under the three kinds of dichromacy, as simulated after
    Machado, Oliveira and Fernandes 2009 ("A Physiologically-based Model for Simulation of Color Vision
    Deficiency"): any two sides or persons lie at least 29 apart in CIELAB, neighbours among the persons 58.

    Attributes:
        left: joints of the person's left side, and limbs between them.
        right: of the right side.
        middle: joints of no side, limbs between two sides, and the rings of the joints.
        outline: the edge of everything, so that it can be seen on any ground.
        persons: by track, or by place in the result; repeated where there are more.
        limbs: which colours the limbs have: ``"sides"``; ``"persons"``; or ``"auto"``: their person's where
            there are several or persons have identities, else their side's.

    Raises:
        InvalidInputError: a colour is not three whole numbers from 0 to 255, there is none for persons, or
            `limbs` is unknown.
    """

    left: Color = (40, 150, 255)  # orange
    right: Color = (255, 170, 40)  # blue
    middle: Color = (235, 235, 235)  # white
    outline: Color = (30, 30, 30)
    persons: tuple[Color, ...] = (
        (140, 35, 200),  # magenta
        (255, 0, 140),  # violet
        (0, 225, 170),  # yellowish green
        (170, 140, 255),  # pink
        (225, 105, 105),  # greyish blue
        (35, 0, 225),  # red
        (255, 170, 225),  # lilac
        (140, 255, 105),  # light green
    )
    limbs: str = "auto"

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name == "limbs":
                if self.limbs not in LIMBS:
                    raise InvalidInputError(
                        f"Palette.limbs is unknown; found {self.limbs!r}; give one of {', '.join(LIMBS)}"
                    )
                continue
            value = getattr(self, field.name)
            several = field.name == "persons"
            try:
                colors = tuple(_color(item) for item in (value if several else [value]))
            except (TypeError, ValueError):
                colors = ()
            if not colors:
                wanted = "at least one colour, each" if several else "a colour"
                raise InvalidInputError(
                    f"Palette.{field.name} is not usable; found {value!r}; give {wanted} as three whole "
                    "numbers from 0 to 255: (blue, green, red)"
                )
            object.__setattr__(self, field.name, colors if several else colors[0])

    def of_joints(self, skeleton: Skeleton) -> list[Color]:
        """Colour of each joint by its side."""
        colors = [self.middle] * len(skeleton)
        for left, right in skeleton.flip_pairs:
            if skeleton.joints[left].startswith("right"):
                left, right = right, left
            colors[left], colors[right] = self.left, self.right
        return colors

    def of_limbs(self, skeleton: Skeleton) -> list[Color]:
        """Colour of each limb by the side that its joints share; a joint of no side takes part in both."""
        joints = self.of_joints(skeleton)
        colors = []
        for a, b in skeleton.edges:
            sides = {joints[a], joints[b]} - {self.middle}
            colors.append(sides.pop() if len(sides) == 1 else self.middle)
        return colors

    def of_person(self, number: int) -> Color:
        """Colour of the person with this track or place."""
        return self.persons[number % len(self.persons)]


def to_palette(value: Any) -> Palette:
    """A palette as it is, or the default colours with limbs of this kind.

    Raises:
        InvalidInputError: it is neither.
    """
    if isinstance(value, Palette):
        return value
    if not isinstance(value, str) or value not in _DEFAULTS:
        raise InvalidInputError(
            f"palette is unknown; found {value!r}; give one of {', '.join(LIMBS)}, or a Palette"
        )
    return _DEFAULTS[value]


def _color(value: Any) -> Color:
    blue, green, red = value
    for part in (blue, green, red):
        if not isinstance(part, (int, np.integer)) or not 0 <= part <= 255:
            raise ValueError(part)
    return int(blue), int(green), int(red)


_DEFAULTS = {limbs: Palette(limbs=limbs) for limbs in LIMBS}

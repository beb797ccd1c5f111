"""A photo to try things on; its credit stands in ``CREDITS.txt`` beside it."""

from __future__ import annotations

from pathlib import Path

__all__ = ["PERSON", "PERSON_BOXES"]

PERSON = Path(__file__).parent / "astronaut.jpg"
"""A photo of one person."""

PERSON_BOXES = PERSON.with_suffix(".json")
"""The box of the whole person in that photo, as ``edgepose predict --boxes`` takes it.

It reaches below the picture's edge, to where the feet would be.
"""

"""A photo to try things on; its credit stands in ``CREDITS.txt`` beside it."""

from __future__ import annotations

from pathlib import Path

__all__ = ["PERSON"]

PERSON = Path(__file__).parent / "cameraman.jpg"
"""A photo of one person."""

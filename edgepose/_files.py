"""Files that appear whole or not at all."""

from __future__ import annotations

import uuid
from pathlib import Path

__all__ = ["write_whole"]


def write_whole(path: Path, *parts: bytes | memoryview) -> None:
    """Write a file of these parts; an older one is replaced once the new one is complete.

    Raises:
        OSError: it cannot be written; the older one stays.
    """
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.part")  # two may write at once
    with part.open("wb") as file:
        try:
            for content in parts:
                file.write(content)
            file.flush()
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise

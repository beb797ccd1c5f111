"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = ["whole_file", "write_whole"]


def write_whole(path: Path, *parts: bytes | memoryview, durable: bool = False) -> None:
    """Write a file of these parts; see `whole_file`.

    Raises:
        OSError: it cannot be written; the older one stays.
    """
    with whole_file(path, durable=durable) as file:
        for content in parts:
            file.write(content)


@contextlib.contextmanager
def whole_file(path: Path, *, durable: bool = False, folder: Path | None = None) -> Iterator[BinaryIO]:
    """A file to write to; an older one of that name is replaced once the new one is complete.

    Args:
        durable: it is on the disk, and not in a cache alone, before it gets its name.
        folder: where it grows; by default beside the older one. Must be of the same file system.

    Raises:
        OSError: it cannot be written; the older one stays.
    """
    part = (folder or path.parent) / f"{path.name}.{uuid.uuid4().hex[:8]}.part"  # two may write at once
    with part.open("wb") as file:
        try:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    if durable and hasattr(os, "O_DIRECTORY"):
        handle = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)  # the name too is to be on the disk
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

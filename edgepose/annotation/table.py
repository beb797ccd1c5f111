"""Results as an Arrow table: one row a person, a column for each number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepose.optional import require
from edgepose.result import PoseResult
from edgepose.skeleton import Skeleton

__all__ = ["pose_schema", "pose_table", "require_arrow", "rows_of"]

BOX = ("box_x1", "box_y1", "box_x2", "box_y2")


def require_arrow(module: str = "pyarrow") -> Any:
    """Import Arrow, or one of its modules.

    Raises:
        BackendUnavailableError: it is not installed.
    """
    return require(module, "a table of poses", "edgepose[parquet]")


def pose_schema(skeleton: Skeleton, metadata: dict[str, str] | None = None) -> Any:
    """Columns of a table of poses, as a ``pyarrow.Schema``.

    ``source`` (string), ``frame`` (int32, null of pictures), ``time_ms`` (float64, null of pictures),
    ``width``, ``height`` (int32), ``truncated`` (bool), ``person`` (int32, from 0 in each picture),
    ``person_score``, ``box_x1``, ``box_y1``, ``box_x2``, ``box_y2`` (float32), and of each joint of the
    skeleton ``NAME_x``, ``NAME_y`` and ``NAME_score`` (float32), x and y null where it is missing. A picture
    without persons has one row, in which all from ``person`` on is null.
    """
    pa = require_arrow()
    fields = [
        ("source", pa.string()),
        ("frame", pa.int32()),
        ("time_ms", pa.float64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("truncated", pa.bool_()),
        ("person", pa.int32()),
        ("person_score", pa.float32()),
        *((name, pa.float32()) for name in BOX),
        *((f"{joint}_{what}", pa.float32()) for joint in skeleton.joints for what in ("x", "y", "score")),
    ]
    return pa.schema(fields, metadata=metadata)


def rows_of(results: Sequence[PoseResult]) -> NDArray[np.int64]:
    """Of each row of `pose_table` the place of its picture."""
    return np.repeat(np.arange(len(results)), [max(len(result), 1) for result in results])


def pose_table(results: Sequence[PoseResult], skeleton: Skeleton) -> Any:
    """The table of some results, a ``pyarrow.Table``; see `pose_schema`.

    Raises:
        BackendUnavailableError: pyarrow is not installed.
    """
    pa = require_arrow()
    rows = rows_of(results)
    empty = np.array([not len(result) for result in results], bool)[rows]
    joints = len(skeleton)

    def each(values: list[Any]) -> list[Any]:
        return [values[row] for row in rows]

    def stacked(name: str, width: int) -> NDArray[np.float32]:
        """A field of all persons, (rows, width); NaN in the rows of pictures without any."""
        blank = np.full((1, width), np.nan, np.float32)
        parts = [getattr(result, name).reshape(len(result), width) if len(result) else blank
                 for result in results]  # fmt: skip
        return np.concatenate(parts) if parts else blank[:0]

    points, scores = stacked("keypoints", 2 * joints), stacked("scores", joints)
    boxes, persons = stacked("boxes", 4), stacked("person_scores", 1)
    numbers = [place for result in results for place in range(max(len(result), 1))]
    sources = [result.source for result in results]
    columns: dict[str, Any] = {
        "source": each([source and source.path for source in sources]),
        "frame": each([source and source.frame for source in sources]),
        "time_ms": each([source and source.time_ms for source in sources]),
        "width": each([result.image_size[1] for result in results]),
        "height": each([result.image_size[0] for result in results]),
        "truncated": each([result.truncated for result in results]),
        "person": [None if blank else number for blank, number in zip(empty, numbers, strict=True)],
        "person_score": persons[:, 0],
        **{name: boxes[:, place] for place, name in enumerate(BOX)},
    }
    for place, joint in enumerate(skeleton.joints):
        columns[f"{joint}_x"] = points[:, 2 * place]
        columns[f"{joint}_y"] = points[:, 2 * place + 1]
        columns[f"{joint}_score"] = scores[:, place]
    schema = pose_schema(skeleton)
    arrays = [
        pa.array(np.ascontiguousarray(values), type=field.type, from_pandas=True)
        if isinstance(values := columns[field.name], np.ndarray)
        else pa.array(values, type=field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)

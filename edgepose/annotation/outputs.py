"""The file that a bulk run ends in, made of its parts: Parquet, or COCO's annotations."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from edgepose import __version__
from edgepose._files import whole_file
from edgepose.annotation.parts import Entry, Parts, read_part
from edgepose.annotation.plan import Plan
from edgepose.annotation.table import pose_schema, pose_table, require_arrow
from edgepose.errors import InvalidInputError
from edgepose.result import PoseResult
from edgepose.sources import Skip

__all__ = ["Contents", "check_output", "errors_path", "picture_ids", "write_output"]

CHUNK = 256
"""Results that are held as such."""
ROWS = 32768
"""Rows of a row group."""
TOLD = 20
"""Errors that are kept to be shown; the file of errors holds all."""
VISIBLE = 2

Json = dict[str, Any]


@dataclass
class Contents:
    """What was written.

    Attributes:
        pictures: results, one a picture or frame.
        persons: in all of them.
        errors: what could not be used.
        first_errors: some of these.
    """

    pictures: int = 0
    persons: int = 0
    errors: int = 0
    first_errors: list[Skip] = field(default_factory=list)

    @classmethod
    def from_dict(cls, data: Json) -> Contents:
        """Read what `dataclasses.asdict` makes of it."""
        return cls(**{**data, "first_errors": [Skip(**skip) for skip in data["first_errors"]]})


def check_output(output: Path) -> None:
    """Refuse what cannot be written, before anything is done.

    Raises:
        InvalidInputError: the suffix tells no format, or it is a directory.
        BackendUnavailableError: pyarrow is not installed.
    """
    if output.suffix.lower() not in _FORMATS:
        raise InvalidInputError(
            f"cannot tell the format of {output} by its suffix; found {output.suffix or 'none'}; give "
            ".parquet, or .json for COCO's"
        )
    if output.is_dir():
        raise InvalidInputError(f"cannot write to {output}; it is a directory; give a file name")
    if output.suffix.lower() == ".parquet":
        require_arrow("pyarrow.parquet")


def errors_path(output: Path) -> Path:
    """Where the errors of a run stand, if there are any."""
    return output.with_name(f"{output.name}.errors.json")


def write_output(output: Path, plan: Plan, parts: Parts) -> Contents:
    """Make the file of all parts, and that of the errors; each is there whole or not at all.

    Raises:
        InvalidInputError: a part is damaged.
        BackendUnavailableError: pyarrow is not installed.
    """
    contents = Contents()

    def entries() -> Iterator[Entry]:
        for shard in plan.shards:
            yield from read_part(parts.path(shard))

    def counted(errors: BinaryIO) -> Iterator[PoseResult]:
        """The results, while the errors are written aside."""
        for entry in entries():
            if isinstance(entry, PoseResult):
                contents.pictures += 1
                contents.persons += len(entry)
                yield entry
                continue
            errors.write(b",\n" if contents.errors else b"[\n")
            errors.write(_text(asdict(entry)))
            contents.errors += 1
            if len(contents.first_errors) < TOLD:
                contents.first_errors.append(entry)
        errors.write(b"\n]\n" if contents.errors else b"[]\n")

    def again() -> Iterator[PoseResult]:
        return (entry for entry in entries() if isinstance(entry, PoseResult))

    aside = errors_path(output)
    write = _FORMATS[output.suffix.lower()]
    with whole_file(output, durable=True, folder=parts.folder) as file:
        with whole_file(aside, durable=True, folder=parts.folder) as errors:
            write(file, plan, counted(errors), again)
        if not contents.errors:
            aside.unlink()
    return contents


def picture_ids(paths: Sequence[str]) -> dict[str, int]:
    """COCO's ids of picture files: the numbers that name them if all are so named, else places from 1."""
    stems = [Path(path).stem for path in paths]
    numbered = all(stem.isdecimal() for stem in stems) and len(set(map(int, stems))) == len(stems)
    return {
        path: int(stem) if numbered else place
        for place, (path, stem) in enumerate(zip(paths, stems, strict=True), 1)
    }


def _write_parquet(
    file: BinaryIO, plan: Plan, results: Iterator[PoseResult], _: Callable[[], Iterator[PoseResult]]
) -> None:
    pa, parquet = require_arrow(), require_arrow("pyarrow.parquet")
    about = {"settings": plan.settings, "skeleton": plan.spec.skeleton.to_dict()}
    schema = pose_schema(plan.spec.skeleton, {"edgepose": json.dumps(about)})
    tables: list[Any] = []
    rows = 0
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:

        def flush() -> None:
            writer.write_table(pa.concat_tables(tables).replace_schema_metadata(schema.metadata))

        while chunk := _take(results, CHUNK):
            tables.append(pose_table(chunk, plan.spec.skeleton))
            rows += len(tables[-1])
            if rows >= ROWS:
                flush()
                tables, rows = [], 0
        if tables:
            flush()


def _write_coco(
    file: BinaryIO, plan: Plan, results: Iterator[PoseResult], again: Callable[[], Iterator[PoseResult]]
) -> None:
    skeleton = plan.spec.skeleton
    videos = any(item.video for item in plan.items)
    ids = {} if videos else picture_ids([item.path for item in plan.items])

    def with_ids(items: Iterator[PoseResult]) -> Iterator[tuple[int, PoseResult]]:
        for place, result in enumerate(items, 1):
            assert result.source is not None  # all are of files
            yield ids.get(result.source.path, place), result

    category = {
        "id": 1,
        "name": "person",
        "supercategory": "person",
        "keypoints": list(skeleton.joints),
        "skeleton": [[a + 1, b + 1] for a, b in skeleton.edges],
    }
    info = {"description": f"Poses by edgepose {__version__}", "settings": plan.settings}
    file.write(b'{\n"info": ' + _text(info) + b',\n"licenses": [],\n"categories": ' + _text([category]))
    file.write(b',\n"images": ')
    _write_array(file, (_image(number, result) for number, result in with_ids(results)))
    file.write(b',\n"annotations": ')
    _write_array(file, _annotations(with_ids(again())))
    file.write(b"\n}\n")


_FORMATS: dict[str, Any] = {".parquet": _write_parquet, ".json": _write_coco}


def _image(number: int, result: PoseResult) -> Json:
    source = result.source
    assert source is not None
    height, width = result.image_size
    image: Json = {"id": number, "file_name": source.path, "width": width, "height": height}
    if source.frame is not None:
        image |= {"frame": source.frame, "time_ms": source.time_ms}
    if result.truncated:
        image["truncated"] = True
    return image


def _annotations(results: Iterator[tuple[int, PoseResult]]) -> Iterator[Json]:
    """COCO's annotations; a joint that was found counts as labelled and visible."""
    number = 0
    for image, result in results:
        for person in result.to_coco(image):
            number += 1
            points = np.array(person["keypoints"]).reshape(-1, 3)
            found = int(points[:, 2].sum())
            person["keypoints"][2::3] = (points[:, 2] * VISIBLE).astype(int).tolist()
            _, _, width, height = person["bbox"]
            yield {"id": number, **person, "num_keypoints": found, "area": width * height, "iscrowd": 0}


def _write_array(file: BinaryIO, items: Iterable[Json]) -> None:
    separator = b"[\n"
    for item in items:
        file.write(separator + _text(item))
        separator = b",\n"
    file.write(b"[]" if separator == b"[\n" else b"\n]")


def _text(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False, allow_nan=False).encode()


def _take(results: Iterator[PoseResult], count: int) -> list[PoseResult]:
    return [result for _, result in zip(range(count), results, strict=False)]

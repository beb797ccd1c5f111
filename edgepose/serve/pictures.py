"""From the body of a request to a picture, refusing what would cost too much before it is decoded."""

from __future__ import annotations

import re
import struct

from edgepose.errors import InvalidInputError
from edgepose.serve.limits import Limits
from edgepose.serve.refusal import Refusal
from edgepose.sources import decode_image
from edgepose.streams.frames import Image

__all__ = ["ENVELOPE", "decode_upload", "picture_size"]

ENVELOPE = 64 * 1024
"""Bytes that a multipart body may have beside the picture."""
MAX_SCANS = 200
"""Of a JPEG: each costs a pass over the whole picture, however few bytes it has."""
MAX_PARTS = 16
"""Of a form, that are looked at."""
MAX_SEGMENTS = 10_000
"""Of a JPEG: photos have some dozens."""
TAKEN = "send a JPEG, PNG or WebP picture"

_UNSAID = ("application/octet-stream", "application/x-www-form-urlencoded")
"""Content types of a picture whose sender has given none; the latter is that of ``curl --data-binary``."""
_BOUNDARY = re.compile(r'boundary=(?:"([^"]{1,70})"|([^\s;]{1,70}))', re.IGNORECASE)
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_WITHOUT_LENGTH = (0x01, 0xD8)
_NO_FRAME = (0xC4, 0xC8, 0xCC)  # markers among those of frames that are something else


def decode_upload(body: bytes, media_type: str, limits: Limits) -> Image:
    """The picture in a body, BGR uint8 (H, W, 3).

    Args:
        body: of the request.
        media_type: its Content-Type: ``multipart/form-data`` with one file, ``image/*``,
            ``application/octet-stream``, what curl says of any file, or empty.
        limits: of bytes and pixels.

    Raises:
        Refusal: 400, 413 or 415.
    """
    kind = media_type.partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        body = _file_of_form(body, media_type)
    elif kind and not kind.startswith("image/") and kind not in _UNSAID:
        raise Refusal(
            415,
            "unsupported_media_type",
            f"the body cannot be read; found {kind[:80]!r}; {TAKEN}, as it is or as multipart/form-data",
        )
    if len(body) > limits.max_bytes:
        raise too_large(limits)
    if not body:
        raise Refusal(400, "empty", f"there is no picture; found an empty body; {TAKEN}")
    width, height = picture_size(body)
    if width * height > limits.max_pixels:
        raise Refusal(
            413,
            "too_many_pixels",
            f"the picture is too large; found {width}x{height} pixels; send at most {limits.max_pixels}",
        )
    try:
        return decode_image(body, "the picture")
    except InvalidInputError as error:
        raise Refusal(400, "undecodable", str(error)) from error


def too_large(limits: Limits) -> Refusal:
    """The answer to a body that is longer than allowed."""
    return Refusal(
        413,
        "too_large",
        f"the picture's file is too large; found more than {limits.max_bytes} bytes; send a smaller one",
    )


def picture_size(data: bytes) -> tuple[int, int]:
    """Width and height that a JPEG, PNG or WebP file states, read without decoding it.

    Raises:
        Refusal: 415: the file is of another kind; 400: it states none; 413: a JPEG of too many scans.
    """
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg_size(data)
    if data.startswith(b"\x89PNG\r\n\x1a\n") and data[12:16] == b"IHDR" and len(data) >= 24:
        return struct.unpack_from(">II", data, 16)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP" and len(data) >= 30:
        return _webp_size(data)
    raise Refusal(415, "not_a_picture", f"the file is not usable; found no JPEG, PNG or WebP; {TAKEN}")


def _jpeg_size(data: bytes) -> tuple[int, int]:
    size: tuple[int, int] | None = None
    scans = segments = 0
    position = 2
    while segments < MAX_SEGMENTS and (found := _MARKER.search(data, position)) is not None:
        segments += 1
        marker, position = found.group()[1], found.end()
        if marker == 0xD9:
            break
        if marker in _WITHOUT_LENGTH:
            continue
        if position + 2 > len(data):
            break
        if 0xC0 <= marker <= 0xCF and marker not in _NO_FRAME and position + 7 <= len(data):
            height, width = struct.unpack_from(">HH", data, position + 3)
            size = max(size or (0, 0), (width, height), key=lambda sides: sides[0] * sides[1])
        scans += marker == 0xDA
        position += struct.unpack_from(">H", data, position)[0]
    if scans > MAX_SCANS or segments == MAX_SEGMENTS:
        raise Refusal(
            413,
            "too_many_segments",
            f"the picture is too slow to decode; found a JPEG of {segments} segments and {scans} scans; save "
            "it anew",
        )
    return _stated(size)


def _webp_size(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", data, 26)
    return _stated((width & 0x3FFF, height & 0x3FFF) if kind == b"VP8 " else None)


def _stated(size: tuple[int, int] | None) -> tuple[int, int]:
    if size is None or not all(size):
        raise Refusal(
            400, "undecodable", f"the picture cannot be read; found no width and height in it; {TAKEN}"
        )
    return size


def _file_of_form(body: bytes, media_type: str) -> bytes:
    """The only file of a multipart form (RFC 7578)."""
    found = _BOUNDARY.search(media_type)
    if found is None:
        raise Refusal(
            400, "form", "the form cannot be read; found no boundary; let the client set Content-Type"
        )
    mark = b"\r\n--" + (found[1] or found[2]).encode("latin-1")
    files = []
    # What a short boundary could tear into millions of parts is none of a browser's making.
    for part in (b"\r\n" + body).split(mark, MAX_PARTS)[1:]:
        head, blank, content = part.partition(b"\r\n\r\n")
        disposition = re.search(rb"(?im)^content-disposition:([^\r\n]*)", head)
        if blank and disposition and re.search(rb"(?i)\bfilename\*?=", disposition[1]):
            files.append(content)
        if part.startswith(b"--"):
            break
    if len(files) != 1:
        raise Refusal(400, "form", f"the form is not usable; found {len(files)} files; send one picture")
    return files[0]

"""Addresses of cameras and streams, and how OpenCV opens them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from edgepose.errors import BackendUnavailableError, InvalidInputError
from edgepose.optional import require_cv2

__all__ = ["Address", "is_address", "parse_address"]

NETWORK_SCHEMES = frozenset(
    ("rtsp", "rtsps", "rtspt", "http", "https", "rtmp", "rtmps", "udp", "tcp", "rtp", "srt", "mms", "mmsh")
)
OPEN_TIMEOUT_MS = 10_000
READ_TIMEOUT_MS = 5_000
"""How long a silent server is waited for. It bounds how long closing a stream takes."""
_CSI_DEFAULTS = {"width": 1280, "height": 720, "fps": 30, "flip": 0}
_CSI_RANGES = {
    "width": (1, 16384),
    "height": (1, 16384),
    "fps": (1, 1000),
    "flip": (0, 7),
    "sensor_mode": (0, 255),
}
_SECRET = re.compile(r"(?i)([?&;][^=&;]*(?:pass|pwd|token|auth|secret|key)[^=&;]*=)[^&;]*")
_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*):")


@dataclass(frozen=True)
class Address:
    """Where a camera or stream is.

    Attributes:
        name: for people, without user, password and what looks like one among its options.
        target: what OpenCV opens: a number, a device file, a URL or a GStreamer pipeline.
        opener: which part of OpenCV does.
        fps: frames per second that are asked for.
    """

    name: str
    target: int | str
    opener: str  # "camera", "network" or "gstreamer"
    fps: float | None = None

    @property
    def label(self) -> str:
        """The name within a sentence."""
        return self.name.replace(":", " ", 1) if self.opener == "camera" else self.name

    def open(self) -> Any:
        """An open ``cv2.VideoCapture``.

        Raises:
            InvalidInputError: there is nothing there, or it does not answer.
            BackendUnavailableError: OpenCV is missing, or has no GStreamer where it is needed.
        """
        cv2 = require_cv2("reading a camera or stream")
        if self.opener == "camera":
            capture = cv2.VideoCapture(self.target)
        elif self.opener == "gstreamer":
            capture = cv2.VideoCapture(self.target, cv2.CAP_GSTREAMER)
        else:
            limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, OPEN_TIMEOUT_MS]
            limits += [cv2.CAP_PROP_READ_TIMEOUT_MSEC, READ_TIMEOUT_MS]
            capture = cv2.VideoCapture(self.target, cv2.CAP_FFMPEG, limits)
        if capture.isOpened():
            return capture
        capture.release()
        if self.opener == "camera":
            raise InvalidInputError(
                f"cannot open {self.label}; OpenCV finds none; check the number and the permissions"
            )
        if self.opener == "network":
            raise InvalidInputError(
                f"cannot open {self.name}; nothing that OpenCV can read answers there; check the address, "
                "user and password, and the network"
            )
        if re.search(r"GStreamer:\s+NO", cv2.getBuildInformation()):
            raise BackendUnavailableError(
                f"{self.name} needs an OpenCV with GStreamer; this one ({cv2.__version__}) has none; remove "
                "pip's opencv packages where the system's own has it, as on a Jetson"
            )
        raise InvalidInputError(
            f"cannot open {self.name}; GStreamer cannot run: {self.target}; try it with gst-launch-1.0"
        )


def is_address(name: str) -> bool:
    """Whether a name is that of a stream, not of a file."""
    found = _SCHEME.match(name)
    if found is None:
        return False
    scheme = found[1].lower()
    return scheme == "gstreamer" or (
        name[found.end() :].startswith("//") and (scheme == "csi" or scheme in NETWORK_SCHEMES)
    )


def parse_address(name: str | int) -> Address:
    """Read the number or device file of a camera, a URL, ``csi://0`` or ``gstreamer:PIPELINE``.

    ``csi://0?width=1920&height=1080&fps=30&flip=2&sensor_mode=1`` is a Jetson's camera of that number, by
    nvarguscamerasrc; ``flip`` is nvvidconv's flip-method (2 turns by 180 degrees), and what is left out is
    1280x720 at 30 frames/s.

    Raises:
        InvalidInputError: an option of a camera is not known or out of range.
    """
    if isinstance(name, int) or not is_address(name):
        return Address(f"camera:{name}", name, "camera")
    scheme = name.partition(":")[0].lower()
    if scheme == "gstreamer":
        return Address("gstreamer", name.partition(":")[2].strip(), "gstreamer")
    if scheme == "csi":
        return _csi(name)
    head, mark, rest = name.partition("://")
    host, slash, path = rest.partition("/")
    shown = _SECRET.sub(r"\1***", f"{host.rpartition('@')[2]}{slash}{path}")
    return Address(f"{head}{mark}{shown}", name, "network")


def _csi(name: str) -> Address:
    parts = urlsplit(name)
    number = parts.netloc or "0"
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    options: dict[str, int] = dict(_CSI_DEFAULTS)
    if not number.isdecimal() or parts.path not in ("", "/"):
        raise InvalidInputError(
            f"cannot read the address {name}; found the camera {number + parts.path!r}; give csi://NUMBER"
        )
    for key, text in given.items():
        if key not in _CSI_RANGES:
            raise InvalidInputError(
                f"cannot read the address {name}; found the option {key!r}; give {', '.join(_CSI_RANGES)}"
            )
        low, high = _CSI_RANGES[key]
        if not text.isdecimal() or not low <= int(text) <= high:
            raise InvalidInputError(
                f"cannot read the address {name}; found {key}={text}; give a whole number from {low} to "
                f"{high}"
            )
        options[key] = int(text)
    mode = f" sensor-mode={options['sensor_mode']}" if "sensor_mode" in options else ""
    # The sink holds what comes while a frame is read; it drops nothing, so that what is dropped is counted.
    pipeline = (
        f"nvarguscamerasrc sensor-id={int(number)}{mode} ! video/x-raw(memory:NVMM), "
        f"width=(int){options['width']}, height=(int){options['height']}, format=(string)NV12, "
        f"framerate=(fraction){options['fps']}/1 ! nvvidconv flip-method={options['flip']} ! "
        "video/x-raw, format=(string)BGRx ! videoconvert ! video/x-raw, format=(string)BGR ! "
        "appsink max-buffers=2 drop=false sync=false"
    )
    return Address(f"csi://{int(number)}", pipeline, "gstreamer", float(options["fps"]))

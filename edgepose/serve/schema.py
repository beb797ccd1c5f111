"""The forms of what the API answers, for its description."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

__all__ = ["ErrorReply", "LiveReply", "ModelReply", "PredictReply", "ReadyReply", "errors"]


class ErrorReply(BaseModel):
    """Every answer that is no success."""

    error: str = Field(description="a short name for programs", examples=["too_large"])
    message: str = Field(description="what failed; what was found; what to do")


class PersonReply(BaseModel):
    """One person."""

    score: float = Field(description="from 0 to 1")
    box: list[float] = Field(description="x1, y1, x2, y2 in pixels")
    keypoints: dict[str, list[float | None]] = Field(
        description="joint by name: x, y in pixels, null where it is missing, and its score from 0 to 1"
    )
    covariance: list[Any] | None = Field(None, description="per joint 2 x 2, in square pixels, where known")
    track_id: int | None = Field(None, description="identity over time, where the source is tracked")


class TimingsReply(BaseModel):
    """Milliseconds in each stage of the estimator; an equal share for each picture of a batch."""

    preprocess: float
    inference: float
    postprocess: float
    total: float


class ServerReply(BaseModel):
    """Milliseconds in each stage of the server."""

    receive: float
    decode: float
    queue: float
    inference: float = Field(description="of the whole run that the picture was part of")
    total: float
    batch: int = Field(description="pictures in that run")


class ResultReply(BaseModel):
    """Poses, as `PoseResult.to_dict` gives them and `PoseResult.from_dict` reads them."""

    source: dict[str, Any] | None = Field(description="file, frame and time of a frame of the source")
    image_size: tuple[int, int] = Field(description="height, width in pixels")
    skeleton: str | dict[str, Any] = Field(description="its name, or the whole of one that is not known")
    persons: list[PersonReply]
    truncated: bool = Field(description="a limit on the number of persons was hit")
    timings: TimingsReply


class PredictReply(ResultReply):
    """The poses of a picture and how long the server took."""

    server: ServerReply


class SourceReply(BaseModel):
    """The source that is watched."""

    name: str
    kind: str


class ModelReply(BaseModel):
    """The model, and what the page needs to draw."""

    edgepose: str = Field(description="version")
    spec: dict[str, Any] = Field(description="the model's description, `ModelSpec.to_dict`")
    backend: dict[str, Any] = Field(description="runtime, version, device, and why these")
    skeleton: dict[str, Any] = Field(description="`Skeleton.to_dict`")
    colors: dict[str, list[str]] = Field(description="of joints, limbs and persons, as #rrggbb")
    limits: dict[str, float]
    source: SourceReply | None


class LiveStatusReply(BaseModel):
    """How it goes with the source."""

    source: str
    state: str = Field(description="starting, running, stalled, ended or failed")
    message: str | None
    frames: int
    fps: float
    latency_ms: float | None
    persons: int
    dropped: int
    reconnects: int
    viewers: int


class LiveReply(BaseModel):
    """The state of the source and its newest result."""

    status: LiveStatusReply
    result: ResultReply | None


class ReadyReply(BaseModel):
    """Whether the server can serve."""

    ready: bool
    model: str = Field(description="warm, or warming up")
    source: str | None = Field(description="state of the source, if there is one")


_TEXTS = {
    400: "The picture cannot be read, or a parameter is not usable",
    401: "No token, or another one",
    403: "Asked by another web site",
    404: "There is no such thing, or no source",
    408: "The picture did not arrive in time",
    413: "Too many bytes or pixels",
    415: "No JPEG, PNG or WebP",
    422: "A parameter is not usable",
    503: "Too many requests; try again",
    504: "No answer in time; the work was dropped",
}


def _error(status: int) -> dict[str, Any]:
    return {"model": ErrorReply, "description": _TEXTS[status]}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What an operation answers other than success, with what any can answer."""
    return {status: _error(status) for status in (401, 403, *statuses)}

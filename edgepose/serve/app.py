"""The ASGI application: API, metrics and pages."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from edgepose import __version__
from edgepose.drawing.colors import Color, Palette
from edgepose.serve.guard import Guard, check_token
from edgepose.serve.inference import InferenceThread
from edgepose.serve.limits import Limits
from edgepose.serve.live import LiveView
from edgepose.serve.metrics import Metrics
from edgepose.serve.predicting import Choice, Predictor, read_boxes, while_wanted
from edgepose.serve.refusal import Refusal
from edgepose.serve.schema import LiveReply, ModelReply, PredictReply, ReadyReply, errors

if TYPE_CHECKING:
    from edgepose.estimator import Estimator

__all__ = ["build_app"]

FILES = {
    "style.css": "text/css; charset=utf-8",
    "draw.js": "text/javascript; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "docs.js": "text/javascript; charset=utf-8",
    "login.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
PATHS = frozenset(
    (
        "/", "/docs", "/healthz", "/metrics", "/openapi.json", "/readyz", "/v1/live", "/v1/live/frame",
        "/v1/model", "/v1/predict", *(f"/static/{name}" for name in FILES),
    )
)  # fmt: skip
FRAME_PATIENCE = 5.0
"""Seconds after which a browser that waits for a frame gets the status alone."""
PICTURE = {"type": "string", "format": "binary"}
BODY = {
    "requestBody": {
        "required": True,
        "description": "A JPEG, PNG or WebP picture, as it is or as the file of a form",
        "content": {
            **{f"image/{kind}": {"schema": PICTURE} for kind in ("jpeg", "png", "webp")},
            "application/octet-stream": {"schema": PICTURE},
            "multipart/form-data": {
                "schema": {"type": "object", "required": ["file"], "properties": {"file": PICTURE}}
            },
        },
    }
}


def build_app(
    estimator: Estimator,
    *,
    source: Any,
    token: str | None,
    allowed_hosts: Sequence[str] | None,
    limits: Limits,
    repeat: bool,
    stream_options: dict[str, Any],
) -> FastAPI:
    """See `edgepose.serve.create_app`."""
    if token is not None:
        check_token(token)
    live = None
    if source is not None:
        live = LiveView(estimator, source, repeat=repeat, options=stream_options)
    inference = InferenceThread(estimator, limits.batch)
    predictor = Predictor(inference, limits)
    metrics = Metrics(lambda: predictor.under_way, live)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        predictor.start()
        inference.start()
        if live is not None:
            live.start()
        try:
            yield
        finally:
            app.state.release()
            if live is not None:
                live.stop()
            inference.stop()
            predictor.stop()

    app = FastAPI(
        title="edgepose",
        version=__version__,
        description="2D human poses in pictures, and in a source that is watched.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )

    def release() -> None:
        """Refuse new pictures and let viewers go, so that the server can end. From any thread."""
        predictor.ending = True
        if live is not None:
            live.release()

    app.state.release = release
    folder = resources.files("edgepose.serve") / "static"
    app.add_middleware(
        Guard,
        entrance=(folder / "login.html").read_bytes(),
        token=token,
        allowed_hosts=allowed_hosts,
        paths=PATHS,
        count=lambda path, status: metrics.requests.labels(path, str(status)).inc(),
    )
    _add_errors(app)
    _add_api(app, estimator, predictor, inference, metrics, live, limits)
    _add_pages(app)
    if token is not None:
        _describe_token(app)
    return app


def _add_api(
    app: FastAPI,
    estimator: Estimator,
    predictor: Predictor,
    inference: InferenceThread,
    metrics: Metrics,
    live: LiveView | None,
    limits: Limits,
) -> None:
    about = _about(estimator, live, limits)

    @app.post(
        "/v1/predict",
        response_model=None,
        responses={200: {"model": PredictReply}, **errors(400, 408, 413, 415, 422, 503, 504)},
        openapi_extra=BODY,
        tags=["pictures"],
    )
    async def predict(
        request: Request,
        boxes: Annotated[
            str | None,
            Query(
                description="of a top-down model: JSON list of the persons' boxes, [x1, y1, x2, y2] in pixels"
            ),
        ] = None,
        score_threshold: Annotated[
            float | None, Query(ge=0, le=1, description="leave out persons with a lower score")
        ] = None,
        keypoint_threshold: Annotated[
            float | None, Query(ge=0, le=1, description="make joints with a lower score missing")
        ] = None,
        max_persons: Annotated[int | None, Query(ge=1, description="at most so many, the best")] = None,
    ) -> JSONResponse:
        """Estimate the poses in a picture.

        Without boxes the server's detector or, where it has none, the whole picture serves. The thresholds
        narrow what the server finds: they cannot bring what its own leave out.
        """
        choice = Choice(read_boxes(boxes), score_threshold, keypoint_threshold, max_persons)
        return JSONResponse(await predictor(request, choice, metrics))

    @app.get(
        "/v1/model", response_model=None, responses={200: {"model": ModelReply}, **errors()}, tags=["model"]
    )
    async def model() -> JSONResponse:
        """The model's description, what it runs on, and the colours of its skeleton."""
        return JSONResponse(about)

    @app.get(
        "/v1/live", response_model=None, responses={200: {"model": LiveReply}, **errors(404)}, tags=["source"]
    )
    async def live_status() -> JSONResponse:
        """How it goes with the source, and its newest result."""
        watched = _needed(live)
        newest = watched.newest
        return JSONResponse(
            {
                "status": watched.status().to_dict(),
                "result": None if newest is None else newest.to_dict(),
            }
        )

    @app.get(
        "/v1/live/frame",
        response_class=Response,
        responses={
            200: {
                "description": "Length of the JSON (4 bytes, little-endian), JSON with number, status and "
                "result, and a JPEG; no JPEG and no result where nothing came within five seconds, or "
                "where the source has ended",
                "content": {"application/octet-stream": {"schema": PICTURE}},
            },
            **errors(404, 422, 503, 504),
        },
        tags=["source"],
    )
    async def live_frame(
        request: Request,
        after: Annotated[int, Query(ge=0, description="number of the last frame that was seen")] = 0,
    ) -> Response:
        """The newest frame with its poses; waits until there is a newer one than the last."""
        watched = _needed(live)
        if watched.viewers >= limits.viewers:
            raise Refusal(
                503,
                "too_many_viewers",
                f"the source cannot be shown to more; found {watched.viewers} viewers; close another page",
                {"Retry-After": "5"},
            )
        with watched.watched():
            data = await while_wanted(request, watched.packet(after, FRAME_PATIENCE), 2 * FRAME_PATIENCE)
        if data is None:
            raise Refusal(
                504, "timeout", "the frame took too long; found the server too busy to encode it; ask again"
            )
        return Response(data, media_type="application/octet-stream")

    @app.get("/healthz", response_model=None, responses={200: {"description": "It lives"}}, tags=["server"])
    async def healthz() -> JSONResponse:
        """Whether the process lives. No token is asked for."""
        return JSONResponse({"alive": True})

    @app.get(
        "/readyz",
        response_model=None,
        responses={200: {"model": ReadyReply}, 503: {"model": ReadyReply}},
        tags=["server"],
    )
    async def readyz() -> JSONResponse:
        """Whether the model is warm and the source gives frames. No token is asked for."""
        warm = inference.warm.is_set()
        state = None if live is None else live.status().state
        ready = warm and state in (None, "running", "ended") and not predictor.ending
        body = {"ready": ready, "model": "warm" if warm else "warming up", "source": state}
        return JSONResponse(body, 200 if ready else 503)

    @app.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}}, **errors()},
        tags=["server"],
    )
    async def read_metrics() -> Response:
        """Counters for Prometheus."""
        return Response(metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _needed(live: LiveView | None) -> LiveView:
    if live is None:
        raise Refusal(
            404, "no_source", "there is nothing to watch; found no source; start the server with --source"
        )
    return live


def _about(estimator: Estimator, live: LiveView | None, limits: Limits) -> dict[str, Any]:
    info = estimator.info
    skeleton, palette = info.spec.skeleton, Palette()
    return {
        "edgepose": __version__,
        "spec": info.spec.to_dict(),
        "backend": json.loads(json.dumps(info.backend, default=str)),
        "skeleton": skeleton.to_dict(),
        "colors": {
            "joints": [_hex(color) for color in palette.of_joints(skeleton)],
            "limbs": [_hex(color) for color in palette.of_limbs(skeleton)],
            "persons": [_hex(color) for color in palette.persons],
            "outline": [_hex(palette.outline)],
        },
        "limits": {
            "max_bytes": limits.max_bytes,
            "max_pixels": limits.max_pixels,
            "queue": limits.queue,
            "timeout": limits.timeout,
        },
        "source": None if live is None else {"name": live.name, "kind": live.kind},
    }


def _hex(color: Color) -> str:
    blue, green, red = color
    return f"#{red:02x}{green:02x}{blue:02x}"


def _add_errors(app: FastAPI) -> None:
    """Every answer that is no success has the same form."""

    def reply(refusal: Refusal) -> Response:
        return Response(refusal.to_json(), refusal.status, refusal.headers, media_type="application/json")

    @app.exception_handler(Refusal)
    async def refused(_: Request, error: Refusal) -> Response:
        return reply(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        name = str(first["loc"][-1])
        found = str(first.get("input"))[:80]
        return reply(
            Refusal(422, "parameter", f"{name} is not usable; found {found!r}; {str(first['msg']).lower()}")
        )

    @app.exception_handler(HTTPException)
    async def failed(request: Request, error: HTTPException) -> Response:
        path = request.url.path[:100]
        text = {
            404: f"there is no such page; found {path!r}; see /docs",
            405: f"this is not how to ask; found {request.method} {path!r}; see /docs",
        }.get(error.status_code, f"the request cannot be served; found {error.detail}; see /docs")
        codes = {404: "not_found", 405: "method"}
        code = codes.get(error.status_code, "http")
        return reply(Refusal(error.status_code, code, text, error.headers))


def _add_pages(app: FastAPI) -> None:
    folder = resources.files("edgepose.serve") / "static"
    pages = {"/": (folder / "index.html").read_bytes(), "/docs": (folder / "docs.html").read_bytes()}
    files = {name: (folder / name).read_bytes() for name in FILES}

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return Response(pages["/"], media_type="text/html; charset=utf-8")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return Response(pages["/docs"], media_type="text/html; charset=utf-8")

    @app.get("/static/{name}", include_in_schema=False)
    async def static(name: str) -> Response:
        if name not in files:
            raise HTTPException(404)
        return Response(files[name], media_type=FILES[name])


def _describe_token(app: FastAPI) -> None:
    """Tell in the description that a token is asked for."""
    plain = app.openapi

    def described() -> dict[str, Any]:
        schema = plain()
        schema.setdefault("components", {})["securitySchemes"] = {
            "token": {"type": "http", "scheme": "bearer"}
        }
        schema["security"] = [{"token": []}]
        for path in ("/healthz", "/readyz"):
            schema["paths"][path]["get"]["security"] = []
        return schema

    app.openapi = described  # type: ignore[method-assign]

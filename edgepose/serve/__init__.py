"""Serving: an HTTP API and a live page around one `Estimator` (``edgepose serve``, extra ``serve``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgepose.optional import require
from edgepose.serve.limits import Limits

if TYPE_CHECKING:
    from fastapi import FastAPI

    from edgepose.estimator import Estimator
    from edgepose.sources import SourceLike

__all__ = ["LOCAL_HOSTS", "Limits", "create_app"]

LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")
"""Names by which a browser on this machine may call a server that listens to this machine alone."""


def create_app(
    estimator: Estimator,
    *,
    source: SourceLike | None = None,
    token: str | None = None,
    allowed_hosts: Sequence[str] | None = LOCAL_HOSTS,
    limits: Limits | None = None,
    repeat: bool = False,
    **stream_options: Any,
) -> FastAPI:
    """An ASGI application with the API, the metrics and the live page.

    Run it by one worker process of an ASGI server: the queue and the model live in this process.

    Args:
        estimator: answers all requests and estimates the frames of `source`. The caller closes it, after
            the application has shut down.
        source: what the live page shows, as for `Estimator.stream`, one source; None: pictures alone.
        token: asked of everybody, as ``Authorization: Bearer TOKEN`` or, for the page, once as ``/?token=``;
            None: nobody is asked, which fits a server that only this machine reaches.
        allowed_hosts: names that may stand in the ``Host`` header, without port; None: any. The default
            keeps web sites that let their name point to this machine (DNS rebinding) out.
        limits: of requests; None: the defaults of `Limits`.
        repeat: start a directory or video again at its end.
        stream_options: more options of `Estimator.stream`, for instance ``track=True``.

    Raises:
        BackendUnavailableError: the extra ``serve`` is not installed.
        InvalidInputError: the source cannot be opened, or the token or a limit is not usable.
    """
    for module in ("fastapi", "prometheus_client"):
        require(module, "serving", "edgepose[serve]")
    from edgepose.serve.app import build_app

    return build_app(
        estimator,
        source=source,
        token=token,
        allowed_hosts=allowed_hosts,
        limits=limits or Limits(),
        repeat=repeat,
        stream_options=stream_options,
    )

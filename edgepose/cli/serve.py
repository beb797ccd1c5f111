"""``edgepose serve``: an HTTP API and a live page on this machine."""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import socket
from typing import Any

from edgepose.backends import read_model_spec
from edgepose.cli.arguments import add_machine_options, attempts, positive, seconds
from edgepose.cli.model_options import (
    add_estimator_options,
    add_model_argument,
    check_task,
    estimator_options,
    open_detector,
)
from edgepose.errors import InvalidInputError
from edgepose.estimator import Estimator, resolve_model
from edgepose.optional import require
from edgepose.serve import LOCAL_HOSTS, create_app
from edgepose.serve.limits import Limits

__all__ = ["add_parser"]

TOKEN_VARIABLE = "EDGEPOSE_TOKEN"

_DESCRIPTION = f"""Serve poses: pictures by POST /v1/predict, and with --source a live page of a camera,
stream, video or directory. Open the printed address in a browser; /docs describes the API, and /metrics is
for Prometheus.

Only this machine reaches the server, unless --host says otherwise; then a token is needed, by --token or,
hidden from the list of processes, by the environment variable {TOKEN_VARIABLE}. Ctrl-C or SIGTERM ends it,
after the requests under way are answered."""


def add_parser(verbs: Any) -> None:
    """Add the verb to the command line."""
    limits = Limits()
    parser: argparse.ArgumentParser = verbs.add_parser(
        "serve",
        help="an HTTP API and a live page",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_argument(parser)
    parser.add_argument(
        "--source",
        metavar="SOURCE",
        help="what the live page shows: the number of a camera, a URL (rtsp://, http://), csi://0 for the "
        "camera of a Jetson, a video or a directory (default: none, pictures alone)",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen to; 0.0.0.0 for all (default: 127.0.0.1)"
    )
    parser.add_argument("--port", type=_port, default=8000, help="0 takes a free one (default: 8000)")
    parser.add_argument(
        "--token",
        help=f"asked of everybody, at least 16 characters; auto makes one and prints it (default: "
        f"{TOKEN_VARIABLE}, or none)",
    )
    parser.add_argument(
        "--allowed-host",
        action="append",
        metavar="NAME",
        help="name by which browsers may call a server that only this machine reaches, for instance that of "
        f"a proxy in front of it; may be repeated (default: {', '.join(LOCAL_HOSTS)})",
    )
    parser.add_argument(
        "--queue",
        type=positive,
        default=limits.queue,
        metavar="N",
        help=f"requests under way at once; further ones are answered 503 (default: {limits.queue})",
    )
    parser.add_argument(
        "--max-bytes",
        type=positive,
        default=limits.max_bytes,
        metavar="N",
        help=f"largest file of a picture (default: {limits.max_bytes})",
    )
    parser.add_argument(
        "--max-pixels",
        type=positive,
        default=limits.max_pixels,
        metavar="N",
        help=f"largest picture, decoded (default: {limits.max_pixels})",
    )
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=limits.timeout,
        metavar="S",
        help=f"seconds until a request is given up (default: {limits.timeout:g})",
    )
    parser.add_argument(
        "--batch",
        type=positive,
        default=limits.batch,
        metavar="N",
        help=f"waiting pictures that go through the network together (default: {limits.batch})",
    )
    add_estimator_options(parser)
    parser.add_argument("--track", action="store_true", help="give people of the source identities")
    parser.add_argument("--smooth", action="store_true", help="smooth the joints of the source over time")
    parser.add_argument(
        "--detect-every",
        type=positive,
        default=1,
        metavar="N",
        help="have --detector look at each N-th frame of the source (default: 1)",
    )
    parser.add_argument("--repeat", action="store_true", help="start a video or directory again at its end")
    parser.add_argument(
        "--reconnect",
        type=attempts,
        default=None,
        metavar="N|forever",
        help="attempts in a row to open a lost camera or stream again (default: forever)",
    )
    add_machine_options(parser)
    parser.set_defaults(run=run, parser=parser)


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal ends it; return the exit code."""
    for module in ("fastapi", "prometheus_client", "uvicorn"):
        require(module, "serving", "edgepose[serve]")
    from edgepose.serve.guard import check_token
    from edgepose.serve.server import PoseServer, is_loopback, listen

    _check_source_options(arguments)
    model = resolve_model(arguments.model)
    spec = read_model_spec(model)
    check_task(arguments, spec)
    token, made = _token(arguments, is_loopback(arguments.host))
    try:
        if token is not None:
            check_token(token)
    except InvalidInputError as failure:
        arguments.parser.error(str(failure))
    hosts = arguments.allowed_host
    if is_loopback(arguments.host):
        hosts = [*LOCAL_HOSTS, _bracketed(arguments.host), *(hosts or ())]

    with contextlib.ExitStack() as ends:
        listener = ends.enter_context(listen(arguments.host, arguments.port))
        estimator_choice = estimator_options(arguments)
        if arguments.detector_family is not None:
            estimator_choice["detector"] = ends.enter_context(open_detector(arguments))
        estimator = ends.enter_context(Estimator(model, **estimator_choice))
        options = {
            name: getattr(arguments, name) for name in ("track", "smooth", "detect_every", "reconnect")
        }
        app = create_app(
            estimator,
            source=arguments.source,
            token=token,
            allowed_hosts=hosts,
            limits=Limits(
                arguments.queue, arguments.max_bytes, arguments.max_pixels, arguments.timeout, arguments.batch
            ),
            repeat=arguments.repeat,
            **(options if arguments.source is not None else {}),
        )

        def started() -> None:
            address = _address(arguments.host, listener.getsockname()[1])
            print(f"edgepose: {spec.name} serves at {address}{f'?token={token}' if made else ''}", flush=True)

        PoseServer(app, started).run([listener])
    return 0


def _token(arguments: argparse.Namespace, loopback: bool) -> tuple[str | None, bool]:
    """The token that is asked for, and whether it was made here; exit code 2 where one is missing."""
    token = arguments.token or os.environ.get(TOKEN_VARIABLE) or None
    if token == "auto":
        return secrets.token_urlsafe(24), True
    if token is None and not loopback:
        arguments.parser.error(
            f"--host {arguments.host} lets other machines in; found no token; add --token auto, or set "
            f"{TOKEN_VARIABLE}"
        )
    return token, False


def _check_source_options(arguments: argparse.Namespace) -> None:
    """End with exit code 2 where options are given that need others."""
    flags = {
        "--track": arguments.track,
        "--smooth": arguments.smooth,
        "--repeat": arguments.repeat,
        "--detect-every": arguments.detect_every > 1,
    }
    given = [flag for flag, value in flags.items() if value]
    if given and arguments.source is None:
        arguments.parser.error(
            f"{' and '.join(given)} cannot be used; found no --source; add one, or leave it out"
        )
    if arguments.detect_every > 1 and arguments.detector is None:
        arguments.parser.error("--detect-every cannot be used; found no --detector; add one, or leave it out")


def _bracketed(host: str) -> str:
    """A host as it stands in an address."""
    return f"[{host.strip('[]')}]" if ":" in host else host


def _address(host: str, port: int) -> str:
    """What to open in a browser; a number is known elsewhere too, where this machine's name may not be."""
    if host in ("0.0.0.0", "::", "[::]"):
        host = _own_number() or socket.gethostname()
    return f"http://{_bracketed(host)}:{port}/"


def _own_number() -> str | None:
    """The IP address of this machine in the network that its packets leave by; None without one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # of RFC 5737, nobody's; a datagram socket sends nothing by this
        except OSError:
            return None
        return str(probe.getsockname()[0])


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"found {text!r}; give a whole number from 0 to 65535")
    return int(text)

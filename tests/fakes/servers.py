"""A camera on the network: an HTTP server that sends pictures without end, or until it breaks down."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

import numpy as np


class MjpegServer:
    """Serves ``/camera.mjpg`` on this machine as multipart JPEG.

    Args:
        image: what it shows.
        fps: pictures per second.
        lives: after how many pictures each connection in turn breaks off; later ones never do.
    """

    def __init__(self, image: np.ndarray, *, fps: float = 50, lives: tuple[int, ...] = ()) -> None:
        import cv2

        self.connections = 0
        self.silent = threading.Event()
        self._ending = threading.Event()
        jpeg = bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1])
        part = (
            b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg) + jpeg + b"\r\n"
        )
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                number = server.connections
                server.connections += 1
                left = lives[number] if number < len(lives) else -1
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                try:
                    while left and not server._ending.is_set():
                        while server.silent.is_set() and not server._ending.is_set():
                            time.sleep(0.01)
                        self.wfile.write(part)
                        left -= 1
                        time.sleep(1 / fps)
                except OSError:
                    pass  # the reader has left

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def url(self) -> str:
        """Where it serves, with a user and a password that it does not ask for."""
        return f"http://user:secret@127.0.0.1:{self._server.server_address[1]}/camera.mjpg"

    def __enter__(self) -> MjpegServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

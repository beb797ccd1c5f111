"""The server's API: answers, limits, safety, metrics and the source, over real connections."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from tiny_models import color_model, spots

from edgepose import Estimator, Frame, InvalidInputError, PoseResult
from edgepose.serve import Limits, create_app
from tests.fakes.estimator import FakeEstimator, pose, running

cv2 = pytest.importorskip("cv2")
httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")

from tests.fakes.serving import served  # noqa: E402  # needs uvicorn

TOKEN = "0123456789abcdef"
PICTURE = spots((192, 144), [(60.0, 50.0), (100.0, 120.0), (45.0, 140.0)])


class Gated(FakeEstimator):
    """Waits before each run until it may go on; finds three persons of scores 0.2, 0.4 and 0.6."""

    def __init__(self) -> None:
        super().__init__(self._wait)
        self.go = threading.Event()
        self.go.set()
        self.begun = threading.Semaphore(0)
        self.fault: Callable[[Sequence[Frame]], None] | None = None

    def _wait(self, frames: Sequence[Frame]) -> None:
        self.begun.release()
        assert self.go.wait(20)
        if self.fault is not None:
            self.fault(frames)

    def warmup(self) -> None:
        pass

    def __call__(self, images: Sequence[Any], boxes: Sequence[Any] = ()) -> list[PoseResult]:
        frames = [each if isinstance(each, Frame) else Frame(each) for each in images]
        return [self._three(result) for result in super().__call__(frames, boxes)]

    @staticmethod
    def _three(result: PoseResult) -> PoseResult:
        found = pose(Frame(np.zeros((*result.image_size, 3), np.uint8), result.source), 3)
        scores = np.array([0.2, 0.6, 0.4], np.float32)
        joints = np.tile(np.array([0.1, 0.5, 0.9], np.float32), (3, 1))
        return replace(found, person_scores=scores, scores=joints)


def encoded(image: np.ndarray = PICTURE, suffix: str = ".png") -> bytes:
    return bytes(cv2.imencode(suffix, image)[1])


@pytest.fixture
def gated() -> Gated:
    return Gated()


def serve(estimator: Any, **options: Any) -> Any:
    return served(create_app(estimator, **options))


def refusal(reply: Any, status: int, code: str) -> str:
    """The message of a refusal, whose form is checked."""
    assert reply.status_code == status, reply.text
    body = reply.json()
    assert set(body) == {"error", "message"}
    assert body["error"] == code
    assert body["message"].count(";") >= 2, body["message"]
    return str(body["message"])


def send(address: str, data: bytes, **options: Any) -> Any:
    return httpx.post(f"{address}/v1/predict", content=data, timeout=20, **options)


@pytest.fixture(scope="module")
def estimator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Estimator]:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    path = color_model(tmp_path_factory.mktemp("model") / "colors.onnx")
    with Estimator(path, device="cpu", threads=1, kernels="numpy") as opened:
        yield opened


# Pictures.


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_the_answer_is_that_of_the_estimator(estimator: Estimator, suffix: str) -> None:
    data = encoded(suffix=suffix)
    expected = estimator(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)).to_dict()
    with serve(estimator) as address:
        raw = send(address, data, headers={"Content-Type": f"image/{suffix[1:]}"}).json()
        untyped = send(address, data).json()
        as_curl = {"Content-Type": "application/x-www-form-urlencoded"}
        curl = send(address, data, headers=as_curl).json()
        form = httpx.post(f"{address}/v1/predict", files={"file": ("a b.png", data, "image/png")}).json()
    for reply in (raw, untyped, curl, form):
        assert {key: reply[key] for key in expected if key != "timings"} == {
            key: expected[key] for key in expected if key != "timings"
        }
        assert len(PoseResult.from_dict(reply)) == 1 or reply["skeleton"]["name"] == "colors3"
        times = reply["server"]
        assert set(times) == {"receive", "decode", "queue", "inference", "total", "batch"}
        assert times["total"] >= times["decode"] + times["inference"]


def test_parameters_narrow_the_result(gated: Gated) -> None:
    def scores(reply: Any) -> list[float]:
        return [round(person["score"], 3) for person in reply.json()["persons"]]

    with serve(gated) as address:
        assert scores(send(address, encoded())) == [0.2, 0.6, 0.4]
        assert scores(send(address, encoded(), params={"score_threshold": 0.3})) == [0.6, 0.4]
        best = send(address, encoded(), params={"max_persons": 2})
        assert scores(best) == [0.6, 0.4]
        assert best.json()["truncated"]
        joints = send(address, encoded(), params={"keypoint_threshold": 0.5}).json()["persons"][0][
            "keypoints"
        ]
        assert joints["blue"][:2] == [None, None]
        assert None not in joints["green"]
        for name, value in (("score_threshold", "2"), ("max_persons", "0"), ("keypoint_threshold", "x")):
            assert name in refusal(send(address, encoded(), params={name: value}), 422, "parameter")


def test_boxes_say_where_to_look(estimator: Estimator) -> None:
    box = [10.0, 5.0, 130.0, 165.0]
    image = cv2.imdecode(np.frombuffer(encoded(), np.uint8), cv2.IMREAD_COLOR)
    expected = estimator(image, boxes=[box, box]).to_dict()["persons"]
    with serve(estimator) as address:

        def ask(boxes: Any) -> Any:
            text = boxes if isinstance(boxes, str) else json.dumps(boxes)
            return send(address, encoded(), params={"boxes": text})

        assert ask([box, box]).json()["persons"] == expected
        assert "not an array of numbers" in refusal(
            ask(f"[[1{'0' * 400}, 0, 5, 5]]"), 400, "unusable_picture"
        )
        assert "boxes[0][0] is empty" in refusal(ask([[5, 5, 1, 1]]), 400, "unusable_picture")
        for wrong in ("x", "{}", "[" * 20_000, [box] * 101):
            assert "boxes is not usable" in refusal(ask(wrong), 422, "parameter")


def test_pictures_that_cannot_be_used(gated: Gated) -> None:
    good = encoded(suffix=".jpg")
    with serve(gated) as address:
        assert "JPEG, PNG or WebP" in refusal(send(address, b"no picture at all, text"), 415, "not_a_picture")
        html = {"Content-Type": "text/html"}
        refusal(send(address, good, headers=html), 415, "unsupported_media_type")
        refusal(send(address, b""), 400, "empty")
        assert "cut short" in refusal(send(address, good[: len(good) // 2]), 400, "undecodable")
        refusal(send(address, b"\xff\xd8\xff\xd9"), 400, "undecodable")
        two = [("file", ("a.jpg", good)), ("file", ("b.jpg", good))]
        assert "found 2 files" in refusal(httpx.post(f"{address}/v1/predict", files=two), 400, "form")
        torn = {"Content-Type": "multipart/form-data; boundary=a"}
        started = time.monotonic()
        refusal(send(address, b"\r\n--a" * 1_500_000, headers=torn), 400, "form")
        assert time.monotonic() - started < 5
        bare = {"Content-Type": "multipart/form-data"}
        refusal(send(address, good, headers=bare), 400, "form")
        gated.fault = _refuse
        assert "too dark" in refusal(send(address, good), 400, "unusable_picture")
        gated.fault = None
        assert send(address, good).status_code == 200
    assert gated.runs


def _refuse(frames: Sequence[Frame]) -> None:
    raise InvalidInputError("the picture is not usable; found it too dark; light it")


def _break(frames: Sequence[Frame]) -> None:
    raise ZeroDivisionError("secret detail")


def test_a_failure_of_the_network_is_answered_and_survived(gated: Gated) -> None:
    with serve(gated) as address:
        gated.fault = _break
        assert "secret" not in refusal(send(address, encoded()), 500, "internal")
        gated.fault = None
        assert send(address, encoded()).status_code == 200
        text = httpx.get(f"{address}/metrics").text
        assert 'edgepose_requests_total{path="/v1/predict",status="500"} 1.0' in text


@pytest.mark.parametrize(("failure", "status"), [(_refuse, 400), (_break, 500)])
def test_one_bad_picture_of_a_batch_fails_alone(gated: Gated, failure: Any, status: int) -> None:
    def fault(frames: Sequence[Frame]) -> None:
        if any(frame.image.shape[0] == 8 for frame in frames):
            failure(frames)

    gated.fault = fault
    gated.go.clear()
    small = encoded(PICTURE[:8])
    with serve(gated, limits=Limits(batch=3)) as address, ThreadPoolExecutor(4) as pool:
        first = pool.submit(send, address, encoded())
        assert gated.begun.acquire(timeout=10)
        rest = [pool.submit(send, address, data) for data in (encoded(), small, encoded())]
        _until(lambda: _metric(address, "edgepose_queue_length") == 4)
        time.sleep(0.2)  # until they are decoded
        gated.go.set()
        assert first.result().status_code == 200
        assert [each.result().status_code for each in rest] == [200, status, 200]
        assert {first.result().json()["server"]["batch"]} == {1}


# Limits.


def test_too_many_bytes_are_refused_while_they_come(gated: Gated) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 400_000_000:
            sent += 65536
            yield b"\0" * 65536

    with serve(gated, limits=Limits(max_bytes=200_000)) as address:
        refusal(send(address, b"\0" * 200_001), 413, "too_large")
        large = {"file": ("a.jpg", b"\xff" * 250_000)}
        refusal(httpx.post(f"{address}/v1/predict", files=large), 413, "too_large")
        # Chunked, without a length, sent on while the answer is there: read by hand.
        parts = urlsplit(address)
        with socket.create_connection((parts.hostname, parts.port), timeout=10) as link:
            link.sendall(
                b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            chunk = b"10000\r\n" + b"\0" * 65536 + b"\r\n"
            for _ in range(5):
                link.sendall(chunk)
            assert link.recv(4096).startswith(b"HTTP/1.1 413 ")
        assert _metric(address, "edgepose_queue_length") == 0
    assert not gated.runs


def _png_header(width: int, height: int) -> bytes:
    return (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII5B", 13, b"IHDR", width, height, 8, 2, 0, 0, 0) + b"\0" * 4
    )


def test_bombs_are_not_decoded(gated: Gated) -> None:
    webp = b"RIFF\x40\0\0\0WEBPVP8X\x0a\0\0\0" + b"\0" * 4 + b"\xff\xff\x00" * 2 + b"\0" * 40
    jpeg = b"\xff\xd8\xff\xc0" + struct.pack(">HBHHB", 8, 8, 60000, 60000, 3) + b"\xff\xd9"
    good = encoded(suffix=".jpg")
    scan = b"\xff\xda\x00\x02"
    with serve(gated) as address:
        for data in (_png_header(60_000, 60_000), webp, jpeg):
            refusal(send(address, data), 413, "too_many_pixels")
        refusal(send(address, good[:-2] + scan * 500 + b"\xff\xd9"), 413, "too_many_segments")
        refusal(send(address, b"\xff\xd8\xff" + b"\x01\xff" * 100_000), 413, "too_many_segments")
    with serve(gated, limits=Limits(max_pixels=192 * 144 - 1)) as address:
        refusal(send(address, good), 413, "too_many_pixels")


def test_overload_is_answered_at_once_and_nothing_is_lost(gated: Gated) -> None:
    gated.go.clear()
    with serve(gated, limits=Limits(queue=3, batch=1)) as address, ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(send, address, encoded()) for _ in range(3)]
        _until(lambda: _metric(address, "edgepose_queue_length") == 3)
        started = time.monotonic()
        over = [send(address, encoded()) for _ in range(4)]
        assert time.monotonic() - started < 5
        for reply in over:
            refusal(reply, 503, "overloaded")
            assert int(reply.headers["retry-after"]) >= 1
        assert httpx.get(f"{address}/healthz").status_code == 200
        gated.go.set()
        assert [each.result().status_code for each in waiting] == [200] * 3
        assert send(address, encoded()).status_code == 200
        assert _metric(address, "edgepose_queue_length") == 0


def test_what_takes_too_long_is_dropped(gated: Gated) -> None:
    gated.go.clear()
    with serve(gated, limits=Limits(timeout=0.5, batch=1)) as address, ThreadPoolExecutor(8) as pool:
        first = pool.submit(send, address, encoded())
        assert gated.begun.acquire(timeout=10)
        late = [pool.submit(send, address, encoded()) for _ in range(3)]
        for each in (first, *late):
            refusal(each.result(), 504, "timeout")
        gated.go.set()
        assert send(address, encoded()).status_code == 200
    # The first one was under way already; those that waited never ran.
    assert len(gated.runs) == 2


def test_a_client_that_leaves_is_dropped(gated: Gated) -> None:
    gated.go.clear()
    with serve(gated, limits=Limits(batch=1)) as address, ThreadPoolExecutor(2) as pool:
        first = pool.submit(send, address, encoded())
        assert gated.begun.acquire(timeout=10)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{address}/v1/predict", content=encoded(), timeout=0.5)
        _until(lambda: _metric(address, "edgepose_queue_length") == 1)
        gated.go.set()
        assert first.result().status_code == 200
        assert send(address, encoded()).status_code == 200
    assert len(gated.runs) == 2


def test_a_slow_upload_ends(gated: Gated) -> None:
    with serve(gated, limits=Limits(timeout=0.3)) as address:
        parts = urlsplit(address)
        with socket.create_connection((parts.hostname, parts.port), timeout=10) as link:
            link.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc")
            assert link.recv(4096).startswith(b"HTTP/1.1 408 ")


def test_clients_that_send_nothing_are_let_go(gated: Gated, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgepose.serve import connection

    monkeypatch.setattr(connection, "PATIENCE", 0.5)
    starts = (
        b"",
        b"GET / HTTP/1.1\r\nHost: local",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n",
    )
    with serve(gated) as address, contextlib.ExitStack() as links:
        place = urlsplit(address)
        idle = []
        for start in starts:
            link = links.enter_context(socket.create_connection((place.hostname, place.port), timeout=10))
            link.sendall(start)
            idle.append(link)
        # One byte at a time, whether of a head or of a body that nobody reads.
        with ThreadPoolExecutor(2) as pool:
            assert all(pool.map(_ends_while_it_sends, idle[1:]))
        assert _ends(idle[0])
        # Who waits for an answer is no such client.
        gated.go.clear()
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(send, address, encoded())
            time.sleep(1.5)
            gated.go.set()
            assert waiting.result().status_code == 200


def _ends_while_it_sends(link: socket.socket) -> bool:
    for _ in range(100):
        time.sleep(0.05)
        try:
            link.sendall(b"x")
        except OSError:
            return True
    return False


def _ends(link: socket.socket) -> bool:
    """Whether the other side has closed a connection without a word."""
    try:
        return link.recv(10) == b""
    except ConnectionResetError:
        return True


def test_clients_that_take_no_answer_are_let_go(
    estimator: Estimator, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgepose.serve import connection, live

    monkeypatch.setattr(connection, "PATIENCE", 1.0)
    monkeypatch.setattr(live, "_jpeg", lambda image: b"\xff" * 30_000_000)
    request = b"GET /v1/live/frame HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with serve(estimator, source=PICTURE) as address:
        place = urlsplit(address)
        _until(lambda: httpx.get(f"{address}/v1/live").json()["status"]["state"] == "ended")
        for times, slowly in ((1, False), (3, False), (1, True)):
            with socket.create_connection((place.hostname, place.port), timeout=10) as link:
                link.sendall(request * times)
                got, pause = 0, 0.2 if slowly else 4.0
                time.sleep(pause)
                while slowly and got < 20_000_000:
                    got += len(link.recv(1_500_000, socket.MSG_WAITALL))
                    time.sleep(pause)
                with contextlib.suppress(ConnectionResetError):
                    while data := link.recv(1 << 20):
                        got += len(data)
                assert (got > 30_000_000) is slowly


def test_idle_connections_shut_nobody_out(gated: Gated, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgepose.serve import connection

    monkeypatch.setattr(connection, "CONNECTIONS", 3)
    gated.go.clear()
    with serve(gated) as address, contextlib.ExitStack() as links, ThreadPoolExecutor(1) as pool:
        place = urlsplit(address)
        working = pool.submit(send, address, encoded())
        assert gated.begun.acquire(timeout=10)
        idle = []
        for _ in range(6):
            link = socket.create_connection((place.hostname, place.port), timeout=2)
            idle.append(links.enter_context(link))
            time.sleep(0.05)
        assert all(_ends(link) for link in idle[:4])  # the oldest; the request under way has its place
        with pytest.raises(TimeoutError):
            idle[5].recv(1)
        assert httpx.get(f"{address}/healthz").status_code == 200
        gated.go.set()
        assert working.result().status_code == 200


@pytest.mark.parametrize("name", ["queue", "max_bytes", "max_pixels", "timeout", "batch", "viewers"])
def test_limits_are_checked(name: str) -> None:
    with pytest.raises(InvalidInputError, match=name):
        Limits(**{name: 0})


def test_answers_go_at_once() -> None:
    """Else each waits some 40 ms for the client to acknowledge its head."""
    from edgepose.serve.server import listen

    with listen("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP
        with pytest.raises(InvalidInputError, match=r"cannot listen to 127\.0\.0\.1 port"):
            listen("127.0.0.1", listener.getsockname()[1])


# Who may ask.


def test_other_names_and_other_sites_are_refused(gated: Gated) -> None:
    with serve(gated) as address:
        port = urlsplit(address).port
        for name in ("localhost", "127.0.0.1", "[::1]", "LOCALHOST"):
            good = {"Host": f"{name}:{port}"}
            assert httpx.get(f"{address}/healthz", headers=good).status_code == 200
        for name in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example", ""):
            bad = {"Host": f"{name}:{port}"}
            refusal(httpx.get(f"{address}/healthz", headers=bad), 421, "unknown_host")
        own = {"Origin": address, "Sec-Fetch-Site": "same-origin"}
        assert send(address, encoded(), headers=own).status_code == 200
        for foreign in (
            {"Origin": "http://evil.example"},
            {"Origin": "null"},
            {"Origin": f"http://localhost:{port + 1}"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate"},
        ):
            refusal(send(address, encoded(), headers=foreign), 403, "foreign_origin")
        link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
        reply = httpx.get(f"{address}/", headers=link)
        assert reply.status_code == 200
        assert "access-control-allow-origin" not in reply.headers
        assert "default-src 'none'" in reply.headers["content-security-policy"]
    assert len(gated.runs) == 1


def test_a_token_is_asked_for_everywhere(gated: Gated) -> None:
    with serve(gated, token=TOKEN, allowed_hosts=None) as address:
        paths = httpx.get(f"{address}/openapi.json", headers={"Authorization": f"Bearer {TOKEN}"}).json()[
            "paths"
        ]
        for path in ["/", "/docs", "/openapi.json", "/nothing", *paths]:
            reply = httpx.get(f"{address}{path}")
            if path in ("/healthz", "/readyz"):
                assert reply.status_code == 200
                continue
            refusal(reply, 401, "token")
            assert reply.headers["www-authenticate"] == "Bearer"
        refusal(send(address, encoded()), 401, "token")
        for wrong in (f"Bearer {TOKEN}x", "Bearer", f"Basic {TOKEN}", TOKEN, "Bearer \xff"):
            headers = {"Authorization": wrong.encode("latin-1")}
            refusal(httpx.get(f"{address}/v1/model", headers=headers), 401, "token")
        right = {"Authorization": f"Bearer {TOKEN}"}
        assert send(address, encoded(), headers=right).status_code == 200
    assert len(gated.runs) == 1


def test_the_page_gets_a_cookie(gated: Gated) -> None:
    with serve(gated, token=TOKEN) as address, httpx.Client(base_url=address) as client:
        entrance = client.get("/", headers={"Accept": "text/html"})
        assert entrance.status_code == 401
        assert "Token of this server" in entrance.text
        assert client.get("/?token=wrong").status_code == 401
        assert client.get("/v1/model", params={"token": TOKEN}).status_code == 401
        page = client.get("/", params={"token": TOKEN})
        assert page.status_code == 200
        cookie = page.headers["set-cookie"]
        assert TOKEN not in cookie
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert client.get("/v1/model").status_code == 200
        assert client.get("/").status_code == 200
        own = cookie.partition(";")[0]
    with serve(gated, token=TOKEN) as address:
        others = ('a={"b":1}; ', "a b; ", "a/b=\xe9; ", f"{own}0; ")  # of other servers of this host
        for sent in (own, *(other + own for other in others)):
            assert (
                httpx.get(f"{address}/v1/model", headers={"Cookie": sent.encode("latin-1")}).status_code
                == 200
            )
        assert httpx.get(f"{address}/v1/model", headers={"Cookie": f"{own}0"}).status_code == 401


def test_two_servers_of_a_machine_keep_their_visitors(gated: Gated) -> None:
    """Browsers keep one cookie of a name for all the ports of a host."""
    with (
        serve(gated, token=TOKEN) as one,
        serve(Gated(), token=TOKEN[::-1]) as other,
        httpx.Client() as client,
    ):
        assert client.get(f"{one}/", params={"token": TOKEN}).status_code == 200
        assert client.get(f"{other}/", params={"token": TOKEN[::-1]}).status_code == 200
        assert client.get(f"{one}/v1/model").status_code == 200
        assert client.get(f"{other}/v1/model").status_code == 200


@pytest.mark.parametrize("token", ["short", "with space in the middle", "0123456789abcdeü"])
def test_weak_tokens_are_refused(gated: Gated, token: str) -> None:
    with pytest.raises(InvalidInputError, match="token is not usable"):
        create_app(gated, token=token)


# What the server tells of itself.


def test_description_and_model(gated: Gated) -> None:
    with serve(gated) as address:
        api = httpx.get(f"{address}/openapi.json").json()
        model = httpx.get(f"{address}/v1/model").json()
        assert httpx.get(f"{address}/docs").status_code == 200
        assert httpx.get(f"{address}/static/page.js").headers["content-type"].startswith("text/javascript")
        refusal(httpx.get(f"{address}/static/..%2fapp.py"), 404, "not_found")
        refusal(httpx.get(f"{address}/nothing"), 404, "not_found")
        refusal(httpx.get(f"{address}/v1/predict"), 405, "method")
        refusal(httpx.get(f"{address}/v1/live"), 404, "no_source")
    predict = api["paths"]["/v1/predict"]["post"]
    assert {"400", "401", "403", "408", "413", "415", "422", "503", "504"} <= set(predict["responses"])
    for status, answer in predict["responses"].items():
        form = answer["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        assert form == ("PredictReply" if status == "200" else "ErrorReply")
    assert "multipart/form-data" in predict["requestBody"]["content"]
    assert model["skeleton"]["joints"] == ["blue", "green", "red"]
    assert len(model["colors"]["joints"]) == 3
    assert len(model["colors"]["limbs"]) == 2
    assert model["source"] is None


def test_nothing_of_the_page_comes_from_elsewhere() -> None:
    folder = Path(__file__).resolve().parents[2] / "edgepose" / "serve" / "static"
    files = list(folder.iterdir())
    assert len(files) >= 8
    for file in files:
        text = file.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in text, file
        assert "https:" not in text, file


def test_answers_have_the_form_that_is_described(estimator: Estimator) -> None:
    from edgepose.serve import schema

    with serve(estimator, source=PICTURE) as address:
        schema.PredictReply.model_validate(send(address, encoded()).json())
        schema.ModelReply.model_validate(httpx.get(f"{address}/v1/model").json())
        schema.LiveReply.model_validate(httpx.get(f"{address}/v1/live").json())
        schema.ReadyReply.model_validate(httpx.get(f"{address}/readyz").json())


def test_metrics_count_what_happens(gated: Gated) -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    with serve(gated) as address:
        send(address, encoded())
        send(address, b"nothing")
        for number in range(3):
            httpx.get(f"{address}/made/up/{number}")
        text = httpx.get(f"{address}/metrics").text
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }

    def requests(path: str, status: str) -> float:
        return float(samples["edgepose_requests_total", (("path", path), ("status", status))])

    assert requests("/v1/predict", "200") == 1
    assert requests("/v1/predict", "415") == 1
    assert requests("other", "404") == 3
    for stage in ("receive", "decode", "queue", "inference", "total"):
        assert samples["edgepose_stage_seconds_count", (("stage", stage),)] == 1
    assert samples["edgepose_queue_length", ()] == 0
    assert not any("made" in str(key) for key in samples)


def test_readiness_follows_the_model(gated: Gated, monkeypatch: pytest.MonkeyPatch) -> None:
    warm = threading.Event()
    monkeypatch.setattr(gated, "warmup", lambda: warm.wait(10))
    with serve(gated) as address:
        assert httpx.get(f"{address}/readyz").status_code == 503
        assert httpx.get(f"{address}/healthz").status_code == 200
        warm.set()
        _until(lambda: httpx.get(f"{address}/readyz").status_code == 200)


def test_a_failed_warm_up_is_made_good_by_a_request(gated: Gated, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gated, "warmup", lambda: _break([]))
    with serve(gated) as address:
        assert httpx.get(f"{address}/readyz").status_code == 503
        assert send(address, encoded()).status_code == 200
        assert httpx.get(f"{address}/readyz").status_code == 200


# The source.


def frame(address: str, after: int = 0) -> tuple[dict[str, Any], bytes]:
    reply = httpx.get(f"{address}/v1/live/frame", params={"after": after}, timeout=20)
    assert reply.status_code == 200, reply.text
    (length,) = struct.unpack_from("<I", reply.content)
    return json.loads(reply.content[4 : 4 + length]), reply.content[4 + length :]


def test_picture_and_poses_of_a_frame_come_together(estimator: Estimator, tmp_path: Path) -> None:
    for number in range(5):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.roll(PICTURE, 3 * number, axis=1))
    with serve(estimator, source=tmp_path, repeat=True) as address:
        last = 0
        for _ in range(8):
            told, jpeg = frame(address, last)
            assert told["number"] > last
            last = told["number"]
            number = int(told["result"]["source"]["path"][0])
            assert told["result"]["source"]["path"] == f"{number}.png"  # and not where it lies
            shown = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
            assert np.abs(shown.astype(int) - np.roll(PICTURE, 3 * number, axis=1)).mean() < 3
            blue = told["result"]["persons"][0]["keypoints"]["blue"]
            assert abs(blue[0] - (60 + 3 * number)) < 1.5
        assert _metric(address, "edgepose_stream_frames_total") >= last
        assert _metric(address, "edgepose_stream_up") == 1
        assert httpx.get(f"{address}/readyz").json() == {"ready": True, "model": "warm", "source": "running"}


def test_a_slow_viewer_gets_the_newest_and_holds_up_nothing(
    estimator: Estimator, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgepose.serve import live

    encodings = []
    plain = live._jpeg
    monkeypatch.setattr(live, "_jpeg", lambda image: encodings.append(1) or plain(image))
    source = running("camera:0", 10_000, fps=100, before=lambda _: time.sleep(0.005))
    with serve(estimator, source=source) as address:
        _until(lambda: (_metric(address, "edgepose_stream_frames_total") or 0) > 20)
        assert not encodings  # nobody watches
        first, _ = frame(address)
        time.sleep(0.5)
        second, _ = frame(address, first["number"])
        assert second["number"] >= first["number"] + 10
        assert len(encodings) == 2


def test_a_source_that_fails_is_told(estimator: Estimator) -> None:
    fault = InvalidInputError("camera 0 stopped after 3 frames; check that it is connected")
    with serve(estimator, source=running("camera:0", 3, error=fault), latest=False) as address:
        _until(lambda: frame(address, 3)[0]["status"]["state"] == "failed")
        status = httpx.get(f"{address}/v1/live").json()["status"]
        assert "stopped after 3 frames" in status["message"]
        assert status["frames"] == 3
        assert httpx.get(f"{address}/readyz").status_code == 503
        assert send(address, encoded()).status_code == 200


def test_the_end_of_a_source_is_told_at_once(estimator: Estimator) -> None:
    stop = threading.Event()

    def fail(number: int) -> None:
        if number == 1:
            assert stop.wait(20)
            raise InvalidInputError("camera 0 stopped after 1 frame; check that it is connected")

    with (
        serve(estimator, source=running("camera:0", 2, before=fail)) as address,
        ThreadPoolExecutor(1) as pool,
    ):
        _until(lambda: _metric(address, "edgepose_stream_frames_total") == 1)
        waiting = pool.submit(frame, address, 1)
        _until(lambda: _metric(address, "edgepose_stream_viewers") == 1)
        stop.set()
        told, jpeg = waiting.result(timeout=3)  # five seconds were its patience
        assert (told["status"]["state"], jpeg) == ("failed", b"")
        began = time.monotonic()
        assert frame(address, 1)[0]["status"]["state"] == "failed"
        assert time.monotonic() - began < 3


def test_a_source_that_ends_stays_seen(estimator: Estimator) -> None:
    with serve(estimator, source=PICTURE) as address:
        told, jpeg = frame(address)
        assert jpeg
        assert told["result"]["image_size"] == [192, 144]
        _until(lambda: httpx.get(f"{address}/v1/live").json()["status"]["state"] == "ended")
        assert httpx.get(f"{address}/readyz").status_code == 200


def test_a_source_that_is_not_there_is_refused_at_once(estimator: Estimator) -> None:
    with pytest.raises(InvalidInputError, match="source not found"):
        create_app(estimator, source="missing.mp4")


def test_viewers_are_limited(estimator: Estimator) -> None:
    stop = threading.Event()
    source = running("camera:0", 2, before=lambda number: number and stop.wait(20) and None)
    with serve(estimator, source=source, limits=Limits(viewers=2)) as address, ThreadPoolExecutor(2) as pool:
        _until(lambda: _metric(address, "edgepose_stream_frames_total") == 1)
        waiting = [pool.submit(frame, address, 1) for _ in range(2)]
        _until(lambda: _metric(address, "edgepose_stream_viewers") == 2)
        refusal(httpx.get(f"{address}/v1/live/frame?after=1"), 503, "too_many_viewers")
        stop.set()
        assert [each.result()[0]["number"] for each in waiting] == [2, 2]


def test_a_viewer_that_leaves_is_none(estimator: Estimator) -> None:
    stop = threading.Event()
    source = running("camera:0", 2, before=lambda number: number and stop.wait(20) and None)
    with serve(estimator, source=source) as address:
        _until(lambda: _metric(address, "edgepose_stream_frames_total") == 1)
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(f"{address}/v1/live/frame?after=1", timeout=0.5)
        _until(lambda: _metric(address, "edgepose_stream_viewers") == 0, patience=2)  # it would wait five
        stop.set()


def test_the_end_lets_viewers_go(estimator: Estimator) -> None:
    stop = threading.Event()
    source = running("camera:0", 2, before=lambda number: number and stop.wait(20) and None)
    with ThreadPoolExecutor(1) as pool:
        with serve(estimator, source=source) as address:
            _until(lambda: _metric(address, "edgepose_stream_frames_total") == 1)
            waiting = pool.submit(frame, address, 1)
            _until(lambda: _metric(address, "edgepose_stream_viewers") == 1)
            ending = time.monotonic()
            threading.Timer(1, stop.set).start()
        told, jpeg = waiting.result()
        assert time.monotonic() - ending < 4  # five seconds were its patience
        assert (told["number"], jpeg) == (1, b"")


def test_the_end_answers_what_is_under_way(gated: Gated) -> None:
    gated.go.clear()
    with ThreadPoolExecutor(1) as pool:
        with serve(gated) as address:
            under_way = pool.submit(send, address, encoded())
            assert gated.begun.acquire(timeout=10)
            threading.Timer(0.5, gated.go.set).start()
        assert under_way.result().status_code == 200
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith("edgepose")], names


def _metric(address: str, name: str) -> float | None:
    for line in httpx.get(f"{address}/metrics").text.splitlines():
        if line.startswith(f"{name} "):
            return float(line.split()[1])
    return None


def _until(condition: Callable[[], Any], patience: float = 15) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, "never happened"
        time.sleep(0.02)

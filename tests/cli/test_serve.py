"""`edgepose serve`: who is let in, wrong arguments, and the end by a signal."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_models import color_model

import edgepose
from edgepose.cli import main
from edgepose.samples import PERSON

for package in ("cv2", "onnx", "onnxruntime", "fastapi", "uvicorn"):
    pytest.importorskip(package)
httpx = pytest.importorskip("httpx")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(color_model(tmp_path_factory.mktemp("model") / "colors.onnx"))


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEPOSE_TOKEN", raising=False)


def usage_error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(["serve", *arguments])
    assert caught.value.code == 2
    return " ".join(capsys.readouterr().err.split())


def test_help_names_what_matters(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["serve", "--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    for word in ("--source", "--host", "--token", "--queue", "--max-bytes", "--timeout", "EDGEPOSE_TOKEN"):
        assert word in shown


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "kit.example", "127.0.0.1.example", ""])
def test_beyond_this_machine_a_token_is_needed(
    model: str, capsys: pytest.CaptureFixture[str], host: str
) -> None:
    error = usage_error(capsys, model, "--host", host, "--port", "0")
    assert "found no token; add --token auto" in error


def test_wrong_arguments(
    model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "found 5 characters" in usage_error(capsys, model, "--token", "short")
    assert "--track and --repeat cannot be used; found no --source" in usage_error(
        capsys, model, "--track", "--repeat"
    )
    assert "--scales cannot be used" in usage_error(capsys, model, "--scales", "1,2")
    for option in (["--port", "70000"], ["--port", "x"], ["--queue", "0"], ["--timeout", "0"]):
        assert option[0] in usage_error(capsys, model, *option)
    monkeypatch.setenv("EDGEPOSE_TOKEN", "weak")
    assert "found 4 characters" in usage_error(capsys, model, "--host", "0.0.0.0")


def test_a_taken_port_and_a_missing_source_are_told(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", model, "--port", port]) == 1
        assert f"cannot listen to 127.0.0.1 port {port}" in capsys.readouterr().err
    assert main(["serve", model, "--port", "0", "--source", "missing.mp4"]) == 1
    assert "source not found: missing.mp4" in capsys.readouterr().err


def test_missing_packages_name_the_extra(model: str) -> None:
    code = (
        "import sys; sys.modules['fastapi'] = None\n"
        "from edgepose.cli import main; sys.exit(main(['serve', sys.argv[1]]))"
    )
    done = subprocess.run([sys.executable, "-c", code, model], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert 'pip install "edgepose[serve]"' in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it(model: str, number: int, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(PERSON.read_bytes())
    command = [sys.executable, "-m", "edgepose", "serve", model, "--port", "0", "--token", "auto"]
    command += ["--source", str(tmp_path), "--repeat", "--threads", "1"]
    server = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(edgepose.__file__).parents[1])},
    )
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        address = line.split()[-1]
        assert line.startswith("edgepose: colors serves at http://127.0.0.1:"), line
        assert "?token=" in address
        with httpx.Client() as client:
            assert client.get(address).status_code == 200
            base = address.partition("?")[0]
            frame = client.get(f"{base}v1/live/frame")
            assert frame.status_code == 200
            assert len(frame.content) > 1000
            server.send_signal(number)
            output, errors = server.communicate(timeout=20)
        assert server.returncode == 0, errors
        assert "Traceback" not in errors
        assert output == ""
    finally:
        if server.poll() is None:
            server.kill()
            server.communicate()


HANGING = """
import sys, threading
from edgepose.serve import create_app
from edgepose.serve.server import PoseServer, listen
from tests.fakes.estimator import FakeEstimator

class Hanging(FakeEstimator):
    def warmup(self):
        print("hangs", flush=True)
        threading.Event().wait()

PoseServer(create_app(Hanging()), lambda: None).run([listen("127.0.0.1", 0)])
"""


@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
def test_a_second_interrupt_ends_what_hangs() -> None:
    root = Path(__file__).resolve().parents[2]
    path = os.pathsep.join([str(Path(edgepose.__file__).parents[1]), str(root), str(root / "tests")])
    server = subprocess.Popen(
        [sys.executable, "-c", HANGING],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "hangs\n"
        server.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):  # the network may still come to its end
            server.wait(2)
        server.send_signal(signal.SIGINT)
        assert server.wait(10) == -signal.SIGINT
    finally:
        if server.poll() is None:
            server.kill()
            server.communicate()


def test_the_address_can_be_opened_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgepose.cli import serve

    monkeypatch.setattr(serve, "_own_number", lambda: "192.168.1.4")
    assert serve._address("0.0.0.0", 8000) == "http://192.168.1.4:8000/"
    assert serve._address("::", 8000) == "http://192.168.1.4:8000/"
    assert serve._address("::1", 8000) == "http://[::1]:8000/"
    monkeypatch.setattr(serve, "_own_number", lambda: None)  # without a network
    assert serve._address("0.0.0.0", 8000) == f"http://{socket.gethostname()}:8000/"

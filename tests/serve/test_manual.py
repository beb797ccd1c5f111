"""docs/serving.md says what the server does."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest

from edgepose.cli import make_parser
from edgepose.serve import Limits, create_app
from tests.fakes.estimator import FakeEstimator, running

pytest.importorskip("fastapi")

PAGE = Path(__file__).resolve().parents[2] / "docs" / "serving.md"
TEXT = PAGE.read_text("utf-8")


def test_command_lines_are_understood() -> None:
    lines = re.findall(r"^(?:ExecStart=\S*/bin/)?edgepose (serve.*)$", TEXT, re.MULTILINE)
    assert len(lines) >= 4
    for line in lines:
        make_parser().parse_args(shlex.split(line, comments=True))
    known = make_parser().parse_args(["serve"])
    for option in set(re.findall(r"`(--[a-z-]+)", TEXT)) - {"--triton-repo"}:
        assert hasattr(known, option.lstrip("-").replace("-", "_")), option


def test_links_and_pictures_exist() -> None:
    targets = re.findall(r"\]\(([^)#]+)", TEXT)
    assert len(targets) >= 3
    assert [target for target in targets if not (PAGE.parent / target).exists()] == []


def test_python_can_be_read() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        ast.parse(block)


def test_defaults_are_those_of_the_code() -> None:
    limits = Limits()
    assert f"`--timeout` ({limits.timeout:g} s)" in TEXT
    assert f"`--max-bytes` ({limits.max_bytes // 1_000_000} MB)" in TEXT
    assert f"`--max-pixels` ({limits.max_pixels // 1_000_000} million)" in TEXT
    assert f"`--queue` ({limits.queue})" in TEXT
    assert f"`--batch` ({limits.batch})" in TEXT
    assert f"{limits.queue} times 10 MB" in TEXT
    assert f"{2 * limits.batch} times {3 * limits.max_pixels // 1_000_000} MB" in TEXT


def test_paths_statuses_and_metrics_are_listed() -> None:
    from edgepose.serve.metrics import Metrics

    app = create_app(FakeEstimator())  # type: ignore[arg-type]
    api = app.openapi()
    for path, methods in api["paths"].items():
        for method in methods:
            assert re.search(rf"`{method.upper()} {re.escape(path)}[`?]", TEXT), path
    statuses = set(api["paths"]["/v1/predict"]["post"]["responses"]) - {"200"}
    table = re.findall(r"^\| ([\d, ]+) \|", TEXT, re.MULTILINE)
    assert statuses <= set(re.findall(r"\d+", " ".join(table)))

    from edgepose.serve.live import LiveView

    class Streams(FakeEstimator):
        def stream(self, source: object, **options: object) -> object:
            return type("Stream", (), {"dropped": 0, "reconnects": 0})()

    live = LiveView(Streams(), running("camera:0", 1), repeat=False, options={})  # type: ignore[arg-type]
    told = Metrics(lambda: 0, live).render().decode()
    names = set(re.findall(r"^# TYPE (\S+)", told, re.MULTILINE))
    rows = re.findall(r"^\| (`(?:edgepose|_).*?) \|", TEXT, re.MULTILINE)
    listed = set()
    for row in rows:
        for name in re.findall(r"`(\w+)", row):
            prefix = "edgepose_stream" if name.startswith("_") else ""
            listed.add(f"{prefix}{name}")
    assert names - {name for name in names if name.endswith("_created")} == listed

"""What the documentation shows must run: every code block is executed, every link leads somewhere."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from tiny_detectors import fixed_detector

import edgepose
from edgepose import Grouping, ModelSpec, read_image
from edgepose.cli import main, make_parser
from edgepose.estimator import resolve_model
from edgepose.samples import PERSON
from tests.fakes import pycuda, tensorrt

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PAGES = (README, *sorted((ROOT / "docs").rglob("*.md")))
BOARD = {"jetson.md"}
"""Pages whose examples need a board: its cameras, its engines."""
SERVED = {"serving.md"}
"""Pages whose examples need a running server; tests/serve has them."""
CHECKOUT = {"training.md", "distillation.md"}
"""Pages whose examples need data sets, or the weights of long runs."""
SYSTEM = {".", "apt", "cd", "curl", "export", "jetson_clocks", "nvpmodel"}
"""Commands that are not ours."""


class Block(NamedTuple):
    page: Path
    line: int
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(*languages: str) -> Iterator[Block]:
    for page in PAGES:
        text = page.read_text("utf-8")
        for found in re.finditer(r"^( *)```(\w*)\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL):
            if found[2] in languages or not languages:
                code = textwrap.dedent(found[3])
                yield Block(page, text.count("\n", 0, found.start(3)), found[2], code)


def commands(*, on_gpu: bool = False) -> list[Any]:
    """All command lines; those that make or open engines alone, or the others."""
    lines = ((block, line) for block in blocks("console") for line in block.code.splitlines())
    return [
        pytest.param(line, id=f"{block.page.name}: {line}")
        for block, line in lines
        if bool(re.search(r"\.(engine|plan)\b", line)) == on_gpu
    ]


def runnable() -> list[Path]:
    """The pages with examples in Python that run anywhere."""
    pages = {block.page for block in blocks("python")}
    return sorted(page for page in pages if page.name not in BOARD | CHECKOUT | SERVED)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the examples speak of."""
    cv2 = pytest.importorskip("cv2")
    shutil.copy(PERSON, tmp_path / "photo.jpg")
    (tmp_path / "photos").mkdir()
    for name in ("first.jpg", "second.jpg"):
        shutil.copy(PERSON, tmp_path / "photos" / name)
    image = read_image(PERSON)
    height, width = image.shape[:2]
    video = cv2.VideoWriter(str(tmp_path / "walk.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (width, height))
    for shift in (0, 8, 16):
        video.write(np.roll(image, shift, axis=1))
    video.release()
    people = np.full_like(image, 128)  # on which the packaged bottom-up model finds somebody
    half = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    people[: half.shape[0], : half.shape[1]] = half
    cv2.imwrite(str(tmp_path / "people.jpg"), people)
    (tmp_path / "boxes.json").write_text(json.dumps([[0, 60, 340, 511]]))
    shutil.copy(resolve_model(None), tmp_path / "model.onnx")
    grid = np.zeros((1, 126, 85), np.float32)
    grid[0, 40] = [0.5, 0.5, 1, 2, 1, 1, *[0] * 79]
    fixed_detector(tmp_path / "yolox_s.onnx", {"output": grid})
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", runnable(), ids=lambda page: page.name)
def test_python_runs_in_order(page: Path, workplace: Path) -> None:
    for module in ("onnx", "pandas", "pyarrow", "supervision"):
        pytest.importorskip(module)
    namespace: dict[str, Any] = {}
    for block in blocks("python"):
        if block.page == page:
            code = "\n" * block.line + block.code  # so that a traceback names the page's line
            exec(compile(code, str(page), "exec"), namespace)


@pytest.mark.parametrize("line", commands())
def test_command_succeeds(line: str, workplace: Path) -> None:
    prompt, program, *arguments = shlex.split(line)
    assert (prompt, program) == ("$", "edgepose")
    done = subprocess.run(
        [sys.executable, "-m", "edgepose", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(edgepose.__file__).parents[1])},
    )
    assert done.returncode == 0, done.stderr
    if "-o" in arguments:
        written = workplace / arguments[arguments.index("-o") + 1]
        assert written.is_file() or any(written.iterdir())
    else:
        assert done.stdout.strip()


@pytest.mark.parametrize("line", commands(on_gpu=True))
def test_engine_command_succeeds(
    line: str, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a stand-in for TensorRT and the GPU."""
    prompt, program, *arguments = shlex.split(line)
    assert (prompt, program) == ("$", "edgepose")
    monkeypatch.setenv("XDG_CACHE_HOME", str(workplace / "caches"))
    pycuda.install(monkeypatch)
    tensorrt.install(monkeypatch)
    if "-o" not in arguments:
        assert main(["build", "lpn50-lsp", "-o", "lpn50.engine", "--precision", "fp32"]) == 0
    capsys.readouterr()
    assert main(arguments) == 0
    assert capsys.readouterr().out.strip()
    if "-o" in arguments:
        assert (workplace / arguments[arguments.index("-o") + 1]).is_file()


@pytest.mark.parametrize("block", list(blocks("sh")), ids=str)
def test_shell_names_what_exists(block: Block) -> None:
    # Installing is left to tests/packaging/smoke.py.
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    extras = set(
        re.findall(r"^(\w+) = \[", project.partition("[project.optional-dependencies]")[2], re.MULTILINE)
    )
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for line in block.code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            del words[0]  # environment
        if words[:1] == ["sudo"]:
            del words[0]
        if not words or words[0] in SYSTEM:
            continue
        if words[0] == "make":
            assert set(words[1:]) <= targets, line
        elif "pip" in words and words[-1].partition("[")[0] in ("edgepose", "."):
            found = re.fullmatch(r"(?:edgepose|\.)(?:\[([\w,]+)\])?", words[-1])
            assert found, line
            assert set((found[1] or "").split(",")) - {""} <= extras, line
        elif words[0] in ("edgepose", "edgepose-build"):  # what needs data sets, or long runs
            arguments = shlex.split(line.partition(" > ")[0], comments=True)[1:]
            make_parser().parse_args(["build", *arguments] if words[0] == "edgepose-build" else arguments)
        elif "training" in words and words[words.index("training") - 1] == "-m":
            check_training(words[words.index("training") + 1 :])
        elif words[0].startswith("python") and words[1].startswith("benchmarks/"):
            assert (ROOT / words[1]).is_file(), line
        elif words[0].startswith("python") and block.page.name == "performance-gpu.md":
            assert (ROOT / "benchmarks" / words[1]).is_file(), line
        else:
            assert re.fullmatch(r"(env/bin/)?python3?", words[0]), f"{block}: unknown command {line}"
            assert words[1] == "-c" or words[2] in ("venv", "pip"), f"{block}: unknown command {line}"


def check_training(arguments: list[str]) -> None:
    """A verb, and a configuration that is there; the reader's own have names without a folder."""
    verb, first, *_ = arguments
    assert verb in ("train", "distill", "evaluate", "export", "compare", "card"), verb
    if first.startswith("training/"):
        assert (ROOT / first).is_file(), first
    else:
        assert first in ("CONFIG", "my_fpd.yaml") or first.startswith("edgepose/models/"), first


def test_every_block_is_of_a_kind_that_is_checked() -> None:
    kinds = {"python", "console", "sh", "json"}
    told = {"text", "output", "yaml", "ini", ""}  # nothing that runs; `output` is the matter of test_site.py
    assert {block.language for block in blocks()} <= kinds | told


@pytest.mark.parametrize("block", list(blocks("python")), ids=str)
def test_python_compiles(block: Block) -> None:
    compile(block.code, str(block), "exec")


def test_example_result_is_one() -> None:
    (block,) = (block for block in blocks("json") if block.page.name == "results.md")
    assert edgepose.PoseResult.from_dict(json.loads(block.code)).to_dict() == json.loads(block.code)


def test_page_tells_the_columns_of_csv(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "photo.jpg", "--format", "csv"]) == 0
    header = capsys.readouterr().out.splitlines()[0]
    assert f"| `csv` | `{header}`" in (ROOT / "docs" / "results.md").read_text("utf-8")


def test_example_description_is_complete() -> None:
    (block,) = (block for block in blocks("json") if block.page.name == "file-format.md")
    assert ModelSpec.from_json(block.code).to_dict() == json.loads(block.code)


def test_format_page_lists_every_field() -> None:
    page = (ROOT / "docs" / "file-format.md").read_text("utf-8")

    def listed(section: str) -> set[str]:
        text = page.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
        rows = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
        return {name for row in rows for name in re.findall(r"`(\w+)`", row)}

    assert listed("Description") == {
        "format_version",
        *(field.name for field in dataclasses.fields(ModelSpec)),
    }
    assert listed("Grouping") == {field.name for field in dataclasses.fields(Grouping)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    """Where pages are read on a code host; `make docs` checks those of the site, with their anchors."""
    for target in re.findall(r"\]\(([^)#]+)", page.read_text("utf-8")):
        if not target.startswith("https://"):
            assert (page.parent / target).exists(), target


def test_readme_shows_the_packaged_model() -> None:
    from docs.update_readme import render

    text = README.read_text("utf-8")
    assert render(text) == text, "run `make readme`"

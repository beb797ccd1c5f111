"""The site is complete: every name, verb, error and page has its place, and what it quotes is true."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from error_messages import messages

import edgepose
from edgepose import errors
from edgepose.cli import main, make_parser
from edgepose.estimator import resolve_model
from edgepose.samples import PERSON

pytest.importorskip("cv2")
ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
TROUBLE = (DOCS / "troubleshooting.md").read_text("utf-8")
QUOTED = [
    line
    for block in re.findall(r"^```output\n(.*?)^```$", TROUBLE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; warnings are errors."""
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stderr
    return folder


def build(checkout: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    for module in ("material", "mkdocstrings"):
        pytest.importorskip(module)
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(folder)],
        cwd=checkout,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"},
    )


def test_defects_end_the_build(tmp_path: Path) -> None:
    shutil.copytree(DOCS, tmp_path / "docs")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    for name in ("edgepose", "CHANGELOG.md"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "docs" / "stray.md").write_text("# Not in the navigation\n")
    with (tmp_path / "docs" / "kernels.md").open("a") as page:
        page.write("\n[nowhere](people.md#nowhere)\n\n[no page](nowhere.md)\n")
    with (tmp_path / "docs" / "api" / "index.md").open("a") as page:
        page.write("\n[no name][edgepose.Nowhere]\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode == 1
    for defect in ("stray.md", "#nowhere", "'nowhere.md'", "edgepose.Nowhere"):
        assert defect in done.stderr


class Page(HTMLParser):
    """The anchors of a page, and what it fetches from elsewhere."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.fetched: list[str] = []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if values.get("id"):
            self.anchors.add(str(values["id"]))
        address = values.get("src") if tag in ("script", "img", "iframe") else None
        if tag == "link" and values.get("rel") in ("stylesheet", "icon", "preconnect", "preload"):
            address = values.get("href")
        if address and re.match(r"(https?:)?//", address):
            self.fetched.append(address)


def test_every_public_name_is_described(site: Path) -> None:
    anchors = set().union(*(Page(path).anchors for path in (site / "api").glob("*.html")))
    assert {f"edgepose.{name}" for name in edgepose.__all__} <= anchors


def test_names_that_are_described_together_are_joined(site: Path) -> None:
    assert "<b><code>mean, std</code></b>" in (site / "api" / "models.html").read_text("utf-8")
    for path in (site / "api").glob("*.html"):
        names = re.findall(r"<b><code>(.*?)</code></b>", path.read_text("utf-8"))
        assert not [name for name in names if "," in re.sub(r"<[^>]+>|, \w", "", name)], path.name


def test_options_are_not_broken_at_their_dashes(site: Path) -> None:
    page = (site / "annotate.html").read_text("utf-8")
    assert '<code class="option">--score-threshold</code>' in page
    assert not re.findall(r"<code>--[a-z]+</code>", page)
    (style,) = site.glob("style.css")
    assert re.search(r"code\.option \{\s+white-space: nowrap", style.read_text("utf-8"))


def test_every_option_of_every_verb_is_described(site: Path) -> None:
    (verbs,) = (action for action in make_parser()._actions if isinstance(action, argparse._SubParsersAction))
    anchors = Page(site / "cli.html").anchors
    assert verbs.choices
    for verb, parser in verbs.choices.items():
        assert f"edgepose-{verb}" in anchors
        for action in parser._actions:
            if action.dest != "help":
                name = (action.option_strings or [action.dest])[-1].lstrip("-")
                assert f"{verb}-{name}" in anchors


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert (site / "404.html") in pages
    assert not {address for path in pages for address in Page(path).fetched}
    styles = "".join(path.read_text("utf-8") for path in site.rglob("*.css"))
    assert not re.findall(r"url\([\"']?https?://", styles)


def test_pictures_are_small() -> None:
    pictures = sorted((DOCS / "images").iterdir())
    assert pictures
    assert max(path.stat().st_size for path in pictures) < 150_000


def test_every_variable_is_described() -> None:
    used = {
        name
        for path in [*(ROOT / "edgepose").rglob("*.py"), ROOT / "setup.py"]
        for name in re.findall(r"(?:environ\S*|getenv\()[\"'](EDGEPOSE_[A-Z_]+)", path.read_text("utf-8"))
    }
    page = (DOCS / "cli.md").read_text("utf-8")
    assert len(used) >= 3
    assert {name for name in used if f"`{name}`" not in page} == set()


def test_every_error_has_an_entry() -> None:
    table = TROUBLE.partition("\n## ")[0]
    for name in errors.__all__:
        assert f"`{name}`" in table, name
    for name in set(errors.__all__) - {"EdgePoseError"}:
        assert f"`{name}`" in TROUBLE.partition("\n## ")[2], name


def test_every_module_that_raises_has_an_entry() -> None:
    """By the messages that the page quotes, each of which is one that the sources have."""
    known = messages(own=True)
    covered = set()
    for line in QUOTED:
        givers = {message.module for message in known if message.pattern.fullmatch(line)}
        covered |= givers
    assert {message.module for message in known} - covered == set()


@pytest.mark.parametrize("line", QUOTED)
def test_quoted_message_is_one_of_ours(line: str) -> None:
    if line not in PROVOKED:
        assert any(message.pattern.fullmatch(line) for message in messages())


Trial = Callable[[edgepose.Estimator], Any]
PHOTO = edgepose.read_image(PERSON)
PROVOKED: dict[str, Trial] = {
    "model not found: pose.onnx; found no such file; check the path": lambda _: edgepose.Estimator(
        "pose.onnx"
    ),
    "boxes[0] is empty; found [100.0, 100.0, 100.0, 300.0]; give x1 < x2 and y1 < y2 (xyxy, not xywh)": (
        lambda estimator: estimator(PHOTO, boxes=[[100, 100, 100, 300]])
    ),
    "boxes has the wrong shape; found (1, 3); give (n, 4) xyxy, or (n, 5) with a score": (
        lambda estimator: estimator(PHOTO, boxes=[[1, 2, 3]])
    ),
    "boxes do not fit the pictures; found 1 for 2 pictures; give a list with one entry per picture": (
        lambda estimator: estimator([PHOTO, PHOTO], boxes=[[[0, 0, 9, 9]]])
    ),
    "image is grey; found shape (512, 512), dtype uint8; "
    "convert it: cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)": lambda estimator: estimator(PHOTO[..., 0]),
    "image has the wrong type; found shape (512, 512, 3), dtype float64; give uint8 values from 0 to 255": (
        lambda estimator: estimator(PHOTO / 255)
    ),
    "image is not a picture; found NoneType; give a path or a BGR uint8 array of shape (height, width, 3)": (
        lambda estimator: estimator(None)
    ),
    "unknown device 'gpu'; give 'auto', 'cpu', 'cuda' or 'cuda:1' (another number)": (
        lambda _: edgepose.Estimator(device="gpu")
    ),
    "unknown argument 'treads'; did you mean 'threads'?": lambda _: edgepose.Estimator(treads=1),  # type: ignore[call-overload]
    "score_threshold is not usable; found 3; give a number from 0 to 1": (
        lambda _: edgepose.Estimator(score_threshold=3)
    ),
    "scales serves bottom-up models; found (2.0, 1.0) for 'lpn50-lsp', which is top-down; leave it out": (
        lambda _: edgepose.Estimator(scales=(1, 2))
    ),
    "source not found: walk.mp4; check the path": lambda estimator: estimator.stream("walk.mp4"),
    "no file matches *.png; check the pattern": lambda estimator: estimator.stream("*.png"),
    "cannot read the address csi://0?size=3; found the option 'size'; "
    "give width, height, fps, flip, sensor_mode": lambda estimator: estimator.stream("csi://0?size=3"),
    "labels do not fit the persons; found ['a', 'b']; give 1 texts, one for each": (
        lambda estimator: estimator(PHOTO).draw(PHOTO, labels=["a", "b"])
    ),
    "palette is unknown; found 'red'; give one of auto, sides, persons, or a Palette": (
        lambda estimator: estimator(PHOTO).draw(PHOTO, palette="red")
    ),
    "method is not known; found 'x'; give 'oks' or 'iou'": lambda _: edgepose.Tracker(method="x"),
    "argument 'heatmaps' is not usable; found float64 array of shape (3, 3); "
    "give a float32 or float16 array (n, k, h, w) with h and w of at least 1": (
        lambda _: edgepose.kernels.soft_argmax(np.zeros((3, 3)))
    ),
}
"""Messages of the page that can be provoked anywhere, and how."""


@pytest.fixture(scope="module")
def estimator() -> edgepose.Estimator:
    return edgepose.Estimator(threads=1)


@pytest.mark.parametrize("message", PROVOKED)
def test_quoted_message_is_given(
    message: str, estimator: edgepose.Estimator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert message in QUOTED
    monkeypatch.chdir(tmp_path)
    with pytest.raises((edgepose.EdgePoseError, TypeError)) as raised:
        list(PROVOKED[message](estimator))
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["build", "lpn50-lsp", "-o", "fast.bin"],
            "cannot build fast.bin; found the suffix '.bin'; name an .onnx or .engine file",
        ),
        (
            ["build", "lpn50-lsp", "-o", "fast.onnx", "--precision", "int8"],
            "precision int8 needs pictures to calibrate on; found none; "
            "give some hundred of people, as the camera will see them",
        ),
        (
            ["build", "lpn50-lsp", "-o", "fast.onnx", "--size", "128x128"],
            "cannot fix the size of 'lpn50-lsp'; found a model of one size; leave size out",
        ),
        (
            ["predict", "photo.jpg", "-o", "photo.jpg"],
            "cannot write to photo.jpg; it is the source itself; choose another name",
        ),
        (
            ["val", "--coco", "person_keypoints_val2017.json", "val2017"],
            "no annotations; found no file person_keypoints_val2017.json; "
            "docs/training.md says where to get them",
        ),
    ],
)
def test_quoted_message_is_printed(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("onnx")
    assert message in QUOTED
    shutil.copy(PERSON, tmp_path / "photo.jpg")
    shutil.copy(resolve_model(None), tmp_path / "lpn50-lsp.onnx")
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    assert f"edgepose: {message}" in capsys.readouterr().err.splitlines()

"""Bring what the README measures or draws up to date with the packaged model: ``make readme``."""

from __future__ import annotations

import json
import re
from pathlib import Path

import edgepose
from edgepose.backends import read_model_spec
from edgepose.estimator import resolve_model
from edgepose.samples import PERSON, PERSON_BOXES

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
SECTION = re.compile(r"(<!-- model: [^>]*-->\n).*?(<!-- /model -->)", re.DOTALL)


def main() -> None:
    """Rewrite the README's table and picture."""
    README.write_text(render(README.read_text("utf-8")), "utf-8")
    with edgepose.Estimator() as estimator:
        image = edgepose.read_image(PERSON)
        picture = estimator(image, boxes=json.loads(PERSON_BOXES.read_text())).draw(image)
    import cv2

    target = ROOT / "docs" / "images" / PERSON.name
    target.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(target), picture, [cv2.IMWRITE_JPEG_QUALITY, 90])


def render(readme: str) -> str:
    """The README's text with the packaged model's figures between their marks."""
    text, count = SECTION.subn(lambda marks: f"{marks[1]}{model_table()}{marks[2]}", readme)
    if count != 1:
        raise SystemExit(f"the README has {count} places for the model's figures; it needs one")
    return text


def model_table() -> str:
    """The packaged default in one row: its description from the file, its accuracy from its card."""
    path = resolve_model(None)
    spec = read_model_spec(path)
    accuracy, mirrored = mean_pck(path.with_suffix(".md"))
    height, width = spec.input_size
    return (
        "| model | joints | input | size | PCK@0.2 | with flip test |\n|---|---|---|---:|---:|---:|\n"
        f"| `{path.stem}` | {len(spec.skeleton)}, `{spec.skeleton.name}` | {height}x{width} | "
        f"{path.stat().st_size / 1e6:.1f} MB | {accuracy} | {mirrored} |\n\n"
        "PCK@0.2 on the 1,000 test pictures of Leeds Sports Pose, with the whole picture as the box.\n"
    )


def mean_pck(card: Path) -> tuple[str, str]:
    """PCK@0.2 over all joints without and with flip test, as the model card has it."""
    row = re.search(r"^\| mean \| ([\d.]+) \| ([\d.]+) \|$", card.read_text("utf-8"), re.MULTILINE)
    if row is None:
        raise SystemExit(f"{card} has no row '| mean | PCK | with flip test |'; run training card")
    return row[1], row[2]


if __name__ == "__main__":
    main()

"""Bring the README's figures up to date with the packaged models: part of ``make readme``."""

from __future__ import annotations

import re
from pathlib import Path

from edgepose.backends import read_model_spec
from edgepose.estimator import resolve_model

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
SECTION = re.compile(r"(<!-- model: [^>]*-->\n).*?(<!-- /model -->)", re.DOTALL)


def main() -> None:
    """Rewrite the README's table."""
    README.write_text(render(README.read_text("utf-8")), "utf-8")


def render(readme: str) -> str:
    """The README's text with the packaged models' figures between their marks."""
    text, count = SECTION.subn(lambda marks: f"{marks[1]}{model_table()}{marks[2]}", readme)
    if count != 1:
        raise SystemExit(f"the README has {count} places for the model's figures; it needs one")
    return text


def model_table() -> str:
    """A row for each packaged model: its description from the file, its accuracy from its card."""
    single, several = resolve_model(None), resolve_model("multi")
    ((pck, mirrored),) = card_rows(single.with_suffix(".md"), "mean")
    (ap50, ap50_mirrored, *_), (whole, *_) = card_rows(several.with_suffix(".md"), "AP50")
    return (
        "| model | finds | joints | input | size | accuracy | with flip test |\n"
        "|---|---|---|---|---:|---:|---:|\n"
        f"{_model_row(single, 'one person, or one a box')} | PCK@0.2 {pck} | {mirrored} |\n"
        f"{_model_row(several, 'several people')} | AP50 {ap50} | {ap50_mirrored} |\n\n"
        "PCK@0.2 on the 1,000 test pictures of Leeds Sports Pose, with the whole picture as the box. AP50\n"
        f"on 200 mosaics of four of these pictures each; on whole pictures of COCO val2017 it is {whole}:\n"
        "there are the large, seated and half hidden people that this small network misses.\n"
    )


def _model_row(path: Path, finds: str) -> str:
    spec = read_model_spec(path)
    height, width = spec.input_size
    size = f"{height}x{width}" if spec.task == "topdown" else f"shorter side {height}"
    return (
        f"| `{path.stem}` | {finds} | {len(spec.skeleton)}, `{spec.skeleton.name}` | {size} | "
        f"{path.stat().st_size / 1e6:.1f} MB"
    )


def card_rows(card: Path, name: str) -> list[list[str]]:
    """The figures in the rows of this name of a model card's tables: without and with flip test, and more."""
    rows = re.findall(rf"^\| {re.escape(name)} \|((?: [\d.]+ \|)+)$", card.read_text("utf-8"), re.MULTILINE)
    if not rows:
        raise SystemExit(f"{card} has no row '| {name} | ...'; run `python -m training card`")
    return [[figure.strip() for figure in row.split("|") if figure.strip()] for row in rows]


if __name__ == "__main__":
    main()

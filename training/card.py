"""The model card of a packaged model: what it is, how it was made, and what the file itself scores.

`python -m training card MODEL.onnx --data DATA --runs RUN [RUN ...]` writes ``MODEL.md`` and
``MODEL.png`` beside the model. All figures come from the exported file, run by `edgepose.Estimator`
on the whole pictures, top-down, or on mosaics of them, bottom-up, and from the logs of the training runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from tqdm import tqdm

from edgepose import Estimator
from edgepose.errors import InvalidInputError
from edgepose.evaluation.coco import PictureSet
from edgepose.evaluation.people import People
from edgepose.evaluation.run import score_people, score_pictures
from edgepose.evaluation.scorers import LspScorer
from edgepose.spec import ModelSpec
from training.evaluate_mosaics import held_out_mosaics, measure_mosaics
from training.loop import read_log

Runs = list[tuple[str, list[dict[str, Any]]]]

GOAL = 84.32
"""PCK@0.2 of CPM trained on the same pictures, by the same evaluation."""

MOSAICS = 200
"""Mosaics of each kind that a bottom-up model is measured on."""

LICENCE = (
    "The pictures of Leeds Sports Pose are CC BY 2.0\n(Johnson and Everingham, BMVC 2010); LSP Extended "
    "(CVPR 2011) states no licence and is meant for research:\n"
    "judge for yourself whether that suits your use."
)
LIMITS = (
    "The training pictures show people at sport, one in the\nmiddle of each picture; expect less of crowds, "
    "of seated or half-visible people, and of children."
)


def measure(model: Path, people: People, *, flip_test: bool) -> dict[str, float]:
    """PCK@0.2 by joint of a model file."""
    with Estimator(model, flip_test=flip_test) as estimator, tqdm(total=len(people), leave=False) as bar:
        return score_people(estimator, LspScorer(people), bar.update)


def read_runs(folders: list[Path]) -> Runs:
    """Name and log lines of each training run, in the order in which they were made.

    Raises:
        InvalidInputError: a folder holds no log.
    """
    for folder in folders:
        if not (folder / "log.jsonl").is_file():
            raise InvalidInputError(f"no training run; found no log.jsonl in {folder}; give the run's folder")
    return [(folder.name, read_log(folder)) for folder in folders]


def plot(runs: Runs, path: Path) -> None:
    """Curves of loss and of the accuracy on the people held out, over all runs."""
    mpl.use("Agg")
    figure = "AP" if any("AP" in line for _, lines in runs for line in lines) else "pck"
    canvas, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
    start = 0
    for name, lines in runs:
        epochs = [start + number for number in range(1, len(lines) + 1)]  # stages count theirs anew
        left.semilogy(epochs, [line["loss"] for line in lines], label=name)
        scored = [(e, line[figure]) for e, line in zip(epochs, lines, strict=True) if figure in line]
        right.plot([e for e, _ in scored], [value for _, value in scored], marker=".", label=name)
        start = epochs[-1]
    left.set(xlabel="epoch", ylabel="training loss")
    right.set(
        xlabel="epoch",
        ylabel="AP, mosaics of held-out LSPet" if figure == "AP" else "PCK@0.2, held-out LSPet",
    )
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    canvas.savefig(path, dpi=110)
    plt.close(canvas)


def write_card(
    model: Path, people: People, runs: Runs, notes: str, pictures: PictureSet | None = None
) -> None:
    """Measure a model and write its card and curves beside it.

    Args:
        model: the file.
        people: the test pictures of Leeds Sports Pose.
        runs: of its training.
        notes: what the runs were made on.
        pictures: of several people, which a bottom-up model was not trained on.
    """
    with Estimator(model) as estimator:
        spec = estimator.info.spec
    plot(runs, model.with_suffix(".png"))
    if spec.task == "bottomup":
        about, accuracy = _several(model, spec, people, pictures)
    else:
        about, accuracy = _single(model, spec, people)
    seconds = [sum(line["seconds"] for line in lines) for _, lines in runs]
    made = [
        f"| {name} | {len(lines)} | {lines[-1]['loss']:.5f} | {time / 60:.0f} |"
        for (name, lines), time in zip(runs, seconds, strict=True)
    ]
    height, width = spec.input_size
    seed = spec.provenance.get("config", {}).get("seed")
    data = spec.provenance.get("data", "not said")
    text = f"""# {spec.name}

{about}: {len(spec.skeleton)} joints of
`{spec.skeleton.name}`, input {height}x{width}, {model.stat().st_size / 1e6:.1f} MB, {spec.precision}.

## Accuracy

{accuracy}

## Training

Data: {data}. Seed {seed}.

| run | epochs | last loss | minutes |
|---|---|---|---|
{chr(10).join(made)}

{sum(len(lines) for _, lines in runs)} epochs in all, {notes}.
{spec.provenance.get("remark", "")}

![curves]({model.with_suffix(".png").name})

Made by:

```console
{chr(10).join(spec.provenance.get("commands", []))}
```

## Licence and use

The weights are under the Apache License 2.0 like edgepose. {spec.provenance.get("data_licence", LICENCE)}
{spec.provenance.get("limits", LIMITS)}
"""
    model.with_suffix(".md").write_text(text)


def _single(model: Path, spec: ModelSpec, people: People) -> tuple[str, str]:
    """What a model for one person is, and its accuracy."""
    tables = [measure(model, people, flip_test=flip) for flip in (False, True)]
    rows = [
        f"| {name.replace('_', ' ')} | {tables[0][name]:.2f} | {tables[1][name]:.2f} |" for name in tables[0]
    ]
    reached = tables[0]["mean"]
    return (
        "LPN-50 (Zhang, Tang and Wu 2019) for one person a picture",
        f"""\
PCK@0.2 on the test pictures 1001-2000 of Leeds Sports Pose (person-centric, all joints, torso from left
shoulder to right hip), this file run by `edgepose.Estimator` on the whole pictures:

| joint | PCK@0.2 | with flip test |
|---|---|---|
{chr(10).join(rows)}

The aim is {GOAL}, what CPM reaches on the same data; this file is {abs(GOAL - reached):.2f} points
{"below" if reached < GOAL else "above"} it. FPD publishes 90.8, with a teacher, crops of 256x256 and
the people of MPII in training too.""",
    )


def _several(model: Path, spec: ModelSpec, people: People, pictures: PictureSet | None) -> tuple[str, str]:
    """What a model for several persons is, and its accuracy on mosaics and on whole pictures."""
    columns = []
    for side in (2, 3):
        mosaics = held_out_mosaics(people, MOSAICS, side)
        for flip in (False, True):
            with Estimator(model, flip_test=flip) as estimator:
                columns.append(measure_mosaics(estimator, mosaics))
    rows = []
    for name in columns[0]:
        label = (
            name.replace("pck_", "PCK@0.2, ").replace("_", " ").replace("persons", "persons found a mosaic")
        )
        digits = 3 if name.startswith("A") else 2
        rows.append(f"| {label} | {' | '.join(f'{column[name]:.{digits}f}' for column in columns)} |")
    whole = "" if pictures is None else _whole_pictures(model, spec, pictures)
    return (
        "HigherLPN-50, a small bottom-up network of this project, for several persons a picture",
        f"""\
{MOSAICS} mosaics of 2x2, and as many of 3x3, of the test pictures 1001-2000 of Leeds Sports Pose, 512
pixels wide, this file run by `edgepose.Estimator`. AP by object keypoint similarity, the area of a person
being 0.53 of its cell; PCK (percent, torso from left shoulder to right hip) counts people who were not
found as wrong:

| | 2x2 | 2x2, flip test | 3x3 | 3x3, flip test |
|---|---|---|---|---|
{chr(10).join(rows)}{whole}""",
    )


def _whole_pictures(model: Path, spec: ModelSpec, pictures: PictureSet) -> str:
    """AP on annotated pictures, as Markdown."""
    mapped = pictures.mapped(spec.skeleton)
    columns = []
    for flip in (False, True):
        with Estimator(model, flip_test=flip) as estimator, tqdm(total=len(mapped), leave=False) as bar:
            columns.append(score_pictures(estimator, mapped, bar.update))
    rows = [
        f"| {name.replace('_', ', ')} | {' | '.join(f'{column[name]:.3f}' for column in columns)} |"
        for name in ("AP", "AP50", "AP75", "AP_medium", "AP_large", "AR")
    ]
    people = sum(len(picture.joints) for picture in mapped.pictures)
    return f"""

{len(mapped)} whole pictures of COCO val2017 with {people} labelled people, none of them trained on, scored on
the {int(mapped.labelled_joints.sum())} joints that both skeletons have:

| | as it is | flip test |
|---|---|---|
{chr(10).join(rows)}"""

"""The data that a configuration asks for: MPII and COCO trained on and scored, pictures without labels."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import default_collate

from edgepose.errors import InvalidInputError
from edgepose.evaluation.people import Pictures
from edgepose.evaluation.scorers import CocoScorer, LspScorer, MpiiScorer
from edgepose.skeleton import coco17, lsp14, mpii16
from tests.fakes.perfect import Perfect
from training.__main__ import main
from training.checkpoints import read_state_dict
from training.config import load_config
from training.data.crops import Crops
from training.data.sets import load_people, load_test, load_unlabelled
from training.evaluate import evaluate
from training.export import model_spec
from training.loop import Trainer, train
from training.models import create

Write = Callable[..., Path]
PARTS = ("head", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")


def part(kind: str) -> dict[str, Any]:
    """Fields of a configuration for a set of the small data."""
    if kind == "mpii":
        files = {
            "train_annotations": "mpii/annot/train.json",
            "validation_annotations": "mpii/annot/valid.json",
        }
        images = "mpii/images"
    else:
        files = dict.fromkeys(("train_annotations", "validation_annotations"), "coco/people.json")
        images = "coco/images"
    pictures = {"train_images": images, "validation_images": images}
    skeleton = {"mpii": "mpii16", "coco": "coco17"}[kind]
    return {"skeleton": skeleton, "data": {"people": kind, **files, **pictures}}


def with_data(fields: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**fields, "data": {**fields["data"], **changes}}


@pytest.fixture
def weights(tmp_path: Path) -> Callable[[int], str]:
    """Weights of the plain network for a number of joints."""

    def save(joints: int) -> str:
        torch.manual_seed(0)
        path = tmp_path / f"plain{joints}.pt"
        torch.save(create("plain", joints=joints).state_dict(), path)
        return str(path)

    return save


def test_who_is_trained_on_and_who_is_scored(write_config: Write, small_data: Path) -> None:
    people, scorer = load_people(load_config(write_config()))
    assert isinstance(scorer, LspScorer)
    assert (len(people), len(scorer.people)) == (16, 8)
    people, scorer = load_people(load_config(write_config(**part("mpii"))))
    assert isinstance(scorer, MpiiScorer)
    assert (len(people), len(scorer.people)) == (8, 4)
    config = load_config(write_config(**with_data(part("coco"), limit=5)))
    people, scorer = load_people(config)
    assert isinstance(scorer, CocoScorer)
    assert (len(people), len(scorer.people)) == (5, 12)
    assert people.skeleton is coco17
    # Padding is part of the region: a cleaned box of 47 x 63 by 1.25.
    np.testing.assert_allclose(people.boxes[0], [-5.875, -7.875, 52.875, 70.875])
    config.padding = 1.0
    assert load_people(config)[0].boxes[0].tolist() == [0, 0, 47, 63]

    config = load_config(write_config(**{**part("coco"), "skeleton": "lsp14"}, name="mapped"))
    config.data.skeleton = "coco17"
    people, scorer = load_people(config)
    assert people.skeleton is scorer.people.skeleton is lsp14
    config.data.ids = [2, 3]
    assert len(load_people(config)[0]) == 4


def test_data_that_does_not_fit(write_config: Write, small_data: Path, tmp_path: Path) -> None:
    fields = {**part("mpii"), "skeleton": "lsp14"}
    for load in (load_people, load_test):
        with pytest.raises(InvalidInputError, match="lsp14 on MPII; its people have mpii16"):
            load(load_config(write_config(**fields)))
    root = tmp_path / "data"
    shutil.copytree(small_data / "coco", root / "coco")
    path = root / "coco/people.json"
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        annotation["keypoints"] = [0] * 51
    (root / "coco/nobody.json").write_text(json.dumps(content))
    for name, text, where in (
        ("train", "nothing to train on", "nobody"),
        ("validation", "nobody to score", "6 pictures"),
    ):
        changes = {f"{name}_annotations": "coco/nobody.json", "root": str(root)}
        with pytest.raises(InvalidInputError, match=f"{text}; found no person .*{where}"):
            load_people(load_config(write_config(**with_data(part("coco"), **changes))))


def test_the_last_picture_read_is_shared(small_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = sorted((small_data / "coco/images").iterdir())[:2]
    read: list[str] = []
    imread = cv2.imread

    def counted(path: str, *flags: int) -> Any:
        read.append(Path(path).name)
        return imread(path, *flags)

    monkeypatch.setattr(cv2, "imread", counted)
    pictures = Pictures([paths[0], paths[0], paths[1], paths[0]])
    images = [pictures[i] for i in range(4)]
    assert read == ["0.png", "1.png", "0.png"]
    assert images[0] is images[1]
    np.testing.assert_array_equal(images[3], images[0])
    assert not np.array_equal(images[2], images[0])


@pytest.fixture
def loose(tmp_path: Path) -> Path:
    """Three pictures without annotations, and a file that is none."""
    folder = tmp_path / "loose"
    folder.mkdir()
    for name, size in (("b.png", (40, 30)), ("a.jpg", (20, 50)), ("c.png", (64, 64))):
        cv2.imwrite(str(folder / name), np.full((*size, 3), 90, np.uint8))
    (folder / "notes.txt").write_text("none")
    return folder


def test_pictures_without_labels(write_config: Write, loose: Path) -> None:
    people = load_unlabelled(loose, mpii16)
    assert people.boxes.tolist() == [[0, 0, 49, 19], [0, 0, 29, 39], [0, 0, 63, 63]]
    assert not people.visible.any()
    assert people.images[1].shape == (40, 30, 3)

    distill = {"method": "fpd", "teacher_config": "teacher.yaml"}
    config = load_config(write_config(**with_data(part("mpii"), unlabelled=str(loose)), distill=distill))
    people, _ = load_people(config)
    assert len(people) == 11
    crops = Crops(people, (64, 64), (16, 16), "udp")
    assert [crops[i]["labelled"].item() for i in range(11)] == [1] * 8 + [0] * 3
    assert crops[8]["labelled"].dtype == torch.float32
    assert crops[8]["weights"].sum() == 0
    assert crops[8]["joints"].isfinite().all()
    config.data.limit = 2
    assert load_people(config)[0].visible.any(1).tolist() == [True, True, False, False]
    with pytest.raises(InvalidInputError, match=r"data\.unlabelled is not usable; .*distill\.method: fpd"):
        load_config(write_config(**with_data(part("mpii"), unlabelled=str(loose))))


def test_unlabelled_pictures_that_are_not_there(loose: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="found no folder"):
        load_unlabelled(tmp_path / "none", mpii16)
    (loose / "d.png").write_bytes(b"no picture")
    with pytest.raises(InvalidInputError, match=r"cannot read picture .*d\.png"):
        load_unlabelled(loose, mpii16)
    for path in loose.iterdir():
        path.unlink()
    with pytest.raises(InvalidInputError, match="found none in"):
        load_unlabelled(loose, mpii16)


@pytest.mark.parametrize(("kind", "figure"), [("mpii", "pckh"), ("coco", "AP")])
def test_training_chooses_by_the_figure_of_the_set(
    write_config: Write, tmp_path: Path, kind: str, figure: str
) -> None:
    config = load_config(write_config(**with_data(part(kind), workers=2), epochs=2))
    line = train(config)
    assert {"epoch", "loss", "lr", "pictures", "seconds"} == set(line) - {figure}
    assert 0 <= line[figure] <= 100
    lines = [json.loads(entry) for entry in (tmp_path / "runs/tiny/log.jsonl").read_text().splitlines()]
    assert lines[1]["loss"] < lines[0]["loss"]
    assert (tmp_path / "runs/tiny/best.pt").is_file()


def test_command_line_evaluates_on_mpii(
    write_config: Write,
    weights: Callable[[int], str],
    small_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = str(write_config(**part("mpii")))
    arguments = ["evaluate", config, "--weights", weights(16)]
    assert main([*arguments, "--json", "--flip-test"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert list(table) == [*PARTS, "mean", "mean@0.1", "mean_strict"]
    assert all(0 <= value <= 100 for value in table.values())
    assert main([*arguments, "data.workers=1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(table)

    # Without the evaluation's file a checkpoint can be chosen, but no figure told.
    root = tmp_path / "data"
    shutil.copytree(small_data / "mpii", root / "mpii")
    (root / "mpii/annot/gt_valid.mat").unlink()
    assert main([*arguments, f"data.root={root}"]) == 1
    assert "cannot compute PCKh on" in (error := capsys.readouterr().err)
    assert "found no gt_valid.mat beside it" in error
    found = load_config(config, [f"data.root={root}"])
    _, scorer = load_people(found)
    assert scorer.table(scorer.people.joints, scorer.people.visible)["mean"] == 100


def test_command_line_evaluates_on_coco(
    write_config: Write,
    weights: Callable[[int], str],
    small_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = str(write_config(**part("coco")))
    arguments = ["evaluate", config, "--weights", weights(17)]
    assert main([*arguments, "--json", "--flip-test"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert {"AP", "AP50", "AP75", "AR"} <= set(table)
    assert all(0 <= value <= 1 for value in table.values())
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["AP", f"{float(lines[0].split()[1]):.4f}"]

    detections = tmp_path / "detections.json"
    entry = {"image_id": 0, "category_id": 1, "bbox": [0, 0, 48, 64], "score": 0.5}
    detections.write_text(json.dumps([entry]))
    assert main([*arguments, "--json", f"data.detections={detections}"]) == 0
    assert json.loads(capsys.readouterr().out)["AR"] <= 1 / 12  # one of twelve is looked for
    assert len(load_test(load_config(config, [f"data.detections={detections}"])).people) == 1
    _, scorer = load_people(load_config(config, [f"data.detections={detections}"]))
    assert len(scorer.people) == 12  # a checkpoint is chosen by the annotated boxes


def test_training_on_real_coco(write_config: Write, shared: Path) -> None:
    folder = shared / "data/coco"
    if not folder.is_dir():
        pytest.skip(f"no COCO pictures in {folder}")
    names = {
        f"{part}_{kind}": f"coco/{name}"
        for part in ("train", "validation")
        for kind, name in (("annotations", "person_keypoints_pooled.json"), ("images", "images"))
    }
    content = json.loads((folder / "person_keypoints_pooled.json").read_text())
    complete = [image["id"] for image in content["images"] if image["annotations_complete"]]
    data = {"people": "coco", "root": str(folder.parent), "ids": complete[:40], "limit": 24, **names}
    config = load_config(write_config(skeleton="coco17", data=data, epochs=1, batch_size=8))
    line = train(config)
    assert np.isfinite(line["loss"])
    assert 0 <= line["AP"] <= 1


@pytest.mark.parametrize("coordinates", ["legacy", "udp"])
@pytest.mark.parametrize("flip_test", [False, True])
@pytest.mark.parametrize("kind", ["mpii", "coco"])
def test_a_perfect_network_reaches_the_best_figure(
    write_config: Write, kind: str, coordinates: str, flip_test: bool
) -> None:
    decoder = {"name": "argmax", "refine": "taylor"}
    fields = {"coordinates": coordinates, "decoder": decoder, "input_size": [256, 256]}
    config = load_config(write_config(**part(kind), **fields))
    scorer = load_test(config)
    spec = model_spec(config)
    table = evaluate(Perfect(scorer.people, spec), spec, scorer, flip_test=flip_test)
    if kind == "coco":
        assert table["AP"] == pytest.approx(1)
    else:
        assert set(table.values()) == {100}


def test_a_student_learns_from_pictures_without_labels(
    write_config: Write, loose: Path, tmp_path: Path
) -> None:
    """With alpha 0 the annotation alone counts, and the teacher for pictures that have none."""
    fields = {**part("mpii"), "epochs": 1}
    teacher = write_config(**fields, name="teacher")
    train(load_config(teacher))
    distill = {"method": "fpd", "teacher_config": str(teacher), "alpha": 0.0}
    student = with_data(fields, unlabelled=str(loose))
    trainer = Trainer(load_config(write_config(**student, name="student", distill=distill)), tmp_path / "run")
    examples = trainer._task.examples
    assert len(examples) == 11
    batch = default_collate([examples[i] for i in range(8, 11)])
    images = trainer._normalize(batch["image"])

    def loss(network: nn.Module) -> float:
        return trainer._task.loss(network(images), batch, images).item()

    assert loss(trainer.network) > 0
    known = create("plain", joints=16)
    known.load_state_dict(read_state_dict(tmp_path / "runs/teacher/best.pt"))
    assert loss(known) == 0
    del batch["labelled"]
    assert loss(trainer.network) == 0
    assert np.isfinite(trainer.run()["loss"])


def test_branches_are_chosen_by_the_figure_of_the_set(write_config: Write, tmp_path: Path) -> None:
    options = {"base": "lpn50", "branches": [1, 1]}
    distill = {"method": "okdhp", "ramp_up": 1}
    fields = {**part("coco"), "model": "okdhp", "options": options, "distill": distill, "epochs": 1}
    line = train(load_config(write_config(**fields)))
    assert {"AP", "AP_branch1", "AP_branch2", "AP_ensemble"} <= set(line)
    assert (tmp_path / "runs/tiny/student.pt").is_file()

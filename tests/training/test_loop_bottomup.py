"""Bottom-up training by the loop: its data, the figure it chooses by, and what it refuses."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgepose.errors import InvalidInputError, ModelFormatError
from edgepose.skeleton import SKELETONS
from training import tasks
from training.checkpoints import read_checkpoint, read_state_dict
from training.config import load_config
from training.export import model_spec
from training.loop import Trainer, build_network, train

Write = Callable[..., Path]

PARTS = {
    "pictures": ({"pictures": True}, 12),
    "mosaics": ({"mosaics": True}, 6),
    "both": ({"pictures": True, "mosaics": True}, 18),
}
"""What is trained on, and the examples of an epoch."""


@pytest.mark.parametrize("name", PARTS)
def test_each_kind_of_data_is_learnt(write_bottom_up: Write, tmp_path: Path, name: str) -> None:
    options, count = PARTS[name]
    trainer = Trainer(load_config(write_bottom_up(**options, epochs=4)), tmp_path / "run")
    examples = trainer._task.examples
    assert len(examples) == count
    shapes = [_shapes(examples[i]) for i in range(count)]
    assert all(shape == shapes[0] for shape in shapes)  # a batch may hold both kinds
    trainer.run()
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < 0.9 * lines[0]["loss"]
    for line in lines:
        assert 0 <= line["AP"] <= line["AP50"] <= 1
        assert "pck" not in line


def _shapes(item: dict[str, Any]) -> list[torch.Size]:
    """Shapes of an example's tensors."""
    tensors = [item["image"], *item["targets"], *item["masks"], *item["joints"]]
    return [tensor.shape for tensor in tensors]


def test_the_best_checkpoint_is_that_of_the_highest_ap(
    write_bottom_up: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = iter([0.2, 0.5, 0.3, 0.5])
    seen: list[dict[str, Tensor]] = []

    def evaluate(network: nn.Module, *_: Any, **__: Any) -> dict[str, float]:
        seen.append(copy.deepcopy(network.state_dict()))
        return {"AP": next(figures), "AP_medium": float("nan")}

    monkeypatch.setattr(tasks, "evaluate_pictures", evaluate)
    train(load_config(write_bottom_up(pictures=True, epochs=4)))
    best = read_state_dict(tmp_path / "runs/tiny/best.pt")
    assert all(torch.equal(value, seen[1][key]) for key, value in best.items())
    assert not all(torch.equal(value, seen[3][key]) for key, value in best.items())
    assert read_checkpoint(tmp_path / "runs/tiny/last.pt")["best"] == 0.5
    assert "NaN" not in (tmp_path / "runs/tiny/log.jsonl").read_text()


def test_chosen_pictures_alone_are_trained_on_and_scored(
    write_bottom_up: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[list[int]] = []

    def evaluate(_: Any, __: Any, pictures: Any, **___: Any) -> dict[str, float]:
        scored.append([picture.id for picture in pictures.pictures])
        return {"AP": 0.0}

    monkeypatch.setattr(tasks, "evaluate_pictures", evaluate)
    config = load_config(write_bottom_up(pictures=True, epochs=1, data={"ids": [4, 1], "repeat": 3}))
    trainer = Trainer(config, tmp_path / "run")
    assert len(trainer._task.examples) == 6
    trainer.run()
    assert scored == [[1, 4]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"no train pictures; found data.train_annotations None"),
        ({"pictures": True, "data": {"validation_images": None}}, "no validation pictures; found"),
        ({"pictures": True, "data": {"train_annotations": "coco/none.json"}}, "found no file"),
        ({"pictures": True, "data": {"ids": [1, 77]}}, r"it has no pictures \[77\]"),
        ({"pictures": True, "skeleton": "lsp14"}, "a person has 17 joints, lsp14 has 14"),
        ({"mosaics": True, "skeleton": "coco17"}, "cannot train coco17 on Leeds Sports Pose"),
        ({"pictures": True, "batch_size": 13}, "lower batch_size"),
    ],
)
def test_unusable_data_is_refused(write_bottom_up: Write, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        train(load_config(write_bottom_up(**options)))


def test_people_without_a_shared_joint_are_refused(
    write_bottom_up: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(write_bottom_up(pictures=True, data={"skeleton": "coco17"}, skeleton="mpii16"))
    renamed = copy.copy(SKELETONS["mpii16"])
    object.__setattr__(renamed, "joints", tuple(f"other_{name}" for name in renamed.joints))
    monkeypatch.setitem(SKELETONS, "mpii16", renamed)
    with pytest.raises(InvalidInputError, match="cannot map coco17 to mpii16; found no joint"):
        train(config)


def test_joints_that_the_file_does_not_label_are_not_learnt(write_bottom_up: Write) -> None:
    config = load_config(write_bottom_up(pictures=True, data={"skeleton": "coco17"}, skeleton="mpii16"))
    task = tasks.BottomUp(config, model_spec(config), build_network(config))
    unknown = [name not in SKELETONS["coco17"].joints for name in SKELETONS["mpii16"].joints]
    assert any(unknown)
    masks = task.examples[0]["masks"][0]
    assert not masks[unknown].any()
    assert masks.any()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.mosaics=[0.5,0.6]", r"data.mosaics is not usable; found \[0.5, 0.6\]; give shares"),
        ("data.mosaics=[1.5,-0.5]", "data.mosaics is not usable"),
        ("grouping.windows=5", "grouping is not usable; found {'windows': 5}; give fields of"),
        ("losses.grouping=log", "losses.grouping is not usable; found 'log'; give one of exp, max"),
        ("losses.push=-1", "losses.push is not usable"),
        ("augment.zoom=[1.5,0.5]", "augment.zoom is not usable"),
        ("augment.side=both", "augment.side is not usable"),
        ("data.repeat=0", "data.repeat is not usable"),
        ("data.skeleton=coco", "data.skeleton is not usable"),
    ],
)
def test_unusable_fields_are_refused(write_bottom_up: Write, override: str, message: str) -> None:
    path = write_bottom_up(pictures=True)
    assert load_config(path).task == "bottomup"
    with pytest.raises(InvalidInputError, match=message):
        load_config(path, [override])


def test_networks_of_the_other_task_are_refused(write_bottom_up: Write, write_config: Write) -> None:
    with pytest.raises(ModelFormatError, match="take a bottom-up network"):
        train(load_config(write_bottom_up(pictures=True, model="plain")))
    with pytest.raises(ModelFormatError, match="do not fit"):
        train(load_config(write_config(model="plain_stages")))
    with pytest.raises(InvalidInputError, match=r"data.mosaics .* none for a top-down network"):
        load_config(write_config(data={"mosaics": [1.0]}))

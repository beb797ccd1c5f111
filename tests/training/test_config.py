"""Configuration files."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from edgepose.errors import InvalidInputError
from edgepose.spec import ModelSpec
from training.config import load_config, portable
from training.export import model_spec

Write = Callable[..., Path]


def test_overrides_and_defaults(write_config: Write) -> None:
    path = write_config(optimizer={"milestones": [90, 120]}, skeleton="mpii16")
    config = load_config(path, ["epochs=140", "data.limit=5", "input_size=[64,48]", "decoder.refine=taylor"])
    assert (config.epochs, config.data.limit, config.input_size) == (140, 5, [64, 48])
    assert config.optimizer.milestones == [90, 120]
    assert config.options == {"joints": 16}
    assert config.decoder.refine == "taylor"


def test_a_file_changes_fields_of_its_base(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    first = tmp_path / "first.yaml"
    first.write_text(
        "name: first\nmodel: lpn50\noptions: {attention: se}\nepochs: 7\n"
        "augment: {scale: 0.1, flip: 0}\noptimizer: {milestones: [3, 5]}\n"
    )
    second = tmp_path / "deep/second.yaml"
    second.write_text(
        "base: ../first.yaml\nname: second\naugment: {scale: 0.2}\noptimizer: {milestones: [6]}\n"
    )
    config = load_config(second)
    assert (config.name, config.model, config.epochs) == ("second", "lpn50", 7)
    assert (config.augment.scale, config.augment.flip, config.optimizer.milestones) == (0.2, 0, [6])
    assert config.options == {"attention": "se", "joints": 14}
    assert load_config(second, ["epochs=8"]).epochs == 8
    third = tmp_path / "third.yaml"
    third.write_text("base: deep/second.yaml\nmodel: hrnet_w32\nsigma: 3\n")
    config = load_config(third)
    assert (config.name, config.epochs, config.sigma) == ("second", 7, 3)
    assert config.options == {"joints": 14}  # attention is of the other network


def test_paths_of_configurations_are_from_the_file_that_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("plain", "distilled"):
        Path(folder).mkdir()
    Path("plain/fpd.yaml").write_text(
        "name: x\nmodel: lpn50\ndistill: {method: fpd, teacher_config: teacher.yaml}\n"
    )
    Path("distilled/more.yaml").write_text(
        "base: ../plain/fpd.yaml\ndistill: {student_config: ../student.yaml}\n"
    )
    distill = load_config("distilled/more.yaml").distill
    assert (distill.teacher_config, distill.student_config) == ("plain/teacher.yaml", "student.yaml")
    absolute = tmp_path / "elsewhere.yaml"
    given = load_config("distilled/more.yaml", [f"distill.teacher_config={absolute}"]).distill
    assert given.teacher_config == str(absolute)


def test_unusable_bases(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("base: none.yaml\nname: x\n")
    with pytest.raises(InvalidInputError, match=r"no file \S+none\.yaml, the base of \S+x\.yaml"):
        load_config(path)
    (tmp_path / "y.yaml").write_text("base: x.yaml\nmodel: lpn50\n")
    path.write_text("base: y.yaml\nname: x\n")
    with pytest.raises(InvalidInputError, match="its own base"):
        load_config(path)
    path.write_text("base: [y.yaml]\nname: x\n")
    with pytest.raises(InvalidInputError, match="base: found"):
        load_config(path)


def test_normalisation_is_carried_with_the_model(write_config: Write) -> None:
    spec = model_spec(load_config(write_config()))
    assert (spec.mean, spec.std) == (ModelSpec.mean, ModelSpec.std)
    spec = model_spec(load_config(write_config(mean=[0.4, 0.5, 0.6], std=[1, 1, 1])))
    assert (spec.mean, spec.std) == ((0.4, 0.5, 0.6), (1, 1, 1))


def test_data_folder_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("name: x\nmodel: lpn50\n")
    monkeypatch.delenv("EDGEPOSE_DATA", raising=False)
    assert load_config(path).data.root == "data"
    monkeypatch.setenv("EDGEPOSE_DATA", "/somewhere")
    assert load_config(path).data.root == "/somewhere"
    assert load_config(path, ["data.root=here"]).data.root == "here"


def test_what_is_stored_with_a_model_names_no_folder(write_config: Write, tmp_path: Path) -> None:
    config = load_config(write_config(weights=str(tmp_path / "stage0.pt")))
    values = portable(config)
    assert values["weights"] == "stage0.pt"
    assert str(tmp_path) not in str(values)
    assert values["optimizer"]["lr"] == 0.01
    assert config.data.root
    assert portable(values) == portable(dataclasses.asdict(config)) == values


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epoch=3", "'epoch'"),
        ("epochs=many", "epochs: Value 'many'"),
        ("epochs=0", "epochs is not usable; found 0; give a whole number from 1"),
        ("ema=1", "ema is not usable; found 1.0"),
        ("color=gray", "color is not usable; found 'gray'; give one of rgb, bgr"),
        ("skeleton=coco", "skeleton is not usable; found 'coco'; give one of coco17"),
        ("coordinates=half", "coordinates is not usable"),
        ("precision=8", "precision is not usable"),
        ("optimizer.name=sgd", "optimizer.name is not usable; found 'sgd'; give one of adam, adamw, rmsprop"),
        ("optimizer.factor=2", "optimizer.factor is not usable; found 2.0"),
        ("mean=[0.5]", r"mean is not usable; found \[0.5\]; give a number per channel"),
        ("std=[1,1,0]", "std is not usable"),
        ("optimizer.milestones=[0]", "optimizer.milestones is not usable"),
        ("decoder.refine=half", "decoder.refine is not usable"),
        ("init=zeros", "init is not usable"),
        ("input_size=[64]", "input_size is not usable"),
        ("input_size=[64,50]", "input_size is not usable"),
        ("sigma=0", "sigma is not usable; found 0.0; give a positive number"),
        ("augment.flip=2", "augment.flip is not usable"),
        ("data.workers=-1", "data.workers is not usable"),
        ("task=bottom-up", "task is not usable; found 'bottom-up'; give one of topdown, bottomup"),
        (
            "options.joints=3",
            r"options.joints does not fit the skeleton; found 3, lsp14 has 14; leave it out",
        ),
    ],
)
def test_unusable_fields_are_named(write_config: Write, override: str, message: str) -> None:
    path = write_config()
    with pytest.raises(InvalidInputError, match=message) as caught:
        load_config(path, [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "input_size=[64,96]",
            r"found \[64, 96\]; give a square of a multiple of 32",
        ),
        ("input_size=[48,48]", r"input_size is not usable; found \[48, 48\]"),
        ("coordinates=udp", "coordinates is not usable; found 'udp'; give legacy for a bottom-up network"),
    ],
)
def test_unusable_bottom_up_fields_are_named(write_config: Write, override: str, message: str) -> None:
    path = write_config(task="bottomup", coordinates="legacy", input_size=[64, 64])
    assert load_config(path).task == "bottomup"
    with pytest.raises(InvalidInputError, match=message):
        load_config(path, [override])


def test_unusable_files(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="found no file"):
        load_config(tmp_path / "none.yaml")
    path = tmp_path / "x.yaml"
    for content in ("model: [", "just a text", "- 1\n- 2", "model: lpn50"):
        path.write_text(content)
        with pytest.raises(InvalidInputError, match=r"x\.yaml"):
            load_config(path)

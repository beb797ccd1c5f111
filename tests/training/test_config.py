"""Configuration files."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from edgepose.errors import InvalidInputError
from edgepose.spec import Grouping, default_joint_order
from training.config import LossConfig, OptimizerConfig, load_config, portable
from training.data.bottomup import PictureAugmentation
from training.export import check_output, model_spec
from training.models import create
from training.tasks import picture_augmentation

CONFIGS = Path(__file__).resolve().parents[2] / "training/configs"
Write = Callable[..., Path]


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_shipped_configurations_are_usable(path: Path) -> None:
    config = load_config(path)
    spec = model_spec(config)
    with torch.device("meta"):  # without memory for weights
        check_output(create(config.model, **config.options), spec)
    assert not Path(config.data.root).is_absolute()


def test_official_settings() -> None:
    coco, mpii = (model_spec(load_config(CONFIGS / f"lpn/{name}_official.yaml")) for name in ("coco", "mpii"))
    for spec in (coco, mpii):
        assert (spec.coordinates, spec.padding) == ("legacy", 1.25)
        assert (spec.decoder.name, spec.decoder.beta, spec.decoder.refine) == ("soft_argmax", 160, "quarter")
    assert (coco.color, coco.decoder.bias, coco.input_size) == ("bgr", 0, (256, 192))
    assert (mpii.color, mpii.decoder.bias, mpii.input_size) == ("rgb", 1, (256, 256))
    baseline = model_spec(load_config(CONFIGS / "simplebaseline/coco_official.yaml"))
    assert (baseline.color, baseline.decoder.name, baseline.decoder.refine) == ("bgr", "argmax", "quarter")
    for name, size in (("coco", (256, 192)), ("mpii", (256, 256))):
        spec = model_spec(load_config(CONFIGS / f"hrnet/{name}_official.yaml"))
        assert (spec.color, spec.coordinates, spec.input_size) == ("rgb", "legacy", size)
        assert (spec.decoder.name, spec.decoder.refine) == ("argmax", "quarter")


def test_official_bottom_up_settings() -> None:
    names = ("w32_512_coco", "w32_640_coco", "w48_640_coco", "w32_512_crowdpose")
    specs = [model_spec(load_config(CONFIGS / f"higherhrnet/{name}_official.yaml")) for name in names]
    assert [spec.input_size[0] for spec in specs] == [512, 640, 640, 512]
    assert [spec.skeleton.name for spec in specs] == ["coco17"] * 3 + ["crowdpose14"]
    for spec in specs:
        assert (spec.task, spec.color, spec.coordinates) == ("bottomup", "rgb", "legacy")
        assert spec.grouping == Grouping(joint_order=default_joint_order(spec.skeleton))


@pytest.mark.parametrize(
    ("name", "batch_size", "precision"),
    [
        ("w32_512_coco", 12, "32-true"),
        ("w32_640_coco", 12, "16-mixed"),
        ("w48_640_coco", 10, "16-mixed"),
        ("w32_512_crowdpose", 12, "32-true"),
    ],
)
def test_official_bottom_up_recipes(name: str, batch_size: int, precision: str) -> None:
    config = load_config(CONFIGS / f"higherhrnet/{name}_official.yaml")
    assert (config.batch_size, config.precision, config.epochs) == (batch_size, precision, 300)
    assert config.optimizer == OptimizerConfig("adam", 1e-3, weight_decay=0, milestones=[200, 260])
    assert config.losses == LossConfig(heatmap=1, push=1e-3, pull=1e-3, grouping="exp")
    assert (config.sigma, config.unbiased, config.scale_aware) == (2, False, False)
    assert picture_augmentation(config) == PictureAugmentation()  # the published one
    data = config.data
    names = [str(path).rpartition("_")[2] for path in (data.train_annotations, data.validation_annotations)]
    coco = ["train2017.json", "val2017.json"]
    assert names == (["trainval.json", "test.json"] if "crowdpose" in name else coco)


def test_overrides_and_defaults(write_config: Write) -> None:
    path = write_config(optimizer={"milestones": [90, 120]}, skeleton="mpii16")
    config = load_config(path, ["epochs=140", "data.limit=5", "input_size=[64,48]", "decoder.refine=taylor"])
    assert (config.epochs, config.data.limit, config.input_size) == (140, 5, [64, 48])
    assert config.optimizer.milestones == [90, 120]
    assert config.options == {"joints": 16}
    assert config.decoder.refine == "taylor"


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
        ("optimizer.name=sgd", "optimizer.name is not usable; found 'sgd'; give one of adam, adamw"),
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

"""Configuration files."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from edgepose.errors import InvalidInputError
from training.config import load_config, portable
from training.export import model_spec
from training.models import create

CONFIGS = Path(__file__).resolve().parents[2] / "training/configs"
Write = Callable[..., Path]


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_shipped_configurations_are_usable(path: Path) -> None:
    config = load_config(path)
    spec = model_spec(config)
    assert create(config.model, **config.options).final_layer.out_channels == len(spec.skeleton)
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


def test_unusable_files(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="found no file"):
        load_config(tmp_path / "none.yaml")
    path = tmp_path / "x.yaml"
    for content in ("model: [", "just a text", "- 1\n- 2", "model: lpn50"):
        path.write_text(content)
        with pytest.raises(InvalidInputError, match=r"x\.yaml"):
            load_config(path)

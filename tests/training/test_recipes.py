"""The recipes in training/configs against what was published."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from edgepose.spec import Grouping, default_joint_order
from training.checkpoints import load_weights
from training.config import LossConfig, OptimizerConfig, TrainConfig, load_config
from training.data.bottomup import PictureAugmentation
from training.export import check_output, model_spec
from training.models import create
from training.models.okdhp import extract_branch
from training.tasks import picture_augmentation

CONFIGS = Path(__file__).resolve().parents[2] / "training/configs"
FILES = sorted(
    str(path.relative_to(CONFIGS).with_suffix(""))
    for path in CONFIGS.rglob("*.yaml")
    if "\nstudents:" not in path.read_text()
)
"""All but the comparisons, which name several configurations."""


def read(name: str) -> TrainConfig:
    return load_config(CONFIGS / f"{name}.yaml")


class Recipe(NamedTuple):
    """What the publication says of a top-down experiment."""

    model: str
    options: dict[str, Any]
    size: tuple[int, int]
    color: str
    sigma: float
    views: tuple[float, float, float]
    """Rotation, scale, half bodies."""
    rate: float
    milestones: list[int]
    epochs: int
    batch_size: int
    stages: int = 1
    init: str = "normal"


COCO_VIEWS, MPII_VIEWS, HRNET_VIEWS = (40, 0.3, 0), (30, 0.25, 0), (45, 0.35, 0.3)


def lpn(depth: int, size: tuple[int, int], color: str, views: tuple[float, float, float]) -> Recipe:
    return Recipe(f"lpn{depth}", {}, size, color, 2, views, 1e-3, [90, 120], 150, 32, stages=7)


def baseline(depth: int, size: tuple[int, int], sigma: int, batch: int = 32) -> Recipe:
    views = MPII_VIEWS if size[0] == size[1] else COCO_VIEWS
    return Recipe(f"simplebaseline{depth}", {}, size, "bgr", sigma, views, 1e-3, [90, 120], 140, batch)


def hrnet(width: int, size: tuple[int, int], sigma: int, batch: int = 32) -> Recipe:
    views = MPII_VIEWS if size[0] == size[1] else HRNET_VIEWS
    return Recipe(f"hrnet_w{width}", {}, size, "rgb", sigma, views, 1e-3, [170, 200], 210, batch)


def fpd(stacks: int, channels: int) -> Recipe:
    options = {"stacks": stacks, "channels": channels}
    return Recipe(
        "hourglass", options, (256, 256), "bgr", 2, MPII_VIEWS, 2.5e-4, [90, 120], 140, 4, init="default"
    )


def mobile_fpd(**options: Any) -> Recipe:
    return Recipe(
        "hourglass", options, (256, 256), "rgb", 1, MPII_VIEWS, 2.5e-4, [60, 90], 90, 6, init="default"
    )


def okdhp(model: str, data: str, **options: Any) -> Recipe:
    size, views = ((256, 192), COCO_VIEWS) if data == "coco" else ((256, 256), MPII_VIEWS)
    return Recipe(model, options, size, "bgr", 2, views, 2.5e-4, [90, 120], 150, 16, init="default")


def branches(data: str, shared: int, own: list[int]) -> Recipe:
    return okdhp("okdhp", data, base="hourglass", shared=shared, branches=own, channels=256)


DETECTIONS = "coco/person_detection_results/COCO_val2017_detections_AP_H_56_person.json"
BACKBONES = ("resnet18", "mobilenetv2", "shufflenetv2")

RECIPES = {
    "lpn/coco_official": lpn(50, (256, 192), "bgr", COCO_VIEWS),
    "lpn/coco_101_official": lpn(101, (256, 192), "bgr", COCO_VIEWS),
    "lpn/coco_152_official": lpn(152, (256, 192), "bgr", COCO_VIEWS),
    "lpn/mpii_official": lpn(50, (256, 256), "rgb", MPII_VIEWS),
    "simplebaseline/coco_official": baseline(50, (256, 192), 2),
    "simplebaseline/coco_101_official": baseline(101, (256, 192), 2),
    "simplebaseline/coco_152_official": baseline(152, (256, 192), 2),
    "simplebaseline/coco_50_384_official": baseline(50, (384, 288), 3),
    "simplebaseline/coco_101_384_official": baseline(101, (384, 288), 3),
    "simplebaseline/coco_152_384_official": baseline(152, (384, 288), 3),
    "simplebaseline/mpii_official": baseline(50, (256, 256), 2),
    "simplebaseline/mpii_101_official": baseline(101, (256, 256), 2),
    "simplebaseline/mpii_152_official": baseline(152, (256, 256), 2),
    "simplebaseline/mpii_50_384_official": baseline(50, (384, 384), 3),
    "simplebaseline/mpii_101_384_official": baseline(101, (384, 384), 3),
    "simplebaseline/mpii_152_384_official": baseline(152, (384, 384), 3, batch=24),
    "hrnet/coco_official": hrnet(32, (256, 192), 2),
    "hrnet/coco_w48_official": hrnet(48, (256, 192), 2),
    "hrnet/coco_w32_384_official": hrnet(32, (384, 288), 3),
    "hrnet/coco_w48_384_official": hrnet(48, (384, 288), 3, batch=24),
    "hrnet/mpii_official": hrnet(32, (256, 256), 2),
    "fpd/mpii_teacher": fpd(8, 256),
    "fpd/mpii_student": fpd(4, 128),
    "fpd/mpii_fpd_scratch": fpd(4, 128),
    "fpd/mpii_fpd": fpd(4, 128),
    "fpd/coco_hrnet_w32_fpd": hrnet(32, (256, 192), 2, batch=24),
    "fpd/mpii_mobile_teacher": mobile_fpd(stacks=8, channels=256),
    "fpd/mpii_mobile": mobile_fpd(stacks=2, channels=256, mobile=True),
    "fpd/mpii_mobile_fpd": mobile_fpd(stacks=2, channels=256, mobile=True),
    "fpd/mpii_mobile_fpd_unlabelled": mobile_fpd(stacks=2, channels=256, mobile=True),
    "okdhp/mpii_hourglass4_fpd": okdhp("hourglass", "mpii", stacks=4, channels=256),
    "okdhp/mpii_okdhp4_unbalanced": branches("mpii", 2, [2, 4, 6]),
    **{
        f"okdhp/{data}_hourglass{n}": okdhp("hourglass", data, stacks=n, channels=256)
        for data in ("mpii", "coco")
        for n in (2, 4, 8)
    },
    **{
        f"okdhp/{data}_okdhp{n}": branches(data, n // 2, [n // 2] * 3)
        for data in ("mpii", "coco")
        for n in (2, 4, 8)
    },
    **{
        f"okdhp/mpii_mobilepose_{name}": okdhp("mobilepose", "mpii", backbone=name, head="heatmap")
        for name in BACKBONES
    },
    **{
        f"okdhp/mpii_okdhp_mobilepose_{name}": okdhp("okdhp", "mpii", base="mobilepose", backbone=name)
        for name in BACKBONES
    },
}

MOBILEPOSE = [f"mobilepose/mpii_{name}_official" for name in BACKBONES]
BOTTOM_UP = [
    f"higherhrnet/{name}_official"
    for name in ("w32_512_coco", "w32_640_coco", "w48_640_coco", "w32_512_crowdpose")
]
OWN = [name for name in FILES if name.startswith(("comparison/", "higherlpn/")) or "/lsp_" in name]
OWN.append("mobilepose/mpii_squeezenet")  # published for other crops
"""Recipes that repeat no published experiment."""

STUDENTS = {
    "fpd/mpii_fpd_scratch": ("fpd/mpii_teacher", None),
    "fpd/mpii_fpd": ("fpd/mpii_teacher", "fpd/mpii_student"),
    "fpd/coco_hrnet_w32_fpd": ("hrnet/coco_w48_official", "hrnet/coco_official"),
    "fpd/mpii_mobile_fpd": ("fpd/mpii_mobile_teacher", None),
    "fpd/mpii_mobile_fpd_unlabelled": ("fpd/mpii_mobile_teacher", None),
    "fpd/lsp_hourglass_fpd_scratch": ("fpd/lsp_teacher", None),
    "fpd/lsp_hourglass_fpd": ("fpd/lsp_teacher", "fpd/lsp_hourglass"),
    "fpd/lsp_lpn50_fpd_scratch": ("fpd/lsp_teacher", None),
    "fpd/lsp_lpn50_fpd": ("fpd/lsp_teacher", "fpd/lsp_lpn50"),
    "okdhp/mpii_hourglass4_fpd": ("okdhp/mpii_hourglass8", None),
}
"""Teacher of each recipe of FPD, and the plain training that the student starts from."""

PLAIN = {
    **{f"okdhp/{d}_okdhp{n}": f"okdhp/{d}_hourglass{n}" for d in ("mpii", "coco") for n in (2, 4, 8)},
    **{f"okdhp/mpii_okdhp_mobilepose_{name}": f"okdhp/mpii_mobilepose_{name}" for name in BACKBONES},
    "okdhp/mpii_okdhp4_unbalanced": "okdhp/mpii_hourglass4",
    **{f"okdhp/lsp_okdhp2{cut}": "fpd/lsp_hourglass" for cut in ("", "_unbalanced")},
    **{f"okdhp/lsp_okdhp_lpn50{cut}": "fpd/lsp_lpn50" for cut in ("", "_unbalanced")},
}
"""Plain training that each recipe of OKDHP is compared with."""


@pytest.mark.parametrize("name", FILES)
def test_shipped_configurations_are_usable(name: str) -> None:
    config = read(name)
    spec = model_spec(config)
    with torch.device("meta"):  # without memory for weights
        check_output(create(config.model, **config.options), spec)
    assert not Path(config.data.root).is_absolute()


def test_every_recipe_is_checked_and_has_a_run_of_its_own() -> None:
    assert sorted([*RECIPES, *MOBILEPOSE, *BOTTOM_UP, *OWN]) == FILES
    names = [read(name).name for name in FILES]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", FILES)
def test_recipes_say_what_they_are(name: str) -> None:
    text = (CONFIGS / f"{name}.yaml").read_text()
    assert text.startswith("# ")
    if name not in OWN:
        assert "Published: " in text


@pytest.mark.parametrize("name", RECIPES)
def test_published_recipes(name: str) -> None:
    config, recipe = read(name), RECIPES[name]
    options = {key: value for key, value in config.options.items() if key != "joints"}
    views = config.augment
    found = Recipe(
        config.model,
        options,
        (config.input_size[0], config.input_size[1]),
        config.color,
        config.sigma,
        (views.rotation, views.scale, views.half_body),
        config.optimizer.lr,
        config.optimizer.milestones,
        config.epochs,
        config.batch_size,
        config.stages,
        config.init,
    )
    assert found == recipe
    assert (views.rotation_probability, views.flip, views.translation) == (0.6, 0.5, 0)
    assert (config.optimizer.weight_decay, config.optimizer.factor, config.ema) == (0, 0.1, 0)
    assert (config.coordinates, config.unbiased, config.padding) == ("legacy", False, 1.25)
    assert config.losses == LossConfig()
    if name.startswith("fpd/mpii_mobile"):
        assert (config.optimizer.name, views.color) == ("rmsprop", 0.1)
        assert (config.mean, config.std) == ([0.4404, 0.4440, 0.4327], [1, 1, 1])
    else:
        assert (config.optimizer.name, views.color) == ("adam", 0)
        assert (config.mean, config.std) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    decoder = config.decoder
    if name.startswith("lpn/"):
        bias = 1 if "mpii" in name else 0
        assert (decoder.name, decoder.beta, decoder.refine) == ("soft_argmax", 160, "quarter")
        assert decoder.bias == bias
    else:
        assert (decoder.name, decoder.refine, decoder.bias) == ("argmax", "quarter", 0)


@pytest.mark.parametrize("name", MOBILEPOSE)
def test_mobilepose(name: str) -> None:
    config = read(name)
    assert config.options == {"backbone": name.split("_")[1], "joints": 16}
    assert (config.input_size, config.color, config.batch_size, config.epochs) == (
        [224, 224],
        "rgb",
        128,
        1000,
    )
    steps = list(range(80, 1000, 80))
    assert config.optimizer == OptimizerConfig("adam", 1e-3, milestones=steps, factor=0.5)
    assert (config.augment.flip, config.padding) == (0, 1.3)
    # (value / 256 - mean) / std in terms of value / 255
    mean, std = torch.tensor(config.mean), torch.tensor(config.std)
    value = torch.tensor([[0.0], [100.0], [255.0]])
    published = (value / 256 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close((value / 255 - mean) / std, published, atol=1e-5, rtol=0)
    assert (config.decoder.name, config.decoder.refine) == ("soft_argmax", None)
    assert config.decoder.beta == pytest.approx(torch.tensor(56.0 * 56).log().item())


@pytest.mark.parametrize("name", [*RECIPES, *MOBILEPOSE])
def test_data_stand_where_the_guide_says(name: str) -> None:
    config = read(name)
    data = config.data
    found = (data.train_annotations, data.train_images, data.validation_annotations, data.validation_images)
    file = name.partition("/")[2]
    assert data.people == file.partition("_")[0]
    if data.people == "coco":
        assert config.skeleton == "coco17"
        parts = ("train2017", "val2017")
        wanted = [[f"coco/annotations/person_keypoints_{p}.json", f"coco/{p}"] for p in parts]
        assert found == (*wanted[0], *wanted[1])
    else:
        assert config.skeleton == "mpii16"
        assert found == ("mpii/annot/train.json", "mpii/images", "mpii/annot/valid.json", "mpii/images")
    detected = data.people == "coco" and not name.startswith("okdhp/")
    assert data.detections == (DETECTIONS if detected else None)
    assert (data.unlabelled == "unlabelled") == file.endswith("unlabelled")


def test_teachers_and_students() -> None:
    methods = {name: read(name).distill.method for name in FILES}
    assert sorted(STUDENTS) == [name for name in FILES if methods[name] == "fpd"]
    assert sorted(PLAIN) == [name for name in FILES if methods[name] == "okdhp"]


@pytest.mark.parametrize("name", STUDENTS)
def test_fpd_pairs_fit(name: str) -> None:
    """Teacher and student see the same picture and say the same joints at the same size."""
    config = read(name)
    distill = config.distill
    teacher, student = STUDENTS[name]
    assert Path(distill.teacher_config or "").samefile(CONFIGS / f"{teacher}.yaml")
    assert (distill.teacher, distill.alpha) == (None, 0.5)
    assert distill.masked == ("mobile" not in name)
    assert config.weights is None
    others = [read(teacher)]
    if student is None:
        assert distill.student_config is None
    else:
        assert Path(distill.student_config or "").samefile(CONFIGS / f"{student}.yaml")
        others.append(read(student))
        assert (others[1].model, others[1].options) == (config.model, config.options)
    for other in others:
        for field in ("skeleton", "input_size", "color", "mean", "std", "coordinates", "sigma", "unbiased"):
            assert getattr(other, field) == getattr(config, field), field


@pytest.mark.parametrize("name", PLAIN)
def test_okdhp_makes_the_network_it_is_compared_with(name: str) -> None:
    config, plain = read(name), read(PLAIN[name])
    assert (config.distill.kd_weight, config.distill.ensemble_weight) == (2, 1)
    assert config.distill.ramp_up / config.epochs == 90 / 150
    assert (config.distill.temperature, config.distill.detach) == (1, False)
    for field in ("skeleton", "input_size", "color", "epochs", "batch_size", "augment", "optimizer", "data"):
        assert getattr(config, field) == getattr(plain, field), field
    with torch.device("meta"):
        network = create(config.model, **config.options)
        expected = create(plain.model, **plain.options)
    shapes = [{k: v.shape for k, v in n.state_dict().items()} for n in (extract_branch(network, 0), expected)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("name", ["simplebaseline/coco_official", "hrnet/coco_official", BOTTOM_UP[0]])
def test_bodies_of_imagenet_classifiers_are_taken(name: str, tmp_path: Path) -> None:
    config = read(name)
    network = create(config.model, **config.options)
    heads = ("deconv_layers", "final_layer")
    body = {
        key: torch.full_like(v, 7) for key, v in network.state_dict().items() if not key.startswith(heads)
    }
    if config.model.startswith("simplebaseline"):
        others = ["fc.weight", "fc.bias"]
    else:
        others = [f"stage4.2.fuse_layers.{i}.0.0.0.weight" for i in (1, 2, 3)]
        others += [f"{part}.0.weight" for part in ("incre_modules", "downsamp_modules", "final_layer")]
        others.append("classifier.weight")
    path = tmp_path / "imagenet.pth"
    torch.save({**body, **dict.fromkeys(others, torch.ones(3))}, path)
    left_out = load_weights(network, path, skip_head=True, fresh=config.fresh)
    assert sorted(left_out) == sorted(others)
    for key, value in network.state_dict().items():
        assert bool((value == 7).all()) == (key in body), key


def test_official_settings() -> None:
    coco, mpii = (model_spec(read(f"lpn/{name}_official")) for name in ("coco", "mpii"))
    for spec in (coco, mpii):
        assert (spec.coordinates, spec.padding) == ("legacy", 1.25)
        assert (spec.decoder.name, spec.decoder.beta, spec.decoder.refine) == ("soft_argmax", 160, "quarter")
    assert (coco.color, coco.decoder.bias, coco.input_size) == ("bgr", 0, (256, 192))
    assert (mpii.color, mpii.decoder.bias, mpii.input_size) == ("rgb", 1, (256, 256))
    baseline = model_spec(read("simplebaseline/coco_official"))
    assert (baseline.color, baseline.decoder.name, baseline.decoder.refine) == ("bgr", "argmax", "quarter")
    for name, size in (("coco", (256, 192)), ("mpii", (256, 256))):
        spec = model_spec(read(f"hrnet/{name}_official"))
        assert (spec.color, spec.coordinates, spec.input_size) == ("rgb", "legacy", size)
        assert (spec.decoder.name, spec.decoder.refine) == ("argmax", "quarter")


def test_official_bottom_up_settings() -> None:
    names = ("w32_512_coco", "w32_640_coco", "w48_640_coco", "w32_512_crowdpose")
    specs = [model_spec(read(f"higherhrnet/{name}_official")) for name in names]
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
    config = read(f"higherhrnet/{name}_official")
    assert (config.batch_size, config.precision, config.epochs) == (batch_size, precision, 300)
    assert config.optimizer == OptimizerConfig("adam", 1e-3, weight_decay=0, milestones=[200, 260])
    assert config.losses == LossConfig(heatmap=1, push=1e-3, pull=1e-3, grouping="exp")
    assert (config.sigma, config.unbiased, config.scale_aware) == (2, False, False)
    assert picture_augmentation(config) == PictureAugmentation()  # the published one
    data = config.data
    names = [str(path).rpartition("_")[2] for path in (data.train_annotations, data.validation_annotations)]
    coco = ["train2017.json", "val2017.json"]
    assert names == (["trainval.json", "test.json"] if "crowdpose" in name else coco)

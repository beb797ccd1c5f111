"""Exported files: equal to the network, described from within, usable by the Estimator."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from edgepose import Estimator, ModelSpec
from edgepose.backends import open_backend
from edgepose.backends.onnx_metadata import read_spec
from edgepose.errors import ModelFormatError, ParityError
from edgepose.evaluation.people import People
from edgepose.pipeline.bottomup import split_outputs
from edgepose.pipeline.geometry import apply_affine, box_to_region, crop_affine
from edgepose.skeleton import coco17, crowdpose14
from edgepose.spec import Grouping
from training import export as export_module
from training.__main__ import main
from training.config import load_config
from training.data.crops import Crops
from training.evaluate import decode, normalizer
from training.export import OPSET, TOLERANCE, check_output, export, model_spec
from training.loop import train
from training.models import create
from training.models.higherhrnet import HigherHRNet
from training.models.layers import GlobalContext
from training.models.outputs import final_heatmaps

CONFIGS = Path(__file__).resolve().parents[2] / "training/configs"
Write = Callable[..., Path]


def filled(name: str, **options: Any) -> nn.Module:
    """A network whose weights and statistics are not those it starts with."""
    return refilled(create(name, **options))


def refilled(network: nn.Module) -> nn.Module:
    torch.manual_seed(3)
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            fan = module.weight[0].numel() if isinstance(module, nn.Conv2d) else 4 * module.weight.shape[1]
            nn.init.normal_(module.weight, std=0.8 * fan**-0.5)
        elif isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.6, 1.4)
            nn.init.uniform_(module.weight, 0.8, 1.2)
    return network


SLOW = pytest.mark.slow
NETWORKS = [
    ("lpn50", {}),
    ("lpn50", {"attention": "se"}),
    ("lpn50", {"attention": None, "deconv_bias": True}),
    pytest.param("lpn101", {}, marks=SLOW),
    pytest.param("lpn152", {}, marks=SLOW),
    ("simplebaseline50", {}),
    pytest.param("simplebaseline50", {"style": "caffe"}, marks=SLOW),
    pytest.param("simplebaseline101", {}, marks=SLOW),
    pytest.param("simplebaseline152", {}, marks=SLOW),
    ("mobilepose", {"backbone": "resnet18"}),
    ("mobilepose", {"backbone": "mobilenetv2", "head": "heatmap"}),
    ("mobilepose", {"backbone": "shufflenetv2"}),
    ("mobilepose", {"backbone": "squeezenet", "head": "heatmap"}),
]
JOINED = {"shufflenetv2": 16, "squeezenet": 8}
"""How often a backbone of MobilePose joins two maps."""


@pytest.mark.parametrize(("name", "options"), NETWORKS)
def test_file_equals_network(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    network = filled(name, joints=17, **options)
    backbone = options.get("backbone")
    size = (65, 97) if backbone == "squeezenet" else (64, 96)
    spec = ModelSpec(name, coco17, size)
    path = tmp_path / "sub" / f"{name}.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        difference = export(network, spec, path)
    assert 0 < difference < TOLERANCE
    assert network.training  # as it was
    assert [file.name for file in path.parent.iterdir()] == [path.name]

    model = onnx.load(str(path))
    onnx.checker.check_model(model, full_check=True)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", OPSET)]
    kinds = Counter(node.op_type for node in model.graph.node)
    assert not {"Shape", "Gather", "Slice", "If"} & kinds.keys()
    assert kinds["Concat"] == JOINED.get(backbone, 0)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (given,), (result,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape) == ("image", ["batch", 3, *size])
    assert (result.name, result.shape[1:]) == ("heatmaps", [17, 16, 24])
    image = np.random.default_rng(0).standard_normal((5, 3, *size)).astype(np.float32)
    with torch.no_grad():
        expected = final_heatmaps(network, network.eval()(torch.from_numpy(image))).numpy()
    (found,) = session.run(["heatmaps"], {"image": image})
    assert np.abs(found - expected).max() < TOLERANCE * expected.std()
    single = np.concatenate([session.run(None, {"image": one[None]})[0] for one in image])
    assert np.abs(single - found).max() < TOLERANCE * expected.std()

    read = read_spec(path)
    assert (read.name, read.skeleton, read.input_size) == (name, coco17, size)
    assert set(read.provenance["exported_with"]) == {"edgepose", "torch", "onnx", "python"}


SEVERAL = {"widths": [8, 8], "tags": [True, False, True], "tag_per_joint": False, "concatenate": False}
BOTTOM_UP = [
    # network, options, outputs: channels and the share of the input's size
    ("higherlpn50", {}, {"heatmaps": (17, 4), "heatmaps_high": (17, 2), "tags": (34, 4)}),
    (
        "thin",
        SEVERAL,
        {
            "heatmaps": (17, 4),
            "heatmaps_high": (17, 2),
            "heatmaps_high2": (17, 1),
            "tags": (1, 4),
            "tags_high2": (1, 1),
        },
    ),
    pytest.param(
        "higherhrnet_w32",
        {},
        {"heatmaps": (17, 4), "heatmaps_high": (17, 2), "tags": (17, 4)},
        marks=SLOW,
    ),
]


def bottom_up_spec(name: str) -> ModelSpec:
    return ModelSpec(name, coco17, (512, 512), task="bottomup", coordinates="legacy", grouping=Grouping())


@pytest.mark.parametrize(("name", "options", "outputs"), BOTTOM_UP)
def test_bottom_up_file_equals_network_at_any_size(
    name: str, options: dict[str, Any], outputs: dict[str, tuple[int, int]], tmp_path: Path
) -> None:
    network = create(name, joints=17) if name != "thin" else HigherHRNet(4, 17, **options)
    network = refilled(network)
    path = tmp_path / f"{name}.onnx"
    difference = export(network, bottom_up_spec(name), path)
    assert 0 < difference < TOLERANCE
    assert network.training  # as it was
    assert isinstance(network.eval()(torch.zeros(1, 3, 32, 32)), list)

    model = onnx.load(str(path))
    onnx.checker.check_model(model, full_check=True)
    # Sizes are computed where a network adds its pixels' positions, and nowhere else.
    kinds = Counter(node.op_type for node in model.graph.node)
    assert kinds["Shape"] == kinds["Range"] == (2 if name == "higherlpn50" else 0)
    convolutions = {node.name for node in model.graph.node if node.op_type == "Conv"}
    assert "/conv1/Conv" in convolutions or "/body/conv1/Conv" in convolutions  # named as in the network
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    assert given.name == "image"
    assert given.shape[1] == 3
    assert all(isinstance(given.shape[axis], str) for axis in (0, 2, 3))
    assert {o.name: o.shape[1] for o in session.get_outputs()} == {
        key: channels for key, (channels, _) in outputs.items()
    }
    for batch, height, width in ((1, 64, 64), (2, 32, 160), (1, 192, 96)):
        image = np.random.default_rng(height).standard_normal((batch, 3, height, width)).astype(np.float32)
        with torch.no_grad():
            results = [output.numpy() for output in network(torch.from_numpy(image))]
        expected = split_outputs(results, 17)
        found = dict(zip(outputs, session.run(list(outputs), {"image": image}), strict=True))
        assert expected.keys() == found.keys()
        for key, (channels, share) in outputs.items():
            assert found[key].shape == (batch, channels, height // share, width // share)
            assert np.abs(found[key] - expected[key]).max() < TOLERANCE * expected[key].std()
    assert read_spec(path).grouping == bottom_up_spec(name).grouping


def test_global_context_takes_any_size_at_no_cost(tmp_path: Path) -> None:
    """A GC block needs as many nodes for free sizes as for fixed ones."""
    block = nn.Sequential(nn.Conv2d(3, 32, 1), GlobalContext(32)).eval()
    counts = []
    for free in ({0: "n"}, {0: "n", 2: "h", 3: "w"}):
        path = tmp_path / "gc.onnx"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                block, (torch.zeros(2, 3, 5, 4),), str(path), dynamic_axes={"x": free}, dynamo=False,
                input_names=["x"], output_names=["y"], opset_version=OPSET,
            )  # fmt: skip
        counts.append(Counter(node.op_type for node in onnx.load(str(path)).graph.node))
    assert counts[0] == counts[1]
    assert counts[0]["Reshape"] == 2
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for size in ((5, 4), (3, 11)):
        x = torch.randn(3, 3, *size)
        with torch.no_grad():
            np.testing.assert_allclose(session.run(None, {"x": x.numpy()})[0], block(x), atol=1e-5)


class Stages(nn.Module):
    """Outputs of given channels, each of twice the size of the one before."""

    def __init__(self, *channels: int, first: int = 4) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3, count, 1) for count in channels)
        self.first = first

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [
            layer(nn.functional.interpolate(x, scale_factor=2**stage / self.first))
            for stage, layer in enumerate(self.layers)
        ]


def test_wrong_outputs_of_a_bottom_up_network() -> None:
    spec = bottom_up_spec("x")
    for network in (Stages(34), Stages(34, 17), Stages(18, 17, 18), Stages(17, 34), Stages(51, 17)):
        check_output(network, spec)
        assert network.training
    expected = r"expected \(34, 32, 32\), \(17, 64, 64\); take a bottom-up network"
    for network in (Stages(17, 17), Stages(34, 14), Stages(36, 17), Stages(34, 17, first=8)):
        with pytest.raises(ModelFormatError, match=expected):
            check_output(network, spec)
    with pytest.raises(ModelFormatError, match=r"found heatmaps \(17, 32, 32\), expected \(34, 32, 32\)"):
        check_output(filled("plain", joints=17), spec)
    found = r"found heatmaps \(34, 16, 24\), \(17, 32, 48\), expected \(17, 16, 24\); take a multiple"
    with pytest.raises(ModelFormatError, match=found):
        check_output(Stages(34, 17), ModelSpec("x", coco17, (64, 96)))


def test_network_that_fits_one_size_alone_is_refused(tmp_path: Path) -> None:
    """Sizes that the trace took for constants show when the file is run on another input."""

    class Fixed(Stages):
        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            mean = x.sum((2, 3), keepdim=True) / (int(x.shape[2]) * int(x.shape[3]))
            return super().forward(x + mean)

    torch.manual_seed(0)
    with pytest.raises(ParityError, match="differs from the network"):
        export(Fixed(34, 17), bottom_up_spec("x"), tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


def test_nothing_is_left_of_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(b"an older file")
    network = filled("plain", joints=17)
    spec = ModelSpec("x", coco17, (32, 32))
    with monkeypatch.context() as patch:
        patch.setattr(export_module, "onnx_difference", lambda *_: float("nan"))
        with pytest.raises(ParityError, match="found nan standard deviations"):
            export(network, spec, path)
    with monkeypatch.context() as patch:
        patch.setattr(onnx.checker, "check_model", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            export(network, spec, path)
    assert [file.name for file in tmp_path.iterdir()] == ["x.onnx"]
    assert path.read_bytes() == b"an older file"
    with pytest.raises(ModelFormatError, match=r"found heatmaps \(14, 8, 8\), expected \(17, 8, 8\)"):
        export(filled("plain", joints=14), spec, path)


def test_trained_run_exports(write_config: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(epochs=1, coordinates="legacy", color="bgr", decoder={"beta": 50.0, "bias": 0.5})
    train(load_config(config))
    output, notes = tmp_path / "x.onnx", tmp_path / "notes.json"
    notes.write_text(json.dumps({"data": "LSPet", "licence": "research"}))
    assert main(["export", str(config), "-o", str(output), "--provenance", str(notes)]) == 0
    assert "standard deviations" in capsys.readouterr().err
    spec = read_spec(output)
    assert (spec.coordinates, spec.color, spec.decoder.beta, spec.decoder.bias) == ("legacy", "bgr", 50, 0.5)
    assert spec.provenance["config"]["seed"] == 1
    assert spec.provenance["data"] == "LSPet"
    assert spec.provenance["weights"] == "best.pt"
    assert len(spec.provenance["weights_sha256"]) == 64
    assert str(tmp_path) not in spec.to_json()
    best = tmp_path / "runs/tiny/best.pt"
    arguments = ["export", str(config), "name=other", "--weights", str(best), "-o", str(output)]
    assert main([*arguments, "output=/nowhere"]) == 0  # fields may stand behind options too
    assert read_spec(output).name == "other"
    assert read_spec(output).provenance["config"]["name"] == "tiny"
    for content in ("[1]", "{"):
        notes.write_text(content)
        assert main(["export", str(config), "-o", str(output), "--provenance", str(notes)]) == 1
        assert f"provenance {notes}" in capsys.readouterr().err


@pytest.fixture
def official_lpn(fill: ModuleType, tmp_path: Path) -> tuple[Path, nn.Module]:
    """A checkpoint as the authors publish it, and its network."""
    network = create("lpn50", joints=17)
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    network.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in fill.state_dict(shapes).items()})
    path = tmp_path / "lpn_50_256x192.pth"
    torch.save(network.state_dict(), path)
    return path, network.eval()


def test_official_checkpoint_to_estimator(official_lpn: tuple[Path, nn.Module], tmp_path: Path) -> None:
    weights, network = official_lpn
    output = tmp_path / "lpn50-coco.onnx"
    config = CONFIGS / "lpn/coco_official.yaml"
    assert main(["export", str(config), "--weights", str(weights), "-o", str(output)]) == 0
    spec = read_spec(output)
    assert spec == ModelSpec.from_dict(
        {**model_spec(load_config(config)).to_dict(), "provenance": spec.provenance}
    )
    assert "config" not in spec.provenance
    assert spec.provenance["weights"] == weights.name

    image = np.random.default_rng(5).integers(0, 256, (200, 150, 3), np.uint8)
    boxes = np.float32([[20, 30, 110, 170], [40, 10, 140, 190]])
    with Estimator(output) as estimator:
        found = estimator(image, boxes=boxes)

    centers, extents = box_to_region(boxes, (256, 192), 1.25)
    people = People(
        coco17, [image] * 2, np.zeros((2, 17, 2), np.float32), np.ones((2, 17), np.float32), boxes
    )
    crops = Crops(people, (256, 192), (64, 48), "legacy")
    crops.centers, crops.extents = centers, extents
    batch = torch.stack([crops[i]["image"] for i in range(2)])
    assert spec.color == "bgr"
    with torch.no_grad():
        maps = network(normalizer(spec, torch.device("cpu"))(batch)).numpy()
    coords, scores = decode(maps, spec)
    expected = apply_affine(crop_affine(centers, extents, (64, 48), "legacy"), coords)
    # OpenCV rounds the crop to whole grey levels, the Estimator does not.
    assert np.median(np.abs(found.keypoints - expected)) < 0.5
    assert np.corrcoef(found.scores.ravel(), np.clip(scores, 0, 1).ravel())[0, 1] > 0.98


def test_official_bottom_up_checkpoint_to_estimator(fill: ModuleType, tmp_path: Path) -> None:
    """A checkpoint as it was saved after training in mixed precision on several GPUs."""
    network = create("higherhrnet_w32", joints=14)
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    state = {k: torch.from_numpy(np.array(v)) for k, v in fill.state_dict(shapes).items()}
    weights, output = tmp_path / "model_best.pth", tmp_path / "x.onnx"
    torch.save({f"1.{key}": value for key, value in state.items()}, weights)
    config = CONFIGS / "higherhrnet/w32_512_crowdpose_official.yaml"
    arguments = ["export", str(config), "input_size=[64,64]", "--weights", str(weights), "-o", str(output)]
    assert main(arguments) == 0
    spec = read_spec(output)
    assert (spec.task, spec.skeleton, spec.color) == ("bottomup", crowdpose14, "rgb")

    # Whole numbers of 64 and no rescaling, so that the network sees the very pixels of the picture.
    image = np.random.default_rng(5).integers(0, 256, (64, 128, 3), np.uint8)
    network.load_state_dict(state)
    with torch.no_grad():
        outputs = network.eval()(normalizer(spec, torch.device("cpu"))(torch.from_numpy(image[None])))
    expected = split_outputs([output.numpy() for output in outputs], 14)
    backend = open_backend(output, device="cpu", threads=1)
    normalized = normalizer(spec, torch.device("cpu"))(torch.from_numpy(image[None])).numpy()
    for key, value in backend.run(normalized).items():
        assert np.abs(value - expected[key]).max() < TOLERANCE * expected[key].std()
    with Estimator(output, kernels="numpy") as estimator:
        found = estimator(image)
    assert len(found)
    assert found.keypoints.shape[1:] == (14, 2)


def test_wrong_official_checkpoint(
    official_lpn: tuple[Path, nn.Module], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "x.onnx"
    for config in ("lpn/mpii_official", "simplebaseline/coco_official"):
        arguments = ["export", str(CONFIGS / f"{config}.yaml"), "--weights", str(official_lpn[0])]
        assert main([*arguments, "-o", str(output)]) == 1
        assert "does not fit" in capsys.readouterr().err
    assert not output.exists()

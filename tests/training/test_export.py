"""Exported files: equal to the network, described from within, usable by the Estimator."""

from __future__ import annotations

import json
import warnings
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
from edgepose.backends.onnx_metadata import read_spec
from edgepose.errors import ModelFormatError, ParityError
from edgepose.pipeline.geometry import apply_affine, box_to_region, crop_affine
from edgepose.skeleton import coco17
from training import export as export_module
from training.__main__ import main
from training.config import load_config
from training.data.people import Crops, People
from training.evaluate import decode, normalizer
from training.export import OPSET, TOLERANCE, export, model_spec
from training.loop import train
from training.models import create

CONFIGS = Path(__file__).resolve().parents[2] / "training/configs"
Write = Callable[..., Path]


def filled(name: str, **options: Any) -> nn.Module:
    """A network whose weights and statistics are not those it starts with."""
    torch.manual_seed(3)
    network = create(name, **options)
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
]


@pytest.mark.parametrize(("name", "options"), NETWORKS)
def test_file_equals_network(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    network = filled(name, joints=17, **options)
    spec = ModelSpec(name, coco17, (64, 96))
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
    assert not {"Shape", "Gather", "Slice", "Concat", "If"} & {node.op_type for node in model.graph.node}
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (given,), (result,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape) == ("image", ["batch", 3, 64, 96])
    assert (result.name, result.shape[1:]) == ("heatmaps", [17, 16, 24])
    image = np.random.default_rng(0).standard_normal((5, 3, 64, 96)).astype(np.float32)
    with torch.no_grad():
        expected = network.eval()(torch.from_numpy(image)).numpy()
    (found,) = session.run(["heatmaps"], {"image": image})
    assert np.abs(found - expected).max() < TOLERANCE * expected.std()
    single = np.concatenate([session.run(None, {"image": one[None]})[0] for one in image])
    assert np.abs(single - found).max() < TOLERANCE * expected.std()

    read = read_spec(path)
    assert (read.name, read.skeleton, read.input_size) == (name, coco17, (64, 96))
    assert set(read.provenance["exported_with"]) == {"edgepose", "torch", "onnx", "python"}


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


def test_wrong_official_checkpoint(
    official_lpn: tuple[Path, nn.Module], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "x.onnx"
    for config in ("lpn/mpii_official", "simplebaseline/coco_official"):
        arguments = ["export", str(CONFIGS / f"{config}.yaml"), "--weights", str(official_lpn[0])]
        assert main([*arguments, "-o", str(output)]) == 1
        assert "does not fit" in capsys.readouterr().err
    assert not output.exists()

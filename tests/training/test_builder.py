"""Networks of the registry, exported and built: the same function, nearly so in half precision."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from edgepose.builder.graph import Graph
from edgepose.builder.half import halve
from edgepose.builder.passes import rewrite
from edgepose.builder.passes.pixel_input import take_pixels
from edgepose.cli import main
from edgepose.samples import PERSON
from training.config import TrainConfig
from training.export import export, model_spec
from training.models import create
from training.models.registry import names

pytest.importorskip("onnxslim")

SIDE = 64
QUICK = {
    "lpn50": {"context_pooling": 16, "deconvolution": 2},
    "simplebaseline50": {"context_pooling": 0, "deconvolution": 3},
    "higherlpn50": {"context_pooling": 16, "deconvolution": 3},
    "hrnet_w32": {"context_pooling": 0, "deconvolution": 0},
    "higherhrnet_w32": {"context_pooling": 0, "deconvolution": 1},
}
"""How often each rewriting applies; the other networks, which are larger, are checked by `make test-slow`."""
OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("lpn50", {"attention": "se"}),
    ("lpn50", {"attention": None}),
    ("hourglass", {"stacks": 2, "channels": 32}),
    ("okdhp", {"base": "lpn50", "width": 0.25}),
    ("mobilepose", {"backbone": "resnet18", "head": "heatmap"}),
    ("mobilepose", {"backbone": "mobilenetv2"}),
    ("mobilepose", {"backbone": "shufflenetv2"}),
    ("mobilepose", {"backbone": "squeezenet", "head": "heatmap"}),
]


def every_network() -> list[Any]:
    rest = [name for name in names() if name not in QUICK and not name.startswith("plain")]
    return [(name, {}) for name in QUICK] + OPTIONS + [
        pytest.param(name, {}, marks=pytest.mark.slow) for name in rest
    ]  # fmt: skip


@torch.no_grad()
def random_network(name: str, options: dict[str, Any]) -> nn.Module:
    """A network whose every part matters: no weight and no statistic as it starts."""
    torch.manual_seed(5)
    network = create(name, joints=17, **options)
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            fan = module.weight[0].numel() if isinstance(module, nn.Conv2d) else 4 * module.weight.shape[1]
            module.weight.normal_(std=0.8 * fan**-0.5)
        elif isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.6, 1.4)
            module.weight.uniform_(0.8, 1.2)
            module.bias.normal_(std=0.1)
    return network


@pytest.mark.parametrize(("name", "options"), every_network())
def test_the_built_network_computes_the_same(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    network = random_network(name, options)
    bottom_up = name.startswith("higher")
    side = SIDE + 1 if options.get("backbone") == "squeezenet" else SIDE
    config = TrainConfig(
        name=name,
        model=name,
        task="bottomup" if bottom_up else "topdown",
        skeleton="coco17",
        input_size=[side, side],
        coordinates="legacy",
    )
    source = tmp_path / "source.onnx"
    spec = model_spec(config)
    export(network, spec, source)
    before = onnx.load(str(source))
    after, counts = rewrite(before)
    if not options and name in QUICK:
        assert counts == QUICK[name]
    pixels = onnx.ModelProto.FromString(after.SerializeToString())
    take_pixels(Graph(pixels), spec)
    onnx.checker.check_model(pixels, full_check=True)
    levels = np.random.default_rng(0).integers(0, 256, (2, side, side, 3), np.uint8)
    normal = ((levels / 255 - spec.mean) / spec.std).transpose(0, 3, 1, 2)
    images = np.ascontiguousarray(normal, np.float32)
    results = [
        onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        ).run(None, {"image": batch})
        for model, batch in ((before, images), (after, images), (pixels, levels), (halve(after), images))
    ]  # fmt: skip
    for expected, found, of_bytes, half in zip(*results, strict=True):
        assert np.abs(found - expected).max() <= 1e-4 * expected.std()
        assert np.abs(of_bytes - expected).max() <= 1e-4 * expected.std()
        assert 0 < np.abs(half - expected).max() <= 0.1 * expected.std()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("hourglass", {"stacks": 2, "channels": 32, "depth": 3}),
        ("okdhp", {"base": "lpn50", "width": 0.25}),
        ("mobilepose", {"backbone": "resnet18", "head": "heatmap"}),
        ("mobilepose", {"backbone": "mobilenetv2", "head": "coordinates"}),
        ("mobilepose", {"backbone": "squeezenet", "head": "heatmap"}),
    ],
)
def test_half_precision_passes_the_gate(
    name: str, options: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = random_network(name, options)
    coordinates = options.get("head") == "coordinates"
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d) and layer.out_channels == 17:
                layer.weight.mul_(30 if coordinates else 3)  # joints are seen from a score of 0.2 on
    side = 97 if options.get("backbone") == "squeezenet" else 96
    config = TrainConfig(name=name, model=name, skeleton="coco17", input_size=[side, side])
    if coordinates:
        config.decoder.beta = math.log((side // 4) ** 2)
    export(network, model_spec(config), tmp_path / "source.onnx")
    model, built = str(tmp_path / "source.onnx"), str(tmp_path / "built.onnx")
    pictures = str(PERSON.parent)
    assert main(["build", model, "-o", built, "--pictures", pictures, "--precision", "fp16", "--json"]) == 0
    parity = json.loads(capsys.readouterr().out)["parity"]
    assert parity["persons"] == 1
    assert 0 < parity["heatmap_rms"] < 0.01

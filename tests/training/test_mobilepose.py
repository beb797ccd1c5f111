"""MobilePose: the published network, its two heads, its parts, and what the runtime makes of its maps."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from edgepose import Estimator, kernels
from edgepose.backends.onnx_metadata import read_spec
from edgepose.errors import InvalidInputError, ModelFormatError
from edgepose.skeleton import mpii16
from edgepose.spec import ModelSpec
from training.__main__ import main
from training.checkpoints import read_state_dict
from training.config import load_config
from training.evaluate import normalizer
from training.export import check_output
from training.loop import train
from training.losses import to_unit
from training.models import create
from training.models.hrnet import BasicBlock
from training.models.layers import count_macs, init_weights
from training.models.mobile_encoders import ShuffleUnit
from training.models.mobilepose import (
    MobilePose,
    decoder,
    encoder,
    locate,
    whole_names,
)
from training.models.outputs import final_heatmaps

BACKBONES = ("resnet18", "mobilenetv2", "shufflenetv2", "squeezenet")
SIZES = {
    # parameters, multiply-accumulates at 224 x 224 in 1e9, channels and side of features, side of heatmaps
    "resnet18": (12_858_176, 1.995, 512, 7, 56),
    "mobilenetv2": (4_102_144, 0.491, 1280, 7, 56),
    "shufflenetv2": (3_066_340, 0.332, 1024, 7, 56),
    "squeezenet": (2_330_688, 0.686, 512, 13, 52),
}


def meta_network(backbone: str, head: str = "coordinates") -> MobilePose:
    """A network without memory for its weights."""
    with torch.device("meta"):
        return create("mobilepose", backbone=backbone, head=head)


def filled(fill: ModuleType, network: nn.Module) -> nn.Module:
    """A network in evaluation with known weights and statistics."""
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    state = {key: torch.from_numpy(np.array(value)) for key, value in fill.state_dict(shapes).items()}
    network.load_state_dict(state)
    return network.eval()


@pytest.mark.parametrize("head", ["coordinates", "heatmap"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_state_dict_equals_the_official_one(shared: Path, backbone: str, head: str) -> None:
    found = [
        f"{key} {'x'.join(map(str, value.shape))}"
        for key, value in meta_network(backbone, head).state_dict().items()
    ]
    assert found == (shared / f"specs/keys/mobilepose_{backbone}.txt").read_text().splitlines()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_sizes_equal_the_published_ones(backbone: str) -> None:
    parameters, macs, channels, side, maps = SIZES[backbone]
    network = meta_network(backbone)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert count_macs(network, (224, 224)) / 1e9 == pytest.approx(macs, abs=0.0006)
    image = torch.zeros(2, 3, 224, 224, device="meta")
    assert network.encode(image).shape == (2, channels, side, side)
    assert network.feature_channels == channels
    coords, heatmaps, log_heatmaps = network(image)
    assert coords.shape == (2, 16, 2)
    assert heatmaps.shape == log_heatmaps.shape == (2, 16, maps, maps)
    assert meta_network(backbone, "heatmap")(image).shape == heatmaps.shape


def test_outputs_equal_the_official_ones(shared: Path, fill: ModuleType) -> None:
    entries = json.loads((shared / "specs/parity/networks.json").read_text())
    recorded = next(entry for entry in entries if entry["name"] == "mobilepose_mobilenetv2")
    network = filled(fill, create("mobilepose", backbone="mobilenetv2"))
    with torch.no_grad():
        outputs = network(torch.from_numpy(fill.image(1, *recorded["input"][2:])))
    for output, expected in zip(outputs[:2], recorded["outputs"], strict=True):
        found = output.numpy()
        assert list(found.shape) == expected["shape"]
        assert np.abs(found.ravel()[expected["at"]] - expected["values"]).max() < 1e-4 * expected["std"]
        assert found.std() == pytest.approx(expected["std"], rel=1e-4)
        assert found.mean() == pytest.approx(expected["mean"], abs=1e-4 * expected["std"])


@pytest.mark.parametrize("backbone", ["resnet18", "squeezenet"])
def test_both_heads_are_one_network(fill: ModuleType, backbone: str) -> None:
    located = filled(fill, create("mobilepose", backbone=backbone, joints=5))
    plain = create("mobilepose", backbone=backbone, joints=5, head="heatmap").eval()
    plain.load_state_dict(located.state_dict())
    image = torch.from_numpy(fill.image(2, 65, 97))
    with torch.no_grad():
        outputs, raw = located(image), plain(image)
    assert final_heatmaps(plain, raw) is raw
    expected = torch.softmax(raw.flatten(2), -1).view_as(raw)
    torch.testing.assert_close(outputs.heatmaps, expected)
    torch.testing.assert_close(outputs.log_heatmaps, torch.log_softmax(raw.flatten(2), -1).view_as(raw))
    x = to_unit(torch.arange(raw.shape[3]), raw.shape[3])
    y = to_unit(torch.arange(raw.shape[2]), raw.shape[2])
    torch.testing.assert_close(outputs.coords[..., 0], (expected * x).sum((2, 3)))
    torch.testing.assert_close(outputs.coords[..., 1], (expected * y[:, None]).sum((2, 3)))
    assert hasattr(located, "loss")
    assert not hasattr(plain, "loss")


@pytest.mark.parametrize("backbone", BACKBONES)
def test_one_encoder_may_have_several_decoders(fill: ModuleType, backbone: str) -> None:
    """Parts make the maps of the whole network whose weights, renamed, are theirs."""
    torch.manual_seed(0)
    features = encoder(backbone)
    decoders = [decoder(backbone, joints=3) for _ in range(2)]
    features = filled(fill, features)
    names = whole_names(backbone)
    image = torch.from_numpy(fill.image(2, 65, 33))
    results = []
    for part in decoders:
        state = {
            f"{names[i][layer]}.{rest}": value
            for i, module in enumerate((features, part))
            for key, value in module.state_dict().items()
            for layer, rest in [key.split(".", 1)]
        }
        whole = create("mobilepose", backbone=backbone, joints=3, head="heatmap").eval()
        whole.load_state_dict(state)
        with torch.no_grad():
            shared = features(image)
            found = part.eval()(shared)
            assert torch.equal(shared, whole.encode(image))
            assert torch.equal(found, whole.decode(shared))
            assert torch.equal(found, whole(image))
        results.append(found)
    assert not torch.equal(*results)


@pytest.mark.parametrize("size", [(56, 56), (12, 20)])
def test_the_runtime_finds_the_coordinates(size: tuple[int, int]) -> None:
    """From sharp maps, whose probabilities are rounded to zero, to flat ones."""
    rng = np.random.default_rng(0)
    sharpness = np.float32([0, 1, 5, 40, 300])[:, None, None]
    raw = torch.from_numpy(sharpness * rng.standard_normal((3, 5, *size), np.float32))
    outputs = locate(raw)
    assert (outputs.heatmaps == 0).any()
    maps = final_heatmaps(meta_network("resnet18"), outputs).numpy()
    beta = math.log(size[0] * size[1])
    coords, _, _ = kernels.soft_argmax(maps, beta)
    expected = outputs.coords.numpy()
    np.testing.assert_allclose(
        to_unit(torch.from_numpy(coords), torch.tensor(size[::-1])), expected, atol=1e-5
    )
    assert np.abs(expected[:, 0]).max() < 1e-5  # a flat map's mean is its middle
    peaks = maps.max((2, 3))
    assert np.abs(peaks[:, 0]).max() < 1e-6
    assert (peaks > -1e-6).all()
    assert (peaks < 1 + 1e-6).all()
    assert (np.diff(peaks.mean(0)) > 0).all()
    assert peaks[:, -1].max() > 0.99


def test_training_leads_to_where_the_runtime_finds_the_joint() -> None:
    """Joints are in pixels of the map; those outside of it or without weight move nothing."""
    joints = torch.tensor([[[3.25, 9.5], [10.0, 2.0], [4.0, 4.0], [-0.6, 4.0], [5.0, 12.6]]])
    weights = torch.tensor([[1.0, 1.0, 0.0, 1.0, 1.0]])
    raw = torch.zeros(1, 5, 13, 17, requires_grad=True)
    network = meta_network("resnet18")
    optimizer = torch.optim.Adam([raw], lr=0.3)
    for _ in range(150):
        optimizer.zero_grad()
        loss = network.loss(locate(raw), joints, weights)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.02
    outputs = locate(raw.detach())
    coords, scores, covariance = kernels.soft_argmax(network.heatmaps(outputs).numpy(), math.log(13 * 17))
    np.testing.assert_allclose(coords[0, :2], joints[0, :2], atol=0.02)
    np.testing.assert_allclose(covariance[0, :2, [0, 1], [0, 1]], 1, atol=0.1)  # its Gaussian is 1 px wide
    assert scores[0, :2].min() > 0.5
    assert not raw[0, 2:].any()


def test_a_person_without_joints_costs_nothing() -> None:
    raw = torch.randn(2, 3, 5, 5, requires_grad=True)
    loss = meta_network("resnet18").loss(locate(raw), torch.ones(2, 3, 2), torch.zeros(2, 3))
    loss.backward()
    assert loss.item() == 0
    assert not raw.grad.any()


def test_channels_of_both_halves_in_turn() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 12, 3, 5)
    keep, halve = ShuffleUnit(12, 12, 1).eval(), ShuffleUnit(12, 20, 2).eval()
    with torch.no_grad():
        result = keep(x)
        assert torch.equal(result[:, ::2], x[:, :6])
        assert torch.equal(result[:, 1::2], keep.banch2(x[:, 6:]))
        result = halve(x)
        assert torch.equal(result[:, ::2], halve.banch1(x))
        assert torch.equal(result[:, 1::2], halve.banch2(x))


def test_shortcut_of_a_residual_block_that_changes_the_shape() -> None:
    torch.manual_seed(0)
    block = BasicBlock(4, 6, 2).eval()
    nn.init.zeros_(block.bn2.weight)
    x = torch.randn(2, 4, 8, 6)
    with torch.no_grad():
        assert torch.equal(block(x), torch.relu(block.downsample(x)))


def test_last_convolution_starts_near_zero() -> None:
    for network in (create("mobilepose", backbone="squeezenet"), decoder("squeezenet")):
        init_weights(network, "kaiming")
        assert network.final_layer.weight.std().item() == pytest.approx(0.001, rel=0.2)
        assert network.final_layer.bias is None


def test_squeezenet_needs_one_pixel_more() -> None:
    network = meta_network("squeezenet", "heatmap")
    for size in ((225, 225), (257, 193)):
        check_output(network, ModelSpec("x", mpii16, size))
    found = r"found heatmaps \(16, 52, 52\), expected \(16, 56, 56\); take a multiple of 16, and one more,"
    with pytest.raises(ModelFormatError, match=found):
        check_output(network, ModelSpec("x", mpii16, (224, 224)))
    with pytest.raises(ModelFormatError, match="take a multiple of 32 for both sides"):
        check_output(meta_network("resnet18", "heatmap"), ModelSpec("x", mpii16, (216, 216)))


def test_coordinates_from_training_to_the_estimator(
    write_config: Callable[..., Path], tmp_path: Path
) -> None:
    """The loop takes the network's own loss, and a file with its decoder finds its coordinates."""
    side, maps = 33, 8
    path = write_config(
        model="mobilepose",
        options={"backbone": "squeezenet"},
        input_size=[side, side],
        decoder={"beta": math.log(maps * maps)},
        optimizer={"name": "adam", "lr": 0.001},
        epochs=1,
    )
    config = load_config(path)
    with pytest.raises(InvalidInputError, match=r"decoder\.beta is not usable; found 160.0; give 4.158883"):
        load_config(path, ["decoder.beta=160"])
    train(config)
    log = json.loads((tmp_path / "runs/tiny/log.jsonl").read_text())
    assert 0.3 < log["loss"] < 2 * math.sqrt(2) + math.log(2)  # the bounds of distance and divergence
    output = tmp_path / "x.onnx"
    assert main(["export", str(path), "-o", str(output)]) == 0

    network = create("mobilepose", backbone="squeezenet", joints=14).eval()
    network.load_state_dict(read_state_dict(tmp_path / "runs/tiny/best.pt"))
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    spec = read_spec(output)
    with torch.no_grad():
        coords = network(normalizer(spec, torch.device("cpu"))(torch.from_numpy(image[None]))).coords[0]
    pixels = (coords * maps + maps - 1) / 2
    with Estimator(output) as estimator:
        found = estimator(image)  # the whole picture is the crop
    expected = pixels * (side - 1) / (maps - 1)
    np.testing.assert_allclose(found.keypoints[0], expected, atol=1e-3)


def test_unknown_options() -> None:
    with pytest.raises(InvalidInputError, match="unknown backbone; found 'vgg'; use one of resnet18"):
        create("mobilepose", backbone="vgg")
    with pytest.raises(InvalidInputError, match="unknown head; found 'both'; use 'coordinates' or 'heatmap'"):
        create("mobilepose", head="both")
    for part in (encoder, decoder, whole_names):
        with pytest.raises(InvalidInputError, match="unknown backbone; found 'vgg'"):
            part("vgg")

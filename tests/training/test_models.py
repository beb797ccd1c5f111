"""Networks: names, state-dict keys, sizes, outputs."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgepose.errors import InvalidInputError
from training.models import create, names
from training.models.layers import GlobalContext, count_macs, init_weights, upsample_unit

PUBLISHED = [
    # network, options, parameters, multiply-accumulates at the input in 1e9
    ("lpn50", {}, 2_911_153, (256, 192), 1.068),
    ("lpn101", {}, 5_353_458, (256, 192), 1.504),
    ("lpn152", {}, 7_377_459, (256, 192), 1.943),
    ("lpn50", {"joints": 16}, 2_910_896, (256, 256), 1.423),
    ("lpn50", {"attention": None}, 2_732_689, (256, 192), 1.066),
    ("lpn50", {"attention": "se"}, 2_902_673, (256, 192), 1.067),
    ("lpn50", {}, 2_911_153, (384, 288), 2.403),
    ("simplebaseline50", {}, 33_999_697, (256, 192), 5.43),
    ("simplebaseline101", {}, 52_991_825, (256, 192), 9.06),
    ("simplebaseline152", {}, 68_635_473, (256, 192), 12.70),
]
KEYS = [
    ("lpn50_coco", "lpn50", {}),
    ("lpn101_coco", "lpn101", {}),
    ("lpn152_coco", "lpn152", {}),
    ("lpn50_mpii", "lpn50", {"joints": 16}),
    ("lpn50_coco_att_se", "lpn50", {"attention": "se"}),
    ("lpn50_coco_att_none", "lpn50", {"attention": None}),
    ("simplebaseline_r50_coco", "simplebaseline50", {}),
    ("simplebaseline_r101_coco", "simplebaseline101", {}),
    ("simplebaseline_r152_coco", "simplebaseline152", {}),
]


def meta_network(name: str, **options: Any) -> nn.Module:
    """A network without memory for its weights."""
    with torch.device("meta"):
        return create(name, **options)


@pytest.mark.parametrize(("name", "options", "parameters", "size", "macs"), PUBLISHED)
def test_sizes_equal_the_published_ones(
    name: str, options: dict[str, Any], parameters: int, size: tuple[int, int], macs: float
) -> None:
    network = meta_network(name, **options)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert count_macs(network, size) / 1e9 == pytest.approx(macs, abs=0.006 if macs > 5 else 0.0006)
    assert network.training


@pytest.mark.parametrize(("file", "name", "options"), KEYS)
def test_state_dict_equals_the_official_one(
    shared: Path, file: str, name: str, options: dict[str, Any]
) -> None:
    found = [
        f"{key} {'x'.join(map(str, value.shape))}"
        for key, value in meta_network(name, **options).state_dict().items()
    ]
    expected = (shared / f"specs/keys/{file}.txt").read_text().splitlines()
    assert found == expected


@pytest.mark.parametrize(("key", "name", "options"), [KEYS[0], KEYS[3], KEYS[6]])
def test_outputs_equal_the_official_ones(
    shared: Path, fill: ModuleType, key: str, name: str, options: dict[str, Any]
) -> None:
    recorded = {
        entry["name"]: entry for entry in json.loads((shared / "specs/parity/networks.json").read_text())
    }
    expected = recorded[key]["outputs"][0]
    network = create(name, **options).eval()
    shapes = {k: tuple(v.shape) for k, v in network.state_dict().items()}
    network.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in fill.state_dict(shapes).items()})
    with torch.no_grad():
        image = torch.from_numpy(fill.image(1, *recorded[key]["input"][2:]))
        found = network(image).numpy()
    assert list(found.shape) == expected["shape"]
    error = np.abs(found.ravel()[expected["at"]] - expected["values"]).max()
    assert error < 1e-4 * expected["std"]
    assert found.std() == pytest.approx(expected["std"], rel=1e-4)
    assert found.mean() == pytest.approx(expected["mean"], rel=1e-4)


@pytest.mark.parametrize("size", [(32, 32), (64, 48)])
def test_global_context_adds_one_vector_to_every_position(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    block = GlobalContext(64).eval()
    x = torch.randn(2, 64, *size)
    added = block(x) - x
    torch.testing.assert_close(added, added[..., :1, :1].expand_as(added), atol=1e-5, rtol=0)
    mask = torch.softmax(block.conv_mask(x).flatten(1), 1).view(2, 1, *size)
    context = (x * mask).sum((2, 3), keepdim=True)
    torch.testing.assert_close(added[..., :1, :1], block.channel_add_conv(context), atol=1e-5, rtol=0)
    torch.testing.assert_close(block(x[:1]), block(x)[:1], atol=1e-6, rtol=0)  # people do not mix


def test_caffe_style_puts_the_stride_first() -> None:
    pytorch, caffe = (meta_network("simplebaseline50", style=style) for style in ("pytorch", "caffe"))
    assert pytorch.layer2[0].conv2.stride == caffe.layer2[0].conv1.stride == (2, 2)
    assert count_macs(caffe, (256, 192)) < count_macs(pytorch, (256, 192))


@pytest.mark.parametrize("kernel", [2, 3, 4])
def test_deconvolutions_double_the_size(kernel: int) -> None:
    unit = nn.Sequential(*upsample_unit(8, 8, kernel=kernel, groups=8, bias=True))
    assert unit(torch.zeros(2, 8, 5, 4)).shape == (2, 8, 10, 8)
    with pytest.raises(InvalidInputError, match="found 5; use 2, 3 or 4"):
        upsample_unit(8, 8, kernel=5, groups=1, bias=False)


def test_initialisations() -> None:
    network = create("lpn50", joints=14)
    assert float(network.layer1[0].conv1.weight.detach().std()) == pytest.approx(0.001, rel=0.1)
    init_weights(network, "kaiming")
    assert float(network.layer4[1].conv1.weight.detach().std()) == pytest.approx((2 / 512) ** 0.5, rel=0.1)
    attention = network.layer4[1].att.conv_mask.weight.detach()  # by fan-in: a soft choice of positions
    assert float(attention.std()) == pytest.approx((2 / 512) ** 0.5, rel=0.2)
    assert not network.layer1[0].att.channel_add_conv[3].weight.any()  # a block starts as identity
    with pytest.raises(InvalidInputError, match="found 'xavier'; use 'normal' or 'kaiming'"):
        init_weights(network, "xavier")


def test_registry_names_what_there_is() -> None:
    depths = (50, 101, 152)
    wanted = {f"{family}{depth}" for family in ("lpn", "simplebaseline") for depth in depths}
    assert wanted <= set(names())
    with pytest.raises(InvalidInputError, match=r"unknown network 'lpn5'.*did you mean 'lpn50'"):
        create("lpn5")
    with pytest.raises(InvalidInputError, match="no option joint; it takes joints, attention"):
        create("lpn50", joint=3)
    with pytest.raises(InvalidInputError, match="found 'cbam'; use 'gc', 'se' or None"):
        create("lpn50", attention="cbam")
    with pytest.raises(InvalidInputError, match="found 'tf'; use 'pytorch' or 'caffe'"):
        create("simplebaseline50", style="tf")

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
from training.models.higher_head import HigherHead
from training.models.higherhrnet import HigherHRNet
from training.models.hrnet import HighResolutionModule
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
    ("hrnet_w32", {}, 28_536_113, (256, 192), 7.645),
    ("hrnet_w48", {}, 63_595_745, (256, 192), 15.692),
    ("higherhrnet_w32", {}, 28_645_331, (512, 512), 46.20),
    ("higherhrnet_w32", {}, 28_645_331, (640, 640), 72.19),
    ("higherhrnet_w48", {}, 63_827_139, (640, 640), 149.47),
    ("higherhrnet_w32", {"joints": 14}, 28_641_962, (512, 512), 46.14),
    ("hourglass", {"stacks": 1}, 906_704, (256, 256), 1.494),
    ("hourglass", {"stacks": 2}, 1_700_448, (256, 256), 2.298),
    ("hourglass", {}, 3_287_936, (256, 256), 3.907),
    ("hourglass", {"channels": 256}, 13_018_816, (256, 256), 15.357),
    ("hourglass", {"stacks": 8, "channels": 256}, 25_594_624, (256, 256), 28.094),
    ("hourglass", {"stacks": 2, "channels": 256, "mobile": True}, 2_305_504, (256, 256), 3.605),
    ("hourglass", {"stacks": 2, "channels": 256, "blocks": 4}, 24_751_264, (256, 256), None),
    ("okdhp", {"shared": 0, "branches": [2, 2, 2], "channels": 256}, 24_627_792, (256, 256), 43.44),
    ("okdhp", {"stacks": 4, "channels": 256}, 30_915_696, (256, 256), 49.80),
    ("okdhp", {"shared": 6, "branches": [2, 2, 2], "channels": 256}, 43_491_504, (256, 256), 62.54),
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
    ("hrnet_w32_coco", "hrnet_w32", {}),
    ("hrnet_w32_mpii", "hrnet_w32", {"joints": 16}),
    ("hrnet_w48_coco", "hrnet_w48", {}),
    ("higherhrnet_w32_coco", "higherhrnet_w32", {}),
    ("higherhrnet_w32_crowdpose", "higherhrnet_w32", {"joints": 14}),
    ("higherhrnet_w48_coco", "higherhrnet_w48", {}),
    *(
        (f"fpd_hg{stacks}_f{channels}", "hourglass", {"stacks": stacks, "channels": channels})
        for stacks in (1, 2, 4, 8)
        for channels in (128, 256)
    ),
    ("fpd_hg4_f256_coco", "hourglass", {"channels": 256, "joints": 17}),
    ("yyl_hg_s2_b1", "hourglass", {"stacks": 2, "channels": 256}),
    ("yyl_hg_s8_b1", "hourglass", {"stacks": 8, "channels": 256}),
    ("yyl_hg_s2_b1_mobile", "hourglass", {"stacks": 2, "channels": 256, "mobile": True}),
    ("bearpaw_hg_s2_b4", "hourglass", {"stacks": 2, "channels": 256, "blocks": 4}),
    ("okdhp_share_s2_b3", "okdhp", {"stacks": 2, "channels": 256, "official_indices": "share"}),
    ("okdhp_share_s4_b3", "okdhp", {"stacks": 4, "channels": 256, "official_indices": "share"}),
    ("okdhp_share_s8_b3", "okdhp", {"stacks": 8, "channels": 256, "official_indices": "share"}),
    ("okdhp_noshare_s2_b3", "okdhp", {"stacks": 2, "channels": 256, "official_indices": "noshare"}),
    ("okdhp_noshare_s4_b3", "okdhp", {"stacks": 4, "channels": 256, "official_indices": "noshare"}),
]
RECORDED = (
    "lpn50_coco", "lpn50_mpii", "simplebaseline_r50_coco", "hrnet_w32_coco", "higherhrnet_w32_coco",
    "fpd_hg2_f128", "fpd_hg4_f256", "okdhp_share_s4_b3",
)  # fmt: skip
"""Networks whose official outputs are known."""


def meta_network(name: str, **options: Any) -> nn.Module:
    """A network without memory for its weights."""
    with torch.device("meta"):
        return create(name, **options)


def test_values_of_no_use_are_told_with_the_option() -> None:
    for name, options in (("lpn50", {"width": "wide"}), ("okdhp", {"base": "hourglass", "branches": 3})):
        with pytest.raises(InvalidInputError, match=f"cannot build network '{name}'; found options .*Error"):
            create(name, **options)


@pytest.mark.parametrize(("name", "options", "parameters", "size", "macs"), PUBLISHED)
def test_sizes_equal_the_published_ones(
    name: str, options: dict[str, Any], parameters: int, size: tuple[int, int], macs: float | None
) -> None:
    network = meta_network(name, **options)
    assert sum(p.numel() for p in network.parameters()) == parameters
    if macs is None:
        return
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


@pytest.mark.parametrize(("key", "name", "options"), [entry for entry in KEYS if entry[0] in RECORDED])
def test_outputs_equal_the_official_ones(
    shared: Path, fill: ModuleType, key: str, name: str, options: dict[str, Any]
) -> None:
    recorded = {
        entry["name"]: entry for entry in json.loads((shared / "specs/parity/networks.json").read_text())
    }
    network = create(name, **options).eval()
    shapes = {k: tuple(v.shape) for k, v in network.state_dict().items()}
    network.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in fill.state_dict(shapes).items()})
    with torch.no_grad():
        image = torch.from_numpy(fill.image(1, *recorded[key]["input"][2:]))
        outputs = network(image)
    outputs = [outputs] if isinstance(outputs, torch.Tensor) else outputs
    if isinstance(outputs, tuple):  # of branches, and their ensemble
        outputs = [*outputs[0], outputs[1]]
    for output, expected in zip(outputs, recorded[key]["outputs"], strict=True):
        found = output.numpy()
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


def test_published_operations_of_the_high_resolution_networks() -> None:
    """The papers' GFLOPs: HRNet counts in 2^30, HigherHRNet each deconvolution at its output's size."""
    assert count_macs(meta_network("hrnet_w32"), (256, 192)) / 2**30 == pytest.approx(7.1, abs=0.05)
    assert count_macs(meta_network("hrnet_w48"), (384, 288)) / 2**30 == pytest.approx(32.9, abs=0.05)
    for name, side, published in (("higherhrnet_w32", 512, 47.9), ("higherhrnet_w48", 640, 154.3)):
        network = meta_network(name)
        deconvolution = network.deconv_layers[0][0][0].weight.numel() * (side // 4) ** 2
        counted = count_macs(network, (side, side)) + 3 * deconvolution
        assert counted / 1e9 == pytest.approx(published, abs=0.05)


HEADS = [
    # options, channels of each output, channels that each deconvolution sees
    ({}, [34, 17], [66]),
    ({"tag_per_joint": False}, [18, 17], [50]),
    ({"concatenate": False}, [34, 17], [32]),
    ({"widths": [32, 32]}, [34, 17, 17], [66, 49]),
    ({"widths": [24, 16], "concatenate": [True, False]}, [34, 17, 17], [66, 24]),
    ({"widths": [24, 16], "tags": [True, True, False]}, [34, 34, 17], [66, 58]),
    ({"widths": [24], "tags": [False, True], "tag_per_joint": False}, [17, 18], [49]),
    ({"widths": []}, [34], []),
]


@pytest.mark.parametrize(("options", "channels", "seen"), HEADS)
def test_options_of_higherhrnet(options: dict[str, Any], channels: list[int], seen: list[int]) -> None:
    network = meta_network("higherhrnet_w32", **options).eval()
    outputs = network(torch.zeros(2, 3, 64, 96, device="meta"))
    shapes = [(2, count, 16 << stage, 24 << stage) for stage, count in enumerate(channels)]
    assert [output.shape for output in outputs] == shapes
    assert [layer[0][0].in_channels for layer in network.deconv_layers] == seen


def test_a_deconvolution_sees_features_before_the_output() -> None:
    """Weights on one half of its input show which comes first, and that no activation lies between."""
    torch.manual_seed(0)
    head = HigherHead(2, 1, lambda _: nn.Identity(), widths=(1,), blocks=0)
    unit = head.deconv_layers[0][0]
    nn.init.zeros_(unit[0].weight)
    nn.init.ones_(unit[0].weight[2:3])  # the heatmap, the third of 2 features, 1 heatmap, 1 tag
    x = torch.randn(1, 2, 4, 6)
    first, second = head.eval()(x)
    expected = head.final_layers[1](unit(torch.cat((torch.zeros(1, 2, 4, 6), first), 1)))
    torch.testing.assert_close(second, expected)
    assert (first[:, 0] < 0).any()
    assert (first[:, 0] > 0).any()


def test_final_convolutions_may_look_around() -> None:
    network = meta_network("higherhrnet_w32", kernel=3, blocks=1).eval()
    assert [layer.kernel_size for layer in network.final_layers] == [(3, 3), (3, 3)]
    assert len(network.deconv_layers[0]) == 2
    assert network(torch.zeros(1, 3, 32, 32, device="meta"))[1].shape == (1, 17, 16, 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"widths": [32, 32], "concatenate": [True]},
            "found 1 values of concatenate and 3 of tags",
        ),
        ({"tags": [True]}, "found 1 values of concatenate and 1 of tags; give 1 and 2"),
        ({"tags": [False, False]}, "found tags all false; set one, or take a top-down network"),
        ({"kernel": 5}, "found 5; use 1 or 3"),
        ({"widths": [0]}, r"found widths \[0\] and 4 blocks; give positive widths"),
        ({"blocks": -1}, r"found widths \[32\] and -1 blocks"),
        ({"deconvs": 2}, "no option deconvs; it takes joints, widths, blocks"),
    ],
)
def test_unusable_options_of_higherhrnet(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        meta_network("higherhrnet_w32", **options)


def test_fusion_adds_every_branch() -> None:
    torch.manual_seed(0)
    module = HighResolutionModule(4, branches=3, outputs=3).eval()
    inputs = [torch.randn(1, 4 << i, 16 >> i, 8 >> i) for i in range(3)]
    with torch.no_grad():
        outputs = module([x.clone() for x in inputs])
        assert [output.shape for output in outputs] == [x.shape for x in inputs]
        for branch in module.branches:  # blocks that keep what is positive
            for block in branch:
                nn.init.zeros_(block.bn2.weight)
        kept = [x.relu() for x in inputs]
        for i, output in enumerate(module([x.clone() for x in inputs])):
            parts = [path(x) for path, x in zip(module.fuse_layers[i], kept, strict=True)]
            torch.testing.assert_close(output, sum(parts).relu())


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
    small = create("higherlpn50", joints=3, width=4)
    init_weights(small, "kaiming")
    network = HigherHRNet(4, 3)
    init_weights(network, "kaiming")
    for layer in (*network.final_layers, *small.head.final_layers):
        assert float(layer.weight.detach().abs().max()) < 0.01
    assert float(network.deconv_layers[0][1][0].conv1.weight.detach().std()) > 0.1
    with pytest.raises(InvalidInputError, match="found 'xavier'; use 'normal', 'kaiming' or 'default'"):
        init_weights(network, "xavier")


def test_registry_names_what_there_is() -> None:
    depths = (50, 101, 152)
    wanted = {f"{family}{depth}" for family in ("lpn", "simplebaseline") for depth in depths}
    wanted |= {"hrnet_w32", "hrnet_w48", "higherhrnet_w32", "higherhrnet_w48", "higherlpn50"}
    assert wanted <= set(names())
    with pytest.raises(InvalidInputError, match=r"unknown network 'lpn5'.*did you mean 'lpn50'"):
        create("lpn5")
    with pytest.raises(InvalidInputError, match="no option joint; it takes joints, attention"):
        create("lpn50", joint=3)
    with pytest.raises(InvalidInputError, match="found 'cbam'; use 'gc', 'se' or None"):
        create("lpn50", attention="cbam")
    with pytest.raises(InvalidInputError, match="found 'tf'; use 'pytorch' or 'caffe'"):
        create("simplebaseline50", style="tf")

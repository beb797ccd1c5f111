"""Branched networks: their students, their ensemble, what cannot be cut."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgepose.errors import InvalidInputError
from training.models import create
from training.models.layers import count_macs
from training.models.okdhp import Branched, extract_branch
from training.models.outputs import final_heatmaps

HOURGLASS = {"channels": 16, "depth": 2}
NETWORKS: list[dict[str, Any]] = [
    {**HOURGLASS},
    {**HOURGLASS, "shared": 1, "branches": [1, 2, 3], "fau": "paper"},
    {**HOURGLASS, "shared": 0, "branches": [1, 1]},
    {**HOURGLASS, "stacks": 4, "official_indices": "share", "mobile": True, "blocks": 2},
    {**HOURGLASS, "stacks": 3, "official_indices": "noshare"},
    {"base": "lpn50", "width": 0.25},
    {"base": "lpn50", "width": 0.25, "shared": 1, "branches": [3, 4], "attention": "se", "fau": "paper"},
    *({"base": "mobilepose", "backbone": name} for name in ("mobilenetv2", "shufflenetv2")),
    {"base": "mobilepose", "backbone": "squeezenet", "branches": [1, 1], "fau": "paper"},
    {"base": "mobilepose", "backbone": "resnet18"},
]


@torch.no_grad()
def trained(**options: Any) -> Branched:
    """A network all of whose parts matter, in evaluation mode."""
    torch.manual_seed(3)
    network = create("okdhp", joints=14, **options)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
        elif isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            module.weight.normal_(std=module.weight[0].numel() ** -0.5)
    assert isinstance(network, Branched)
    return network.eval()


def predictions(network: Branched, image: Tensor) -> list[Tensor]:
    """The last heatmaps of each branch, found by how deep the branches are."""
    outputs, _ = network(image)
    own = [s.get("stacks", 1) for s in network.students]
    shared = (sum(own) - len(outputs)) // (len(own) - 1)
    position, found = shared - 1, []
    for count in own:
        position += count - shared
        found.append(outputs[position])
    assert position == len(outputs) - 1
    return found


@pytest.mark.parametrize("options", NETWORKS, ids=lambda o: "-".join(map(str, o.values())))
@torch.no_grad()
def test_a_student_equals_its_branch_to_the_last_bit(options: dict[str, Any]) -> None:
    network, image = trained(**options), torch.randn(2, 3, 64, 64)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    for branch, expected in enumerate(predictions(network, image)):
        student = extract_branch(network, branch)
        plain = create(network.base, joints=14, **network.students[branch])
        assert type(student) is type(plain)
        assert {k: v.shape for k, v in student.state_dict().items()} == {
            k: v.shape for k, v in plain.state_dict().items()
        }
        assert torch.equal(final_heatmaps(student, student(image)), expected)
        assert not student.training
        next(student.parameters()).zero_()  # its own, not the network's
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("fau", ["released", "paper"])
@torch.no_grad()
def test_the_ensemble_is_a_weighted_mean_of_all_branches(fau: str) -> None:
    network, image = trained(**HOURGLASS, fau=fau), torch.randn(2, 3, 64, 64)
    members = torch.stack(predictions(network, image), 1)
    ensemble = network.heatmaps(network(image))
    weights = network._weights(network.stem(image))
    assert weights.shape == (2, 3, 14)
    torch.testing.assert_close(weights.sum(1), torch.ones(2, 14))
    assert weights.std(0).max() > 1e-4  # they depend on the picture
    torch.testing.assert_close(ensemble, (weights[..., None, None] * members).sum(1))


@torch.no_grad()
def test_released_aggregation_follows_its_formula() -> None:
    network = trained(**HOURGLASS)
    features = torch.randn(2, 16, 8, 8)
    summed = sum(conv(features) for conv in network.convs)
    hidden = network.fc(summed.mean((2, 3)))
    assert hidden.shape == (2, 4)  # a quarter of the channels, nothing behind it
    logits = torch.stack([fc(hidden) for fc in network.fcs], 1)
    torch.testing.assert_close(network._weights(features), logits.softmax(1))


@torch.no_grad()
def test_official_indices_take_other_maps() -> None:
    image = torch.randn(1, 3, 64, 64)
    options = {**HOURGLASS, "stacks": 4}
    official = trained(**options, official_indices="share")
    ours = create("okdhp", joints=14, **options).eval()
    ours.load_state_dict(official.state_dict())
    outputs, wrong = official(image)
    weights = official._weights(official.stem(image))[..., None, None]
    torch.testing.assert_close(wrong, sum(weights[:, i] * outputs[5 + i] for i in range(3)))
    same_outputs, right = ours(image)
    assert all(torch.equal(a, b) for a, b in zip(outputs, same_outputs, strict=True))
    torch.testing.assert_close(right, sum(weights[:, i] * outputs[3 + 2 * i] for i in range(3)))
    assert not torch.allclose(wrong, right)
    apart = trained(**options, official_indices="noshare")
    outputs, wrong = apart(image)
    weights = apart._weights(apart.stem(image))[..., None, None]
    torch.testing.assert_close(wrong, sum(weights[:, i] * outputs[3 + 2 * i] for i in range(3)))


def test_training_cost_of_the_publication() -> None:
    """GFLOPs (in 2^30) of training a 4-stack target: alone, with FPD, balanced, unbalanced."""

    def cost(name: str, **options: Any) -> float:
        with torch.device("meta"):
            return count_macs(create(name, channels=256, **options), (256, 256)) / 2**30

    alone, teacher = cost("hourglass", stacks=4), cost("hourglass", stacks=8)
    assert alone == pytest.approx(14.3, abs=0.05)
    assert 2 * teacher + alone == pytest.approx(66.6, abs=0.1)
    assert cost("okdhp", stacks=4) == pytest.approx(46.4, abs=0.1)
    assert cost("okdhp", shared=2, branches=[2, 4, 6]) == pytest.approx(64.2, abs=0.1)


def test_gradients_reach_every_part() -> None:
    for options in ({**HOURGLASS, "fau": "paper"}, {"base": "lpn50", "width": 0.25}):
        network = create("okdhp", joints=14, **options)
        outputs, ensemble = network(torch.randn(2, 3, 64, 64))
        sum(maps.square().mean() for maps in [*outputs, ensemble]).backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name


def test_target_branches() -> None:
    assert create("okdhp", **HOURGLASS).target_branches() == [0, 1, 2]
    assert create("okdhp", **HOURGLASS, shared=1, branches=[2, 3, 2]).target_branches() == [0, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base": "hrnet_w32"}, "cannot cut network 'hrnet_w32' into branches; take hourglass, lpn50"),
        ({"base": "lpn50", "stacks": 4}, "lpn50 has no stacks; found stacks 4"),
        ({"base": "mobilepose", "official_indices": "share"}, "mobilepose has no stacks"),
        ({"base": "mobilepose", "branches": [1, 2]}, r"cannot be cut so; found .* branches \[1, 2\]"),
        ({"base": "mobilepose", "backbone": "vgg"}, "unknown backbone"),
        ({"base": "lpn50", "shared": 4}, "cannot share 4 of its four layers"),
        ({"channels": 16, "attention": "gc"}, "has no option attention; it takes .*fau, .*channels"),
        ({"branches": [2]}, r"found \[2\]; give two at least"),
        ({"branches": [2, 0, 1]}, "each with a part of its own"),
        ({"stacks": 4, "shared": 1, "branches": [2, 2, 2]}, "let them sum up"),
        ({"fau": "other"}, "unknown FAU"),
        ({"official_indices": "yes"}, "unknown official_indices"),
        ({"official_indices": "share", "branches": [2, 4, 6]}, "no released network of kind 'share'"),
        ({"official_indices": "noshare", "shared": 1}, "no released network of kind 'noshare'"),
    ],
)
def test_what_cannot_be_cut_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        create("okdhp", **{"channels": 16, **options} if "base" not in options else options)


def test_no_such_branch() -> None:
    with pytest.raises(InvalidInputError, match="no branch 3; found 3 branches; count from 0"):
        extract_branch(create("okdhp", **HOURGLASS), 3)

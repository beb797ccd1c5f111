"""Convolutions done in another way give what they gave."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from training.models import create
from training.precision import exempt_slow_bfloat16, fill_grouped_deconvolutions


@pytest.mark.parametrize("change", [exempt_slow_bfloat16, fill_grouped_deconvolutions])
@pytest.mark.parametrize("bias", [False, True])
def test_a_changed_network_gives_the_same_values_and_gradients(
    change: Callable[[nn.Module], nn.Module], bias: bool
) -> None:
    torch.manual_seed(0)
    network = create("lpn50", joints=3, width=0.25, deconv_bias=bias).eval()
    changed = change(copy.deepcopy(network))
    pictures = torch.randn(2, 3, 32, 48)
    assert list(changed.state_dict()) == list(network.state_dict())
    for one in (network, changed):
        one(pictures).square().sum().backward()
    torch.testing.assert_close(changed(pictures), network(pictures))
    for (name, expected), found in zip(network.named_parameters(), changed.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, msg=name)


def test_groups_of_several_channels_on_both_sides() -> None:
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(12, 6, 3, stride=2, padding=1, output_padding=1, groups=3)
    changed = fill_grouped_deconvolutions(copy.deepcopy(layer))
    values = torch.randn(2, 12, 5, 7)
    torch.testing.assert_close(changed(values), layer(values))


def test_a_copy_of_a_changed_network_has_weights_of_its_own() -> None:
    network = fill_grouped_deconvolutions(create("lpn50", joints=3, width=0.25)).eval()
    average = copy.deepcopy(network)
    pictures = torch.randn(1, 3, 32, 32)
    before = average(pictures)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert torch.equal(average(pictures), before)
    assert not network(pictures).any()

"""Weights that come back from an exported file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edgepose.errors import ModelFormatError
from edgepose.skeleton import lsp14
from edgepose.spec import ModelSpec
from training.export import export
from training.models import create
from training.models.layers import init_weights
from training.recover import recover_weights


def test_the_recovered_network_computes_the_same_and_can_be_trained(tmp_path: Path) -> None:
    torch.manual_seed(3)
    network = create("lpn50", joints=14)
    init_weights(network, "kaiming")
    torch.nn.init.normal_(network.final_layer.weight, std=0.1)
    images = torch.randn(24, 3, 64, 64)
    with torch.no_grad():
        network.train()(images)  # statistics of its own
    path = tmp_path / "model.onnx"
    export(network, ModelSpec(name="net", skeleton=lsp14, input_size=(64, 64)), path)

    recovered = create("lpn50", joints=14)
    recover_weights(recovered, path, images)
    with torch.no_grad():
        expected = network.eval()(images)
        assert torch.allclose(recovered.eval()(images), expected, atol=1e-3 * float(expected.std()))
        trained = recovered.train()(images)
    assert float((trained - expected).abs().mean()) < 0.05 * float(expected.std())
    assert not torch.equal(recovered.bn1.weight, torch.ones(64))


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    export(create("lpn50", joints=14), ModelSpec(name="net", skeleton=lsp14, input_size=(64, 64)), path)
    with pytest.raises(ModelFormatError, match="not an export of LPN"):
        recover_weights(create("lpn101", joints=14), path, torch.randn(2, 3, 64, 64))

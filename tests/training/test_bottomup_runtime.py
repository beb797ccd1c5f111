"""A bottom-up network in PyTorch, and its exported file in the SDK, find the same persons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgepose import Estimator, Grouping, ModelSpec, kernels, lsp14
from edgepose.pipeline.bottomup import BottomUp, split_outputs
from training.export import export
from training.models.higherlpn import higherlpn50


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[torch.nn.Module, ModelSpec, Path]:
    """An untrained network and its file."""
    torch.manual_seed(0)
    network = higherlpn50(joints=14).eval()
    # Untrained maps are nearly flat: each pixel above zero may be a joint, if it is the largest around.
    grouping = Grouping(detection_threshold=0.0, window=15, max_people=6)
    spec = ModelSpec("untrained", lsp14, (64, 64), task="bottomup", coordinates="legacy", grouping=grouping)
    path = tmp_path_factory.mktemp("model") / "untrained.onnx"
    export(network, spec, path)
    return network, spec, path


@pytest.mark.parametrize("options", [{}, {"flip_test": True, "scales": (0.5, 1), "official": True}])
def test_network_and_file_agree(
    exported: tuple[torch.nn.Module, ModelSpec, Path], options: dict[str, Any]
) -> None:
    network, spec, path = exported

    @torch.no_grad()
    def run(batch: np.ndarray) -> dict[str, np.ndarray]:
        return split_outputs([output.numpy() for output in network(torch.from_numpy(batch))], 14)

    picture = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    (expected,), _ = BottomUp(run, spec, kernels.get("numpy"), max_persons=6, **options)([picture])
    renamed = {"official_grouping" if name == "official" else name: on for name, on in options.items()}
    with Estimator(
        path, threads=1, score_threshold=0, max_persons=6, kernels="numpy", **renamed
    ) as estimator:
        result = estimator(picture)
    best = np.argsort(-expected.person_scores, kind="stable")[:6]
    assert len(result) == len(best) == 6
    np.testing.assert_allclose(result.person_scores, expected.person_scores[best], atol=1e-6)
    np.testing.assert_allclose(result.keypoints, expected.keypoints[best], atol=1e-3)

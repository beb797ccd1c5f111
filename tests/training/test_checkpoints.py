"""Checkpoints of every container, prefix and age; damaged and hostile files."""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgepose.errors import ModelFormatError, ModelNotFoundError
from training.checkpoints import load_weights, read_checkpoint, read_state_dict
from training.models import create
from training.models.higherhrnet import HigherHRNet
from training.models.hrnet import HRNet


class Small(nn.Module):
    def __init__(self, joints: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 1)
        self.bn1 = nn.BatchNorm2d(4)
        self.final_layer = nn.Conv2d(4, joints, 1)


@pytest.fixture
def trained() -> Small:
    torch.manual_seed(7)
    network = Small()
    for value in network.state_dict().values():
        if value.is_floating_point():
            value.normal_()
    return network


def prefixed(network: nn.Module, prefix: str) -> OrderedDict[str, torch.Tensor]:
    return OrderedDict((prefix + key, value) for key, value in network.state_dict().items())


def assert_loaded(network: nn.Module, source: nn.Module) -> None:
    expected = source.state_dict()
    for key, value in network.state_dict().items():
        assert torch.equal(value, expected[key]), key


def official(network: nn.Module) -> dict[str, Any]:
    """What HRNet, LPN and FPD write to ``checkpoint.pth``: the optimiser and NumPy numbers are there too."""
    optimizer = torch.optim.Adam(network.parameters())
    sum(p.sum() for p in network.parameters()).backward()
    optimizer.step()
    return {
        "epoch": 140,
        "model": "pose_resnet",
        "state_dict": prefixed(Small(), "module."),
        "best_state_dict": prefixed(network, "module."),
        "perf": np.float64(0.71),
        "last": np.int64(3),
        "ok": np.bool_(True),
        "optimizer": optimizer.state_dict(),
    }


CONTAINERS = {
    "bare": lambda n: n.state_dict(),
    "data parallel": lambda n: prefixed(n, "module."),
    "higherhrnet": lambda n: prefixed(n, "1."),
    "both": lambda n: prefixed(n, "1.module."),
    "compiled": lambda n: {"model": prefixed(n, "_orig_mod.")},
    "state_dict": lambda n: {"epoch": 3, "state_dict": prefixed(n, "module.")},
    "ours": lambda n: {"model": n.state_dict(), "config": {"name": "x"}},
    "hrnet": official,
    "pytorch-pose": lambda n: {
        "epoch": 90,
        "arch": "hg",
        "model": "hg",
        "state_dict": prefixed(n, "module."),
        "best_acc": np.float32(0.87),
    },
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy format"])
@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_and_prefix(trained: Small, tmp_path: Path, container: str, legacy: bool) -> None:
    path = tmp_path / "model.pth.tar"
    torch.save(CONTAINERS[container](trained), path, _use_new_zipfile_serialization=not legacy)
    network = Small()
    assert load_weights(network, path) == []
    assert_loaded(network, trained)


@pytest.mark.parametrize("container", ["bare", "higherhrnet", "both", "fp16", "state_dict", "ours"])
def test_bottom_up_networks(tmp_path: Path, container: str) -> None:
    """Mixed precision wrapped HigherHRNet before DataParallel did, so keys may begin with ``module.1.``."""
    torch.manual_seed(7)
    trained, network = HigherHRNet(2, 3, widths=[2, 2]), HigherHRNet(2, 3, widths=[2, 2])
    for value in trained.state_dict().values():
        if value.is_floating_point():
            value.normal_()
    containers = {**CONTAINERS, "fp16": lambda n: {"model": prefixed(n, "module.1.")}}
    path = tmp_path / "model_best.pth.tar"
    torch.save(containers[container](trained), path)
    assert load_weights(network, path) == []
    assert_loaded(network, trained)


def test_body_of_another_head_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "hrnet.pth"
    torch.save(prefixed(HRNet(2, 3), "module."), path)
    with pytest.raises(ModelFormatError, match=r"not fit HigherHRNet; 49 keys missing \(final_layers\.0"):
        load_weights(HigherHRNet(2, 3), path)
    torch.save(HigherHRNet(2, 3).state_dict(), path)
    with pytest.raises(ModelFormatError, match=r"5 keys of another shape .*final_layers\.0\.weight"):
        load_weights(HigherHRNet(2, 4), path)


def test_numpy_numbers(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    values = [np.float64(0.5), np.float32(0.25), np.int64(-3), np.bool_(False)]
    torch.save({"perf": values}, path)
    assert read_checkpoint(path)["perf"] == values


def test_numpy_numbers_written_by_numpy_1(tmp_path: Path) -> None:
    """NumPy 1 calls the module ``numpy.core.multiarray``, NumPy 2 ``numpy._core.multiarray``."""
    content = pickle.dumps({"perf": np.float64(0.5)}, protocol=2)
    content = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert b"numpy.core.multiarray" in content

    path = tmp_path / "x.pth"
    torch.save({"perf": 0.0}, path)
    with zipfile.ZipFile(path) as old:
        entries = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
        for name, data in entries.items():
            new.writestr(name, content if name.endswith("data.pkl") else data)
    assert read_checkpoint(path) == {"perf": 0.5}


def test_files_without_num_batches_tracked(trained: Small, tmp_path: Path) -> None:
    state = {k: v for k, v in trained.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pth")
    network = Small()
    load_weights(network, tmp_path / "old.pth")
    assert_loaded(network, trained)


def test_wrong_architecture_is_refused(trained: Small, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save(trained.state_dict(), path)
    network = create("lpn50")
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(
        ModelFormatError, match=r"not fit LPN; 403 keys missing \(layer1.*1 keys unknown \(conv1\.bias"
    ):
        load_weights(network, path)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_another_number_of_joints(trained: Small, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save(trained.state_dict(), path)
    network = Small(joints=5)
    with pytest.raises(ModelFormatError, match=r"2 keys of another shape \(final_layer\.weight"):
        load_weights(network, path)
    assert load_weights(network, path, skip_head=True) == ["final_layer.weight", "final_layer.bias"]
    assert torch.equal(network.conv1.weight, trained.conv1.weight)


def test_a_net_of_another_width_is_no_other_head(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save(create("hourglass", stacks=1, channels=8, depth=1).state_dict(), path)
    network = create("hourglass", stacks=1, channels=16, depth=1)
    with pytest.raises(ModelFormatError, match=r"0 keys unknown, \d+ keys of another shape"):
        load_weights(network, path, skip_head=True)


def test_some_tensors_may_start_afresh(trained: Small, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save(trained.state_dict(), path)
    network = Small()
    bias = network.final_layer.bias.clone()
    assert load_weights(network, path, fresh=["layer.bias"]) == ["final_layer.bias"]
    assert torch.equal(network.final_layer.bias, bias)
    assert torch.equal(network.final_layer.weight, trained.final_layer.weight)


def test_a_body_of_another_network(trained: Small, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    state = trained.state_dict()
    del state["final_layer.weight"], state["final_layer.bias"]
    torch.save({**state, "fc.weight": torch.ones(2)}, path)
    network = Small()
    weight = network.final_layer.weight.clone()
    with pytest.raises(ModelFormatError, match=r"2 keys missing \(final_layer.*0 keys unknown"):
        load_weights(network, path, fresh=["fc."])
    with pytest.raises(ModelFormatError, match=r"0 keys missing, 1 keys unknown \(fc\.weight\)"):
        load_weights(network, path, fresh=["final_layer"])
    assert load_weights(network, path, fresh=["final_layer", "fc."]) == ["fc.weight"]
    assert torch.equal(network.final_layer.weight, weight)
    assert torch.equal(network.conv1.weight, trained.conv1.weight)


def test_code_in_a_file_is_never_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return (open, (str(marker), "w"))

    for legacy in (False, True):
        path = tmp_path / "hostile.pth"
        torch.save({"state_dict": Hostile()}, path, _use_new_zipfile_serialization=not legacy)
        with pytest.raises(ModelFormatError, match=r"holds objects whose code is not run.*state dict alone"):
            read_state_dict(path)
    path.write_bytes(pickle.dumps(Hostile(), protocol=2))
    with pytest.raises(ModelFormatError, match="cannot read checkpoint"):
        read_state_dict(path)
    assert not marker.exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_damaged_files(trained: Small, tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "x.pt"
    torch.save(trained.state_dict(), path, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    for content in (b"", b"not a checkpoint", whole[:100], whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(ModelFormatError, match=r"cannot read checkpoint .*x\.pt; "):
            read_state_dict(path)


def test_files_without_weights(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="found no file"):
        read_state_dict(tmp_path / "missing.pt")
    torch.save({"epoch": 3, "model": "pose_resnet"}, tmp_path / "x.pt")
    with pytest.raises(ModelFormatError, match=r"no weights .*found \['epoch', 'model'\]; expected"):
        read_state_dict(tmp_path / "x.pt")
    torch.save([1, 2], tmp_path / "x.pt")
    with pytest.raises(ModelFormatError, match="found list"):
        read_state_dict(tmp_path / "x.pt")

"""Leeds Sports Pose and its extension, and accuracy on them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import loadmat, savemat

from edgepose.errors import InvalidInputError
from edgepose.evaluation.lsp import load_lsp
from edgepose.evaluation.people import People
from edgepose.evaluation.scorers import LspScorer
from edgepose.skeleton import coco17, lsp14
from edgepose.spec import Decoder, ModelSpec
from tests.fakes.perfect import Perfect
from training.__main__ import main
from training.data.lspet import CONTEXT, load_lspet, lspet_count
from training.evaluate import evaluate, predict


def test_lsp_regions_are_whole_pictures(small_data: Path) -> None:
    people = load_lsp(small_data / "lsp", 3, 7)
    annotation = loadmat(small_data / "lsp/joints.mat")["joints"]
    assert len(people) == 5
    assert people.skeleton is lsp14
    np.testing.assert_allclose(people.joints[0], annotation[:2, :, 2].T, rtol=1e-6)
    assert people.visible.all()
    assert people.boxes.tolist() == [[0, 0, 47, 63]] * 5
    x, y = np.round(people.joints[1, 4]).astype(int)
    assert people.images[1][y, x, 2] > 150  # the spot drawn there


def test_lspet_regions_hold_the_joints(small_data: Path, tmp_path: Path) -> None:
    root = tmp_path / "lspet"
    shutil.copytree(small_data / "lspet", root)
    joints = np.load(root / "joints.npz")["joints"]
    joints[1, 5:, 2] = 0  # five labelled joints
    joints[2, 0] = [-900, -900, 0]
    np.savez(root / "joints.npz", joints=joints)
    assert lspet_count(root) == 24
    people = load_lspet(root)
    assert len(people) == 23
    assert people.visible[1].tolist() == [0] + [1] * 13
    assert people.joints[1, 0].tolist() == [0, 0]
    low, high = joints[2, 1:, :2].min(0), joints[2, 1:, :2].max(0)
    found = people.boxes[1]
    np.testing.assert_allclose((found[:2] + found[2:]) / 2, (low + high) / 2, rtol=1e-5)
    np.testing.assert_allclose(found[2:] - found[:2], (high - low) * CONTEXT, rtol=1e-5)
    assert len(load_lspet(root, min_joints=1)) == 24
    assert len(load_lspet(root, first=20)) == 5

    packed = root / "joints.npz"
    savemat(root / "joints.mat", {"joints": joints.transpose(1, 2, 0)})  # the form it is published in
    packed.unlink()
    np.testing.assert_array_equal(load_lspet(root).boxes, people.boxes)


def test_unusable_data_sets(small_data: Path, tmp_path: Path) -> None:
    for first, last in ((0, 3), (5, 4), (1, 11)):
        with pytest.raises(InvalidInputError, match=f"pictures {first} to {last} are not in .* 1 to 10"):
            load_lsp(small_data / "lsp", first, last)
    for load in (load_lsp, load_lspet):
        with pytest.raises(InvalidInputError, match=r"found no joints\.mat; .*EDGEPOSE_DATA"):
            load(tmp_path)
    (tmp_path / "joints.mat").write_bytes(b"no MATLAB file")
    with pytest.raises(InvalidInputError, match=r"cannot read .*fetch the data set again"):
        load_lsp(tmp_path)
    shutil.copy(small_data / "lsp/joints.mat", tmp_path)
    with pytest.raises(InvalidInputError, match=r"found joints \(10, 3, 14\); expected \(n, 14, 3\)"):
        load_lspet(tmp_path)
    with pytest.raises(InvalidInputError, match=r"im0001\.jpg; found no such file"):
        load_lsp(tmp_path, 1, 2)
    (tmp_path / "images").mkdir()
    (tmp_path / "images/im0001.jpg").write_bytes(b"\xff\xd8\xff no picture")
    with pytest.raises(InvalidInputError, match=r"im0001\.jpg; found a damaged file"):
        load_lsp(tmp_path, 1, 2)
    (tmp_path / "joints.npz").write_bytes(b"PK\x03\x04 damaged")
    with pytest.raises(InvalidInputError, match=r"joints\.npz; .*needs an array 'joints'"):
        load_lspet(tmp_path)
    np.savez(tmp_path / "joints.npz", other=np.zeros(3))
    with pytest.raises(InvalidInputError, match="needs an array 'joints'"):
        load_lspet(tmp_path)


def test_people_join_and_split(small_data: Path) -> None:
    people = load_lsp(small_data / "lsp", 1, 4) + load_lspet(small_data / "lspet", last=3)
    assert len(people) == len(people[:]) == 7
    assert len(people[:5]) == len(people[:5].joints) == 5
    assert people[None:None].images[6] is people.images[6]
    other = People(coco17, [], np.zeros((0, 17, 2)), np.zeros((0, 17)), np.zeros((0, 4)))
    with pytest.raises(InvalidInputError, match="found skeletons lsp14 and coco17"):
        people + other


@pytest.mark.parametrize("coordinates", ["legacy", "udp"])
@pytest.mark.parametrize("decoder", [Decoder("argmax", refine="taylor"), Decoder(refine="quarter", bias=0.5)])
@pytest.mark.parametrize("flip_test", [False, True])
def test_a_perfect_network_scores_100(
    small_data: Path, coordinates: str, decoder: Decoder, flip_test: bool
) -> None:
    people = load_lsp(small_data / "lsp", 1, 10)
    spec = ModelSpec("x", lsp14, (256, 192), coordinates=coordinates, decoder=decoder)  # type: ignore[arg-type]
    network = Perfect(people, spec)
    found, scores = predict(network, spec, people, batch_size=4, flip_test=flip_test)
    limit = 0.05 if decoder.name == "argmax" else 0.5  # a heatmap pixel is 1.0 to 1.3 of the picture's
    error = np.abs(found + decoder.bias - people.joints)
    assert np.median(error) < limit
    assert scores.min() > 0.5
    network = Perfect(people, spec)
    table = evaluate(network, spec, LspScorer(people), flip_test=flip_test)
    torso = np.linalg.norm(people.joints[:, 9] - people.joints[:, 2], axis=1)
    assert torso.min() * 0.2 > 0.1
    if decoder.name == "argmax":
        assert set(table.values()) == {100}
    else:
        assert table["mean"] > 80


def test_shifted_predictions_do_not_score(small_data: Path) -> None:
    people = load_lsp(small_data / "lsp", 1, 10)
    spec = ModelSpec("x", lsp14, (256, 192), decoder=Decoder("argmax", refine="taylor", bias=40.0))
    assert set(evaluate(Perfect(people, spec), spec, LspScorer(people)).values()) == {0}


def test_command_line_evaluates(
    write_config: Callable[..., Path],
    lsp_test_set: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from training.models import create

    weights = tmp_path / "plain.pt"
    torch.save(create("plain").state_dict(), weights)
    config = str(write_config(data={"root": str(lsp_test_set)}))
    assert main(["evaluate", config, "--weights", str(weights), "--json", "--flip-test"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert set(table) == {"ankle", "knee", "hip", "wrist", "elbow", "shoulder", "neck", "head_top", "mean"}
    assert all(0 <= value <= 100 for value in table.values())
    assert main(["evaluate", config, "--weights", str(weights)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 9
    assert lines[-1].startswith("mean ")
    assert main(["evaluate", config, "--weights", str(weights), "--scales", "0.5", "1"]) == 1
    assert "cannot evaluate a top-down network at scales [0.5, 1.0]" in capsys.readouterr().err
    assert main(["evaluate", config]) == 1
    assert "no trained network; found no " in capsys.readouterr().err
    torch.save(create("plain", joints=17).state_dict(), weights)
    assert main(["evaluate", config, "skeleton=coco17", "--weights", str(weights)]) == 1
    assert "cannot score coco17" in capsys.readouterr().err

"""`edgepose build`: what it writes is verified, whole, described and the same every time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import color_model, color_spec, spots

from edgepose import BuildError, Estimator, InvalidInputError, ModelNotFoundError, ParityError
from edgepose.backends import read_model_spec
from edgepose.builder import build as build_module
from edgepose.builder import candidates
from edgepose.builder.build import Options, build
from edgepose.cli import build as command
from edgepose.cli import main
from edgepose.estimator import resolve_model

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxslim")
pytest.importorskip("onnxruntime")
cv2 = pytest.importorskip("cv2")

PICTURES = [spots((64, 48), [(12, 20), (30, 40), (24, 12)]), spots((90, 70), [(30, 50), (60, 80), (50, 20)])]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return color_model(tmp_path / "source.onnx", color_spec(provenance={"epochs": 3}, parity={"pck": 50.0}))


def test_what_is_written(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "new" / "fast.onnx"
    report = build(source, output, PICTURES)
    assert report.parity.pictures == 2
    assert report.parity.keypoint_max == 0
    assert report.bytes == (source.stat().st_size, output.stat().st_size)
    json.dumps(report.to_dict())
    spec = read_model_spec(output)
    assert spec.provenance["epochs"] == 3
    assert spec.provenance["built"]["passes"] == {"context_pooling": 0, "deconvolution": 0}
    assert spec.parity == {"pck": 50.0, "built": report.parity.to_dict()}
    with Estimator(source) as before, Estimator(output) as after:
        np.testing.assert_array_equal(before(PICTURES[0]).keypoints, after(PICTURES[0]).keypoints)
    again = tmp_path / "again.onnx"
    build(source, again, PICTURES)
    assert again.read_bytes() == output.read_bytes()
    assert sorted(file.name for file in output.parent.iterdir()) == ["fast.onnx"]
    rebuilt = build(output, again, PICTURES)  # an older file is replaced, and a built one can be a source
    assert rebuilt.parity.keypoint_max == 0


def spoil(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the rewriting change what the network computes."""
    honest = build_module.rewrite

    def rewrite(model: Any, **options: Any) -> Any:
        changed, passes = honest(model, **options)
        for tensor in changed.graph.initializer:
            if tensor.name == "weights":
                value = onnx.numpy_helper.to_array(tensor) * np.float32(1.01)
                tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
        return changed, passes

    monkeypatch.setattr(build_module, "rewrite", rewrite)


def test_a_result_that_differs_is_not_written(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(monkeypatch)
    output = tmp_path / "fast.onnx"
    output.write_bytes(b"older")
    with pytest.raises(ParityError, match=r"(?s)heatmap_rms out of bounds.*heatmap_rms            0\.01 "):
        build(source, output, PICTURES)
    assert output.read_bytes() == b"older"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["fast.onnx", "source.onnx"]
    cv2.imwrite(str(tmp_path / "a.png"), PICTURES[0])
    arguments = ["build", str(source), "-o", str(output), "--pictures", str(tmp_path / "a.png")]
    assert main(arguments) == 1
    assert "heatmap_rms" in capsys.readouterr().err


def test_an_interrupted_build_leaves_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(candidates, "compare", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build(source, tmp_path / "fast.onnx", PICTURES)
    assert [file.name for file in tmp_path.iterdir()] == ["source.onnx"]


def test_refusals(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInputError, match="found no pictures"):
        build(source, tmp_path / "fast.onnx", [])
    with pytest.raises(InvalidInputError, match=r"found the suffix '\.xml'; name an \.onnx or"):
        build(source, tmp_path / "fast.xml", PICTURES)
    with pytest.raises(ModelNotFoundError):
        build(tmp_path / "none.onnx", source, PICTURES)
    with pytest.raises(InvalidInputError, match="from itself"):
        build(source, source, PICTURES)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InvalidInputError, match="cannot write"):
        build(source, tmp_path / "file" / "fast.onnx", PICTURES)
    import onnxslim

    monkeypatch.setattr(onnxslim, "slim", lambda _: 1 / 0)
    with pytest.raises(BuildError, match="onnxslim says: division by zero"):
        build(source, tmp_path / "fast.onnx", PICTURES)


def test_command_line(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for index, picture in enumerate(PICTURES):
        cv2.imwrite(str(tmp_path / f"{index}.png"), picture)
    output, pictures = str(tmp_path / "fast.onnx"), ["--pictures", str(tmp_path / "*.png")]
    assert main(["build", str(source), "-o", output, *pictures]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"{output}  fp32, 0.0 MB")
    assert "rewritten: context_pooling 0, deconvolution 0" in text
    assert "pictures                  2" in text
    assert command.main([str(source), "-o", output, *pictures, "--limit", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parity"]["pictures"] == 1
    assert main(["build", str(source), "-o", output]) == 0  # on the packaged photo
    capsys.readouterr()
    assert main(["build", "net.pth", "-o", output]) == 1
    assert "python -m training export CONFIG.yaml --weights net.pth" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main(["build", str(source)])
    assert caught.value.code == 2


def test_the_packaged_model(tmp_path: Path) -> None:
    report = build(resolve_model(None), tmp_path / "fast.onnx", [cv2.imread(str(command.SAMPLE))])
    assert report.passes == {"context_pooling": 16, "deconvolution": 2}


def test_a_fixed_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = cv2.imread(str(command.SAMPLE))
    picture = np.full_like(photo, 128)
    half = cv2.resize(photo, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    picture[: half.shape[0], : half.shape[1]] = half
    source, output = resolve_model("multi"), tmp_path / "fixed.onnx"
    report = build(source, output, [picture], Options(size=(256, 320)))
    assert report.parity.heatmap_rms < 1e-4
    assert report.parity.persons > 0
    assert read_model_spec(output).provenance["built"]["size"] == [256, 320]
    with Estimator(output) as estimator:
        assert len(estimator(picture)) > 0
    assert "Shape" not in [node.op_type for node in onnx.load(str(output)).graph.node]
    assert main(["info", str(output)]) == 0
    assert "256 x 320 (height x width)" in capsys.readouterr().out
    for name, size, message in (
        ("multi", (256, 300), "found 256x300; give height and width as multiples of 32"),
        ("multi", (0, 256), "found 0x256"),
        ("lpn50-lsp", (128, 128), "cannot fix the size of 'lpn50-lsp'"),
        (output, (256, 320), "cannot fix the size of 'higherlpn50-lsp'"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            build(resolve_model(name), tmp_path / "other.onnx", [picture], Options(size=size))
    with pytest.raises(SystemExit):
        main(["build", "multi", "-o", str(tmp_path / "other.onnx"), "--size", "256"])

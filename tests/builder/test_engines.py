"""`edgepose build` of engines, over each version of TensorRT, up to what the file says of itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import color_model, color_spec, people_model, people_picture, spots

from edgepose import BackendUnavailableError, InvalidInputError, ParityError
from edgepose.backends import open_backend, read_model_spec
from edgepose.backends.engine_file import EngineBuild, read_engine, side_car
from edgepose.builder import build as build_module
from edgepose.builder import candidates
from edgepose.builder.build import Options, build
from edgepose.builder.tensorrt import EngineOptions
from edgepose.cli import main
from tests.fakes import pycuda
from tests.fakes import tensorrt as fake

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxslim")
pytest.importorskip("onnxruntime")
cv2 = pytest.importorskip("cv2")

PICTURES = [spots((64, 48), [(12, 20), (30, 40), (24, 12)]), spots((90, 70), [(30, 50), (60, 80), (50, 20)])]
MANY = [spots((64, 48), [(12 + n, 20), (30, 40 - n), (24, 12 + n)]) for n in range(10)]
PEOPLE = people_picture((128, 192), [[(40, 40), (60, 80)], [(130, 40), (150, 80)]])
Install = Callable[..., fake.Control]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A model with a layer in front of the one that makes the output and stays in float."""
    path = color_model(tmp_path / "source.onnx", color_spec(provenance={"epochs": 3}))
    model = onnx.load(path)
    graph = model.graph
    weights = np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)
    graph.initializer.append(onnx.numpy_helper.from_array(weights, "first_weights"))
    graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(3, np.float32), "first_bias"))
    graph.node[0].input[0] = "rectified"
    first = onnx.helper.make_node("Conv", ["image", "first_weights", "first_bias"], ["first"], name="first")
    graph.node.insert(0, onnx.helper.make_node("Relu", ["first"], ["rectified"], name="relu"))
    graph.node.insert(0, first)
    onnx.save(model, path)
    return path


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Install:
    """Puts a fake TensorRT and a fake driver in place."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))

    def install(version: str = "10.13.3.9", **switches: Any) -> fake.Control:
        pycuda.install(monkeypatch)
        return fake.control(fake.install(monkeypatch, version, **switches))

    return install


@pytest.mark.parametrize("version", fake.VERSIONS)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_an_engine(install: Install, source: Path, tmp_path: Path, version: str, precision: str) -> None:
    control = install(version)
    output = tmp_path / "new" / "fast.engine"
    options = Options(precision, calibration=MANY if precision == "int8" else ())
    report = build(source, output, PICTURES, options)
    assert report.precision == precision
    assert report.passes == {}
    assert report.parity.pictures == 2
    assert report.bytes[1] == output.stat().st_size
    json.dumps(report.to_dict())
    assert [item.name for item in output.parent.iterdir()] == ["fast.engine"]
    file = read_engine(output)
    assert file.spec.precision == file.built.precision == precision
    assert file.spec.provenance["epochs"] == 3
    assert file.spec.parity["built"] == report.parity.to_dict()
    assert file.spec.provenance["built"]["passes"] == {}
    assert report.engine == file.built.to_dict()
    assert file.built.profile["max"] == (8, 3, 64, 48)
    command = f"edgepose build {source} -o {output} --precision {precision}"
    assert file.built.command == command
    model = onnx.load_model_from_string(control.networks[-1]._onnx)
    assert not model.metadata_props
    kinds = {item.data_type for item in model.graph.initializer}
    assert (onnx.TensorProto.FLOAT16 in kinds) == (precision == "fp16")
    quantized = "QuantizeLinear" in [node.op_type for node in model.graph.node]
    assert quantized == (precision == "int8")
    assert control.runs  # the engine itself was compared
    backend = open_backend(output)
    try:
        assert backend.name == "tensorrt"
    finally:
        backend.close()


def test_half_precision_is_what_engines_have(install: Install, source: Path, tmp_path: Path) -> None:
    install()
    assert build(source, tmp_path / "a.engine", PICTURES).precision == "fp16"
    assert build(source, tmp_path / "a.onnx", PICTURES).precision == "fp32"


@pytest.mark.parametrize("name", ["a.plan", "a.engine"])
def test_a_raw_plan(install: Install, source: Path, tmp_path: Path, name: str) -> None:
    control = install()
    output = tmp_path / name
    options = Options(engine=EngineOptions(raw_plan=name == "a.engine"))
    report = build(source, output, PICTURES, options)
    assert output.read_bytes() == bytes(read_engine(output).plan)
    assert output.read_bytes().startswith(b"fake plan")
    assert side_car(output).exists()
    assert sorted(item.name for item in tmp_path.iterdir()) == [name, f"{name}.json", "caches", "source.onnx"]
    assert report.engine is not None
    runs = len(control.runs)
    backend = open_backend(output)
    try:
        backend.run(np.zeros((1, 3, 64, 48), np.float32))
    finally:
        backend.close()
    assert len(control.runs) > runs


def test_what_differs_is_not_written(
    install: Install, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install()
    output = tmp_path / "fast.engine"
    output.write_bytes(b"older")
    honest = candidates.Job.measure

    def measure(self: Any, path: Path, images: Any = None) -> Any:
        if path.suffix == ".engine":  # TensorRT would compute something else
            color_model(tmp_path / "other.onnx", channels=[1, 0, 2])
            return honest(self, tmp_path / "other.onnx", images)
        return honest(self, path, images)

    monkeypatch.setattr(candidates.Job, "measure", measure)
    with pytest.raises(ParityError, match="the engine of colors differs from its source by too much"):
        build(source, output, PICTURES)
    assert output.read_bytes() == b"older"
    assert not [item for item in tmp_path.iterdir() if "part" in item.name]


@pytest.mark.parametrize(
    ("calibration", "expected"), [((), {"fp32", "fp16"}), (MANY, {"fp16", "int8, int8 activations"})]
)
def test_auto_takes_the_faster_one(
    install: Install, source: Path, tmp_path: Path, calibration: Any, expected: set[str]
) -> None:
    install()
    options = Options("auto", calibration=calibration)
    report = build(source, tmp_path / "a.engine", PICTURES, options)
    assert report.milliseconds.keys() == expected
    fastest = min(report.milliseconds, key=lambda label: report.milliseconds[label])
    assert fastest.startswith(report.precision)
    built = EngineBuild.of(read_model_spec(tmp_path / "a.engine"))
    assert built.precision == report.precision


def test_auto_keeps_what_is_good_enough(
    install: Install, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install()
    tolerances = dict(candidates.TOLERANCES)
    strict = tolerances["int8"].__class__(heatmap_rms=-1, keypoint_p95=-1, pck=2, oks=2)
    from edgepose.builder import engines

    monkeypatch.setattr(engines, "TOLERANCES", {**tolerances, "fp32": strict})
    report = build(source, tmp_path / "a.engine", PICTURES, Options("auto"))
    assert report.precision == "fp16"
    assert report.milliseconds == {}
    monkeypatch.setattr(engines, "TOLERANCES", {**tolerances, "fp32": strict, "fp16": strict})
    with pytest.raises(ParityError, match="the engine of colors differs"):
        build(source, tmp_path / "b.engine", PICTURES, Options("auto"))


def test_a_network_that_takes_bytes(install: Install, source: Path, tmp_path: Path) -> None:
    control = install()
    report = build(source, tmp_path / "a.engine", PICTURES, Options(input="uint8"))
    assert report.rounding is not None
    assert control.networks[-1].get_input(0).dtype.name == "UINT8"
    built = EngineBuild.of(read_model_spec(tmp_path / "a.engine"))
    assert built.profile["min"] == (1, 64, 48, 3)


@pytest.mark.parametrize("version", fake.VERSIONS)
def test_bottom_up(install: Install, tmp_path: Path, version: str) -> None:
    install(version)
    source = people_model(tmp_path / "people.onnx")
    output = tmp_path / "a.engine"
    with pytest.raises(InvalidInputError, match="needs the size of its input"):
        build(source, output, [PEOPLE])
    build(source, output, [PEOPLE], Options(size=(128, 192)))
    spec = read_model_spec(output)
    assert EngineBuild.of(spec).profile["max"] == (1, 3, 128, 192)
    assert spec.provenance["built"]["size"] == [128, 192]
    assert EngineBuild.of(spec).command.endswith("--size 128x192")
    ranges = EngineOptions(sizes=((64, 64), (128, 192), (256, 256)))
    report = build(source, output, [PEOPLE], Options(engine=ranges))
    assert report.parity.persons == 2
    assert EngineBuild.of(read_model_spec(output)).profile["min"] == (1, 3, 64, 64)
    fixed = tmp_path / "fixed.onnx"
    build(source, fixed, [PEOPLE], Options(size=(128, 192)))
    build(fixed, output, [PEOPLE])
    assert EngineBuild.of(read_model_spec(output)).profile["opt"] == (1, 3, 128, 192)


def test_refusals(install: Install, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install()
    engine, file = tmp_path / "a.engine", tmp_path / "a.onnx"
    for output, options, message in (
        (engine, Options("int4"), "unknown precision; found 'int4'"),
        (engine, Options("int8"), "precision int8 needs pictures to calibrate on"),
        (engine, Options(activations="uint8"), "with activations uint8; found an engine"),
        (engine, Options(size=(64, 48)), "size is not usable; found 64x48"),
        (engine, Options(size=(64, 64)), "cannot fix the size of 'colors'"),
        (engine, Options(engine=EngineOptions(sizes=((64, 40),) * 3)), "size is not usable; found 64x40"),
        (engine, Options(engine=EngineOptions(sizes=((64, 64),) * 3)), "cannot fix the size of 'colors'"),
        (engine, Options(engine=EngineOptions(batch=(2, 1, 1))), "batch is not usable"),
        (file, Options(engine=EngineOptions(batch=(1, 1, 1), dla=0)), "with batch, dla; found an ONNX file"),
        (
            engine,
            Options(engine=EngineOptions(batch=(2, 2, 2)), triton_repo=tmp_path),
            r"Triton server runs batches from 1 on; found batch \(2, 2, 2\)",
        ),
    ):
        with pytest.raises(InvalidInputError, match=message):
            build(source, output, PICTURES, options)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["source.onnx"]


def test_no_gpu_is_told_before_anything_else(
    install: Install, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install()
    pycuda.install(monkeypatch, driver=False)
    monkeypatch.setattr(build_module, "load_source", lambda path: pytest.fail("too late"))
    with pytest.raises(BackendUnavailableError):
        build(source, tmp_path / "a.engine", PICTURES)


def test_command_line(
    install: Install, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(dla_cores=1)
    cv2.imwrite(str(tmp_path / "a.png"), PICTURES[0])
    output, repository = tmp_path / "fast engine.engine", tmp_path / "repository"
    arguments = ["build", str(source), "-o", str(output), "--pictures", str(tmp_path / "a.png")]
    options = ["--batch", "4", "--workspace", "64", "--optimization-level", "1", "--timing-cache", "off",
               "--version-compatible", "--hardware-compatible", "ampere+"]  # fmt: skip
    assert main([*arguments, *options, "--triton-repo", str(repository)]) == 0
    text = capsys.readouterr().out
    for line in ("fp16, 0.0 MB", "rewritten: simplified alone", "built for    TensorRT 10.13.3.9, Fake GPU",
                 "profile      min 1x3x64x48, opt 4x3x64x48, max 4x3x64x48", "Triton model: "):  # fmt: skip
        assert line in text
    built = EngineBuild.of(read_model_spec(output))
    assert built.command == (
        f"edgepose build {source} -o '{output}' --pictures {tmp_path / 'a.png'} --triton-repo {repository} "
        "--batch 1:4:4 --workspace 64 --optimization-level 1 --timing-cache off --version-compatible "
        "--hardware-compatible ampere+"
    )
    assert main(["info", str(output)]) == 0
    text = capsys.readouterr().out
    for line in (
        "input        64 x 48 (height x width), bgr",
        "batch        free",
        "precision    fp16",
        f"built for    TensorRT 10.13.3.9, Fake GPU, SM 8.7, {built.system}",
        "runs on later TensorRT: yes",
        "runs on other GPUs: ampere+",
        "typing       strongly typed, flags: TF32 VERSION_COMPATIBLE",
        f"rebuild      {built.command}",
    ):
        assert line in text
    assert "'sm'" not in text
    assert main(["info", str(output), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["provenance"]["engine"]["sm"] == "8.7"
    assert main([*arguments, "--batch", "1:1:1", "--dla", "0", "--raw-plan", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["engine"]["dla"] == 0
    assert main([*arguments, "--raw-plan"]) == 0
    assert f"description  {output}.json" in capsys.readouterr().out
    assert main([*arguments, "--batch", "1:1:1", "--dla", "0"]) == 0
    assert "description" not in capsys.readouterr().out
    assert main(["info", str(output)]) == 0
    assert "DLA core 0, the GPU for the rest" in capsys.readouterr().out
    for wrong in (["--batch", "1:2"], ["--batch", "many"], ["--size", "64"], ["--size", "64x64:64x64"]):
        with pytest.raises(SystemExit):
            main([*arguments, *wrong])


def test_info_needs_neither_gpu_nor_tensorrt(
    install: Install, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install()
    build(source, tmp_path / "a.engine", PICTURES)
    for name in ("tensorrt", "pycuda", "pycuda.driver"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    assert main(["info", str(tmp_path / "a.engine")]) == 0

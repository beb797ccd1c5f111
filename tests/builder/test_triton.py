"""Model repositories for a Triton server, read back by the names of its configuration's protocol buffer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_models import color_model, color_spec, people_model, people_picture, spots

from edgepose import ModelSpec
from edgepose.backends import read_model_spec
from edgepose.backends.engine_file import EngineBuild, read_engine
from edgepose.builder.build import Options, build
from edgepose.builder.tensorrt import EngineOptions
from tests.fakes import pycuda
from tests.fakes import tensorrt as fake

pytest.importorskip("onnx")
pytest.importorskip("onnxslim")
pytest.importorskip("onnxruntime")

PICTURES = [spots((64, 48), [(12, 20), (30, 40), (24, 12)])]
# Of Triton's ModelConfig: name, number, type; lists end with "*".
MESSAGES = {
    "Port": [("name", 1, "string"), ("data_type", 2, "DataType"), ("dims", 4, "int64*")],
    "Batching": [("preferred_batch_size", 1, "int32*"), ("max_queue_delay_microseconds", 2, "uint64")],
    "Group": [("name", 1, "string"), ("count", 2, "int32"), ("kind", 4, "Kind")],
    "Parameter": [("string_value", 1, "string")],
    "Entry": [("key", 1, "string"), ("value", 2, "Parameter")],
    "Config": [
        ("name", 1, "string"), ("platform", 2, "string"), ("max_batch_size", 4, "int32"),
        ("input", 5, "Port*"),
        ("output", 6, "Port*"), ("instance_group", 7, "Group*"), ("dynamic_batching", 11, "Batching"),
        ("parameters", 14, "Entry*"),
    ],
}  # fmt: skip
ENUMS = {
    "DataType": {"TYPE_INVALID": 0, "TYPE_UINT8": 2, "TYPE_FP16": 10, "TYPE_FP32": 11},
    "Kind": {"KIND_AUTO": 0, "KIND_GPU": 1, "KIND_CPU": 2},
}


def read_config(path: Path) -> Any:
    """The configuration as a message, whose fields have only the names that Triton knows."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

    file = descriptor_pb2.FileDescriptorProto(name="config.proto", package="triton", syntax="proto3")
    for name, values in ENUMS.items():
        kind = file.enum_type.add(name=name)
        for value, number in values.items():
            kind.value.add(name=value, number=number)
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind_name in fields:
            bare = kind_name.rstrip("*")
            added = message.field.add(name=field, number=number, label=3 if kind_name.endswith("*") else 1)
            if bare in MESSAGES or bare in ENUMS:
                added.type, added.type_name = (11 if bare in MESSAGES else 14), f".triton.{bare}"
            else:
                added.type = {"string": 9, "int32": 5, "int64": 3, "uint64": 4}[bare]
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    config = message_factory.GetMessageClass(pool.FindMessageTypeByName("triton.Config"))()
    return text_format.Parse(path.read_text(encoding="ascii"), config)


def ports(values: Any) -> list[tuple[str, int, list[int]]]:
    return [(port.name, port.data_type, list(port.dims)) for port in values]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    pycuda.install(monkeypatch)
    fake.install(monkeypatch)


@pytest.mark.usefixtures("gpu")
def test_an_engine(tmp_path: Path) -> None:
    spec = color_spec(name='odd "name"\\ of ünits', provenance={"note": 'quotes "\\\n and ü'})
    source = color_model(tmp_path / "a.onnx", spec)
    options = Options(engine=EngineOptions(batch=(1, 4, 16)), triton_repo=tmp_path / "deep" / "repository")
    report = build(source, tmp_path / "a.engine", PICTURES, options)
    home = tmp_path / "deep" / "repository" / "odd__name___of__nits"
    assert report.triton == home
    assert report.to_dict()["triton"] == str(home)
    assert sorted(str(item.relative_to(home)) for item in home.rglob("*") if item.is_file()) == [
        "1/model.plan", "config.pbtxt",
    ]  # fmt: skip
    assert (home / "1" / "model.plan").read_bytes() == bytes(read_engine(tmp_path / "a.engine").plan)
    config = read_config(home / "config.pbtxt")
    assert (config.name, config.platform, config.max_batch_size) == (home.name, "tensorrt_plan", 16)
    assert ports(config.input) == [("image", 11, [3, 64, 48])]
    assert ports(config.output) == [("heatmaps", 11, [3, 16, 12])]
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 16]
    assert [(group.count, group.kind) for group in config.instance_group] == [(1, ENUMS["Kind"]["KIND_GPU"])]
    (parameter,) = config.parameters
    assert parameter.key == "edgepose"
    described = ModelSpec.from_json(parameter.value.string_value)
    assert described == read_model_spec(tmp_path / "a.engine")
    assert EngineBuild.of(described).profile["opt"][0] == 4


@pytest.mark.usefixtures("gpu")
def test_an_onnx_file_after_an_engine(tmp_path: Path) -> None:
    source, repository = color_model(tmp_path / "a.onnx"), tmp_path / "repository"
    for output, batch in (("b.engine", None), ("b.onnx", None), ("c.onnx", (1, 1, 2))):
        options = Options(input="uint8", engine=EngineOptions(batch=batch), triton_repo=repository)
        build(source, tmp_path / output, PICTURES, options)
        home = repository / "colors"
        config = read_config(home / "config.pbtxt")
        (file,) = (home / "1").iterdir()
        assert file.name == ("model.plan" if output == "b.engine" else "model.onnx")
        assert config.platform == ("tensorrt_plan" if output == "b.engine" else "onnxruntime_onnx")
        assert ports(config.input) == [("image", 2, [64, 48, 3])]
        assert config.max_batch_size == (2 if batch else 8)
        assert list(config.dynamic_batching.preferred_batch_size) == [2 if batch else 8]
        assert config.instance_group[0].kind == (1 if output == "b.engine" else 0)
    assert file.read_bytes() == (tmp_path / "c.onnx").read_bytes()


@pytest.mark.usefixtures("gpu")
def test_a_free_size_and_a_single_batch(tmp_path: Path) -> None:
    picture = people_picture((128, 192), [[(40, 40), (60, 80)]])
    engine = EngineOptions(sizes=((64, 64), (128, 192), (256, 256)))
    options = Options(engine=engine, triton_repo=tmp_path / "repository")
    build(people_model(tmp_path / "a.onnx"), tmp_path / "a.engine", [picture], options)
    config = read_config(tmp_path / "repository" / "people" / "config.pbtxt")
    assert config.max_batch_size == 1
    assert not config.HasField("dynamic_batching")
    assert ports(config.input) == [("image", 11, [3, -1, -1])]
    assert [name for name, *_ in ports(config.output)] == ["heatmaps", "heatmaps_high", "tags"]
    assert [dims for *_, dims in ports(config.output)] == [[2, -1, -1]] * 3
    json.loads(config.parameters[0].value.string_value)

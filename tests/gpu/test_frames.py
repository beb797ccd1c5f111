"""Whole frames on the GPU give what the CPU gives: emulated kernels, a fake CUDA driver and a fake TensorRT.

Pictures go in and joints come out through everything that serves on a GPU: staging, kernels, the network's
execution contexts, capture into CUDA graphs, and their replay.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import (
    SIDES2,
    color_model,
    color_spec,
    people_model,
    people_picture,
    people_spec,
    pixel_model,
    spots,
)

from edgepose import (
    BackendUnavailableError,
    Decoder,
    Estimator,
    Grouping,
    InvalidInputError,
    PoseResult,
    open_source,
)
from tests.fakes import pycuda, tensorrt
from tests.fakes.emulation import EMULATION, emulate
from tests.fakes.engines import make_engine

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.skipif(not EMULATION, reason="EDGEPOSE_EMULATION does not name the emulated kernels")


class Gpu:
    """A fake GPU, on which engines run whole."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, version: str, **knobs: Any) -> None:
        emulate()
        self.cuda = pycuda.install(monkeypatch, **knobs)
        self.trt = tensorrt.install(monkeypatch, version)
        self.control = tensorrt.control(self.trt)
        self.folder = folder

    def engine(self, source: Path, **options: Any) -> Path:
        return make_engine(self.folder / f"{source.stem}.engine", self.trt, source, **options)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Gpu]]:
    made: list[Gpu] = []

    def make(version: str = "10.3.0", **knobs: Any) -> Gpu:
        made.append(Gpu(monkeypatch, tmp_path, version, **knobs))
        return made[-1]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield make
        gc.collect()
        for gpu in made:
            gpu.cuda.check()


@pytest.fixture(params=tensorrt.VERSIONS)
def gpu(request: pytest.FixtureRequest, gpus: Callable[..., Gpu]) -> Gpu:
    return gpus(request.param)


def assert_same(found: PoseResult, expected: PoseResult, atol: float = 1e-3) -> None:
    """Two results agree: on the joints within so many pixels."""
    assert len(found) == len(expected)
    np.testing.assert_array_equal(np.isnan(found.keypoints), np.isnan(expected.keypoints))
    np.testing.assert_allclose(found.keypoints, expected.keypoints, atol=atol)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    np.testing.assert_allclose(found.person_scores, expected.person_scores, atol=1e-5)
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=atol)
    assert (found.covariance is None) == (expected.covariance is None)
    if found.covariance is not None:
        np.testing.assert_allclose(found.covariance, expected.covariance, atol=1e-3, rtol=1e-4)
    assert found.truncated == expected.truncated


def boxes_in(picture: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Boxes all over a picture, some beyond its border."""
    rng = np.random.default_rng(seed)
    height, width = picture.shape[:2]
    corner = rng.uniform(-20, [width * 0.6, height * 0.6], (count, 2))
    return np.concatenate([corner, corner + rng.uniform(30, 120, (count, 2))], axis=1).astype(np.float32)


ENQUEUE = "IExecutionContext.execute_async_v3"
PICTURE = spots((150, 200), [(60, 50), (120, 90), (90, 110)])
DECODERS = {
    "taylor": Decoder("argmax", refine="taylor"),
    "quarter": Decoder("argmax", refine="quarter"),
    "argmax": Decoder("argmax", refine=None),
    "soft": Decoder("soft_argmax", beta=20.0),
    "soft, quarter": Decoder("soft_argmax", beta=20.0, refine="quarter", bias=1.0),
}


@pytest.mark.parametrize("decoder", DECODERS.values(), ids=DECODERS)
def test_boxes(gpus: Any, tmp_path: Path, decoder: Decoder) -> None:
    gpu = gpus()
    source = color_model(
        tmp_path / "a.onnx", color_spec(decoder=decoder, mean=(0.1, 0.2, 0.3), std=(0.5,) * 3)
    )
    with Estimator(gpu.engine(source)) as whole, Estimator(source, kernels="numpy", device="cpu") as host:
        assert whole.info.backend["pipeline"] == "whole on the GPU"
        assert {each["implementation"] for each in whole.info.kernels.values()} == {"cuda"}
        for count in (1, 3, 4, 1, 3):
            boxes = boxes_in(PICTURE, count, count)
            assert_same(whole(PICTURE, boxes=boxes), host(PICTURE, boxes=boxes))


@pytest.mark.parametrize("coordinates", ["udp", "legacy"])
def test_flip_test(gpus: Any, tmp_path: Path, coordinates: str) -> None:
    gpu = gpus()
    mask = np.random.default_rng(0).random((1, 2, 16, 12))  # a network that is not symmetric
    spec = color_spec(skeleton=SIDES2, coordinates=coordinates, color="rgb")
    source = color_model(tmp_path / "a.onnx", spec, mask=mask)
    with (
        Estimator(gpu.engine(source), flip_test=True) as whole,
        Estimator(source, flip_test=True, kernels="numpy", device="cpu") as host,
        Estimator(source, kernels="numpy", device="cpu") as plain,
    ):
        boxes = boxes_in(PICTURE, 3)
        expected = host(PICTURE, boxes=boxes)
        for _ in range(2):
            assert_same(whole(PICTURE, boxes=boxes), expected)
        assert not np.allclose(plain(PICTURE, boxes=boxes).scores, expected.scores)


def test_every_version_of_tensorrt(gpu: Gpu, tmp_path: Path) -> None:
    source = color_model(tmp_path / "a.onnx")
    with Estimator(gpu.engine(source)) as whole, Estimator(source, kernels="numpy", device="cpu") as host:
        boxes = boxes_in(PICTURE, 2)
        for _ in range(3):
            assert_same(whole(PICTURE, boxes=boxes), host(PICTURE, boxes=boxes))


def test_several_pictures_and_more_boxes_than_a_run_takes(gpus: Any, tmp_path: Path) -> None:
    gpu = gpus()
    source = color_model(tmp_path / "a.onnx")
    pictures = [PICTURE, np.ascontiguousarray(PICTURE[:, ::-1]), PICTURE[20:140, 10:150], PICTURE[:1, :1]]
    boxes = [
        boxes_in(PICTURE, 6),
        np.zeros((0, 4), np.float32),
        boxes_in(PICTURE[20:140, 10:150], 5, 1),
        None,
    ]
    with Estimator(gpu.engine(source)) as whole, Estimator(source, kernels="numpy", device="cpu") as host:
        for _ in range(2):
            for found, expected in zip(whole(pictures, boxes), host(pictures, boxes), strict=True):
                assert_same(found, expected)
        assert whole([]) == []
    sizes = [shapes["image"][0] for _, shapes in gpu.control.runs]
    assert set(sizes) == {4}  # twelve boxes


def test_pictures_own_values(gpus: Any, tmp_path: Path) -> None:
    gpu = gpus()
    source = pixel_model(tmp_path / "b.onnx", color_model(tmp_path / "a.onnx"))
    for flip in (False, True):
        with (
            Estimator(gpu.engine(source), flip_test=flip) as whole,
            Estimator(source, flip_test=flip, kernels="numpy", device="cpu") as host,
        ):
            boxes = boxes_in(PICTURE, 2)
            for _ in range(2):
                assert_same(whole(PICTURE, boxes=boxes), host(PICTURE, boxes=boxes))


PEOPLE = people_picture((130, 200), [((40, 40), (60, 70)), ((120, 50), (140, 90)), ((90, 100), None)])


@pytest.mark.parametrize("project", [True, False])
@pytest.mark.parametrize("options", [{}, {"flip_test": True}, {"refine": True}, {"official_grouping": True}])
def test_people(gpus: Any, tmp_path: Path, options: dict[str, Any], project: bool) -> None:
    gpu = gpus()
    spec = people_spec(skeleton=SIDES2, grouping=Grouping(refine=False, project_to_image=project))
    source = people_model(tmp_path / "a.onnx", spec)
    sides = ((64, 64), (256, 512))
    with (
        Estimator(gpu.engine(source, sides=sides, batches=(1, 2)), **options) as whole,
        Estimator(source, kernels="numpy", device="cpu", **options) as host,
    ):
        expected = host(PEOPLE)
        assert len(expected) >= 2
        for _ in range(3):
            assert_same(whole(PEOPLE), expected)
        other = np.ascontiguousarray(PEOPLE[:, ::-1])
        assert_same(whole(other), host(other))
        assert_same(whole(PEOPLE[:, :120]), host(PEOPLE[:, :120]))
        nobody = np.zeros((100, 130, 3), np.uint8)
        assert len(whole(nobody)) == len(host(nobody)) == 0
        for found, each in zip(whole([PEOPLE, nobody, other]), host([PEOPLE, nobody, other]), strict=True):
            assert_same(found, each)


@pytest.mark.parametrize("most", [1, 2])
def test_people_at_several_scales(gpus: Any, tmp_path: Path, most: int) -> None:
    gpu = gpus()
    source = people_model(tmp_path / "a.onnx", people_spec(skeleton=SIDES2))
    options: dict[str, Any] = {"flip_test": True, "scales": (0.5, 1, 2)}
    engine = gpu.engine(source, sides=((64, 64), (512, 1024)), batches=(1, most))
    with (
        Estimator(engine, **options) as whole,
        Estimator(source, kernels="numpy", device="cpu", **options) as host,
    ):
        for _ in range(2):
            assert_same(whole(PEOPLE), host(PEOPLE), atol=2e-3)


def test_too_many_people_are_told(gpus: Any, tmp_path: Path) -> None:
    gpu = gpus()
    crowd = people_picture((128, 256), [((20 + 40 * i, 30), (20 + 40 * i, 90)) for i in range(6)], radius=4)
    source = people_model(tmp_path / "a.onnx", people_spec(grouping=Grouping(refine=False, max_people=3)))
    with (
        Estimator(gpu.engine(source, sides=((64, 64), (256, 512))), max_persons=3) as whole,
        Estimator(source, kernels="numpy", device="cpu", max_persons=3) as host,
    ):
        assert_same(whole(crowd), host(crowd))
        assert whole(crowd).truncated


@pytest.mark.parametrize("latest", [False, True])
def test_streams(gpus: Any, tmp_path: Path, latest: bool) -> None:
    """In the thread of the network, several together, and with boxes of the frame before."""
    gpu = gpus()
    source = color_model(tmp_path / "a.onnx")
    pictures = [np.roll(PICTURE, 2 * i, axis=1) for i in range(7)]

    def detector(_: np.ndarray) -> list[list[float]]:
        return [[30, 20, 150, 140, 0.8]]

    with (
        Estimator(gpu.engine(source), detector=detector) as whole,
        Estimator(source, detector=detector, kernels="numpy", device="cpu") as host,
    ):
        for sources in ([pictures], [pictures, pictures[::-1]]):
            opened = [[open_source(each) for each in sources] for _ in range(2)]
            found, expected = (
                sorted(each.stream(own, detect_every=3, latest=latest), key=place_of)
                for each, own in zip((whole, host), opened, strict=True)
            )
            assert len(found) == len(sources) * 7
            for one, other in zip(found, expected, strict=True):
                assert_same(one, other)
        with whole.stream(pictures * 1000, latest=latest) as results:
            assert len(next(results)) == 1


def place_of(result: PoseResult) -> int:
    """Of which source a result is; the order of each stays."""
    return 0 if result.source is None else result.source.index or 0


class OnDevice:
    """A picture in device memory, which is host memory here."""

    def __init__(self, pixels: np.ndarray, stream: int | None = None, **changes: Any) -> None:
        self.pixels = pixels
        self.__cuda_array_interface__ = {
            "shape": pixels.shape,
            "typestr": "|u1",
            "data": (pixels.ctypes.data, False),
            "strides": None if pixels.flags.c_contiguous else pixels.strides,
            "version": 3,
            "stream": stream,
            **changes,
        }


def test_pictures_in_device_memory_are_not_copied(gpus: Any, tmp_path: Path) -> None:
    gpu = gpus()
    source = color_model(tmp_path / "a.onnx")
    boxes = boxes_in(PICTURE, 2)
    wide = np.zeros((150, 230, 3), np.uint8)
    wide[:, :200] = PICTURE
    with Estimator(gpu.engine(source)) as whole, Estimator(source, kernels="numpy", device="cpu") as host:
        expected = host(PICTURE, boxes=boxes)
        whole(PICTURE, boxes=boxes)
        held = gpu.cuda.held()
        for picture in (PICTURE, wide[:, :200]):
            for stream in (None, 1, 7):
                assert_same(whole(OnDevice(picture, stream), boxes=boxes), expected)
        assert gpu.cuda.held() == held
        mixed = [OnDevice(PICTURE), PICTURE, OnDevice(wide[:, :200])]
        for found in whole(mixed, [boxes, boxes, boxes]):
            assert_same(found, expected)


def test_nv12_in_device_memory(gpus: Any, tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    gpu = gpus()
    i420 = cv2.cvtColor(PICTURE, cv2.COLOR_BGR2YUV_I420)
    chroma = i420[150:].reshape(2, -1)
    nv12 = np.concatenate([i420[:150].ravel(), np.stack([chroma[0], chroma[1]], 1).ravel()]).reshape(225, 200)
    bgr = cv2.cvtColor(nv12, cv2.COLOR_YUV2BGR_NV12)
    assert np.abs(bgr.astype(int) - PICTURE).mean() < 10
    source = color_model(tmp_path / "a.onnx")
    with Estimator(gpu.engine(source)) as whole, Estimator(source, kernels="numpy", device="cpu") as host:
        boxes = boxes_in(PICTURE, 3)
        found = whole(OnDevice(nv12), boxes=boxes)
        assert found.image_size == (150, 200)
        assert_same(found, host(bgr, boxes=boxes))


@pytest.mark.parametrize(
    ("array", "changes"),
    [
        (np.zeros((10, 10, 4), np.uint8), {}),
        (np.zeros((10, 10), np.uint8), {}),
        (np.zeros((15, 11), np.uint8), {}),
        (np.zeros((10, 10, 3), np.uint8), {"typestr": "<f4"}),
        (np.zeros((10, 10, 6), np.uint8)[:, :, ::2], {}),
        (np.zeros((10, 20, 3), np.uint8)[:, ::2], {}),
        (np.zeros((10, 10, 3), np.uint8)[::-1], {}),
    ],
)
def test_other_arrays_in_device_memory_are_refused(
    gpus: Any, tmp_path: Path, array: np.ndarray, changes: dict[str, Any]
) -> None:
    told = r"image is not usable; found .* in device memory; give uint8"
    whole = Estimator(gpus().engine(color_model(tmp_path / "a.onnx")))
    with whole, pytest.raises(InvalidInputError, match=told):
        whole(OnDevice(array, **changes))


def test_device_memory_needs_the_gpu(gpus: Any, tmp_path: Path) -> None:
    gpu = gpus()
    source = color_model(tmp_path / "a.onnx")
    for model, options in ((source, {"device": "cpu"}), (gpu.engine(source), {"kernels": "numpy"})):
        estimator = Estimator(model, **options)
        with estimator, pytest.raises(InvalidInputError, match="a picture in device memory cannot be used"):
            estimator(OnDevice(PICTURE))


def test_an_integrated_gpu_shares_its_memory(gpus: Any, tmp_path: Path) -> None:
    gpu = gpus(integrated=True)
    source = color_model(tmp_path / "a.onnx")
    with Estimator(gpu.engine(source)) as whole, Estimator(source, kernels="numpy", device="cpu") as host:
        for seed in range(3):
            boxes = boxes_in(PICTURE, 2, seed)
            assert_same(whole(PICTURE, boxes=boxes), host(PICTURE, boxes=boxes))


def test_sizes_used_longest_ago_make_room(gpus: Any, tmp_path: Path) -> None:
    gpu = gpus()
    source = people_model(tmp_path / "a.onnx")
    with (
        Estimator(gpu.engine(source, sides=((64, 64), (256, 1024)))) as whole,
        Estimator(source, kernels="numpy", device="cpu") as host,
    ):
        held = []
        for _ in range(2):
            for width in (130, 200, 260, 330, 390, 460):
                picture = np.zeros((130, width, 3), np.uint8)
                picture[:, :130] = PEOPLE[:, :130]
                assert_same(whole(picture), host(picture))
            held.append(gpu.cuda.held())
        assert held[0] == held[1]


def test_graphs_are_captured_and_replayed(gpus: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgepose.kernels import _cuda
    from edgepose.pipeline.gpu import steps

    gpu = gpus()
    engine = gpu.engine(color_model(tmp_path / "a.onnx"))
    captured = []

    def capture(stream: int, work: Callable[[], None]) -> Any:
        captured.append(stream)
        return steps.capture(stream, work)

    monkeypatch.setattr("edgepose.pipeline.gpu.work.capture", capture)
    launched = []
    crop = _cuda.crop_normalize
    monkeypatch.setattr(_cuda, "crop_normalize", lambda *given: (launched.append(1), crop(*given)))
    with Estimator(engine) as whole:
        for _ in range(4):
            whole(PICTURE)
            # Each once as it is and once into the graph, which alone runs from then on.
            assert (len(captured), len(launched), len(gpu.control.runs)) == (1, 2, 2)
    monkeypatch.setenv("EDGEPOSE_CUDA_GRAPHS", "off")
    with Estimator(engine) as whole:
        for _ in range(3):
            whole(PICTURE)
        assert (len(captured), len(launched), len(gpu.control.runs)) == (1, 5, 5)


def test_a_capture_that_fails_leaves_single_steps(
    gpus: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from edgepose.kernels import _cuda

    gpu = gpus()
    source = color_model(tmp_path / "a.onnx")
    end = _cuda.end_capture

    def refuse(stream: int) -> Any:
        end(stream).close()
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(_cuda, "end_capture", refuse)
    with Estimator(gpu.engine(source)) as whole, Estimator(source, kernels="numpy", device="cpu") as host:
        for _ in range(3):
            boxes = boxes_in(PICTURE, 1)
            assert_same(whole(PICTURE, boxes=boxes), host(PICTURE, boxes=boxes))
    told = [record.message for record in caplog.records if "no CUDA graph" in record.message]
    assert len(told) == 1
    assert "operation not permitted" in told[0]


def test_a_network_that_refuses_to_be_captured(
    gpus: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from edgepose.pipeline.gpu import steps

    gpu = gpus()
    source = color_model(tmp_path / "a.onnx")
    with Estimator(gpu.engine(source)) as whole, Estimator(source, kernels="numpy", device="cpu") as host:
        expected = host(PICTURE)

        def refused(stream: int, work: Callable[[], None]) -> Any:
            gpu.control.fail.add(ENQUEUE)
            try:
                return steps.capture(stream, work)
            finally:
                gpu.control.fail.remove(ENQUEUE)

        monkeypatch.setattr("edgepose.pipeline.gpu.work.capture", refused)
        for _ in range(3):
            assert_same(whole(PICTURE), expected)
        assert "run one by one" in caplog.text


def test_a_run_that_fails_is_told(gpus: Any, tmp_path: Path) -> None:
    gpu = gpus()
    with Estimator(gpu.engine(color_model(tmp_path / "a.onnx"))) as whole:
        gpu.control.fail.add(ENQUEUE)
        with pytest.raises(BackendUnavailableError, match="TensorRT could not run the engine"):
            whole(PICTURE)
        gpu.control.fail.remove(ENQUEUE)
        assert len(whole(PICTURE)) == 1


def test_without_cuda_kernels_the_rest_runs_on_the_cpu(
    gpus: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gpu = gpus()
    engine = gpu.engine(color_model(tmp_path / "a.onnx"))
    monkeypatch.setitem(sys.modules, "edgepose.kernels.cuda", None)
    with Estimator(engine) as estimator:
        assert estimator.info.backend["pipeline"].startswith(
            "crops and decoding on the CPU: the cuda kernels"
        )
        assert "slower" in caplog.text
        assert len(estimator(PICTURE)) == 1
    with pytest.raises(BackendUnavailableError, match="the cuda kernels cannot serve"):
        Estimator(engine, kernels="cuda")


def test_warming_up_with_the_sizes_that_an_engine_takes(gpus: Any, tmp_path: Path) -> None:
    gpu = gpus()
    wide = gpu.engine(people_model(tmp_path / "a.onnx"), sides=((128, 192), (128, 256)))
    for engine in (wide, gpu.engine(color_model(tmp_path / "b.onnx"))):
        with Estimator(engine) as whole:
            whole.warmup()
            assert len(gpu.control.runs) >= 2  # as it is, and into a graph
            gpu.control.runs.clear()


def test_a_device_is_not_waited_for_while_a_stream_is_captured(
    gpus: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgepose.backends.device import open_device
    from edgepose.pipeline.gpu import steps

    gpu = gpus()
    done: list[str] = []
    others: list[threading.Thread] = []

    def capture(stream: int, work: Callable[[], None]) -> Any:
        others.append(threading.Thread(target=lambda: (open_device(0).synchronize(), done.append("waited"))))
        others[0].start()
        others[0].join(0.2)
        assert done == []
        return steps.capture(stream, work)

    monkeypatch.setattr("edgepose.pipeline.gpu.work.capture", capture)
    with Estimator(gpu.engine(color_model(tmp_path / "a.onnx"))) as whole:
        whole(PICTURE)
        others[0].join(10)
        assert done == ["waited"]


def test_closing_in_any_order(gpus: Any, tmp_path: Path) -> None:
    gpu = gpus()
    engine = gpu.engine(color_model(tmp_path / "a.onnx"))
    people = gpu.engine(people_model(tmp_path / "b.onnx"), sides=((64, 64), (256, 512)))
    for order in ((0, 1, 2), (2, 1, 0), (1, 0, 2)):
        estimators = [Estimator(engine), Estimator(people), Estimator(engine)]
        for estimator in estimators:
            estimator(PICTURE)
        for index in order:
            estimators[index].close()
            estimators[index].close()
        with pytest.raises(BackendUnavailableError, match="closed"):
            estimators[0](PICTURE)
    forgotten = Estimator(engine)
    forgotten(PICTURE)
    del forgotten


def test_an_estimator_that_is_never_closed_ends_with_the_process(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    code = """
import sys
from pathlib import Path
sys.path[:0] = [{root!r}, {root!r} + "/tests"]
import numpy as np
from tests.fakes import emulation, pycuda, tensorrt
from tests.fakes.engines import make_engine
from tiny_models import color_model, people_model
cuda = pycuda.install()
trt = sys.modules["tensorrt"] = tensorrt.make("10.3.0")
emulation.emulate()
import edgepose
folder = Path({folder!r})
one = edgepose.Estimator(make_engine(folder / "a.engine", trt, color_model(folder / "a.onnx")))
two = edgepose.Estimator(make_engine(
    folder / "b.engine", trt, people_model(folder / "b.onnx"), sides=((64, 64), (256, 512))))
picture = np.zeros((130, 200, 3), np.uint8)
print(len(one(picture)), len(two(picture)))
""".format(root=str(root), folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1", "0"]
    lines = [line for line in done.stderr.splitlines() if "ASan" not in line]
    assert lines == []

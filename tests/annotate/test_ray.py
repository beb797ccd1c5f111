"""On a Ray cluster of two workers of this machine: the same as without."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgepose import BackendUnavailableError, Estimator, InvalidInputError, annotate
from edgepose.annotation import PoseActor, run
from edgepose.annotation import cluster as shards_on_ray
from edgepose.annotation.cluster import threads_for
from edgepose.cli import main
from tests.annotate.conftest import BROKEN, COUNT, ROOT, parts_of

# A checkout's own environment has it; those that the package is tried in have not.
NEEDED = bool(os.environ.get("CI")) and (ROOT / "Makefile").is_file()
if not NEEDED and importlib.util.find_spec("ray") is None:
    pytest.skip("Ray is not installed", allow_module_level=True)
pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    import ray.data

    before = Path.cwd()
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=100 * 2**20,
        runtime_env={"env_vars": {"EDGEPOSE_KERNELS": "numpy"}},
    )
    try:
        yield ray
    finally:
        ray.shutdown()
        os.chdir(before)


def test_the_same_as_on_one_machine(cluster: Any, model: str, pictures: Path) -> None:
    annotate(pictures, "here.json", model=model)
    stopped = run.run_plan(
        run.make_plan(str(pictures), model, 4, 1, {}),
        Path("there.json"),
        stop=lambda: bool(parts_of("there.json")),
    )
    assert stopped is None
    steps: list[int] = []
    done = run.run_plan(
        run.make_plan(str(pictures), model, 4, 1, {}),
        Path("there.json"),
        ray="auto",
        workers=2,
        on_step=lambda results, errors: steps.append(results + errors),
    )
    assert done is not None
    assert (done.pictures, done.errors, done.kept) == (COUNT, len(BROKEN), 32)
    assert sum(steps) == COUNT + len(BROKEN) - 32
    assert Path("here.json").read_bytes() == Path("there.json").read_bytes()
    assert Path("here.json.errors.json").read_bytes() == Path("there.json.errors.json").read_bytes()
    assert not Path("there.json.parts").exists()
    assert cluster.is_initialized()  # what the caller began is left to the caller


def test_errors_of_the_machines_are_ours(cluster: Any, model: str, pictures: Path) -> None:
    with pytest.raises(InvalidInputError, match="scales serves bottom-up models"):
        annotate(pictures, "out.json", model=model, ray="auto", scales=(1, 2))
    assert not Path("out.json.parts").exists()


def test_a_worker_that_always_dies_is_an_error(
    cluster: Any, model: str, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dying(shards_on_ray._ShardActor):  # of a function, so that Ray carries it to its processes
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            estimate = self._estimator.__call__

            def dying(frames: Any) -> Any:
                if any(frame.source.path.endswith("0070.png") for frame in frames):
                    os.kill(os.getpid(), signal.SIGKILL)
                return estimate(frames)

            self._estimator = dying  # type: ignore[assignment]

    with monkeypatch.context() as patch:
        patch.setattr(shards_on_ray, "_ShardActor", Dying)
        with pytest.raises(
            BackendUnavailableError, match=r"a worker died twice at the same pictures, .*0063\.png to"
        ):
            annotate(pictures, "out.json", model=model, ray="auto", workers=2)
    done = annotate(pictures, "out.json", model=model)
    assert done.pictures == COUNT
    assert done.kept >= 32


def test_a_pipeline_of_ones_own(cluster: Any, model: str, pictures: Path) -> None:
    pytest.importorskip("pyarrow")
    paths = [str(pictures / "0003.png"), str(pictures / BROKEN[0]), str(pictures / "0004.png")]
    dataset = cluster.data.from_items([{"path": path, "label": i} for i, path in enumerate(paths)])
    found = dataset.map_batches(
        PoseActor,
        fn_constructor_kwargs={"model": model, "batch": 2},
        batch_format="pyarrow",
        batch_size=8,
        compute=cluster.data.ActorPoolStrategy(size=1),
    )
    rows = sorted(found.take_all(), key=lambda row: row["label"])
    assert [row["source"] for row in rows] == paths
    assert [row["person"] for row in rows] == [0, None, 0]
    assert "not a picture" in rows[1]["error"]
    assert rows[0]["error"] is None
    joint = Estimator(model)(paths[2])[0]["green"]
    assert (rows[2]["green_x"], rows[2]["green_y"]) == pytest.approx((joint.x, joint.y), abs=1e-3)


def test_the_actor_alone(model: str, pictures: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    actor = PoseActor(model, threads=1)
    paths = [str(pictures / "0003.png"), str(pictures / BROKEN[0])]
    table = actor({"path": paths, "number": [5, 6]})
    assert isinstance(table, pa.Table)
    assert table.column("number").to_pylist() == [5, 6]
    assert actor(pa.table({"path": pa.array([], pa.string())})).num_rows == 0
    with pytest.raises(InvalidInputError, match="no column 'path'; found name"):
        actor(pa.table({"name": ["a"]}))


@pytest.mark.parametrize(
    ("workers", "cpus", "given", "threads"),
    [(1, [8], None, 8), (2, [8], None, 4), (1, [4, 4], None, 4), (3, [3, 3], None, 1), (3, [8, 2], None, 2),
     (2, [8], 3, 3), (1, [8.0], None, 8)],
)  # fmt: skip
def test_threads_fit_the_machines(workers: int, cpus: list[float], given: int | None, threads: int) -> None:
    assert threads_for(workers, [{"CPU": count} for count in cpus], given, False) == threads


def test_what_does_not_fit_the_cluster_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="3 workers of 1 CPUs; found 2 CPUs on 1 machines"):
        threads_for(3, [{"CPU": 2}], None, False)
    with pytest.raises(InvalidInputError, match="2 workers of 4 CPUs; found 7 CPUs"):
        threads_for(2, [{"CPU": 7}], 4, False)
    with pytest.raises(InvalidInputError, match="and a GPU; found 8 CPUs and 1 GPUs"):
        threads_for(2, [{"CPU": 8, "GPU": 1}], None, True)
    assert threads_for(2, [{"CPU": 8, "GPU": 2}], None, True) == 4


def test_a_cluster_that_is_not_there(model: str, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import ray

    if ray.is_initialized():
        ray.shutdown()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(BackendUnavailableError, match="cannot reach the Ray cluster 127"):
        annotate(pictures, "out.json", model=model, ray=f"127.0.0.1:{port}")
    assert main(["annotate", str(pictures), "-o", "out.json", "--model", model, "--ray"]) == 1
    assert "cannot reach the Ray cluster auto" in capsys.readouterr().err
    assert not list(Path().iterdir())

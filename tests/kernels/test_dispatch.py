"""Which implementation serves, and what the user is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from samples import assert_same_soft, make_maps

from edgepose import kernels
from edgepose.errors import BackendUnavailableError, InvalidInputError
from edgepose.kernels import reference

ROOT = Path(__file__).resolve().parents[2]
MAPS = make_maps("peaked", (1, 2, 16, 12), 0)

# An import hook that makes modules missing, as they are where they were never installed.
HIDE = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name in {hidden!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hide())
import importlib.util as util
find = util.find_spec
util.find_spec = lambda name, package=None: None if name in {hidden!r} else find(name, package)
"""


def run(code: str, hidden: tuple[str, ...] = (), **env: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own, with modules hidden and variables set."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("EDGEPOSE_")}
    environment |= {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), **env}
    code = HIDE.format(hidden=hidden) + code
    return subprocess.run(
        [sys.executable, "-W", "always", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def served(code: str, hidden: tuple[str, ...] = (), **env: str) -> dict[str, dict[str, str | None]]:
    done = run(f"{code}\nimport json; print(json.dumps(status))", hidden, **env)
    assert done.returncode == 0, done.stderr
    result: dict[str, dict[str, str | None]] = json.loads(done.stdout)
    return result


@pytest.fixture
def restored() -> object:
    before = kernels._current
    yield None
    kernels._current = before


def native_or_skip() -> None:
    try:
        kernels.get("native")
    except BackendUnavailableError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))


def test_auto_takes_the_native_kernels(restored: object) -> None:
    native_or_skip()
    code = "import edgepose.kernels as k; status = k.status()"
    for op, entry in served(code).items():
        assert op in kernels.OPS
        assert entry["implementation"] == "native"
        assert entry["isa"] in ("portable", "avx2", "avx512")
        assert entry["reason"] is None


def test_importing_and_using_the_native_kernels_leaves_numba_alone() -> None:
    native_or_skip()
    code = (
        "import sys, numpy, edgepose.kernels as k; k.soft_argmax(numpy.zeros((1, 1, 4, 4), 'f4'))\n"
        "print([m for m in ('numba', 'torch', 'onnxruntime') if m in sys.modules])"
    )
    assert run(code).stdout.strip() == "[]"


@pytest.mark.parametrize("name", kernels.IMPLEMENTATIONS)
def test_module_functions_follow_use(name: str, restored: object) -> None:
    try:
        kernels.use(name)
    except BackendUnavailableError as error:
        pytest.skip(str(error))
    assert {entry["implementation"] for entry in kernels.status().values()} == {name}
    assert_same_soft(kernels.soft_argmax(MAPS), reference.soft_argmax(MAPS))
    coords, _ = kernels.argmax_offset(MAPS, "taylor")
    np.testing.assert_allclose(coords, reference.argmax_offset(MAPS, "taylor")[0], rtol=1e-5)
    assert kernels.quarter_offset(MAPS, coords).shape == coords.shape
    np.testing.assert_array_equal(
        kernels.flip_average(MAPS, MAPS, [(0, 1)], True), reference.flip_average(MAPS, MAPS, [(0, 1)], True)
    )
    image, affine = np.full((4, 4, 3), 255, np.uint8), np.array([[[1.0, 0, 0], [0, 1, 0]]])
    crop = kernels.crop_normalize(image, affine, (4, 4), (0, 0, 0), (1, 1, 1), True)
    np.testing.assert_allclose(crop, 1, rtol=1e-6)
    np.testing.assert_array_equal(kernels.crop_pixels(image, affine, (4, 4), True), image[None])


def test_status_says_who_asked() -> None:
    reasons = {entry["reason"] for entry in kernels.get("numpy").status().values()}
    assert reasons == {"numpy was asked for"}


@pytest.mark.parametrize("name", ["numpy", "numba"])
def test_environment_chooses(name: str) -> None:
    code = "import edgepose.kernels as k; status = k.status()"
    hidden = () if name == "numpy" else ("edgepose.kernels._native",)
    try:
        kernels.get(name)
    except BackendUnavailableError as error:
        pytest.skip(str(error))
    found = served(code, hidden, EDGEPOSE_KERNELS=name)
    assert {entry["implementation"] for entry in found.values()} == {name}


def test_unknown_names_are_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"'fast'.*auto, native, numba, numpy, cuda"):
        kernels.get("fast")
    done = run("import edgepose.kernels as k; k.status()", EDGEPOSE_KERNELS="fast")
    assert "EDGEPOSE_KERNELS=fast" in done.stderr


def test_without_the_extension_the_user_is_told_once() -> None:
    code = "import edgepose.kernels as k; k.get(); k.get(); status = k.status()"
    done = run(code + "\nprint(status['soft_argmax'])", ("edgepose.kernels._native", "numba"))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the native kernels cannot serve (the extension was not built") == 1
    assert "numpy serves instead" in done.stderr
    assert "EDGEPOSE_NATIVE=on" in done.stderr
    assert "'implementation': 'numpy'" in done.stdout
    assert "native: the extension was not built" in done.stdout
    assert "numba: numba is not installed" in done.stdout


def test_asking_for_a_missing_one_names_the_remedy() -> None:
    for name, hidden, remedy in (
        ("native", "edgepose.kernels._native", "EDGEPOSE_NATIVE=on"),
        ("numba", "numba", 'pip install "edgepose[numba]"'),
        ("cuda", "edgepose.kernels._cuda", "EDGEPOSE_CUDA=on"),
    ):
        code = (
            "import edgepose.kernels as k; from edgepose.errors import BackendUnavailableError\n"
            f"try: k.get({name!r})\nexcept BackendUnavailableError as e: print(e)"
        )
        done = run(code, (hidden,))
        assert done.stdout.startswith(f"the {name} kernels cannot serve; "), done.stderr
        assert remedy in done.stdout


def test_note_of_the_build_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_HERE", tmp_path)
    monkeypatch.setattr(kernels.importlib.util, "find_spec", lambda name: None)
    for name, why in (("native", "CMake was not found"), ("cuda", "nvcc was not found")):
        assert kernels._reason(name, ImportError()) == "the extension was not built"
        (tmp_path / f"_{name}_skipped.txt").write_text(f"{why}\n")
        assert kernels._reason(name, ImportError()) == f"the extension was not built: {why}"


@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512"])
def test_environment_forces_an_instruction_set(isa: str) -> None:
    native_or_skip()
    from edgepose.kernels import native

    code = "import edgepose.kernels as k; status = k.get('native').status()"
    done = run(f"{code}\nprint(status['soft_argmax']['isa'])", EDGEPOSE_ISA=isa)
    if isa in native.isas():
        assert done.stdout.strip() == isa, done.stderr
    else:
        assert "BackendUnavailableError" in done.stderr


def test_unknown_instruction_set_is_refused() -> None:
    native_or_skip()
    done = run("import edgepose.kernels as k; k.get('native')", EDGEPOSE_ISA="mmx")
    assert "BackendUnavailableError: instruction set 'mmx' cannot serve" in done.stderr
    assert "portable" in done.stderr


def test_numba_serves_where_it_cannot_cache() -> None:
    pytest.importorskip("numba")
    code = (
        "import numba.core.caching as c, numpy as np\n"
        "c.CacheImpl._locator_classes = []\n"
        "import edgepose.kernels as k\n"
        "maps = np.zeros((1, 1, 4, 5), 'f4'); maps[0, 0, 2, 3] = 1\n"
        "print(k.get('numba').argmax_offset(maps, None)[0].tolist())"
    )
    done = run(code)
    assert done.stdout.strip() == "[[[3.0, 2.0]]]", done.stderr


def test_threads_may_share_the_kernels(ops: kernels.Kernels) -> None:
    maps = [make_maps("peaked", (3, 5, 32, 24), seed) for seed in range(4)]
    expected = [reference.soft_argmax(m) for m in maps]
    wrong: list[BaseException] = []

    def work(i: int) -> None:
        try:
            for _ in range(10):
                assert_same_soft(ops.soft_argmax(maps[i]), expected[i])
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_help_shows_the_specification() -> None:
    for op in kernels.OPS:
        assert getattr(kernels, op).__doc__ == getattr(reference, op).__doc__
        assert "Returns:" in getattr(kernels, op).__doc__


def test_no_warning_when_all_is_well() -> None:
    native_or_skip()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kernels.get()

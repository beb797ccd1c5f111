"""Every test of the kernels runs over every implementation, and over every instruction set.

A run with the variable EDGEPOSE_EMULATION runs over "cuda-emulated" alone: the kernels of csrc/cuda on the
processor, of the module _cuda_emulated in the folder that the variable names. Where that module has the
sanitizers, the process needs them from its start::

    EDGEPOSE_EMULATION=build/emulation LD_PRELOAD="$(g++ -print-file-name=libasan.so) \\
        $(g++ -print-file-name=libstdc++.so)" ASAN_OPTIONS=detect_leaks=0 pytest tests/kernels -k cuda
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgepose import kernels
from edgepose.errors import BackendUnavailableError

EMULATION = os.environ.get("EDGEPOSE_EMULATION")
ON_PROCESSOR = ("numpy", "numba", "native-portable", "native-avx2", "native-avx512")
IMPLEMENTATIONS = ("cuda-emulated",) if EMULATION else (*ON_PROCESSOR, "cuda", "cuda-emulated")


def emulate(folder: Path) -> None:
    """Put the module of the emulated kernels in place of the one for a device."""
    name = "edgepose.kernels._cuda"
    if name in sys.modules:
        return
    files = sorted(folder.glob("_cuda_emulated*.so"))
    assert len(files) == 1, f"EDGEPOSE_EMULATION={folder} must hold one _cuda_emulated module; found {files}"
    spec = importlib.util.spec_from_file_location("_cuda_emulated", files[0])
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[name] = module


@pytest.fixture(scope="session")
def emulated() -> bool:
    """Whether kernels run emulated, which takes long: then a share of the recorded cases serves."""
    return bool(EMULATION)


@pytest.fixture(scope="session")
def on_device() -> kernels.Kernels:
    """The kernels in CUDA, on a GPU or emulated; skipped where there is neither."""
    if EMULATION:
        emulate(Path(EMULATION).resolve())
        return kernels.get("cuda")
    try:
        return kernels.get("cuda")
    except BackendUnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module", params=IMPLEMENTATIONS)
def ops(request: pytest.FixtureRequest) -> Iterator[kernels.Kernels]:
    """One implementation of the kernels. Under CI=true a missing one is a failure, but for a GPU."""
    name, _, variant = request.param.partition("-")
    if name == "cuda":
        if variant and not EMULATION:
            pytest.skip("EDGEPOSE_EMULATION does not name a folder with the emulated kernels")
        yield request.getfixturevalue("on_device")
        return
    try:
        found = kernels.get(name)
    except BackendUnavailableError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))
    if not variant:
        yield found
        return
    from edgepose.kernels import native

    if variant not in native.isas():
        pytest.skip(f"this processor or build has no {variant}; it has {', '.join(native.isas())}")
    before = native.isa()
    native.use_isa(variant)
    assert native.isa() == variant
    yield found
    native.use_isa(before)

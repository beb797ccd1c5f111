"""Every test of the kernels runs over every implementation, and over every instruction set.

A run with the variable EDGEPOSE_EMULATION runs over "cuda-emulated" alone: the kernels of csrc/cuda on the
processor, of the module in the folder that the variable names. ``make test`` has the command.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from edgepose import kernels
from edgepose.errors import BackendUnavailableError
from tests.fakes.emulation import EMULATION, emulate

ON_PROCESSOR = ("numpy", "numba", "native-portable", "native-avx2", "native-avx512")
IMPLEMENTATIONS = ("cuda-emulated",) if EMULATION else (*ON_PROCESSOR, "cuda")


@pytest.fixture(scope="session")
def emulated() -> bool:
    """Whether kernels run emulated, which takes long: then a share of the recorded cases serves."""
    return bool(EMULATION)


@pytest.fixture(scope="session")
def on_device() -> kernels.Kernels:
    """The kernels in CUDA, on a GPU or emulated; skipped where there is neither."""
    if EMULATION:
        emulate()
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

"""Every test of the kernels runs over every implementation, and over every instruction set."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from edgepose import kernels
from edgepose.errors import BackendUnavailableError

IMPLEMENTATIONS = ("numpy", "numba", "native-portable", "native-avx2", "native-avx512")


@pytest.fixture(scope="module", params=IMPLEMENTATIONS)
def ops(request: pytest.FixtureRequest) -> Iterator[kernels.Kernels]:
    """One implementation of the kernels. Under CI=true a missing one is a failure."""
    name, _, isa = request.param.partition("-")
    try:
        found = kernels.get(name)
    except BackendUnavailableError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))
    if not isa:
        yield found
        return
    from edgepose.kernels import native

    if isa not in native.isas():
        pytest.skip(f"this processor or build has no {isa}; it has {', '.join(native.isas())}")
    before = native.isa()
    native.use_isa(isa)
    assert native.isa() == isa
    yield found
    native.use_isa(before)

"""The error family can be caught as one, and as the built-in kinds that users expect."""

from __future__ import annotations

import pickle

import pytest

from edgepose import errors


@pytest.mark.parametrize("name", errors.__all__)
def test_all_are_edgepose_errors(name: str) -> None:
    assert issubclass(getattr(errors, name), errors.EdgePoseError)


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (errors.ModelNotFoundError, FileNotFoundError),
        (errors.ModelFormatError, ValueError),
        (errors.InvalidInputError, ValueError),
        (errors.BackendUnavailableError, RuntimeError),
        (errors.EngineMismatchError, RuntimeError),
    ],
)
def test_they_are_the_usual_kinds_too(error: type, builtin: type) -> None:
    assert issubclass(error, builtin)


def test_an_engine_mismatch_tells_how_to_rebuild_and_survives_pickling() -> None:
    error = errors.EngineMismatchError(
        "TensorRT 10.3, sm_87", "TensorRT 10.9, sm_89", "edgepose build x.onnx"
    )
    for one in (error, pickle.loads(pickle.dumps(error))):
        assert one.built_with == "TensorRT 10.3, sm_87"
        assert one.found in str(one)
        assert str(one).endswith("rebuild it: edgepose build x.onnx")

"""The errors that edgepose raises on purpose.

Every message has the same form: what failed; what was found; what to do.
"""

from __future__ import annotations

__all__ = [
    "BackendUnavailableError",
    "BuildError",
    "CalibrationError",
    "EdgePoseError",
    "EngineMismatchError",
    "InvalidInputError",
    "ModelFormatError",
    "ModelNotFoundError",
    "ParityError",
]


class EdgePoseError(Exception):
    """Base of all errors raised by edgepose."""


class ModelNotFoundError(EdgePoseError, FileNotFoundError):
    """The model file, or the packaged model of that name, does not exist."""


class ModelFormatError(EdgePoseError, ValueError):
    """A file is not a usable model: damaged, of another kind, or without a `ModelSpec`."""


class EngineMismatchError(EdgePoseError, RuntimeError):
    """An engine was built for another runtime version or device.

    Attributes:
        built_with: what the engine was built with, for instance ``"TensorRT 10.3, sm_87"``.
        found: what this machine has, in the same form.
        rebuild_command: the command line that makes a fitting engine.
    """

    def __init__(self, built_with: str, found: str, rebuild_command: str) -> None:
        super().__init__(built_with, found, rebuild_command)
        self.built_with = built_with
        self.found = found
        self.rebuild_command = rebuild_command

    def __str__(self) -> str:
        return (
            f"the engine does not fit this machine; built with {self.built_with}, "
            f"found {self.found}; rebuild it: {self.rebuild_command}"
        )


class BackendUnavailableError(EdgePoseError, RuntimeError):
    """A runtime, device or optional package that was asked for cannot serve."""


class InvalidInputError(EdgePoseError, ValueError):
    """An argument, image, box or source is not usable; the message names which and why."""


class BuildError(EdgePoseError, RuntimeError):
    """An artefact could not be built."""


class ParityError(EdgePoseError, RuntimeError):
    """A built artefact differs from its source by more than the tolerance."""


class CalibrationError(EdgePoseError, RuntimeError):
    """Quantisation could not be calibrated, for instance for want of pictures."""

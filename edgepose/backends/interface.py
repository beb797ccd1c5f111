"""What a model file must take and give, compared with its spec before the first run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

from edgepose.backends.base import (
    HEATMAPS,
    INPUT,
    TAGS,
    channels_fit,
    input_port,
    sides_of,
    wanted_outputs,
)
from edgepose.errors import ModelFormatError
from edgepose.spec import ModelSpec

__all__ = ["Interface", "Network", "Port", "check_interface"]


class Port(NamedTuple):
    """An input or output of a network.

    Attributes:
        type: as ONNX Runtime writes it, for instance ``"tensor(float)"``.
        shape: numbers for fixed axes, anything else for free ones.
    """

    type: str
    shape: Sequence[Any]


class Network(Protocol):
    """Any loaded ONNX file, of whatever inputs and outputs. Not thread-safe: one call at a time.

    Attributes:
        name: the runtime, for instance ``"onnxruntime"``.
        device: where it runs: ``"cpu"`` or ``"cuda:0"``.
        inputs: by name, in the order of the file.
        outputs: likewise.
    """

    name: str
    device: str
    inputs: dict[str, Port]
    outputs: dict[str, Port]

    def infer(self, batch: NDArray[Any], outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Run the network with its first input.

        Args:
            batch: C-contiguous, of the input's type and shape.
            outputs: names of those to compute.

        Returns:
            Arrays by output name, which the caller may keep.

        Raises:
            BackendUnavailableError: the run fails.
        """

    def describe(self) -> dict[str, Any]:
        """What serves and why, as `Backend.describe`."""

    def close(self) -> None:
        """Release the network. `infer` must not be called again."""


class Interface(NamedTuple):
    """What a `Backend` needs to know of a network whose interface fits.

    Attributes:
        outputs: names of those that its task needs, in the order of the file.
        input_size: (height, width) that the network takes, None where they are free.
    """

    outputs: list[str]
    input_size: tuple[int, int] | None


def check_interface(
    path: Path, spec: ModelSpec, inputs: Mapping[str, Port], outputs: Mapping[str, Port]
) -> Interface:
    """Compare inputs and outputs with the spec, so that a mismatch is known before the first run.

    Args:
        path: the model file, for messages.
        spec: what it says of itself.
        inputs: by name.
        outputs: by name, in the order of the file.

    Raises:
        ModelFormatError: they do not fit; the message tells what was found and expected.
    """
    wanted = wanted_outputs(spec, list(outputs))
    bottom_up = spec.task == "bottomup"
    if set(inputs) != {INPUT} or not wanted:
        expected = [HEATMAPS, TAGS] if bottom_up else [HEATMAPS]
        raise ModelFormatError(
            f"cannot run {path}; found inputs {sorted(inputs)} and outputs {sorted(outputs)}, expected "
            f"[{INPUT!r}] and {expected}; export it again"
        )
    image = inputs[INPUT]
    size: list[Any] = [..., ...] if bottom_up else list(spec.input_size)
    kind, shape = input_port(spec, None, size)
    if image.type != kind or not _fits(image.shape, shape):
        _, named = input_port(spec, "'batch'", ["height", "width"] if bottom_up else size)
        raise ModelFormatError(
            f"cannot run {path}; its input is {image.type} {list(image.shape)}, its ModelSpec says "
            f"{kind} [{', '.join(map(str, named))}] with dynamic batch; export it again"
        )
    height, width = image.shape[sides_of(spec)]
    if isinstance(height, int) != isinstance(width, int):
        raise ModelFormatError(
            f"cannot run {path}; its input is {list(image.shape)}, with only one side fixed; export it with "
            "height and width both dynamic or both fixed"
        )
    joints = len(spec.skeleton)
    for name in wanted:
        output = outputs[name]
        fits = _fits(output.shape, [None, ..., ..., ...])
        if fits and isinstance(output.shape[1], int):
            fits = channels_fit(name, output.shape[1], joints)
        if output.type not in ("tensor(float)", "tensor(float16)") or not fits:
            raise ModelFormatError(
                f"cannot run {path}; its {name} are {output.type} {list(output.shape)}, its ModelSpec has "
                f"{joints} joints; export it again"
            )
    return Interface(wanted, (height, width) if isinstance(height, int) else None)


def _fits(found: Sequence[Any], expected: Sequence[Any]) -> bool:
    """Whether a shape fits: None asks for a free axis, ... takes any; a free axis takes all."""
    return len(found) == len(expected) and all(
        want is ... or not isinstance(have, int) or have == want
        for have, want in zip(found, expected, strict=True)
    )

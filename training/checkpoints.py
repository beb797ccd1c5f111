"""Loading weights, ours and the officially published ones."""

from __future__ import annotations

import _codecs
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgepose.errors import ModelFormatError, ModelNotFoundError

__all__ = ["load_weights", "read_checkpoint", "read_state_dict"]

CONTAINERS = ("best_state_dict", "state_dict", "model")
"""Keys under which checkpoints keep their weights, the preferred first.

``model`` is ours; ``best_state_dict`` and ``state_dict`` are those of the HRNet family
(``checkpoint.pth``, where ``model`` holds the network's name) and of pytorch-pose (``.pth.tar``).
"""

PREFIXES = ("module.", "1.", "_forward_module.", "_orig_mod.")
"""Prefixes left by DataParallel, HigherHRNet's wrapper, Fabric and torch.compile."""


def _plain_numpy() -> list[type | tuple[Callable[..., Any], str]]:
    """What a pickle needs to hold NumPy numbers (``perf`` of official checkpoints); none runs code."""
    dtypes = {type(np.dtype(code)) for code in "?bBhHiIlLqQefd"}
    scalar = np.float64(0).__reduce__()[0]
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    return [np.dtype, *dtypes, *((scalar, name) for name in names), (_codecs.encode, "_codecs.encode")]


def read_checkpoint(path: str | PathLike[str]) -> Any:
    """Content of a PyTorch file on the CPU: tensors and plain values; code in it is never run.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelFormatError: the file is damaged, or holds more than tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelNotFoundError(f"no checkpoint; found no file {path}; give the path of a .pt or .pth file")
    try:
        with torch.serialization.safe_globals(_plain_numpy()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        text = str(error)
        patterns = (r"(Unsupported global: \S+ \S+)", r"WeightsUnpickler error:\s*(.+)", r"(.{1,200})")
        found = next(match[1] for p in patterns if (match := re.search(p, text)))
        raise ModelFormatError(
            f"cannot read checkpoint {path}; {found}; it is damaged, or holds objects whose code is not run "
            "for safety: save its state dict alone"
        ) from error
    except Exception as error:  # a damaged file can fail anywhere in PyTorch's reader
        raise ModelFormatError(
            f"cannot read checkpoint {path}; {type(error).__name__}: {str(error)[:200]}; "
            "it is damaged: fetch it again"
        ) from error


def read_state_dict(path: str | PathLike[str]) -> dict[str, Tensor]:
    """Read the weights of a checkpoint whatever its container, without known prefixes.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelFormatError: the file is damaged, or holds no weights.
    """
    content = read_checkpoint(path)
    state = _weights(content)
    if state is None:
        found = sorted(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
        raise ModelFormatError(
            f"no weights in checkpoint {path}; found {found}; "
            f"expected a state dict, bare or under one of {', '.join(CONTAINERS)}"
        )
    while prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in state)), None):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _weights(content: Any) -> dict[str, Tensor] | None:
    if not isinstance(content, Mapping) or not content:
        return None
    if all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()):
        return dict(content)
    for container in CONTAINERS:
        state = _weights(content.get(container))
        if state is not None:
            return state
    return None


def load_weights(
    network: nn.Module, path: str | PathLike[str], *, skip_head: bool = False, fresh: Sequence[str] = ()
) -> list[str]:
    """Load a checkpoint into a network, strictly.

    Batch norms of files older than PyTorch 0.4.1 lack ``num_batches_tracked``; theirs stay as they are.

    Args:
        network: changed in place.
        path: our checkpoint or an official one.
        skip_head: leave out tensors of another shape, for a net of another number of joints; they must not
            be most of them, as in a net of another width.
        fresh: tensors whose key contains one of these texts keep their values too; the network and the
            file may each have such that the other has not, as a classifier's head.

    Returns:
        keys of the file that were left out because of their shape or by `fresh`.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelFormatError: as `read_state_dict`, or keys or shapes differ.
    """
    state = read_state_dict(path)
    own = network.state_dict()

    def kept(key: str) -> bool:
        return any(text in key for text in fresh)

    differing = [k for k in state if k in own and state[k].shape != own[k].shape and not kept(k)]
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked") and not kept(k)]
    unknown = [k for k in state if k not in own and not kept(k)]
    if missing or unknown or len(differing) > (len(state) // 2 if skip_head else 0):
        raise ModelFormatError(
            f"checkpoint {path} does not fit {type(network).__name__}; "
            f"{_some('missing', missing)}, {_some('unknown', unknown)}, "
            f"{_some('of another shape', differing)}; create the network with the options it was trained with"
        )
    left_out = [k for k in state if k in differing or kept(k)]
    network.load_state_dict({k: v for k, v in state.items() if k not in left_out}, strict=False)
    return left_out


def _some(what: str, keys: list[str]) -> str:
    names = ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")
    return f"{len(keys)} keys {what}" + (f" ({names})" if keys else "")

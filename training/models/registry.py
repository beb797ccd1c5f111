"""The registry behind `training.models.create`."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable

from torch import nn

from edgepose.errors import EdgePoseError, InvalidInputError

_BUILDERS: dict[str, Callable[..., nn.Module]] = {}


def register(builder: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Make a network available to `create` under the name of the function that builds it."""
    _BUILDERS[builder.__name__] = builder
    return builder


def names() -> list[str]:
    """Names that `create` knows, sorted."""
    return sorted(_BUILDERS)


def create(name: str, **options: object) -> nn.Module:
    """Build a network.

    Args:
        name: one of `names()`.
        **options: the options of that network, for instance ``joints=17``.

    Raises:
        InvalidInputError: the name or an option is unknown, and the message lists what there is; or an
            option's value is not usable.
    """
    builder = _BUILDERS.get(name)
    if builder is None:
        near = difflib.get_close_matches(name, _BUILDERS, 1)
        hint = f"did you mean {near[0]!r}?" if near else "choose one of them"
        raise InvalidInputError(f"unknown network {name!r}; known are {', '.join(names())}; {hint}")
    known = inspect.signature(builder).parameters
    unknown = options.keys() - known.keys()
    passed_on = any(entry.kind == entry.VAR_KEYWORD for entry in known.values())
    if unknown and not passed_on:
        raise InvalidInputError(
            f"network {name!r} has no option {', '.join(sorted(unknown))}; it takes {', '.join(known)}"
        )
    try:
        return builder(**options)
    except (TypeError, ValueError, ArithmeticError, LookupError, RuntimeError) as error:
        if isinstance(error, EdgePoseError):
            raise
        raise InvalidInputError(
            f"cannot build network {name!r}; found options {options} ({type(error).__name__}: {error}); "
            "give each a value of its own kind, as the network's description says"
        ) from error

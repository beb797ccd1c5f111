"""The well-kept simplifier: constants folded, batch norms into convolutions, shapes computed once."""

from __future__ import annotations

import logging
from typing import Any

from edgepose.builder.graph import copy_of
from edgepose.errors import BuildError
from edgepose.optional import first_line, require

__all__ = ["simplify"]


def simplify(model: Any) -> Any:
    """A simplified copy of a model, made by onnxslim; the same bytes for the same model.

    Raises:
        BackendUnavailableError: onnxslim is not installed.
        BuildError: it fails on this model.
    """
    onnxslim = require("onnxslim", "building a model", "edgepose[build]")
    copied = copy_of(model)
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it tells of each step
    try:
        return onnxslim.slim(copied)
    except Exception as error:  # its errors have no common base
        raise BuildError(
            f"cannot simplify the model; onnxslim says: {first_line(error)}; report it"
        ) from error
    finally:
        logging.disable(level)

"""The packaged models, and the files that names stand for."""

from __future__ import annotations

import os
from pathlib import Path

from edgepose.errors import ModelNotFoundError

__all__ = ["ALIASES", "DEFAULT_MODEL", "MODELS", "resolve_model"]

DEFAULT_MODEL = "lpn50-lsp"
ALIASES = {"multi": "higherlpn50-lsp"}
"""Names that stand for packaged models by what they do."""
MODELS = Path(__file__).parent / "models"


def resolve_model(model: str | os.PathLike[str] | None) -> Path:
    """The file of a model: a path as it is, a bare name among the packaged ones, None the default.

    Bare names may be `ALIASES`.

    Raises:
        ModelNotFoundError: there is no such file, or no packaged model of that name.
    """
    name = DEFAULT_MODEL if model is None else os.fspath(model)
    path = Path(name)
    try:
        exists, is_file = path.exists(), path.is_file()
    except OSError as error:  # for instance a name that is too long
        raise ModelNotFoundError(f"model not found: {name}; {error.strerror}; check the path") from error
    if not exists and not path.suffix and path.name == name:
        packaged = MODELS / f"{ALIASES.get(name, name)}.onnx"
        if not packaged.is_file():
            found = {file.stem for file in MODELS.glob("*.onnx")}
            found |= {alias for alias, target in ALIASES.items() if target in found}
            names = ", ".join(sorted(found)) or "none"
            raise ModelNotFoundError(
                f"there is no packaged model {name!r}; packaged are: {names}; give one of them, or the "
                "path of an .onnx or .engine file"
            )
        return packaged
    if not is_file:
        what = "a directory" if exists else "no such file"
        raise ModelNotFoundError(f"model not found: {name}; found {what}; check the path")
    return path.resolve()

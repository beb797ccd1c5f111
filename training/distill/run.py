"""Distillation by one command: what a student needs is trained first, where it is missing."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from edgepose.errors import InvalidInputError
from training.config import TrainConfig
from training.distill.teacher import related_config
from training.loop import is_complete, train

__all__ = ["distill"]

log = logging.getLogger(__name__)


def distill(config: TrainConfig, *, resume: bool = False) -> dict[str, Any]:
    """Train the teacher and the plain student that a configuration needs, where they are missing, and it.

    With ``resume=True`` whatever was begun goes on, and what is complete stays as it is.

    Returns:
        the last line of the student's log.

    Raises:
        InvalidInputError: nothing is to be distilled; what `training.loop.train` raises.
    """
    options = config.distill
    if options.method is None:
        raise InvalidInputError(
            f"nothing to distil in {config.name!r}; found no distill.method; give fpd or okdhp, or train it"
        )
    if options.method == "fpd" and options.teacher is None:
        _complete(related_config(config, "teacher_config"), "teacher")
    if options.student_config is not None:
        _complete(related_config(config, "student_config"), "plain student")
    begun = any((Path(config.output) / config.name).glob("**/last.pt"))
    return train(config, resume=resume and begun)


def _complete(config: TrainConfig, what: str) -> None:
    """Train a run as far as it is missing."""
    folder = Path(config.output) / config.name
    if is_complete(config):
        log.info("%s: %s is trained", what, folder)
        return
    log.info("%s: training %s", what, folder)
    if config.distill.method:
        distill(config, resume=True)
    else:
        train(config, resume=any(folder.glob("**/last.pt")))

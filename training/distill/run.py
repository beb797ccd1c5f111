"""Distillation by one command: what a student needs is trained first, where it is missing."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from edgepose.errors import InvalidInputError
from edgepose.skeleton import SKELETONS
from training.config import TrainConfig
from training.data.sets import load_unlabelled
from training.distill.teacher import related_config, teacher_config
from training.loop import begun, is_complete, train
from training.models import create

__all__ = ["distill"]

log = logging.getLogger(__name__)


def distill(config: TrainConfig, *, resume: bool = False) -> dict[str, Any]:
    """Train the teacher and the plain student that a configuration needs, where they are missing, and it.

    With ``resume=True`` whatever was begun goes on, and what is complete stays as it is.

    Returns:
        the last line of the student's log.

    Raises:
        InvalidInputError: nothing is to be distilled; teacher, plain student and student do not fit
            together, before any of them is trained; what `training.loop.train` raises.
    """
    options = config.distill
    if options.method is None:
        raise InvalidInputError(
            f"nothing to distil in {config.name!r}; found no distill.method; give fpd or okdhp, or train it"
        )
    teacher = teacher_config(config) if options.method == "fpd" else None
    plain = related_config(config, "student_config") if options.student_config is not None else None
    if plain is not None and _shapes(plain) != _shapes(config):
        raise InvalidInputError(
            f"{config.name!r} cannot start from {plain.name!r}; found the networks {config.model} "
            f"{config.options} and {plain.model} {plain.options}; make them the same, or leave out "
            "distill.student_config"
        )
    if config.data.unlabelled is not None:
        load_unlabelled(Path(config.data.root) / config.data.unlabelled, SKELETONS[config.skeleton])
    if teacher is not None and options.teacher is None:
        _complete(teacher, "teacher")
    if plain is not None:
        _complete(plain, "plain student")
    return train(config, resume=resume and begun(config))


def _complete(config: TrainConfig, what: str) -> None:
    """Train a run as far as it is missing."""
    if is_complete(config):
        log.info("%s: %s is trained", what, config.folder)
        return
    log.info("%s: training %s", what, config.folder)
    if config.distill.method:
        distill(config, resume=True)
    else:
        train(config, resume=begun(config))


def _shapes(config: TrainConfig) -> dict[str, torch.Size]:
    """Names and shapes of a network's tensors."""
    with torch.device("meta"):
        state = create(config.model, **config.options).state_dict()
    return {key: tensor.shape for key, tensor in state.items()}

"""The teacher of a distillation: which weights, and the network with them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from edgepose.errors import InvalidInputError
from training.checkpoints import load_weights
from training.config import TrainConfig, load_config
from training.models import create
from training.models.outputs import final_heatmaps
from training.precision import avoid_slow_kernels

__all__ = ["Teacher", "best_weights", "plain_student", "related_config", "teacher_config"]


def related_config(config: TrainConfig, name: str) -> TrainConfig:
    """The configuration that ``distill.teacher_config`` or ``student_config`` names.

    It is trained beside the run that needs it: data folder, workers, device and output are this one's.
    """
    path = getattr(config.distill, name)
    if path is None:
        raise InvalidInputError(f"no {name}; found none in the configuration; give distill.{name}")
    related = load_config(path)
    related.output = config.output
    for field in ("root", "workers", "device"):
        setattr(related.data, field, getattr(config.data, field))
    return related


def teacher_config(config: TrainConfig) -> TrainConfig:
    """The teacher's configuration.

    Raises:
        InvalidInputError: it is for other crops or other joints than the student's, or the weights that are
            named for it are not there.
    """
    own = related_config(config, "teacher_config")
    weights = config.distill.teacher
    if weights is not None and not Path(weights).is_file():
        raise InvalidInputError(
            f"no teacher; found no file {weights}; correct distill.teacher, or leave it out to train one"
        )
    for field in ("input_size", "color", "mean", "std", "skeleton", "coordinates", "padding", "sigma"):
        if getattr(own, field) != getattr(config, field):
            raise InvalidInputError(
                f"teacher and student do not fit; found {field} {getattr(own, field)} of the teacher's and "
                f"{getattr(config, field)}; both see the same crops for the same heatmaps: train them alike"
            )
    return own


def best_weights(config: TrainConfig) -> Path:
    """Where a run keeps its best weights."""
    return config.folder / "best.pt"


def plain_student(config: TrainConfig) -> Path | None:
    """The best weights of the plain training that the student starts from, if it starts from one.

    Raises:
        InvalidInputError: there are none yet.
    """
    if config.distill.student_config is None:
        return None
    path = best_weights(related_config(config, "student_config"))
    if not path.is_file():
        raise InvalidInputError(
            f"no plain student; found no {path}; give weights and distill.student_config=null, or let "
            "'python -m training distill' train it first"
        )
    return path


class Teacher:
    """A trained network in evaluation mode that says what the student is to learn.

    Raises:
        InvalidInputError: its weights are not there, it was made for other crops than the student's, or
            its maps are not such as the student learns.
        ModelFormatError: the weights are those of another network.
    """

    def __init__(self, config: TrainConfig) -> None:
        own = teacher_config(config)
        path = Path(config.distill.teacher) if config.distill.teacher else best_weights(own)
        if not path.is_file():
            raise InvalidInputError(
                f"no teacher; found no {path}; give distill.teacher, or let 'python -m training distill' "
                "train it first"
            )
        self._network = create(own.model, **own.options)
        if hasattr(self._network, "loss"):
            raise InvalidInputError(
                f"no teacher of heatmaps; found {own.model!r} with a loss of its own, whose maps are other "
                "ones; take a teacher that is trained on heatmaps"
            )
        load_weights(self._network, path)
        self._network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self._slow_kernels = config.precision != "32-true"

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Heatmaps (n, k, h, w) of normalised images (n, 3, h, w), on the images' device."""
        network = self._on(images.device)
        return final_heatmaps(network, network(images))

    def _on(self, device: torch.device) -> nn.Module:
        if next(self._network.parameters()).device != device:
            self._network.to(device)
        if self._slow_kernels:
            avoid_slow_kernels(self._network, device)
            self._slow_kernels = False
        return self._network

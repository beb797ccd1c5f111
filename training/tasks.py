"""What differs between top-down and bottom-up training: data, loss and the figure to choose by."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from edgepose.evaluation.ap import oks_ap
from edgepose.spec import ModelSpec
from training.config import TrainConfig
from training.data.bottomup import (
    Labels,
    MosaicPictures,
    PictureAugmentation,
    Together,
    WholePictures,
)
from training.data.crops import Crops, Views
from training.data.device import DevicePictures
from training.data.loading import Examples
from training.data.sets import load_mosaics, load_people, load_pictures
from training.data.targets import gaussian_targets
from training.data.transforms import Augmentation
from training.distill.fpd import fpd_loss
from training.distill.okdhp import okdhp_loss, ramp_up
from training.distill.teacher import Teacher
from training.evaluate import evaluate
from training.evaluate_bottomup import evaluate_pictures, predict_pictures
from training.losses import associative_embedding, heatmap_mse, joints_mse, joints_ohkm
from training.models.okdhp import Branched, extract_branch

__all__ = [
    "BottomUp",
    "Task",
    "TopDown",
    "make_task",
    "picture_augmentation",
]


class Task(Protocol):
    """Data, loss and evaluation of a run.

    Attributes:
        examples: items with an ``image`` (h, w, 3) uint8 BGR, or with what `complete` makes it from.
        figure: name of the figure, the higher the better, by which the best checkpoint is chosen.
    """

    examples: Examples
    figure: str

    def complete(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A batch on the device with its ``image`` (n, h, w, 3) uint8 BGR."""

    def loss(self, outputs: Any, batch: dict[str, Any], images: Tensor) -> Tensor:
        """The loss of the network's outputs on a batch of examples and their normalised images."""

    def evaluate(self, network: nn.Module, device: torch.device) -> dict[str, float]:
        """Figures on what was held out."""


def make_task(config: TrainConfig, spec: ModelSpec, network: nn.Module, device: torch.device) -> Task:
    """The task of a configuration, trained on a device."""
    if config.task == "bottomup":
        return BottomUp(config, spec, network)
    return TopDown(config, spec, network, device)


class TopDown:
    """One person per crop: a loss on every heatmap of the network; PCK, PCKh or AP on the people held out.

    The loss is `joints_mse` or `joints_ohkm`, that of a distillation, or the network's own; the figure
    is that of the data set.
    """

    def __init__(
        self, config: TrainConfig, spec: ModelSpec, network: nn.Module, device: torch.device
    ) -> None:
        self._config = config
        self._spec = spec
        self._own_loss = getattr(network, "loss", None)
        self._teacher = Teacher(config) if config.distill.method == "fpd" else None
        people, self._scorer = load_people(config)
        self.figure = self._scorer.figure
        height, width = spec.input_size
        self._heatmap_size = (height // 4, width // 4)
        augment = asdict(config.augment)
        kept = {name: augment[name] for name in Augmentation.__dataclass_fields__}
        kind = Views if config.data.device else Crops
        self.examples: Examples = kind(
            people, spec.input_size, self._heatmap_size, spec.coordinates, Augmentation(**kept), config.seed
        )
        self._pictures = DevicePictures(people.images, device) if config.data.device else None

    def complete(self, batch: dict[str, Any]) -> dict[str, Any]:
        if self._pictures is None:
            return batch
        index, matrix, gain = batch["index"], batch["matrix"], batch.get("gain")
        return {**batch, "image": self._pictures.crops(index, matrix, self._spec.input_size, gain)}

    def loss(self, outputs: Any, batch: dict[str, Any], images: Tensor) -> Tensor:
        config, options = self._config, self._config.distill
        if self._own_loss is not None:
            return self._own_loss(outputs, batch["joints"], batch["weights"])
        targets, weights = gaussian_targets(
            batch["joints"], batch["weights"], self._heatmap_size, config.sigma, unbiased=config.unbiased
        )
        if options.method == "okdhp":
            maps, ensemble = outputs
            return okdhp_loss(
                maps,
                ensemble,
                targets,
                weights,
                kd_weight=options.kd_weight * ramp_up(self.examples.epoch, options.ramp_up),
                ensemble_weight=options.ensemble_weight,
                temperature=options.temperature,
                detach=options.detach,
            )
        maps = [outputs] if isinstance(outputs, Tensor) else outputs
        if self._teacher is not None:
            return fpd_loss(
                maps,
                targets,
                self._teacher(images),
                weights,
                alpha=options.alpha,
                masked=options.masked,
                labelled=batch.get("labelled"),
            )
        total = targets.new_zeros(())
        for predicted in maps:
            if hard := config.losses.hard_joints:
                total = total + joints_ohkm(predicted, targets, weights, hard)
            else:
                total = total + joints_mse(predicted, targets, weights)
        return total

    def evaluate(self, network: nn.Module, device: torch.device) -> dict[str, float]:
        """The set's figure; branched: of the best branch that makes the target, of each, of the ensemble."""
        if not isinstance(network, Branched):
            return {self.figure: self._score(network, device)}
        branches = [self._score(extract_branch(network, b), device) for b in range(len(network.students))]
        return {
            self.figure: max(branches[b] for b in network.target_branches()),
            **{f"{self.figure}_branch{b + 1}": value for b, value in enumerate(branches)},
            f"{self.figure}_ensemble": self._score(network, device),
        }

    def _score(self, network: nn.Module, device: torch.device) -> float:
        workers = self._config.data.workers
        table = evaluate(network, self._spec, self._scorer, workers=workers, device=device)
        return table[self._scorer.headline]


class BottomUp:
    """All people of a picture: `heatmap_mse` at each resolution and `associative_embedding`; AP.

    Trains on pictures, on mosaics of Leeds Sports Pose, or on both; the figure is the AP on the mosaics
    of people held out where there are mosaics, else on the validation pictures.
    """

    figure = "AP"

    def __init__(self, config: TrainConfig, spec: ModelSpec, network: nn.Module) -> None:
        self._spec = spec
        self._losses = config.losses
        self._joints = len(spec.skeleton)
        sides, channels = _outputs(network, spec.input_size[0])
        mosaics, self._mosaics = load_mosaics(config) if config.data.mosaics else (None, [])
        pictures = None
        if mosaics is None or config.data.train_annotations:
            pictures = load_pictures(config, "train").labelled()[: config.data.limit]
        labels = Labels(
            spec.input_size[0],
            tuple(spec.input_size[0] // side for side in sides),
            sigma=config.sigma,
            scale_aware=config.scale_aware,
            unbiased=config.unbiased,
            tag_per_joint=(max(channels) - self._joints) % self._joints == 0,
            joint_masks=mosaics is not None or (pictures is not None and not pictures.labelled_joints.all()),
        )
        parts: list[WholePictures | MosaicPictures] = []
        persons = mosaics.most if mosaics else 0
        if pictures is not None:
            persons = max(persons, pictures.most)
            views = picture_augmentation(config)
            repeat = config.data.repeat
            parts.append(
                WholePictures(pictures, labels, views, repeat=repeat, persons=persons, seed=config.seed)
            )
        if mosaics is not None:
            parts.append(MosaicPictures(mosaics, labels, persons=persons))
        self.examples: Examples = Together(parts)
        self._pictures = None if mosaics else load_pictures(config, "validation")

    def complete(self, batch: dict[str, Any]) -> dict[str, Any]:
        return batch

    def loss(self, outputs: Any, batch: dict[str, Any], images: Tensor) -> Tensor:
        factors = self._losses
        total = torch.zeros((), device=outputs[0].device)
        stages = zip(outputs, batch["targets"], batch["masks"], batch["joints"], strict=True)
        for output, target, mask, joints in stages:
            total = total + factors.heatmap * heatmap_mse(output[:, : self._joints], target, mask)
            if output.shape[1] > self._joints:
                push, pull = associative_embedding(output[:, self._joints :], joints, factors.grouping)
                total = total + factors.push * push + factors.pull * pull
        return total

    def evaluate(self, network: nn.Module, device: torch.device) -> dict[str, float]:
        if self._pictures is not None:
            figures = evaluate_pictures(network, self._spec, self._pictures, device=device)
        else:
            images = (mosaic.image for mosaic in self._mosaics)
            found = predict_pictures(network, self._spec, images, device=device)
            truth = [(m.joints, m.visible, m.boxes) for m in self._mosaics]
            figures = oks_ap(truth, found, self._spec.skeleton)
        return {name: value for name, value in figures.items() if not math.isnan(value)}


def picture_augmentation(config: TrainConfig) -> PictureAugmentation:
    """The random views that a bottom-up configuration asks for."""
    augment = config.augment
    return PictureAugmentation(
        side=augment.side,  # type: ignore[arg-type]
        scale=(augment.zoom[0], augment.zoom[1]),
        rotation=augment.rotation,
        translation=augment.translation,
        flip=augment.flip,
        color=augment.color,
    )


@torch.no_grad()
def _outputs(network: nn.Module, side: int) -> tuple[list[int], list[int]]:
    """Sides and channels of a network's outputs on a square picture."""
    training, device = network.training, next(network.parameters()).device
    outputs = network.eval()(torch.zeros(1, 3, side, side, device=device))
    network.train(training)
    return [output.shape[-1] for output in outputs], [output.shape[1] for output in outputs]

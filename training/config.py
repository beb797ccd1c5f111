"""The configuration of a training run: a YAML file checked against these fields."""

from __future__ import annotations

from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from edgepose.errors import InvalidInputError

__all__ = ["TrainConfig", "load_config"]


@dataclass
class DataConfig:
    """Which people are trained on; folders are relative to ``root``."""

    root: str = MISSING
    lsp: bool = True
    lspet: bool = True
    validation: int = 400
    """The last people of LSPet, left out of training to choose the best checkpoint by."""
    limit: int | None = None
    """Train on the first people only (for quick trials)."""
    workers: int = 0


@dataclass
class AugmentConfig:
    """See `training.data.transforms.Augmentation`."""

    rotation: float = 40.0
    rotation_probability: float = 0.6
    scale: float = 0.3
    translation: float = 0.0
    flip: float = 0.5
    color: float = 0.0


@dataclass
class OptimizerConfig:
    """``adam`` or ``adamw`` with a one-cycle schedule, or steps where milestones are given."""

    name: str = "adam"
    lr: float = 1e-3
    weight_decay: float = 0.0
    warmup: float = 0.1
    """Share of a one-cycle run in which the rate rises to ``lr``."""
    milestones: list[int] = field(default_factory=list)
    """Epochs after which the rate falls to a tenth; none: one cycle down to zero."""


@dataclass
class TrainConfig:
    """One training run.

    ``weights`` starts from a checkpoint with a fresh schedule, as LPN's iterative training does
    (section 3.3); ``resume`` on the command line goes on with the same run.
    """

    name: str = MISSING
    model: str = MISSING
    options: dict[str, Any] = field(default_factory=dict)
    init: str = "normal"
    weights: str | None = None
    data: DataConfig = field(default_factory=DataConfig)
    input_size: list[int] = field(default_factory=lambda: [256, 192])
    color: str = "rgb"
    padding: float = 1.25
    coordinates: str = "udp"
    sigma: float = 2.0
    unbiased: bool = True
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    epochs: int = 150
    batch_size: int = 32
    precision: str = "32-true"
    """Of Lightning Fabric: ``32-true``, ``bf16-mixed``, ``16-mixed``."""
    ema: float = 0.0
    """Decay of the moving average of the weights, which is then what is evaluated; 0: none."""
    evaluate_every: int = 1
    seed: int = 1
    output: str = "runs"


def load_config(path: str | PathLike[str], overrides: list[str] | None = None) -> TrainConfig:
    """Read a YAML configuration; `overrides` are ``key.sub=value`` texts.

    Raises:
        InvalidInputError: the file is missing, not YAML, or holds an unknown or ill-typed field.
    """
    if not Path(path).is_file():
        raise InvalidInputError(f"no configuration; found no file {path}; see training/configs")
    try:
        merged = OmegaConf.merge(
            OmegaConf.structured(TrainConfig), OmegaConf.load(path), OmegaConf.from_dotlist(overrides or [])
        )
        config = OmegaConf.to_object(merged)
    except (OmegaConfBaseException, ValueError, OSError) as error:
        raise InvalidInputError(
            f"configuration {path} is not usable; {str(error).splitlines()[0]}; see training/config.py"
        ) from error
    assert isinstance(config, TrainConfig)
    return config

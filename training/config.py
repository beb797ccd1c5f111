"""The configuration of a network and its training: a YAML file checked against these fields."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from os import PathLike
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from edgepose.errors import InvalidInputError
from edgepose.skeleton import SKELETONS
from edgepose.spec import Grouping, ModelSpec

__all__ = ["TrainConfig", "load_config", "portable"]

DATA_VARIABLE = "EDGEPOSE_DATA"


@dataclass
class DataConfig:
    """What is trained on: people of a data set, or, bottom-up, pictures in COCO's format.

    Paths are from ``root`` on.
    """

    root: str = field(default_factory=lambda: os.environ.get(DATA_VARIABLE) or "data")
    """Folder with the data sets; the environment variable EDGEPOSE_DATA, else ``data``."""
    people: str = "lsp"
    """Top-down: ``lsp``, ``mpii`` or ``coco``; the last two have an annotation file for each part."""
    lsp: bool = True
    lspet: bool = True
    validation: int = 400
    """The last people of LSPet, left out of training to choose the best checkpoint by."""
    train_annotations: str | None = None
    """File of MPII, COCO or, bottom-up, CrowdPose too, with people of ``skeleton``."""
    train_images: str | None = None
    skeleton: str | None = None
    """In COCO's format: the pictures' joints, mapped to ``skeleton`` by name; none: they are the same."""
    repeat: int = 1
    """Bottom-up: views of each picture an epoch."""
    mosaics: list[float] = field(default_factory=list)
    """Bottom-up: train on mosaics of the people of Leeds Sports Pose too; the shares of mosaics of 1 x 1,
    2 x 2, ... people. The checkpoint is then chosen by mosaics of the people held out."""
    validation_annotations: str | None = None
    """The people or pictures to choose the best checkpoint by, and to evaluate on."""
    validation_images: str | None = None
    detections: str | None = None
    """Top-down COCO: file of a detector's boxes to evaluate with; none: the annotated boxes."""
    unlabelled: str | None = None
    """FPD: folder of pictures without annotations, from which the student learns what the teacher says."""
    ids: list[int] = field(default_factory=list)
    """In COCO's format: take these pictures alone of both files, which must have them; none: all."""
    limit: int | None = None
    """Train on the first people or pictures only (for quick trials)."""
    workers: int = 0
    """Processes that load pictures beside each training process."""
    device: bool = False
    """Top-down, for a GPU: keep the pictures in the device's memory, and crop and recolour there. The views
    are the same; their grey levels may differ by rounding."""


@dataclass
class AugmentConfig:
    """See `training.data.transforms.Augmentation`; bottom-up `training.data.bottomup.PictureAugmentation`.

    ``side`` and ``zoom`` (its range of scales) are of bottom-up training alone; ``rotation_probability``,
    ``scale`` and ``half_body`` of top-down training alone. Bottom-up, ``rotation`` is the largest angle.
    """

    rotation: float = 40.0
    rotation_probability: float = 0.6
    scale: float = 0.3
    translation: float = 0.0
    flip: float = 0.5
    color: float = 0.0
    half_body: float = 0.0
    side: str = "short"
    zoom: list[float] = field(default_factory=lambda: [0.75, 1.5])


@dataclass
class LossConfig:
    """Factors of the bottom-up losses, ``grouping`` being ``exp`` or ``max``; top-down ``hard_joints``."""

    heatmap: float = 1.0
    push: float = 1e-3
    pull: float = 1e-3
    grouping: str = "exp"
    hard_joints: int = 0
    """Online hard keypoint mining: a person's joints of largest error that count alone; 0: all count."""


@dataclass
class DistillConfig:
    """How a top-down network is distilled; the fields after ``method`` are of one method each."""

    method: str | None = None
    """``fpd``, from a teacher; ``okdhp``, from the ensemble of the branches of an `okdhp` network."""
    teacher: str | None = None
    """FPD: the teacher's checkpoint; none: the best of the run that ``teacher_config`` describes."""
    teacher_config: str | None = None
    """FPD: the teacher's configuration, a path from the folder of this file on."""
    student_config: str | None = None
    """Configuration, likewise, of the plain training whose best weights the student starts from."""
    alpha: float = 0.5
    """FPD: weight of the teacher's heatmaps; the annotation has the rest."""
    masked: bool = True
    """FPD: learn nothing about joints that are not labelled, as released; false: all the teacher says."""
    kd_weight: float = 2.0
    """OKDHP: weight of the pixel-wise divergence from the ensemble."""
    ensemble_weight: float = 1.0
    """OKDHP: weight of the ensemble's own error."""
    ramp_up: int = 90
    """OKDHP: epochs over which ``kd_weight`` grows to its value; 0: it has it at once."""
    temperature: float = 1.0
    """OKDHP: of the softmax over pixels."""
    detach: bool = False
    """OKDHP: the divergence teaches the branches alone; released: it draws the ensemble to them too."""


@dataclass
class OptimizerConfig:
    """``adam``, ``adamw`` or ``rmsprop``; a one-cycle schedule, or steps where milestones are given."""

    name: str = "adam"
    lr: float = 1e-3
    weight_decay: float = 0.0
    warmup: float = 0.1
    """Share of a one-cycle run in which the rate rises to ``lr``."""
    milestones: list[int] = field(default_factory=list)
    """Epochs after which the rate is multiplied by ``factor``; none: one cycle down to zero."""
    factor: float = 0.1


@dataclass
class DecoderConfig:
    """See `edgepose.spec.Decoder`."""

    name: str = "soft_argmax"
    beta: float = 160.0
    refine: str | None = None
    bias: float = 0.0


@dataclass
class TrainConfig:
    """One network: how its input and output are to be read, and how it is trained.

    ``weights`` starts from a checkpoint with a fresh schedule, as LPN's iterative training does
    (section 3.3); ``--resume`` on the command line goes on with the same run.
    """

    name: str = MISSING
    model: str = MISSING
    task: str = "topdown"
    """``topdown``, one person per crop, or ``bottomup``, all people of the picture."""
    options: dict[str, Any] = field(default_factory=dict)
    """Of the network; ``joints`` follows from the skeleton."""
    skeleton: str = "lsp14"
    input_size: list[int] = field(default_factory=lambda: [256, 192])
    """Height and width in pixels; bottom-up: a square, the shorter side of the resized picture."""
    color: str = "rgb"
    mean: list[float] = field(default_factory=lambda: list(ModelSpec.mean))
    """Of each channel in its position, subtracted from value / 255."""
    std: list[float] = field(default_factory=lambda: list(ModelSpec.std))
    padding: float = 1.25
    coordinates: str = "udp"
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    grouping: dict[str, Any] = field(default_factory=dict)
    """Bottom-up: fields of `edgepose.spec.Grouping` that differ from its defaults."""

    init: str = "default"
    """``default``: each network's published one; see `training.models.layers.init_weights`."""
    weights: str | None = None
    fresh: list[str] = field(default_factory=list)
    """Parts of the names of tensors that keep their initial values when ``weights`` are loaded, and need not
    be in the file; the file's own of these names are left out. So a classifier's weights become a body's."""
    data: DataConfig = field(default_factory=DataConfig)
    sigma: float = 2.0
    """Standard deviation of the targets in heatmap pixels."""
    unbiased: bool = True
    """Targets at the exact position; false: the official ones, on whole pixels."""
    scale_aware: bool = False
    """Bottom-up: ``sigma`` is that of a person of 256 input pixels and grows with it."""
    losses: LossConfig = field(default_factory=LossConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    epochs: int = 150
    """Of each stage."""
    stages: int = 1
    """LPN's iterative training: each stage starts from the best of the one before with a fresh schedule."""
    batch_size: int = 32
    """Of each process."""
    precision: str = "32-true"
    """Of Lightning Fabric: ``32-true``, ``bf16-mixed``, ``16-mixed``."""
    ema: float = 0.0
    """Decay of the moving average of the weights, which is then what is evaluated; 0: none."""
    evaluate_every: int = 1
    seed: int = 1
    output: str = "runs"

    @property
    def folder(self) -> Path:
        """Where the run keeps its checkpoints and logs."""
        return Path(self.output) / self.name


def load_config(path: str | PathLike[str], overrides: list[str] | None = None) -> TrainConfig:
    """Read a YAML configuration; `overrides` are ``key.sub=value`` texts.

    A file with ``base: FILE``, from its own folder on, has the fields of that file and changes some; if it
    names another ``model``, the options are its own alone.

    Raises:
        InvalidInputError: the file or its base is missing, not YAML, or its own base; a field is unknown,
            missing or not usable.
    """
    content = _read(Path(path))
    try:
        merged = OmegaConf.merge(
            OmegaConf.structured(TrainConfig), content, OmegaConf.from_dotlist(overrides or [])
        )
        absent = OmegaConf.missing_keys(merged)
        if absent:
            raise ValueError(f"found no {', '.join(sorted(absent))}")
        config = OmegaConf.to_object(merged)
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise _unusable(path, error) from error
    assert isinstance(config, TrainConfig)
    _check(config, path)
    return config


def _read(path: Path, above: tuple[Path, ...] = ()) -> DictConfig:
    """What a file and its bases say; paths of further configurations are from this folder on."""
    if not path.is_file():
        by = f", the base of {above[-1]}" if above else ""
        raise InvalidInputError(f"no configuration; found no file {path}{by}; see training/configs")
    if path.resolve() in above:
        raise InvalidInputError(
            f"configuration {path} is not usable; found it to be its own base; change base"
        )
    try:
        content = OmegaConf.load(path)
        if not isinstance(content, DictConfig):
            raise ValueError("found no fields")
        base = content.pop("base", None)
        if base is not None and not isinstance(base, str):
            raise ValueError(f"base: found {base!r}, give a path")
        distill = content.get("distill") or {}
        for name in _CONFIG_PATHS:
            if isinstance(distill.get(name), str):
                distill[name] = os.path.normpath(path.parent / distill[name])
    except (OmegaConfBaseException, YAMLError, ValueError, OSError) as error:
        raise _unusable(path, error) from error
    if base is None:
        return content
    below = _read(path.parent / base, (*above, path.resolve()))
    if content.get("model", below.get("model")) != below.get("model"):
        below.pop("options", None)  # of another network
    merged = OmegaConf.merge(below, content)
    assert isinstance(merged, DictConfig)
    return merged


def _unusable(path: str | PathLike[str], error: Exception) -> InvalidInputError:
    name = getattr(error, "full_key", None)
    text = (f"{name}: " if name else "") + " ".join(str(error).split("\n    ")[0].split())
    return InvalidInputError(
        f"configuration {path} is not usable; {text}; the fields are those of training/config.py"
    )


def portable(config: TrainConfig | Mapping[str, Any]) -> dict[str, Any]:
    """A configuration, or its values in a checkpoint, without what holds on one machine alone."""
    values = asdict(config) if isinstance(config, TrainConfig) else copy.deepcopy(dict(config))
    values.pop("output", None)
    for key in ("root", "workers", "device"):
        values.get("data", {}).pop(key, None)
    if values.get("weights"):
        values["weights"] = Path(values["weights"]).name
    for name in ("teacher", *_CONFIG_PATHS):
        if values.get("distill", {}).get(name):
            values["distill"][name] = Path(values["distill"][name]).name
    for key, value in values.get("data", {}).items():
        if isinstance(value, str) and Path(value).is_absolute():
            values["data"][key] = "/".join(Path(value).parts[-2:])
    return values


_CONFIG_PATHS = ("teacher_config", "student_config")
_CHOICES = {
    "task": ("topdown", "bottomup"),
    "skeleton": tuple(SKELETONS),
    "data.skeleton": (None, *SKELETONS),
    "color": ("rgb", "bgr"),
    "coordinates": ("udp", "legacy"),
    "init": ("normal", "kaiming", "default"),
    "precision": ("32-true", "bf16-mixed", "16-mixed"),
    "optimizer.name": ("adam", "adamw", "rmsprop"),
    "data.people": ("lsp", "mpii", "coco"),
    "losses.grouping": ("exp", "max"),
    "distill.method": (None, "fpd", "okdhp"),
    "augment.side": ("short", "long"),
    "decoder.name": ("soft_argmax", "argmax"),
    "decoder.refine": (None, "quarter", "taylor"),
}
_RANGES = {
    "padding": (0, math.inf), "sigma": (0, math.inf), "optimizer.lr": (0, math.inf),
    "decoder.beta": (0, math.inf), "distill.temperature": (0, math.inf),
}  # fmt: skip
_SHARES = (
    "augment.rotation_probability", "augment.flip", "augment.half_body", "augment.scale", "augment.color",
    "optimizer.warmup", "optimizer.factor", "ema", "distill.alpha",
)  # fmt: skip
_COUNTS = {"data.validation": 1, "data.limit": 1, "data.workers": 0, "epochs": 1, "batch_size": 1,
           "data.repeat": 1, "evaluate_every": 1, "seed": 0,
           "stages": 1, "losses.hard_joints": 0, "distill.ramp_up": 0}  # fmt: skip


def _check(config: TrainConfig, path: str | PathLike[str]) -> None:
    def check(usable: bool, name: str, wanted: str) -> None:
        if not usable:
            raise InvalidInputError(
                f"configuration {path}: {name} is not usable; found {value(name)!r}; give {wanted}"
            )

    def value(name: str) -> Any:
        found: Any = config
        for part in name.split("."):
            found = getattr(found, part)
        return found

    for name, choices in _CHOICES.items():
        check(value(name) in choices, name, "one of " + ", ".join(map(str, choices)))
    for name, (low, high) in _RANGES.items():
        check(low < value(name) < high, name, "a positive number")
    for name in _SHARES:
        check(0 <= value(name) <= 1, name, "a number from 0 to 1")
    check(config.ema < 1, "ema", "a number from 0 to below 1")
    for name, least in _COUNTS.items():
        check(value(name) is None or value(name) >= least, name, f"a whole number from {least}")
    for name, low in (("mean", -math.inf), ("std", 0)):
        numbers = value(name)
        check(len(numbers) == 3 and all(low < v < math.inf for v in numbers), name, "a number per channel")
    sides = config.input_size
    # One pixel more is what networks that pad nothing at their start need.
    usable = len(sides) == 2 and all(v > 1 and v % 4 in (0, 1) for v in sides)
    check(usable, "input_size", "[height, width], multiples of 4 or one more")
    if config.task == "bottomup":
        square = sides[0] == sides[1] and sides[0] % 32 == 0
        check(square, "input_size", "a square of a multiple of 32 for a bottom-up network")
        check(config.coordinates == "legacy", "coordinates", "legacy for a bottom-up network")
        check(config.distill.method is None, "distill.method", "none for a bottom-up network")
        check(not config.data.device, "data.device", "false for a bottom-up network")
    if config.data.people != "lsp" and config.task == "topdown":
        for part in ("train", "validation"):
            for kind in ("annotations", "images"):
                check(value(f"data.{part}_{kind}") is not None, f"data.{part}_{kind}", "a path")
    if config.distill.method == "fpd":
        known = config.distill.teacher_config is not None
        check(known, "distill.teacher_config", "the teacher's configuration, which says what network it is")
    given = config.distill.student_config is not None and config.weights is not None
    check(not given, "weights", "these or distill.student_config, not both")
    if config.model == "mobilepose" and config.options.get("head") != "heatmap":
        for name, plain in (("distill.method", None), ("losses.hard_joints", 0)):
            check(
                value(name) == plain, name, f"{plain} for a network of coordinates, or options.head heatmap"
            )
        beta = math.log((sides[0] // 4) * (sides[1] // 4))  # which makes the network's own softmax again
        check(
            config.decoder.name != "soft_argmax" or abs(config.decoder.beta - beta) < 1e-3,
            "decoder.beta",
            f"{beta:.9f} for a network of coordinates: the logarithm of the pixels of a heatmap",
        )
    check(
        (config.distill.method == "okdhp") == (config.model == "okdhp"),
        "distill.method",
        "okdhp for the network okdhp, and for no other",
    )
    if config.losses.hard_joints:
        plain = config.distill.method is None and config.task == "topdown"
        check(plain, "losses.hard_joints", "0 for distillation and bottom-up networks")
    if config.data.unlabelled is not None:
        check(
            config.distill.method == "fpd", "data.unlabelled", "none without a teacher (distill.method: fpd)"
        )
    unknown = sorted(set(config.grouping) - {entry.name for entry in fields(Grouping)})
    check(not unknown, "grouping", "fields of edgepose.spec.Grouping alone")
    for name in (
        "losses.heatmap", "losses.push", "losses.pull", "distill.kd_weight", "distill.ensemble_weight"
    ):  # fmt: skip
        check(0 <= value(name) < math.inf, name, "a number from 0")
    zoom = config.augment.zoom
    check(len(zoom) == 2 and 0 < zoom[0] <= zoom[1] < math.inf, "augment.zoom", "[smallest, largest]")
    grids = config.data.mosaics
    shares = all(0 <= v <= 1 for v in grids) and abs(sum(grids) - 1) < 1e-6
    check(not grids or shares, "data.mosaics", "shares that sum up to 1")
    if grids:
        check(config.task == "bottomup", "data.mosaics", "none for a top-down network")
    steps = config.optimizer.milestones
    check(all(v > 0 for v in steps), "optimizer.milestones", "numbers of epochs from 1")
    joints = len(SKELETONS[config.skeleton])
    given = config.options.setdefault("joints", joints)
    if given != joints:
        raise InvalidInputError(
            f"configuration {path}: options.joints does not fit the skeleton; found {given}, "
            f"{config.skeleton} has {joints}; leave it out"
        )

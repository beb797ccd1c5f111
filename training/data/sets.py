"""The data that a configuration asks for."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from PIL import Image

from edgepose.errors import InvalidInputError
from edgepose.evaluation.coco import PictureSet, read_annotations
from edgepose.evaluation.lsp import load_lsp
from edgepose.evaluation.mpii import load_mpii
from edgepose.evaluation.people import People, Pictures
from edgepose.evaluation.scorers import (
    CocoScorer,
    LspScorer,
    MpiiScorer,
    Scorer,
    countable,
    score_coco,
    score_mpii,
)
from edgepose.pipeline.geometry import picture_box
from edgepose.skeleton import SKELETONS, Skeleton
from edgepose.sources import IMAGE_SUFFIXES
from training.config import TrainConfig
from training.data.lspet import load_lspet, lspet_count
from training.data.mosaics import Layout, Mosaic, Mosaics
from training.evaluate_mosaics import held_out_mosaics

__all__ = ["load_mosaics", "load_people", "load_pictures", "load_test", "load_unlabelled"]


def load_people(config: TrainConfig) -> tuple[People, Scorer]:
    """The people to train on, and those to choose the best checkpoint by: ``data.people`` says of which set.

    Leeds Sports Pose holds out the last people of its extension; MPII and COCO have an annotation file
    for each part. On MPII without an evaluation file beside the annotations head sizes are taken from
    the joints (`HeadTruth.of_people`); on COCO the boxes are the annotated ones. ``data.unlabelled``
    adds people without labelled joints. ``data.limit`` cuts what is trained on, and each of the two.

    Raises:
        InvalidInputError: a data set is missing, not in its format, or does not fit the configuration.
    """
    kind = config.data.people
    if kind == "lsp":
        people, held_out = _train_on_lsp(config)
        scorer: Scorer = LspScorer(held_out)
    elif kind == "mpii":
        people, _ = load_mpii(*_paths(config, "train"), config.padding)
        scorer = _score_mpii(config, head_boxes=False)
    else:
        people = load_pictures(config, "train").people(config.padding).people
        scorer = _score_coco(config, None)
    _check_skeleton(config, people.skeleton, "train")
    if not len(people):
        raise InvalidInputError(
            f"nothing to train on; found no person with labelled joints in {config.data.train_annotations}; "
            "give another file"
        )
    people = people[: config.data.limit]
    if config.data.unlabelled is not None:
        folder = Path(config.data.root) / config.data.unlabelled
        people = people + load_unlabelled(folder, people.skeleton)[: config.data.limit]
    return people, scorer


def load_test(config: TrainConfig) -> Scorer:
    """The people that a trained network is measured on.

    Leeds Sports Pose: its 1,000 test pictures; MPII and COCO: the validation part, on COCO in the boxes
    of ``data.detections`` where they are given.

    Raises:
        InvalidInputError: as in `load_people`; on MPII also where there is no evaluation file.
    """
    root, kind = Path(config.data.root), config.data.people
    if kind == "mpii":
        scorer: Scorer = _score_mpii(config, head_boxes=True)
    elif kind == "coco":
        detections = config.data.detections
        scorer = _score_coco(config, None if detections is None else root / detections)
    else:
        scorer = LspScorer(load_lsp(root / "lsp", 1001, 2000))
    _check_skeleton(config, scorer.people.skeleton, "score")
    return scorer


def load_unlabelled(folder: Path, skeleton: Skeleton) -> People:
    """Pictures without annotations, in the order of their names, as people of no labelled joint.

    The region is the whole picture. Only the headers are read here.

    Raises:
        InvalidInputError: there is no such folder, no picture in it, or one that is damaged.
    """
    if not folder.is_dir():
        raise InvalidInputError(f"no unlabelled pictures; found no folder {folder}; set data.unlabelled")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise InvalidInputError(
            f"no unlabelled pictures; found none in {folder}; give the folder that holds them"
        )
    boxes = []
    for path in paths:
        try:
            with Image.open(path) as image:
                boxes.append(picture_box(image.height, image.width))
        except OSError as error:
            raise InvalidInputError(f"cannot read picture {path}; {error}; remove it") from error
    count = len(skeleton)
    return People(
        skeleton=skeleton,
        images=Pictures(paths),
        joints=np.zeros((len(paths), count, 2), np.float32),
        visible=np.zeros((len(paths), count), np.float32),
        boxes=np.stack(boxes),
    )


def load_mosaics(config: TrainConfig) -> tuple[Mosaics, list[Mosaic]]:
    """Mosaics of Leeds Sports Pose to train on, and those of the people held out, 2 x 2."""
    people, held_out = _train_on_lsp(config)
    _check_skeleton(config, people.skeleton, "train")
    augment = config.augment
    layout = Layout(
        tuple(config.data.mosaics), rotation=augment.rotation, flip=augment.flip, color=augment.color
    )
    mosaics = Mosaics(people[: config.data.limit], config.input_size[0], layout, config.seed)
    return mosaics, held_out_mosaics(held_out, max(len(held_out) // 4, 1), size=config.input_size[0])


def load_pictures(config: TrainConfig, part: str) -> PictureSet:
    """The pictures in COCO's format, ``train`` or ``validation``, mapped to the configured skeleton."""
    skeleton = SKELETONS[config.data.skeleton or config.skeleton]
    pictures = read_annotations(*_paths(config, part), skeleton, config.data.ids or None)
    return pictures.mapped(SKELETONS[config.skeleton])


def _paths(config: TrainConfig, part: str) -> tuple[Path, Path]:
    """Annotation file and folder of pictures of a part."""
    paths = getattr(config.data, f"{part}_annotations"), getattr(config.data, f"{part}_images")
    if None in paths:
        raise InvalidInputError(
            f"no {part} pictures; found data.{part}_annotations {paths[0]} and data.{part}_images "
            f"{paths[1]}; give a file and a folder, from data.root on"
        )
    root = Path(config.data.root)
    return root / paths[0], root / paths[1]


def _check_skeleton(config: TrainConfig, skeleton: Skeleton, what: str) -> None:
    if config.skeleton != skeleton.name:
        names = {"lsp": "Leeds Sports Pose", "mpii": "MPII"}
        raise InvalidInputError(
            f"cannot {what} {config.skeleton} on {names[config.data.people]}; its people have "
            f"{skeleton.name}; set skeleton: {skeleton.name}"
        )


def _train_on_lsp(config: TrainConfig) -> tuple[People, People]:
    """The people of Leeds Sports Pose to train on, and those held out."""
    data = config.data
    return _lsp_people(Path(data.root), data.lsp, data.lspet, data.validation)


@functools.lru_cache(maxsize=1)
def _lsp_people(root: Path, lsp: bool, lspet: bool, validation: int) -> tuple[People, People]:
    """Kept for the next stage or training of the process; reading takes half a minute."""
    split = lspet_count(root / "lspet") - validation
    parts = []
    if lsp:
        parts.append(load_lsp(root / "lsp"))
    if lspet:
        parts.append(load_lspet(root / "lspet", last=split))
    if not parts:
        raise InvalidInputError("nothing to train on; found lsp and lspet both off; switch one on")
    people = parts[0] if len(parts) == 1 else parts[0] + parts[1]
    held_out = load_lspet(root / "lspet", first=split + 1)
    if not countable(held_out).any(0).all():
        raise InvalidInputError(
            f"cannot choose a checkpoint by {len(held_out)} people held out; a joint is never labelled "
            "among them; raise data.validation"
        )
    return people, held_out


def _score_mpii(config: TrainConfig, *, head_boxes: bool) -> MpiiScorer:
    """The validation part of MPII; `head_boxes` must be there."""
    return score_mpii(*_paths(config, "validation"), config.padding, head_boxes=head_boxes)


def _score_coco(config: TrainConfig, detections: Path | None) -> CocoScorer:
    """The validation pictures, in annotated boxes or in those of a detector."""
    size = config.input_size[0], config.input_size[1]
    return score_coco(load_pictures(config, "validation"), size, config.padding, detections)

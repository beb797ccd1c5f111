"""Accuracy of a bottom-up model on mosaics of people whose pictures it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from edgepose import Estimator, PoseResult
from edgepose.evaluation.ap import oks_ap
from edgepose.evaluation.metrics import lsp_torso, pck, pck_table
from edgepose.evaluation.people import People
from edgepose.oks import most_similar_pairs, oks
from edgepose.pipeline.poses import Poses
from edgepose.skeleton import Skeleton
from training.data.mosaics import Layout, Mosaic, Mosaics

__all__ = ["found_people", "held_out_mosaics", "measure_mosaics", "mosaic_figures"]


def held_out_mosaics(people: People, count: int = 200, side: int = 2, size: int = 512) -> list[Mosaic]:
    """The same mosaics for everyone: `side` x `side` equal cells, people upright, not mirrored.

    Args:
        people: of test pictures.
        count: number of mosaics.
        side: cells along each side.
        size: side of a mosaic in pixels.
    """
    grids = (*(0.0,) * (side - 1), 1.0)
    layout = Layout(grids, split=0, context=(1.25, 1.25), rotation=0, flip=0, color=0)
    mosaics = Mosaics(people, size, layout)
    return [mosaics.draw(index) for index in range(count)]


def found_people(mosaic: Mosaic, found: Poses | PoseResult, skeleton: Skeleton) -> NDArray[np.float32]:
    """For each person of a mosaic the joints (p, k, 2) found for it, NaN where there are none.

    Persons found are handed out by falling similarity, each once, as long as it is at least 0.1.
    """
    areas = np.prod(mosaic.boxes[:, 2:] - mosaic.boxes[:, :2], axis=1)
    matched = np.full(mosaic.joints.shape, np.nan, np.float32)
    truth = np.where(mosaic.visible[..., None] > 0, mosaic.joints, np.nan)
    similarity = np.zeros((len(truth), len(found)))
    if len(found):
        for i, joints in enumerate(truth):
            repeated = np.repeat(areas[i], len(found))
            similarity[i] = oks(joints, found.keypoints, areas[i], repeated, skeleton.sigmas)
    for i, j in most_similar_pairs(similarity, 0.1):
        matched[i] = found.keypoints[j]
    return matched


def mosaic_figures(
    mosaics: Sequence[Mosaic], found: Sequence[Poses | PoseResult], skeleton: Skeleton
) -> dict[str, float]:
    """Score the persons found in mosaics of LSP people, those of one mosaic after the other.

    Returns:
        AP, AP50, AP75 and AR by object keypoint similarity (0 to 1, areas 0.53 of the cells), the mean
        number of ``persons`` found a mosaic, and PCK@0.2 (percent; people not found are wrong) by joint,
        as ``pck_ankle`` ... ``pck_mean``.
    """
    truth = [(mosaic.joints, mosaic.visible, mosaic.boxes) for mosaic in mosaics]
    figures = oks_ap(truth, found, skeleton)
    kept = {name: figures[name] for name in ("AP", "AP50", "AP75", "AR")}
    joints = np.concatenate([mosaic.joints for mosaic in mosaics])
    counted = np.concatenate([mosaic.visible for mosaic in mosaics]) > 0
    torso = [skeleton.index(name) for name in ("left_shoulder", "right_hip")]
    counted &= counted[:, torso].all(1, keepdims=True)
    matched = np.concatenate([found_people(m, f, skeleton) for m, f in zip(mosaics, found, strict=True)])
    table = pck_table(pck(matched, joints, lsp_torso(joints), counted=counted), skeleton)
    persons = float(np.mean([len(poses) for poses in found]))
    return {**kept, "persons": persons, **{f"pck_{name}": value for name, value in table.items()}}


def measure_mosaics(model: Path | Estimator, mosaics: Sequence[Mosaic]) -> dict[str, float]:
    """Run a model file on mosaics of LSP people; see `mosaic_figures`."""
    estimator = model if isinstance(model, Estimator) else Estimator(model)
    try:
        results = [estimator(mosaic.image) for mosaic in tqdm(mosaics, leave=False)]
    finally:
        if estimator is not model:
            estimator.close()
    return mosaic_figures(mosaics, results, results[0].skeleton)

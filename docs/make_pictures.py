"""Make the pictures of the README and the site from the packaged photo and models: for ``make readme``."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

import edgepose
from edgepose.samples import PERSON, PERSON_BOXES

IMAGES = Path(__file__).resolve().parent / "images"
Picture = NDArray[np.uint8]


def main() -> None:
    """Write every picture."""
    IMAGES.mkdir(exist_ok=True)
    for name, picture in pictures().items():
        cv2.imwrite(str(IMAGES / name), picture, [cv2.IMWRITE_JPEG_QUALITY, 88])


def pictures() -> dict[str, Picture]:
    """All pictures, by file name."""
    photo = edgepose.read_image(PERSON)
    boxes = json.loads(PERSON_BOXES.read_text())
    with edgepose.Estimator() as estimator:
        result = estimator(photo, boxes=boxes)
        maps, affine = estimator.heatmaps(photo, boxes=boxes)
        crowd, places = several(photo, boxes[0])
        people = edgepose.Tracker(min_hits=1, start_score=0).update(estimator(crowd, boxes=places))
    return {
        PERSON.name: result.draw(photo),
        "ellipses.jpg": result.draw(photo, ellipses=2, boxes=True, scores=True),
        "heatmaps.jpg": edgepose.draw_heatmaps(
            photo, maps, result.skeleton, affine=affine, peak=maps.max(), opacity=1
        ),
        "people.jpg": people.draw(crowd, boxes=True, min_score=0.4),
    }


def several(photo: Picture, box: list[float]) -> tuple[Picture, list[list[float]]]:
    """The photo three times side by side, at other sizes and once mirrored; and the box of each person."""
    height, width = photo.shape[:2]
    canvas = np.full((height * 3 // 4, width * 15 // 8, 3), 225, np.uint8)
    boxes, left = [], 0
    for scale, mirrored in ((0.75, False), (0.5, True), (0.625, False)):
        size = (round(width * scale), round(height * scale))
        part = cv2.resize(photo[:, ::-1] if mirrored else photo, size, interpolation=cv2.INTER_AREA)
        top = canvas.shape[0] - size[1]
        canvas[top:, left : left + size[0]] = part
        first, last = (width - box[2], width - box[0]) if mirrored else (box[0], box[2])
        place = np.array([first, box[1], last, box[3]]) * scale + [left, top, left, top]
        boxes.append(place.tolist())
        left += size[0]
    return canvas, boxes


if __name__ == "__main__":
    main()

"""Run each kernel in CUDA a few times and compare: short enough for compute-sanitizer (``make gpu``)."""

from __future__ import annotations

import numpy as np
from samples import make_maps, picture
from scenes import LAYOUTS, make_scene

from edgepose import kernels

AFFINE = np.array([[[1.3, 0, -5], [0, 1.1, -3]], [[0.7, 0.3, 4], [-0.2, 0.9, 9]]])


def main() -> None:
    """Raise where a result differs from numpy's."""
    device, host = kernels.get("cuda"), kernels.get("numpy")
    for kind in ("peaked", "ties", "holes", "decoy", "infinite"):
        for shape in ((2, 3, 33, 17), (1, 4, 64, 48)):
            for dtype in (np.float32, np.float16):
                with np.errstate(over="ignore"):
                    compare_maps(device, host, make_maps(kind, shape, 1).astype(dtype))
    image = picture(90, 70)
    same(*(each.crop_pixels(image, AFFINE, (64, 48), True) for each in (device, host)))
    options = ((64, 48), (0.4,) * 3, (0.2,) * 3, True)
    close(*(each.crop_normalize(image, AFFINE, *options) for each in (device, host)))
    for name in ("plain", "three scales", "half"):
        for kind in ("people", "ties", "flat", "dense"):
            compare_people(device, host, make_scene(LAYOUTS[name], kind, people=6, seed=2))
    print("every kernel gives what numpy does")  # noqa: T201


def compare_maps(device: kernels.Kernels, host: kernels.Kernels, maps: np.ndarray) -> None:
    """The kernels that read heatmaps."""
    close(*(each.soft_argmax(maps)[0] for each in (device, host)))
    for refine in (None, "quarter", "taylor"):
        found, expected = (each.argmax_offset(maps, refine) for each in (device, host))
        close(found[0], expected[0])
        same(found[1], expected[1])
    same(*(each.flip_average(maps, maps[::-1], [[0, 1]], True) for each in (device, host)))
    points = np.nan_to_num(expected[0]).astype(np.float32)
    same(*(each.quarter_offset(maps, points) for each in (device, host)))


def compare_people(device: kernels.Kernels, host: kernels.Kernels, maps: kernels.PoseMaps) -> None:
    """The kernels of bottom-up networks."""
    found, expected = (each.aggregate_nms_topk(maps, top=12) for each in (device, host))
    for one, other in zip(found, expected, strict=True):
        same(one, other)
    for official in (False, True):
        groups = [each.group(expected, list(range(5)), official=official) for each in (device, host)]
        same(groups[0].persons, groups[1].persons)
    persons = groups[1].persons
    same(*(each.adjust(maps, persons) for each in (device, host)))
    close(*(each.refine(maps, persons) for each in (device, host)))


def same(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(found, expected)


def close(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-5)


if __name__ == "__main__":
    main()

"""Bottom-up scenes of every kind that matters."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgepose.kernels import MapPass, Peaks, PoseMaps

KINDS = ("people", "noise", "ties", "flat", "dense", "holes", "infinite", "huge", "empty")


@dataclass(frozen=True)
class Layout:
    """What a scene's maps look like.

    Attributes:
        size: of the final map.
        maps: (h, w) of the heatmaps of each scale, the scale's last one last.
        tags: of each scale, the indices of the heatmaps at whose size there is a tag map.
        flip: whether there are flipped passes.
        per_joint: whether each joint has its tag.
        half: whether maps are float16.
    """

    size: tuple[int, int]
    maps: tuple[tuple[tuple[int, int], ...], ...]
    tags: tuple[tuple[int, ...], ...]
    flip: bool = True
    per_joint: bool = True
    half: bool = False


PLAIN = Layout((64, 96), (((16, 24), (32, 48)),), ((0,),))
LAYOUTS = {
    "plain": PLAIN,
    "unflipped": replace(PLAIN, flip=False),
    "one level": Layout((48, 40), (((48, 40),),), ((0,),), flip=False),
    "not enlarged": Layout((32, 48), (((16, 24), (32, 48)),), ((0,),)),
    "shared tags": replace(PLAIN, per_joint=False),
    "two tags": Layout((40, 60), (((10, 15), (20, 30)),), ((0, 1),), flip=False),
    "three levels": Layout((61, 83), (((9, 11), (15, 21), (30, 41)),), ((0, 1),)),
    "three scales": Layout(
        (32, 48),
        (((16, 24), (32, 48)), ((8, 12), (16, 24)), ((4, 6), (8, 12))),
        ((), (0,), ()),
    ),
    "shrunk": Layout((20, 18), (((16, 24), (32, 48)), ((8, 12), (16, 24))), ((1,), (0,)), flip=False),
    "half": replace(PLAIN, half=True),
    "tiny": Layout((1, 1), (((1, 1), (2, 1)),), ((0,),)),
    "thin": Layout((1, 70), (((1, 9), (2, 35)),), ((0,),)),
}


def permutation(joints: int) -> NDArray[np.int64]:
    """Joints 1 and 2, 3 and 4, and so on change places."""
    order = np.arange(joints)
    for i in range(1, joints - 1, 2):
        order[i], order[i + 1] = i + 1, i
    return order


def make_scene(
    layout: Layout,
    kind: str = "people",
    people: int = 4,
    joints: int = 5,
    seed: int = 0,
    missing: float = 0.2,
) -> PoseMaps:
    """A scene, the same for the same arguments; flipped passes differ a little from the mirrored ones."""
    rng = np.random.default_rng(seed)
    where = rng.uniform(0, 1, (people, joints, 2))  # (y, x), in shares of the picture
    strength = rng.uniform(0.4, 1, (people, joints)) * (rng.random((people, joints)) >= missing)
    tag_of = np.arange(people) * rng.choice([0.3, 1.0, 2.0]) - people / 2
    order = permutation(joints)

    def spots(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        y, x = ((np.arange(n) + 0.5) / n for n in size)
        far = ((y[:, None] - where[:, :, 0, None, None]) * size[0]) ** 2
        far = far + ((x - where[:, :, 1, None, None]) * size[1]) ** 2
        return far, strength[:, :, None, None] * np.exp(-far / 4.5)

    def heatmap(size: tuple[int, int]) -> np.ndarray:
        shape = (joints, *size)
        noise = rng.standard_normal(shape)
        heat = 0.005 * noise + (spots(size)[1].max(axis=0) if people else 0)
        dots = rng.random(shape)
        values = {
            "people": lambda: heat,
            "noise": lambda: noise,
            "ties": lambda: np.round(heat * 4) / 4,
            "flat": lambda: np.full(shape, 0.25),
            "dense": lambda: 0.5 + 0.4 * noise,
            "holes": lambda: np.where(dots < 0.1, np.nan, np.where(dots < 0.2, -np.inf, heat)),
            "infinite": lambda: np.where(dots < 0.02, np.inf, np.where(dots < 0.05, -np.inf, heat)),
            "huge": lambda: noise * 1e4 if layout.half else noise * 2e38,
            "empty": lambda: -np.abs(noise),
        }[kind]()
        return np.asarray(values)

    def tag_map(size: tuple[int, int]) -> np.ndarray:
        shape = (joints if layout.per_joint else 1, *size)
        tags = 0.1 * rng.standard_normal(shape)
        if people:
            far, _ = spots(size)
            tags = tags + tag_of[far.argmin(axis=0)][: shape[0]]
        if kind in ("ties", "flat"):
            tags = np.round(tags * 2) / 2
        if kind in ("holes", "infinite"):
            dots = rng.random(shape)
            tags = np.where(dots < 0.03, np.nan, np.where(dots < 0.05, np.inf, tags))
        return tags

    def mirrored(values: np.ndarray) -> np.ndarray:
        values = values[..., ::-1]
        return values[order] if len(values) == joints else values

    passes = []
    for sizes, tagged in zip(layout.maps, layout.tags, strict=True):
        for flipped in (False, True) if layout.flip else (False,):
            stacks = [heatmap(size) for size in sizes], [tag_map(sizes[i]) for i in tagged]
            with np.errstate(over="ignore"):
                heatmaps, tags = (
                    tuple(
                        (mirrored(s) if flipped else s).astype(np.float16 if layout.half else np.float32)
                        for s in two
                    )
                    for two in stacks
                )
            passes.append(MapPass(heatmaps, tags, flipped))
    return PoseMaps(tuple(passes), layout.size, order)


def layouts() -> st.SearchStrategy[Layout]:
    """Any layout of small maps that has a tag."""
    side = st.integers(1, 24)
    sizes = st.tuples(side, side)
    levels = st.lists(sizes, min_size=1, max_size=3).map(tuple)

    def build(
        size: tuple[int, int] | None, maps: list[tuple], seed: int, flip: bool, per_joint: bool, half: bool
    ) -> Layout:
        rng = np.random.default_rng(seed)
        tags = [tuple(i for i in range(len(levels)) if rng.random() < 0.4) for levels in maps]
        tags[0] = tags[0] or (0,)
        return Layout(size or maps[0][-1], tuple(maps), tuple(tags), flip, per_joint, half)

    final = st.none() | st.tuples(st.integers(1, 50), st.integers(1, 50))
    each = st.lists(levels, min_size=1, max_size=3)
    flags = st.booleans()
    return st.builds(build, final, each, st.integers(0, 2**32 - 1), flags, flags, flags)


def scenes() -> st.SearchStrategy[PoseMaps]:
    """Any scene of any kind and layout."""
    counts = st.integers(0, 6), st.integers(1, 5), st.integers(0, 2**32 - 1)
    return st.builds(make_scene, layouts(), st.sampled_from(KINDS), *counts)


def make_peaks(
    kind: str, joints: int, top: int, tags: int, people: int, seed: int, count: int | None = None
) -> Peaks:
    """Random peaks, grouped around the tags of so many people: plain, with ties, or with odd numbers."""
    rng = np.random.default_rng(seed)
    values = 0.2 * rng.standard_normal((joints, top, tags))
    values += rng.integers(0, people, (joints, top, 1)) * rng.choice([0.4, 1, 2])
    scores = rng.uniform(0.1, 1, (joints, top))
    if kind == "ties":
        values, scores = np.round(values * 4) / 4, np.round(scores * 8) / 8
    if kind == "odd":
        dots = rng.random(values.shape)
        values = np.where(
            dots < 0.1, np.nan, np.where(dots < 0.15, np.inf, np.where(dots < 0.2, 1e30, values))
        )
        odd_scores = rng.choice([np.nan, np.inf, -np.inf, 1e30, -1e30, 2.0**23, -5.0], scores.shape)
        scores = np.where(rng.random(scores.shape) < 0.3, odd_scores, scores)
    counts = rng.integers(0, top + 1, joints) if count is None else np.full(joints, count)
    return Peaks(
        rng.integers(0, 1000, (joints, top, 2)).astype(np.int32),
        np.sort(scores.astype(np.float32))[:, ::-1].copy(),
        values.astype(np.float32),
        counts.astype(np.int32),
    )


def all_peaks() -> st.SearchStrategy[Peaks]:
    """Any peaks."""
    numbers = st.integers(1, 6), st.integers(1, 9), st.integers(1, 3), st.integers(1, 8)
    return st.builds(
        make_peaks, st.sampled_from(["plain", "ties", "odd"]), *numbers, st.integers(0, 2**32 - 1)
    )

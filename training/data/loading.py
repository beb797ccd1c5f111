"""Batches of examples that depend on the epoch, from processes that outlive it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import cv2
from torch.utils.data import DataLoader, Dataset, DistributedSampler

__all__ = ["EpochSampler", "Examples", "make_loader", "single_thread"]


class Examples(Protocol):
    """A data set whose items depend on the epoch."""

    epoch: int

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...

    def batch(self, indices: Sequence[int]) -> dict[str, Any]:
        """Several items, stacked."""


class EpochSampler(DistributedSampler[tuple[int, int]]):
    """Places (epoch, index): worker processes that live on learn of the epoch with each batch."""

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter([(self.epoch, int(index)) for index in super().__iter__()])  # type: ignore[call-overload]


class _AtEpoch(Dataset[Any]):
    """Whole batches of examples by their places."""

    def __init__(self, examples: Examples) -> None:
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    def __getitems__(self, places: list[tuple[int, int]]) -> dict[str, Any]:
        self._examples.epoch = places[0][0]
        return self._examples.batch([index for _, index in places])


def make_loader(
    examples: Examples,
    batch_size: int,
    *,
    seed: int,
    workers: int = 0,
    processes: int = 1,
    rank: int = 0,
    pin_memory: bool = False,
) -> tuple[DataLoader[Any], EpochSampler]:
    """Full batches in an order that the seed and the sampler's epoch decide.

    Args:
        workers: processes that make batches ahead, from the first epoch to the last; 0: none.
        processes, rank: training processes, which share the examples of an epoch, and the number of this one.
        pin_memory: batches from which copies to a GPU need not be waited for.
    """
    placed = _AtEpoch(examples)
    sampler = EpochSampler(placed, processes, rank, seed=seed, drop_last=processes > 1)
    loader = DataLoader(
        placed,
        batch_size,
        sampler=sampler,
        num_workers=workers,
        worker_init_fn=single_thread,
        collate_fn=_whole,
        drop_last=True,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
    )
    return loader, sampler


def _whole(batch: dict[str, Any]) -> dict[str, Any]:
    """The examples are stacked already."""
    return batch


def single_thread(_: int) -> None:
    """Workers are as many as there are cores to use; OpenCV's own threads do not survive a fork."""
    cv2.setNumThreads(0)

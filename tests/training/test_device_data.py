"""Pictures on the device: the views, crops and colours of those that are cut out one by one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from edgepose.errors import InvalidInputError
from edgepose.evaluation.people import People, Pictures
from edgepose.skeleton import lsp14
from training.config import load_config
from training.data import device as device_data
from training.data.crops import Crops, Views
from training.data.device import DevicePictures
from training.data.loading import make_loader
from training.data.transforms import Augmentation
from training.loop import train

CPU = torch.device("cpu")
STRONG = Augmentation(
    rotation=60, rotation_probability=0.8, scale=0.4, translation=0.3, color=0.4, half_body=0.3
)
Write = Callable[..., Path]
MOST = 3 if int(cv2.__version__.split(".")[0]) >= 5 else 16
"""Grey levels between two ways to interpolate; older OpenCV rounds places to a 32nd of a pixel."""


def draw_picture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A picture as sharp as a camera's: blurred noise over all grey levels, with filled circles."""
    image = cv2.GaussianBlur(rng.integers(0, 256, (height, width, 3)).astype(np.float32), (0, 0), 1.5)
    image = np.clip((image - image.min()) * (255 / np.ptp(image)), 0, 255).astype(np.uint8)
    for _ in range(6):
        center = rng.integers(0, [width, height]).tolist()
        cv2.circle(image, center, int(rng.integers(4, 20)), rng.integers(0, 256, 3).tolist(), -1, cv2.LINE_AA)
    return image


@pytest.fixture(scope="module")
def people() -> People:
    """Twenty people in pictures of different sizes, some of whose regions lie partly outside."""
    rng = np.random.default_rng(4)
    sizes = rng.integers(40, 200, (20, 2))
    sizes[0] = 1, 1
    sizes[1] = 1, 90
    joints = (rng.uniform(-0.1, 1.1, (20, 14, 2)) * sizes[:, None, ::-1]).astype(np.float32)
    visible = (rng.random((20, 14)) < 0.8).astype(np.float32)
    boxes = np.concatenate([joints.min(1), joints.max(1)], 1)
    return People(lsp14, [draw_picture(rng, *size) for size in sizes.tolist()], joints, visible, boxes)


def both(people: People, size: tuple[int, int], **options: Any) -> tuple[Crops, Views, DevicePictures]:
    options = {"coordinates": "udp", "augmentation": STRONG, "seed": 7, **options}
    heatmap = (size[0] // 4, size[1] // 4)
    crops, views = (kind(people, size, heatmap, **options) for kind in (Crops, Views))
    return crops, views, DevicePictures(people.images, CPU)


def cut(pictures: DevicePictures, batch: dict[str, Tensor], size: tuple[int, int]) -> np.ndarray:
    return pictures.crops(batch["index"], batch["matrix"], size, batch.get("gain")).numpy()


def differences(a: Any, b: Any) -> np.ndarray:
    return np.abs(np.asarray(a, int) - np.asarray(b, int))


@pytest.mark.parametrize("coordinates", ["udp", "legacy"])
@pytest.mark.parametrize("size", [(64, 48), (128, 128)])
@pytest.mark.parametrize("color", [0.0, 0.4])
def test_crops_equal_those_of_opencv(
    people: People, coordinates: str, size: tuple[int, int], color: float
) -> None:
    augmentation = Augmentation(**{**vars(STRONG), "color": color})
    crops, views, pictures = both(people, size, coordinates=coordinates, augmentation=augmentation)
    black = 0
    for epoch in range(3):
        crops.epoch = views.epoch = epoch
        expected, batch = crops.batch(range(20)), views.batch(range(20))
        found = cut(pictures, batch, size)
        assert found.dtype == np.uint8
        off = differences(found, expected["image"])
        assert off.max() <= MOST
        assert off.mean() < 0.5
        black += int((found == 0).all(-1).sum())
        for name in ("joints", "weights", "labelled"):
            np.testing.assert_array_equal(batch[name], expected[name])
    assert black > 0.02 * 3 * 20 * size[0] * size[1]  # views reached beyond the pictures


def test_colours_equal_the_table() -> None:
    """Where nothing is interpolated, crops are exactly those of the host, whatever their colours."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (48, 48, 3), np.uint8) for _ in range(6)]
    whole = np.float32([[0, 0, 47, 47]] * 6)
    people = People(lsp14, images, np.zeros((6, 14, 2), np.float32), np.ones((6, 14), np.float32), whole)
    crops, views, pictures = both(people, (48, 48), augmentation=Augmentation(0, 0, 0, 0, 0, color=0.9))
    expected, batch = crops.batch(range(6)), views.batch(range(6))
    assert float(batch["gain"].max()) > 1.5
    np.testing.assert_array_equal(cut(pictures, batch, (48, 48)), expected["image"])


def test_edges_fade_to_black() -> None:
    """A view half a pixel out of a white picture is half grey there, and black a pixel out."""
    pictures = DevicePictures([np.full((4, 5, 3), 200, np.uint8)], CPU)
    shift = torch.tensor([[[1.0, 0, -1.5], [0, 1.0, 0]]])
    found = pictures.crops(torch.tensor([0]), shift, (5, 8))[0, :, :, 0]
    np.testing.assert_array_equal(found[0], [0, 100, 200, 200, 200, 200, 100, 0])
    np.testing.assert_array_equal(found[:, 3], [200] * 4 + [0])


def test_batches_are_the_items(people: People) -> None:
    crops, views, _ = both(people, (64, 48))
    order = [7, 0, 19, 7]
    for examples in (crops, views):
        batch = examples.batch(order)
        for row, index in enumerate(order):
            item = examples[index]
            assert sorted(item) == sorted(batch)
            for name, values in item.items():
                np.testing.assert_array_equal(values, batch[name][row])
    crops.batch(order)["weights"].zero_()
    assert people.visible.any()


def test_pictures_are_kept_once(people: People, tmp_path: Path) -> None:
    """The same array or file of several people; files and arrays together."""
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), people.images[5])
    images = Pictures([people.images[2], path, people.images[2], path, people.images[3]])
    pictures = DevicePictures(images, CPU)
    assert pictures.nbytes == sum(people.images[i].nbytes for i in (2, 3, 5))
    place = torch.eye(2, 3)[None].expand(5, 2, 3)
    found = pictures.crops(torch.arange(5), place, (30, 30)).numpy()
    for row, index in enumerate((2, 5, 2, 5, 3)):
        np.testing.assert_array_equal(found[row], people.images[index][:30, :30])


def test_pictures_that_do_not_fit_are_refused(
    people: People, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = sum(image.nbytes for image in people.images)
    DevicePictures(people.images, CPU, room=needed)
    with pytest.raises(InvalidInputError, match=f"found {needed} bytes in 20 of 20 pictures.*data.device"):
        DevicePictures(people.images, CPU, room=needed - 1)

    paths = [tmp_path / f"{i}.png" for i in range(6)]
    for path in paths:
        cv2.imwrite(str(path), np.zeros((10, 10, 3), np.uint8))
    monkeypatch.setattr(device_data, "BLOCK", 2)
    with pytest.raises(InvalidInputError, match="found 1200 bytes in 4 of 6 pictures, and room for 900"):
        DevicePictures(Pictures(paths), CPU, room=900)
    monkeypatch.setattr(device_data, "_free", lambda device: 2400)
    DevicePictures(Pictures(paths), CPU)  # three quarters of what is free
    monkeypatch.setattr(device_data, "_free", lambda device: 2399)
    with pytest.raises(InvalidInputError, match="found 1800 bytes in 6 of 6 pictures, and room for 1799"):
        DevicePictures(Pictures(paths), CPU)
    paths[3].write_bytes(b"no picture")
    with pytest.raises(InvalidInputError, match="damaged file"):
        DevicePictures(Pictures(paths), CPU)


def test_training_sees_the_same(write_config: Write) -> None:
    """Losses with pictures on the device are those of crops from the host, and so with workers."""
    losses = []
    for name, data in (
        ("host", {}),
        ("device", {"device": True}),
        ("workers", {"device": True, "workers": 2}),
    ):
        augment = {"rotation": 30, "color": 0.2, "translation": 0.1, "half_body": 0.3}
        config = load_config(write_config(name=name, epochs=3, data=data, augment=augment))
        losses.append(train(config)["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=5e-3)
    assert losses[2] == pytest.approx(losses[1], abs=1e-7)


def test_it_is_not_part_of_what_a_run_is(write_config: Write) -> None:
    """A run may go on with the pictures elsewhere, on another machine for instance."""
    line = train(load_config(write_config(epochs=1)))
    path = write_config(epochs=1, data={"device": True})
    assert train(load_config(path), resume=True) == line  # accepted, and nothing left to do
    with pytest.raises(InvalidInputError, match=r"data\.device is not usable; found True; give false"):
        load_config(path, ["task=bottomup", "coordinates=legacy"])


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_outlive_epochs_and_know_them(people: People, workers: int) -> None:
    """Batches of each epoch are those of a data set in that epoch, in the order of its sampler."""
    _, views, _ = both(people, (64, 48))
    loader, sampler = make_loader(views, 5, seed=3, workers=workers)
    _, expected, _ = both(people, (64, 48))
    processes = set()
    for epoch in (0, 1, 4):
        sampler.set_epoch(epoch)
        expected.epoch = epoch
        seen = []
        for batch in loader:
            order = batch["index"].tolist()
            seen += order
            for name, values in expected.batch(order).items():
                np.testing.assert_array_equal(batch[name], values)
        assert sorted(seen) == list(range(20))
        assert seen == [index for _, index in sampler]
        if workers:
            processes.add(tuple(worker.pid for worker in loader._iterator._workers))  # type: ignore[union-attr]
    assert len(processes) == (1 if workers else 0)

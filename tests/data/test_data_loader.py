"""The loader: orders, threads, exceptions, memory."""

from __future__ import annotations

import gc
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gpucnn.data import (
    ArrayDataset,
    Compose,
    DataLoader,
    Normalize,
    RandomCrop,
    RandomHorizontalFlip,
    load,
)


def numbered(count: int = 23) -> ArrayDataset:
    """Item i holds i in every pixel and has label i."""
    images = np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(3, 1)
    return ArrayDataset(images.repeat(4, 2).repeat(4, 3), np.arange(count), maximum=1)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "gpucnn-data"]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    gc.collect()
    assert threads() == []


def labels(loader: DataLoader, epoch: int = 0) -> list[list[int]]:
    return [batch.tolist() for _, batch in loader.arrays(epoch)]


@pytest.mark.parametrize("prefetch", [0, 1, 2, 100])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("batch_size", [1, 5, 23, 40])
def test_order_and_lengths(prefetch: int, drop_last: bool, batch_size: int) -> None:
    loader = DataLoader(numbered(), batch_size, drop_last=drop_last, prefetch=prefetch)
    batches = list(loader.arrays(0))
    whole = 23 // batch_size
    sizes = [batch_size] * whole + [23 % batch_size] * (23 % batch_size > 0 and not drop_last)
    assert [len(b) for _, b in batches] == sizes
    assert len(loader) == len(sizes)
    assert [v for _, b in batches for v in b.tolist()] == list(range(sum(sizes)))
    for images, batch in batches:
        assert images.dtype == np.float32 and batch.dtype == np.int64
        assert images.shape == (len(batch), 3, 4, 4) and images.flags.c_contiguous
        np.testing.assert_array_equal(images[:, 2, 3, 3], batch)


def test_shuffle_depends_on_seed_and_epoch_alone() -> None:
    loader = DataLoader(numbered(), 5, shuffle=True, seed=1)
    first, second = labels(loader, 0), labels(loader, 1)
    assert sorted(sum(first, [])) == list(range(23))
    assert first != second
    assert labels(loader, 0) == first
    assert labels(DataLoader(numbered(), 5, shuffle=True, seed=1, prefetch=0), 1) == second
    assert labels(DataLoader(numbered(), 5, shuffle=True, seed=2), 0) != first
    other = DataLoader(numbered(), 23, shuffle=True, seed=1)
    assert sum(labels(other, 1), []) == sum(second, [])


def test_transforms_depend_on_seed_epoch_and_batch_alone() -> None:
    data = load("digits").train
    transform = Compose([RandomCrop(8, 1), RandomHorizontalFlip(), Normalize(data.mean, data.std)])

    def run(epoch: int, **options: Any) -> list[NDArray[np.float32]]:
        loader = DataLoader(data, 100, shuffle=True, transform=transform, **options)
        return [images for images, _ in loader.arrays(epoch)]

    reference = run(3, seed=4)
    for depth in (0, 1, 7):
        for a, b in zip(reference, run(3, seed=4, prefetch=depth), strict=True):
            np.testing.assert_array_equal(a, b)
    assert not np.array_equal(reference[0], run(4, seed=4)[0])
    assert not np.array_equal(reference[0], run(3, seed=5)[0])


def test_values() -> None:
    data = load("digits").train
    images, _ = next(iter(DataLoader(data, 10, prefetch=0).arrays(0)))
    np.testing.assert_array_equal(images, data.images[:10].astype(np.float32) / 16)
    transform = Normalize(data.mean, data.std)
    images, _ = next(iter(DataLoader(data, 10, transform=transform, prefetch=0).arrays(0)))
    expected = (data.images[:10] / 16 - data.mean[0]) / data.std[0]
    np.testing.assert_allclose(images, expected, atol=1e-6)


def test_batches_own_their_memory() -> None:
    """A batch that the user keeps or changes is neither overwritten nor anybody else's."""
    for dtype in (np.uint8, np.float32):
        data = numbered()
        data.images = data.images.astype(dtype)
        loader = DataLoader(data, 5, prefetch=1)
        kept = list(loader.arrays(0))
        for images, batch in kept:
            images += 100
            batch += 100
        assert [v for _, b in kept for v in b.tolist()] == list(range(100, 123))
        assert data.images.max() == 22 and data.labels.max() == 22
        assert sum(labels(loader), []) == list(range(23))


def test_plain_datasets() -> None:
    class Squares:
        def __len__(self) -> int:
            return 7

        def __getitem__(self, index: int) -> tuple[NDArray[np.float64], int]:
            return np.full((1, 2, 2), index**2, np.float64), index

    loader = DataLoader(Squares(), 3, shuffle=True, seed=2)
    for images, batch in loader.arrays(0):
        assert images.dtype == np.float32
        np.testing.assert_array_equal(images[:, 0, 0, 0], batch**2)
    assert sorted(sum(labels(loader), [])) == list(range(7))


def test_empty_dataset() -> None:
    loader = DataLoader(numbered(5)[:0], 4, shuffle=True)
    assert len(loader) == 0 and list(loader.arrays(0)) == []


def test_prefetch_stays_ahead_and_bounded() -> None:
    made: list[int] = []

    def count(images: NDArray[Any], generator: np.random.Generator) -> NDArray[Any]:
        made.append(len(made))
        return images

    batches = DataLoader(numbered(), 1, transform=count, prefetch=3).arrays(0)
    assert made == [] and threads() == []
    next(batches)
    deadline = time.monotonic() + 5
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.05)
    assert len(made) == 4
    assert len(threads()) == 1
    batches.close()


def test_leaving_early() -> None:
    loader = DataLoader(numbered(), 1, prefetch=2)
    for _ in loader.arrays(0):
        break
    gc.collect()
    assert threads() == []
    iterator = loader.arrays(0)
    next(iterator)
    del iterator
    gc.collect()
    assert threads() == []
    with pytest.raises(RuntimeError, match="mine"):
        for _ in loader.arrays(0):
            raise RuntimeError("mine")
    gc.collect()
    assert threads() == []


def test_two_iterations_at_once() -> None:
    loader = DataLoader(numbered(), 4, shuffle=True)
    for (a, _), (b, _) in zip(loader.arrays(0), loader.arrays(0), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("prefetch", [0, 2])
def test_exceptions_come_through(prefetch: int) -> None:
    def culprit(images: NDArray[Any], generator: np.random.Generator) -> NDArray[Any]:
        if images[0, 0, 0, 0] == 10:
            raise KeyError("broken transform")
        return images

    loader = DataLoader(numbered(), 5, transform=culprit, prefetch=prefetch)
    seen = []
    with pytest.raises(KeyError, match="broken transform") as caught:
        for _, batch in loader.arrays(0):
            seen.append(batch[0])
    assert seen == [0, 5]
    assert "culprit" in "".join(traceback.format_tb(caught.value.__traceback__))
    assert threads() == []


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(batch_size=0), ValueError, "batch_size must be at least 1, got 0"),
        (dict(batch_size=2.0), TypeError, "batch_size must be an integer, got 2.0"),
        (dict(batch_size=True), TypeError, "batch_size must be an integer, got True"),
        (dict(seed=-1), ValueError, "seed must be at least 0, got -1"),
        (dict(prefetch=-1), ValueError, "prefetch must be at least 0, got -1"),
        (dict(transform=3), TypeError, "transform must be a function, got 3"),
    ],
)
def test_errors(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"DataLoader: {message}"):
        DataLoader(numbered(), **arguments)


def test_tensors_and_epochs() -> None:
    import gpucnn

    loader = DataLoader(numbered(), 10, shuffle=True, seed=3, device="cpu")
    orders = []
    for epoch in range(2):
        assert loader.epoch == epoch
        seen: list[int] = []
        for images, batch in loader:
            assert isinstance(images, gpucnn.Tensor) and isinstance(batch, gpucnn.Tensor)
            assert str(images.device) == "cpu" and str(batch.device) == "cpu"
            assert images.dtype == np.float32 and batch.dtype == np.int64
            np.testing.assert_array_equal(images.numpy()[:, 0, 0, 0], batch.numpy())
            seen += batch.tolist()
        orders.append(seen)
    assert orders[0] != orders[1]
    loader.set_epoch(1)
    assert [v for _, batch in loader for v in batch.tolist()] == orders[1]
    loader.set_epoch(1, batch=1)
    assert [v for _, batch in loader for v in batch.tolist()] == orders[1][10:]
    assert loader.epoch == 2 and len(list(loader)) == len(loader)
    for _ in loader:
        break
    assert threads() == []
    with pytest.raises(ValueError, match="epoch must be at least 0"):
        loader.set_epoch(-1)

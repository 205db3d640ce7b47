"""Batches of a dataset as tensors."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from .dataset import ArrayDataset
from .on_device import Placed, Preparation
from .ordering import ORDER, TRANSFORM, generator, shuffled
from .prefetch import prefetched
from .transforms import Transform, apply, flatten

if TYPE_CHECKING:
    from gpucnn.core.device import Device
    from gpucnn.core.tensor import Tensor

Arrays = tuple[NDArray[np.float32], NDArray[np.int64]]
Made = TypeVar("Made")


class Dataset(Protocol):
    """Anything with a length and items `(image (C, H, W), label)`."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


class DataLoader:
    """Iterates over a dataset in batches, as often as wanted.

    Each batch is `(images, labels)`: float32 of shape (N, C, H, W) and int64 of shape (N,), in
    memory of its own. A thread prepares the next batches while the current one is used. For a GPU
    that is little: where the transforms are a crop, flips and `Normalize` of stored bytes, in this
    order, the bytes go there as they are, and a kernel does the rest, with the same results.

    Args:
        dataset: an `ArrayDataset`, or any object with `len` and items `(image, label)`.
        batch_size: images per batch; the last one may be smaller.
        shuffle: a new order each epoch, a function of `(seed, epoch)` and nothing else.
        drop_last: leave out a last batch that is smaller.
        transform: a function of `(images, generator)` over batches, see `gpucnn.data.transforms`;
            it sees values in 0..1. Without one the values in 0..1 are given.
        seed: of the order and of the transforms, at least 0.
        device: where the tensors go; by default the default device.
        prefetch: batches prepared ahead; 0 prepares each when it is asked for, without a thread.

    Every `iter()` starts the next epoch; `set_epoch` says which one that is, so that a resumed
    run sees the batches that the interrupted one would have seen.

    Raises:
        ValueError, TypeError: an argument out of its range.
    """

    def __init__(
        self,
        dataset: ArrayDataset | Dataset,
        batch_size: int = 1,
        shuffle: bool = False,
        drop_last: bool = False,
        transform: Transform | None = None,
        seed: int = 0,
        device: str | Device | None = None,
        prefetch: int = 2,
    ) -> None:
        if transform is not None and not callable(transform):
            raise TypeError(f"DataLoader: transform must be a function, got {transform!r}")
        self.dataset = dataset
        self.batch_size = _integer("batch_size", batch_size, 1)
        self.shuffle = bool(shuffle)
        self.drop_last = bool(drop_last)
        self.transform = transform
        self.seed = _integer("seed", seed, 0)
        self.device = device
        self.prefetch = _integer("prefetch", prefetch, 0)
        self.epoch = 0
        self._first = 0

    def set_epoch(self, epoch: int, batch: int = 0) -> None:
        """Makes `epoch` (from 0) the next one, begun at its batch number `batch`."""
        self.epoch = _integer("epoch", epoch, 0)
        self._first = _integer("batch", batch, 0)

    def __len__(self) -> int:
        """The number of batches of an epoch."""
        whole, rest = divmod(len(self.dataset), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        from gpucnn.core.device import CPU, Device, default_device

        epoch, self.epoch = self.epoch, self.epoch + 1
        first, self._first = self._first, 0
        device = default_device() if self.device is None else Device(self.device)
        preparation = None if device is CPU else self._preparation()
        if preparation is None:
            return _tensors(self.arrays(epoch, first), device)

        def place(images: NDArray[Any], _: float, draws: np.random.Generator) -> Placed:
            return preparation.place(images, draws)

        return _prepared(self._batches(epoch, first, place), preparation, device)

    def arrays(self, epoch: int, first: int = 0) -> Generator[Arrays, None, None]:
        """The batches of one epoch from number `first` on, as NumPy arrays."""
        return self._batches(epoch, first, partial(apply, flatten(self.transform)))

    def _batches(
        self,
        epoch: int,
        first: int,
        prepare: Callable[[NDArray[Any], float, np.random.Generator], Made],
    ) -> Generator[tuple[Made, NDArray[np.int64]], None, None]:
        """What `prepare` makes of each batch's stored images, their scale and the batch's
        randomness; with the labels.
        """
        count = len(self.dataset)
        order = shuffled(count, self.seed, ORDER, epoch) if self.shuffle else None
        dataset, size, seed = self.dataset, self.batch_size, self.seed

        def make(number: int) -> tuple[Made, NDArray[np.int64]]:
            i = first + number
            start, stop = i * size, min((i + 1) * size, count)
            index = slice(start, stop) if order is None else order[start:stop]
            images, labels, scale = _gather(dataset, index)
            return prepare(images, scale, generator(seed, TRANSFORM, epoch, i)), labels

        return prefetched(make, max(len(self) - first, 0), self.prefetch)

    def _preparation(self) -> Preparation | None:
        """The transforms as one kernel, where the data are bytes and the transforms allow it."""
        data = self.dataset
        if not isinstance(data, ArrayDataset) or data.images.dtype != np.uint8:
            return None
        return Preparation.of(flatten(self.transform), data.images.shape[1], 1 / data.maximum)

    def __repr__(self) -> str:
        return (
            f"DataLoader({self.dataset!r}, batch_size={self.batch_size}, shuffle={self.shuffle}, "
            f"drop_last={self.drop_last}, transform={self.transform!r}, seed={self.seed})"
        )


def _tensors(
    batches: Generator[Arrays, None, None], device: Device
) -> Iterator[tuple[Tensor, Tensor]]:
    import gpucnn

    # The arrays are nobody else's: on the cpu the tensors take them over without a copy.
    with closing(batches):
        for images, labels in batches:
            yield gpucnn.from_numpy(images).to(device), gpucnn.from_numpy(labels).to(device)


def _prepared(
    batches: Generator[tuple[Placed, NDArray[np.int64]], None, None],
    preparation: Preparation,
    device: Device,
) -> Iterator[tuple[Tensor, Tensor]]:
    import gpucnn

    with closing(batches):
        for placed, labels in batches:
            yield preparation.run(placed, device), gpucnn.from_numpy(labels).to(device)


def _gather(
    dataset: ArrayDataset | Dataset, index: slice | NDArray[np.int64]
) -> tuple[NDArray[Any], NDArray[np.int64], float]:
    """Images and labels at these places, ours to change, and the scale to 0..1."""
    if isinstance(dataset, ArrayDataset):
        return *dataset.batch(index), 1 / dataset.maximum
    places = range(index.start, index.stop) if isinstance(index, slice) else index.tolist()
    items = [dataset[i] for i in places]
    images = np.stack([np.asarray(image) for image, _ in items])
    labels = np.array([int(label) for _, label in items], np.int64)
    batch = ArrayDataset(images, labels)
    return batch.images, batch.labels, 1 / batch.maximum


def _integer(name: str, value: int, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"DataLoader: {name} must be an integer, got {value!r}")
    if value < least:
        raise ValueError(f"DataLoader: {name} must be at least {least}, got {value}")
    return int(value)

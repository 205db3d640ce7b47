"""Labelled images in memory, and their division into train, validation and test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .ordering import stratified


class ArrayDataset:
    """Images with labels, held in two NumPy arrays.

    Args:
        images: (N, C, H, W), integers 0..maximum (uint8 as a rule, kept as stored) or floats.
        labels: (N,) integers, the class of each image.
        classes: the names of the classes; by default "0", "1", ... up to the largest label.
        mean: per channel, of the values scaled to 0..1; for `Normalize`. Default 0.
        std: per channel, likewise. Default 1.
        maximum: the stored value that stands for 1.0. Default 255 for uint8, 1 for floats (floats
            are taken as they are); other integer types have no default.

    `dataset[i]` with an integer is `(image (C, H, W), label)`, with a slice or an index array a
    dataset of those items.

    Raises:
        ValueError: shapes, types or labels that do not fit together.
    """

    def __init__(
        self,
        images: ArrayLike,
        labels: ArrayLike,
        classes: Sequence[str] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        maximum: float | None = None,
    ) -> None:
        self.images: NDArray[Any] = np.asarray(images)
        self.labels: NDArray[np.int64] = _labels(labels)
        if self.images.ndim != 4:
            hint = "; use images[:, None] for one channel" if self.images.ndim == 3 else ""
            raise ValueError(
                f"ArrayDataset: images must be (N, C, H, W), got {self.images.shape}{hint}"
            )
        if len(self.images) != len(self.labels):
            raise ValueError(
                f"ArrayDataset: {len(self.images)} images but {len(self.labels)} labels"
            )
        top = int(self.labels.max()) + 1 if len(self.labels) else 0
        self.classes = list(classes) if classes is not None else [str(i) for i in range(top)]
        if len(self.labels) and (top > len(self.classes) or self.labels.min() < 0):
            bad = top - 1 if top > len(self.classes) else int(self.labels.min())
            raise ValueError(
                f"ArrayDataset: label {bad} is outside 0..{len(self.classes) - 1} "
                f"({len(self.classes)} classes)"
            )
        self.maximum = _maximum(self.images.dtype, maximum)
        channels = self.images.shape[1]
        self.mean = _per_channel("mean", mean, 0.0, channels)
        self.std = _per_channel("std", std, 1.0, channels)

    def __len__(self) -> int:
        return len(self.labels)

    @overload
    def __getitem__(self, index: int) -> tuple[NDArray[Any], int]: ...
    @overload
    def __getitem__(self, index: slice | NDArray[Any] | Sequence[int]) -> ArrayDataset: ...
    def __getitem__(
        self, index: int | slice | NDArray[Any] | Sequence[int]
    ) -> tuple[NDArray[Any], int] | ArrayDataset:
        if isinstance(index, (int, np.integer)):
            if not -len(self) <= index < len(self):
                raise IndexError(f"index {index} is outside a dataset of {len(self)} items")
            return self.images[index], int(self.labels[index])
        key = index if isinstance(index, slice) else np.asarray(index)
        if not isinstance(key, slice) and key.size == 0:
            key = key.astype(np.int64)
        return ArrayDataset(
            self.images[key], self.labels[key], self.classes, self.mean, self.std, self.maximum
        )

    def batch(self, index: slice | NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Copies of the images (n, C, H, W), as stored, and labels (n,) at these places."""
        if isinstance(index, slice):
            return self.images[index].copy(), self.labels[index].copy()
        return self.images.take(index, axis=0), self.labels.take(index)

    def __repr__(self) -> str:
        c, h, w = self.images.shape[1:]
        return (
            f"ArrayDataset({len(self)} images of {c} x {h} x {w} {self.images.dtype}, "
            f"{len(self.classes)} classes)"
        )


@dataclass(frozen=True)
class Splits:
    """The parts of a dataset: `train`, `test` and, after `split`, `validation`."""

    name: str
    train: ArrayDataset
    test: ArrayDataset
    validation: ArrayDataset | None = None

    @property
    def classes(self) -> list[str]:
        """The names of the classes."""
        return self.train.classes

    def split(self, validation: float, seed: int = 0) -> Splits:
        """Moves part of the training images to `validation`; each class gives in proportion.

        Args:
            validation: a share (float between 0 and 1) or a number of images (int).
            seed: which images; the same seed always chooses the same.

        Raises:
            ValueError: out of range, or there is a validation part already.
        """
        if self.validation is not None:
            raise ValueError(f"split: {self.name} has a validation part already")
        total = len(self.train)
        whole = isinstance(validation, (int, np.integer))
        count = int(validation) if whole else round(total * validation)
        if not 0 < count < total:
            raise ValueError(
                f"split: validation must be a share between 0 and 1 or a count from 1 to "
                f"{total - 1}, got {validation!r}"
            )
        chosen = stratified(self.train.labels, count, seed)
        rest = np.delete(np.arange(total), chosen)
        return replace(self, train=self.train[rest], validation=self.train[chosen])


def _labels(labels: ArrayLike) -> NDArray[np.int64]:
    array = np.asarray(labels)
    if array.ndim != 1 or not (np.issubdtype(array.dtype, np.integer) or array.size == 0):
        raise ValueError(
            f"ArrayDataset: labels must be integers of shape (N,), got {array.dtype} {array.shape}"
        )
    return array.astype(np.int64, copy=False)


def _maximum(dtype: np.dtype[Any], maximum: float | None) -> float:
    if maximum is not None:
        if not maximum > 0:
            raise ValueError(f"ArrayDataset: maximum must be positive, got {maximum}")
        return float(maximum)
    if dtype == np.uint8:
        return 255.0
    if np.issubdtype(dtype, np.floating):
        return 1.0
    raise ValueError(f"ArrayDataset: images of {dtype} need maximum=, the value that stands for 1")


def _per_channel(
    name: str, values: Sequence[float] | None, default: float, channels: int
) -> tuple[float, ...]:
    if values is None:
        return (default,) * channels
    if len(values) != channels:
        raise ValueError(
            f"ArrayDataset: {name} has {len(values)} values but the images have {channels} channels"
        )
    return tuple(float(v) for v in values)

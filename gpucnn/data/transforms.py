"""Transforms of whole batches: a call takes (N, C, H, W) and gives (N, C, H', W').

A transform is any function `transform(images, generator) -> images`. It sees float32 values in
0..1 and draws its randomness from `generator` alone, which the loader makes from (seed, epoch,
batch), so that a result never depends on threads. It may not change `images` in place unless it
owns them.

A transform with the attribute `moves_only = True` only moves values or inserts zeros; the loader
hands it the stored bytes and scales to 0..1 afterwards, which is the same and four times less
memory to move. The scaling itself is folded into `Normalize`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

# Quoted: naming numpy.random here would import it with gpucnn.
Transform = Callable[[NDArray[Any], "np.random.Generator"], NDArray[Any]]


class Normalize:
    """`(images - mean) / std` per channel, as float32.

    Args:
        mean: C values, of images scaled to 0..1.
        std: C values, none of them zero.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean = tuple(float(v) for v in mean)
        self.std = tuple(float(v) for v in std)
        if len(self.mean) != len(self.std):
            raise ValueError(
                f"Normalize: mean has {len(self.mean)} values but std has {len(self.std)}"
            )
        if not all(v > 0 for v in self.std):
            raise ValueError(f"Normalize: std must be positive, got {self.std}")

    def __call__(
        self,
        images: NDArray[Any],
        generator: np.random.Generator | None = None,
        scale: float = 1.0,
    ) -> NDArray[np.float32]:
        """`(scale * images - mean) / std`; `scale` is that of stored integers (1/255)."""
        _check_batch("Normalize", images)
        if images.shape[1] != len(self.mean):
            raise ValueError(
                f"Normalize: mean and std have {len(self.mean)} values but the images have "
                f"{images.shape[1]} channels {images.shape}"
            )
        factor, offset = (v[:, None, None] for v in self.factor_and_offset(scale))
        out = np.empty(images.shape, np.float32)
        np.multiply(images, factor, out=out, dtype=np.float32, casting="unsafe")
        out += offset
        return out

    def factor_and_offset(self, scale: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(C,) each, such that `scale * image` becomes `image * factor + offset`."""
        std = np.array(self.std)
        return (scale / std).astype(np.float32), (-np.array(self.mean) / std).astype(np.float32)

    def __repr__(self) -> str:
        return f"Normalize({self.mean}, {self.std})"


class RandomCrop:
    """A random window of each image, after padding with zeros on all sides.

    Args:
        size: of the window, an integer or (height, width).
        padding: zeros added on each side, an integer or (vertical, horizontal).
    """

    moves_only = True

    def __init__(self, size: int | tuple[int, int], padding: int | tuple[int, int] = 0) -> None:
        self.size = _pair("RandomCrop", "size", size, least=1)
        self.padding = _pair("RandomCrop", "padding", padding, least=0)

    def __call__(self, images: NDArray[Any], generator: np.random.Generator) -> NDArray[Any]:
        """Images (N, C, H, W) to (N, C, *size), same dtype."""
        _check_batch("RandomCrop", images)
        n, c, h, w = images.shape
        pad_h, pad_w = self.padding
        top, left = self.draw(n, h, w, generator)
        padded = np.zeros((n, c, h + 2 * pad_h, w + 2 * pad_w), images.dtype)
        padded[:, :, pad_h : pad_h + h, pad_w : pad_w + w] = images
        windows = sliding_window_view(padded, self.size, axis=(2, 3))
        cropped: NDArray[Any] = windows[np.arange(n), :, top, left]
        return cropped

    def draw(
        self, n: int, h: int, w: int, generator: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First row and column in the padded image, for each of n images of h x w."""
        (crop_h, crop_w), (pad_h, pad_w) = self.size, self.padding
        rows, columns = h + 2 * pad_h - crop_h + 1, w + 2 * pad_w - crop_w + 1
        if rows < 1 or columns < 1:
            raise ValueError(
                f"RandomCrop: size {self.size} is larger than the padded image "
                f"({h + 2 * pad_h}, {w + 2 * pad_w})"
            )
        return generator.integers(rows, size=n), generator.integers(columns, size=n)

    def __repr__(self) -> str:
        return f"RandomCrop({self.size}, padding={self.padding})"


class RandomHorizontalFlip:
    """Mirrors each image left to right with probability `p`."""

    moves_only = True

    def __init__(self, p: float = 0.5) -> None:
        if not 0 <= p <= 1:
            raise ValueError(f"RandomHorizontalFlip: p must lie in 0..1, got {p}")
        self.p = float(p)

    def __call__(self, images: NDArray[Any], generator: np.random.Generator) -> NDArray[Any]:
        """Images (N, C, H, W) to the same shape and dtype."""
        _check_batch("RandomHorizontalFlip", images)
        chosen = np.flatnonzero(self.draw(len(images), generator))
        out: NDArray[Any] = images.copy()
        out[chosen] = images[chosen, :, :, ::-1]
        return out

    def draw(self, n: int, generator: np.random.Generator) -> NDArray[np.bool_]:
        """Which of n images to mirror."""
        return generator.random(n) < self.p

    def __repr__(self) -> str:
        return f"RandomHorizontalFlip({self.p})"


class Compose:
    """The given transforms, one after the other."""

    def __init__(self, transforms: Sequence[Transform]) -> None:
        self.transforms = list(transforms)
        for transform in self.transforms:
            if not callable(transform):
                raise TypeError(f"Compose: {transform!r} is not a transform")

    def __call__(self, images: NDArray[Any], generator: np.random.Generator) -> NDArray[Any]:
        for transform in self.transforms:
            images = transform(images, generator)
        return images

    def __repr__(self) -> str:
        return f"Compose({self.transforms})"


def flatten(transform: Transform | None) -> list[Transform]:
    """The elementary transforms of a possibly nested `Compose`."""
    if transform is None:
        return []
    if isinstance(transform, Compose):
        return [step for inner in transform.transforms for step in flatten(inner)]
    return [transform]


def apply(
    steps: Sequence[Transform],
    images: NDArray[Any],
    scale: float,
    generator: np.random.Generator,
) -> NDArray[np.float32]:
    """Runs the steps on stored images and gives float32, each value touched as rarely as possible.

    Args:
        steps: elementary transforms, see `flatten`.
        images: (N, C, H, W) as stored; owned by the caller and not needed afterwards.
        scale: stored integer times `scale` is the value in 0..1 that the steps see.
        generator: the randomness of this batch.

    Raises:
        ValueError: a step gave something else than a batch of N images.
    """
    stored = np.issubdtype(images.dtype, np.integer)
    for step in steps:
        count = len(images)
        if stored and isinstance(step, Normalize):
            images, stored = step(images, generator, scale), False
            continue
        if stored and not getattr(step, "moves_only", False):
            images, stored = _scaled(images, scale), False
        images = step(images, generator)
        if getattr(images, "ndim", None) != 4 or len(images) != count:
            came = getattr(images, "shape", type(images).__name__)
            raise ValueError(f"transform {step!r}: expected ({count}, C, H, W), got {came}")
    if stored:
        return _scaled(images, scale)
    return np.ascontiguousarray(images, np.float32)


def _scaled(images: NDArray[Any], scale: float) -> NDArray[np.float32]:
    out = np.empty(images.shape, np.float32)
    np.multiply(images, np.float32(scale), out=out, dtype=np.float32, casting="unsafe")
    return out


def _check_batch(call: str, images: NDArray[Any]) -> None:
    if getattr(images, "ndim", None) != 4:
        came = getattr(images, "shape", type(images).__name__)
        raise ValueError(f"{call}: images must be a batch (N, C, H, W), got {came}")


def _pair(call: str, name: str, value: int | tuple[int, int], least: int) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or not all(isinstance(v, int) and v >= least for v in pair):
        raise ValueError(
            f"{call}: {name} must be an integer or a pair of at least {least}, got {value!r}"
        )
    return pair[0], pair[1]

"""Images from stored bytes to what a network takes, on their device."""

from __future__ import annotations

import numpy as np

from gpucnn.core.device import CPU
from gpucnn.core.dispatch import CHANNELS_LAST, Spec
from gpucnn.core.memory import float32, int32, uint8
from gpucnn.core.primitive import primitive
from gpucnn.core.tensor import Tensor
from gpucnn.ops.activation import check_tensor
from gpucnn.ops.broadcasting import same_device


@primitive
def prepare_images(
    images: Tensor, places: Tensor, factor: Tensor, offset: Tensor, *, height: int, width: int
) -> list[Spec]:
    """y[n,c,i,j] = factor[c] images[n, c, top + i, left + j'] + offset[c], rounded twice.

    top, left, flip = places[n]; j' = width - 1 - j where flip is not 0, else j; images are 0
    outside. In the order in which the device's convolutions read.
    """
    shape = (*images.shape[:2], height, width)
    return [Spec(shape, float32, None if images.device is CPU else CHANNELS_LAST)]


def prepare(
    images: Tensor, places: Tensor, factor: Tensor, offset: Tensor, size: tuple[int, int]
) -> Tensor:
    """Cut, mirror and normalise a batch of stored images.

    Args:
        images: (N, C, H, W) uint8, or (N, H, W) of one channel.
        places: (N, 3) int32: the first row, the first column, and whether to mirror left to right,
            of each image; zeros are taken where the image ends.
        factor: (C,) float32.
        offset: (C,) float32.
        size: height and width of the result.

    Returns:
        (N, C, height, width) float32: pixel * factor + offset.

    Raises:
        ValueError: shapes do not go together.
        TypeError, RuntimeError: wrong dtypes or devices.
    """
    call = "prepare_images"
    x = check_tensor(call, images)
    if x.ndim == 3:
        x = x.view_of(x.data[:, None])
    if x.ndim != 4 or x.dtype != uint8:
        raise ValueError(
            f"{call}: images must be uint8 (N, C, H, W) or (N, H, W), got {images.dtype} "
            f"{images.shape}"
        )
    wanted: tuple[tuple[str, Tensor, tuple[int, ...], np.dtype], ...] = (
        ("places", places, (x.shape[0], 3), int32),
        ("factor", factor, (x.shape[1],), float32),
        ("offset", offset, (x.shape[1],), float32),
    )
    for name, value, shape, dtype in wanted:
        if check_tensor(call, value, name).shape != shape or value.dtype != dtype:
            raise ValueError(
                f"{call}: {name} must be {dtype} of shape {shape} for images {images.shape}, "
                f"got {value.dtype} {value.shape}"
            )
    height, width = size
    if height < 1 or width < 1:
        raise ValueError(f"{call}: size must be at least (1, 1), got {size}")
    same_device(call, images=x, places=places, factor=factor, offset=offset)
    result: Tensor = prepare_images(x, places, factor, offset, height=height, width=width)
    return result

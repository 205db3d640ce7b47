"""Images from stored bytes to normalised floats."""

from __future__ import annotations

import numpy as np

from gpucnn.backends.cpu.blocks import Array


def prepare_images(
    images: Array,
    places: Array,
    factor: Array,
    offset: Array,
    y: Array,
    *,
    height: int,
    width: int,
) -> None:
    """y (N, C, height, width) float32 from images (N, C, H, W) uint8.

    Image n is cut at row places[n, 0] and column places[n, 1] (int32, zeros outside), mirrored
    where places[n, 2], multiplied by factor (C,) and shifted by offset (C,), float32.
    """
    n, _, h, w = images.shape
    top, left, flip = places.astype(np.int64).T
    rows = top[:, None] + np.arange(height)
    along = np.arange(width)
    columns = left[:, None] + np.where(flip[:, None] != 0, along[::-1], along)
    inside = ((rows >= 0) & (rows < h))[:, :, None] & ((columns >= 0) & (columns < w))[:, None, :]
    if images.size:
        numbers = np.arange(n)[:, None, None]
        at_row, at_column = rows.clip(0, h - 1)[:, :, None], columns.clip(0, w - 1)[:, None, :]
        cut = images.transpose(0, 2, 3, 1)[numbers, at_row, at_column].transpose(0, 3, 1, 2)
    else:
        cut = np.zeros(y.shape, np.uint8)
    cut = np.where(inside[:, None], cut, np.uint8(0))
    np.multiply(cut, factor[:, None, None], out=y, dtype=np.float32, casting="unsafe")
    y += offset[:, None, None]

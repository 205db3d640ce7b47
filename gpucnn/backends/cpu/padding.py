"""Parts of images with zeros around them."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from gpucnn.backends.cpu.blocks import Array


@lru_cache(maxsize=1024)
def inside(first: int, count: int, step: int, size: int) -> tuple[slice, slice]:
    """Of the positions first, first + step, ... (`count` of them) those within range(size).

    Returns:
        Which of the positions they are, and where they lie; both empty where none is inside.
    """
    start = min(count, max(0, -(first // step)))
    stop = max(start, min(count, (size - 1 - first) // step + 1))
    if start == stop:
        return slice(0, 0), slice(0, 0)
    begin = first + start * step
    return slice(start, stop), slice(begin, begin + (stop - start - 1) * step + 1, step)


class Window(NamedTuple):
    """The part of a target (N, rows, columns, ...) that images fill, which rows and columns of
    theirs fill it, and the parts around it."""

    part: Array
    rows: slice
    columns: slice
    around: tuple[Array, ...]

    def clear(self) -> None:
        """Zeros around the images."""
        for part in self.around:
            part.fill(0)

    def fill(self, x: Array) -> None:
        """Copy from the images x (N, H, W, ...)."""
        self.part[...] = x[:, self.rows, self.columns]


def window(
    target: Array,
    row: int,
    column: int,
    size: tuple[int, int],
    row_step: int = 1,
    column_step: int = 1,
) -> Window:
    """Where target[:, i, j] is the pixel row + i * row_step, column + j * column_step of images of
    `size`."""
    rows, from_rows = inside(row, target.shape[1], row_step, size[0])
    columns, from_columns = inside(column, target.shape[2], column_step, size[1])
    around = (
        *[target[:, part] for part in _outside(rows, target.shape[1])],
        *[target[:, rows, part] for part in _outside(columns, target.shape[2])],
    )
    return Window(target[:, rows, columns], from_rows, from_columns, around)


def copy_padded(
    x: Array, row: int, column: int, target: Array, row_step: int = 1, column_step: int = 1
) -> None:
    """target[:, i, j] = x[:, row + i * row_step, column + j * column_step], 0 outside x.

    Axes 1 and 2 of both are an image's rows and columns; either may have any strides.
    """
    part = window(target, row, column, x.shape[1:3], row_step, column_step)
    part.clear()
    part.fill(x)


def _outside(part: slice, length: int) -> list[slice]:
    """What a part of range(length) leaves of it; one on each side of it are a single slice."""
    if part.start == 1 and part.stop == length - 1:
        return [slice(None, None, length - 1)]
    return [
        side for side in (slice(0, part.start), slice(part.stop, length)) if side.start < side.stop
    ]

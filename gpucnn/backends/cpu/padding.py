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
    """The part of a target (N, rows, columns, ...) that images fill, and which rows and columns of
    theirs fill it."""

    part: Array
    rows: slice
    columns: slice

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
    *,
    clear: bool = True,
) -> Window:
    """Where target[:, i, j] is the pixel row + i * row_step, column + j * column_step of images of
    `size`; the rest of the target becomes 0, or with `clear` False is left as it is."""
    rows, from_rows = inside(row, target.shape[1], row_step, size[0])
    columns, from_columns = inside(column, target.shape[2], column_step, size[1])
    if clear:
        _clear_around(target, rows, columns)
    return Window(target[:, rows, columns], from_rows, from_columns)


def copy_padded(
    x: Array, row: int, column: int, target: Array, row_step: int = 1, column_step: int = 1
) -> None:
    """target[:, i, j] = x[:, row + i * row_step, column + j * column_step], 0 outside x.

    Axes 1 and 2 of both are an image's rows and columns; either may have any strides.
    """
    window(target, row, column, x.shape[1:3], row_step, column_step).fill(x)


def _clear_around(target: Array, rows: slice, columns: slice) -> None:
    """Zeros in all rows (axis 1) and columns (axis 2) of `target` but these."""
    if rows.start:
        target[:, : rows.start] = 0
    if rows.stop < target.shape[1]:
        target[:, rows.stop :] = 0
    if columns.start:
        target[:, rows, : columns.start] = 0
    if columns.stop < target.shape[2]:
        target[:, rows, columns.stop :] = 0

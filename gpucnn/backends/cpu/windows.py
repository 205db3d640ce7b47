"""Where the windows of pooling lie, as slices of whole images, one a window position.

Every array is seen as (A, H, W, B) in its memory order: channels-last has A = N, B = C, planar
images have A = N C, B = 1, batch-innermost has A = C, B = N. The formulas are the same for all.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from gpucnn.backends.cpu.blocks import Array
from gpucnn.backends.cpu.padding import inside
from gpucnn.ops.geometry import Pool2dGeometry

Part = tuple[slice, ...]

_BLOCK = 1 << 19
"""Elements of input that are pooled at a time."""


class Line(NamedTuple):
    """A window position along one axis: the outputs that have it inside the input, and where."""

    position: int
    outputs: Part
    inputs: Part
    always: bool  # whether these are all outputs


class Tap(NamedTuple):
    """A window position r*S + s, the outputs that have it inside the input, and where."""

    number: int
    out_rows: slice
    out_columns: slice
    rows: slice
    columns: slice


@lru_cache(maxsize=256)
def lines(g: Pool2dGeometry) -> tuple[tuple[Line, ...], tuple[Line, ...]]:
    """The positions down the columns, as parts (A, H), and along the rows, as parts (A, H, W)."""
    down = _lines((), (g.r, g.dilation_h, g.pad_h, g.stride_h, g.p, g.h))
    along = _lines((slice(None),), (g.s, g.dilation_w, g.pad_w, g.stride_w, g.q, g.w))
    return down, along


@lru_cache(maxsize=256)
def taps(g: Pool2dGeometry) -> tuple[Tap, ...]:
    """The positions of both axes, in rising order."""
    down, along = lines(g)
    return tuple(
        Tap(
            row.position * g.s + column.position,
            row.outputs[-1], column.outputs[-1], row.inputs[-1], column.inputs[-1],
        )
        for row in down
        for column in along
    )  # fmt: skip


def _lines(front: Part, axis: tuple[int, ...]) -> tuple[Line, ...]:
    window, dilation, pad, stride, outputs, inputs = axis
    found = []
    for position in range(window):
        written, read = inside(position * dilation - pad, outputs, stride, inputs)
        if written.start < written.stop:
            before = (slice(None), *front)
            always = written == slice(0, outputs)
            found.append(Line(position, (*before, written), (*before, read), always))
    return tuple(found)


def as_planes(*arrays: Array) -> list[Array]:
    """The arrays as (A, H, W, B) in the memory order of the last one, which is dense."""
    last = arrays[-1]
    if last.transpose(0, 2, 3, 1).flags.c_contiguous:
        return [a.transpose(0, 2, 3, 1) for a in arrays]
    if last.transpose(1, 2, 3, 0).flags.c_contiguous:
        return [a.transpose(1, 2, 3, 0) for a in arrays]
    if all(a.flags.c_contiguous for a in arrays):
        return [a.reshape(-1, *a.shape[2:], 1) for a in arrays]
    return [a.transpose(0, 2, 3, 1) for a in arrays]


def grain(planes: Array) -> int:
    """How many of the images (A, H, W, B) a thread pools at a time."""
    return max(1, _BLOCK // max(1, planes[0].size))

"""Reductions on the GPU: sums, extrema and their positions (`kernels/reduce.cu`)."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from gpucnn.backends.gpu.iteration import (
    C_TYPES,
    THREADS,
    Axes,
    index_type,
    join,
    steps_of,
)
from gpucnn.backends.gpu.kernel import get, strided
from gpucnn.backends.gpu.runtime import Array, Runtime

_WARP = 32
_LOOK_AHEAD = 16 * THREADS  # how far behind the end a thread may compute an index (CHUNK steps)
_PER_BLOCK = 4096  # elements from which a block is worth having
_ENOUGH_BLOCKS = 1024  # fill any device; fixed, so that every device adds in the same order


def reduce(
    runtime: Runtime, x: Array, y: Array, *, op: str, axes: tuple[int, ...], keepdims: bool
) -> None:
    """y = sum, maximum or minimum of x over `axes`; NaN propagates, an empty sum is 0.

    Floats add up in chunks and trees of a fixed shape, in their own precision.
    """
    kept, reduced = _split("reduce", x, y, axes, keepdims)
    identity = _identity(op, x.dtype)
    _, _, per_block = _block(kept, reduced)
    blocks = -(-kept.total // per_block)
    segments = min(
        -(-reduced.total * per_block // _PER_BLOCK), -(-_ENOUGH_BLOCKS // max(blocks, 1))
    )
    if segments <= 1 or blocks == 0:
        _launch(runtime, op, x, y, identity, kept, reduced)
        return
    segment = -(-reduced.total // segments)
    segments = -(-reduced.total // segment)
    workspace = runtime.empty((segments, kept.total), x.dtype)
    # The outputs of the first pass lie one after the other in a plane of the workspace.
    linear = tuple(math.prod(kept.sizes[i + 1 :]) for i in range(len(kept.sizes)))
    planes = Axes(kept.sizes, (linear, kept.steps[1]))
    _launch(runtime, op, x, workspace, identity, planes, reduced, segment)
    again = Axes(kept.sizes, (kept.steps[0], linear))
    over = Axes((segments,), ((0,), (kept.total,)))
    _launch(runtime, op, workspace, y, identity, again, over)


def arg_reduce(runtime: Runtime, x: Array, y: Array, *, op: str, axis: int, keepdims: bool) -> None:
    """y (int64) = position of the first maximum or minimum along `axis`; the first NaN wins."""
    kept, reduced = _split("arg_reduce", x, y, (axis,), keepdims)
    columns, block, per_block = _block(kept, reduced)
    index = index_type(kept.extent, reduced.extent)
    name = f"{op}_{'columns' if columns else 'rows'}"
    kernel = get("arg_reduce.cu", name, element=C_TYPES[x.dtype], index_t=index)
    runtime.launch(
        kernel,
        (-(-kept.total // per_block),),
        block,
        *(strided(x), strided(y), kept.layout(index), reduced.layout(index)),
    )


def _split(
    name: str, x: Array, y: Array, axes: tuple[int, ...], keepdims: bool
) -> tuple[Axes, Axes]:
    """The kept axes with the steps of (y, x), and the reduced ones with those of (nothing, x)."""
    gone = tuple(sorted(axis % x.ndim for axis in axes))
    y_steps = steps_of(y, y.shape)
    if keepdims:
        y_steps = tuple(step for axis, step in enumerate(y_steps) if axis not in gone)
    return _joined(name, x.shape, steps_of(x, x.shape), y_steps, gone)


@lru_cache(maxsize=2048)
def _joined(
    name: str,
    shape: tuple[int, ...],
    x_steps: tuple[int, ...],
    y_steps: tuple[int, ...],
    gone: tuple[int, ...],
) -> tuple[Axes, Axes]:
    axes = [axis for axis in range(len(shape)) if axis not in gone]
    # Sorted by x, which is read more than y is written; `join` sorts by its first operand.
    kept, reduced = (
        join(name, tuple(shape[i] for i in part), tuple(x_steps[i] for i in part), steps)
        for part, steps in ((axes, y_steps), (gone, (0,) * len(gone)))
    )
    return Axes(kept.sizes, kept.steps[::-1]), Axes(reduced.sizes, reduced.steps[::-1])


def _block(kept: Axes, reduced: Axes) -> tuple[bool, tuple[int, int], int]:
    """Whether outputs are neighbours in memory, the block's shape, and its outputs."""
    along_kept = abs(kept.steps[1][-1]) if kept.sizes else None
    along_reduced = abs(reduced.steps[1][-1]) if reduced.sizes else None
    columns = along_reduced is None or (along_kept is not None and along_kept < along_reduced)
    helpers = _power_of_two(reduced.total)
    if columns:
        # Up to a warp of outputs side by side; more where there is little to add for each.
        helpers = min(helpers, THREADS // min(_WARP, _power_of_two(kept.total)))
    elif helpers > _WARP:
        helpers = min(THREADS, max(_WARP, helpers // 4))
    outputs = min(THREADS // helpers, _power_of_two(kept.total))
    return columns, (outputs, helpers) if columns else (helpers, outputs), outputs


def _launch(
    runtime: Runtime,
    op: str,
    x: Array,
    y: Array,
    identity: Any,
    kept: Axes,
    reduced: Axes,
    segment: int | None = None,
) -> None:
    """One pass; with `segment` its results go to planes of y, one for each segment."""
    columns, block, per_block = _block(kept, reduced)
    length = max(reduced.total, 1) if segment is None else segment
    segments = -(-max(reduced.total, 1) // length)
    index = index_type(kept.extent, kept.total * segments, reduced.extent + _LOOK_AHEAD)
    name = f"{op}_{'columns' if columns else 'rows'}"
    runtime.launch(
        get("reduce.cu", name, element=C_TYPES[x.dtype], index_t=index),
        (-(-kept.total // per_block), segments),
        block,
        *(strided(x), strided(y), identity, length, kept.total if segments > 1 else 0),
        *(kept.layout(index), reduced.layout(index)),
    )


def _identity(op: str, dtype: np.dtype[Any]) -> Any:
    """What an operation leaves every element unchanged with."""
    if op == "sum":
        return dtype.type(0)
    if dtype.kind == "f":
        return dtype.type(-np.inf if op == "max" else np.inf)
    if dtype.kind == "b":
        return np.bool_(op == "min")
    limits = np.iinfo(dtype)
    return dtype.type(limits.min if op == "max" else limits.max)


def _power_of_two(count: int) -> int:
    """The smallest power of two that is not less than `count`."""
    return 1 << max(count - 1, 0).bit_length()

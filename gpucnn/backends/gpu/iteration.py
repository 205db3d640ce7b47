"""Plans for kernels that walk over arrays of any strides (`kernels/layout.cuh`).

A plan sorts the axes by where they lie in memory, joins those that step as one, and picks the
integer type of the offsets. Plans depend on shapes and strides alone and are cached.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from gpucnn.backends.gpu.kernel import get
from gpucnn.backends.gpu.layout import collapse
from gpucnn.backends.gpu.runtime import Array, Runtime

MAX_RANK = 6
THREADS = 256
# Counts and offsets below this are held in 32 bits: an index plus the threads of a grid still fits.
NARROW_LIMIT = 2**30

C_TYPES = {
    np.dtype(np.float32): "float",
    np.dtype(np.float64): "double",
    np.dtype(np.int64): "long long",
    np.dtype(np.int32): "int",
    np.dtype(np.uint8): "unsigned char",
    np.dtype(np.bool_): "bool",
}
_WORDS: dict[int, tuple[str, np.dtype[Any]]] = {
    1: ("unsigned char", np.dtype(np.uint8)),
    4: ("unsigned int", np.dtype(np.uint32)),
    8: ("unsigned long long", np.dtype(np.uint64)),
}


@dataclass(frozen=True)
class Axes:
    """Sizes of the joined axes (slowest first) and each operand's steps along them, in elements.

    With a `width` above 1 the last axis counts packs of that many neighbours: `packed` has bit k
    where operand k has them, else its element repeats; `tail` elements are behind the packs of a
    single axis.
    """

    sizes: tuple[int, ...]
    steps: tuple[tuple[int, ...], ...]
    width: int = 1
    packed: int = 0
    tail: int = 0

    @cached_property
    def total(self) -> int:
        """Number of elements, or of packs."""
        return math.prod(self.sizes)

    @cached_property
    def extent(self) -> int:
        """The largest offset or count that occurs."""
        reach = [
            sum((size - 1) * abs(step) for size, step in zip(self.sizes, steps, strict=True))
            for steps in self.steps
        ]
        return max(self.total, *reach) + self.width + self.tail

    def layout(self, index: str) -> npt.NDArray[Any]:
        """The struct Layout of `kernels/layout.cuh`, made once."""
        value = self._layouts.get(index)
        if value is None:
            value = self._layouts[index] = np.zeros((), _layout_dtype(index))
            value["count"] = self.total
            value["packed"], value["tail"] = self.packed, self.tail
            rank = value["rank"] = len(self.sizes)
            value["size"][:rank] = self.sizes
            for operand, steps in enumerate(self.steps):
                value["step"][operand, :rank] = steps
        return value

    @cached_property
    def _layouts(self) -> dict[str, npt.NDArray[Any]]:
        return {}


@lru_cache(maxsize=8192)
def join(name: str, shape: tuple[int, ...], *steps: tuple[int, ...]) -> Axes:
    """The axes of `shape` sorted by the steps of the first operand, joined where possible.

    Raises ValueError, naming the call, when more than 6 axes are left.
    """
    order = sorted(range(len(shape)), key=lambda axis: -abs(steps[0][axis]))
    sizes, joined = collapse(
        [shape[axis] for axis in order], *([step[axis] for axis in order] for step in steps)
    )
    if len(sizes) > MAX_RANK:
        raise ValueError(
            f"{name}: the arrays' strides leave {len(sizes)} separate axes, the GPU kernels take "
            f"{MAX_RANK} (shape {shape})"
        )
    return Axes(sizes, joined)


def steps_of(array: Array, shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of `array` in elements, broadcast to `shape` (0 along the axes it lacks)."""
    itemsize: int = array.itemsize
    missing: int = len(shape) - array.ndim
    steps = [
        0 if size == 1 else stride // itemsize
        for size, stride in zip(array.shape, array.strides, strict=True)
    ]
    return (*(0,) * missing, *steps)


def index_type(*extents: int) -> str:
    """The C type of the offsets: int where all of these are small enough, else long long."""
    return "int" if max(extents) < NARROW_LIMIT else "long long"


@cache
def _layout_dtype(index: str) -> np.dtype[Any]:
    return get("move.cu", "copy", index_t=index, word="unsigned int").struct("Layout")


def in_packs(runtime: Runtime, axes: Axes, arrays: Sequence[Array | None]) -> Axes:
    """The axes in packs of 128 bits of the widest operand, where all that lie dense allow it.

    Fewer elements than a pack are all tail: one module serves short arrays and long ones. `arrays`
    are the operands, None for a number.
    """
    width = 16 // max(array.itemsize for array in arrays if array is not None)
    aligned = tuple(
        array is not None and runtime.address(array) % (width * array.itemsize) == 0
        for array in arrays
    )
    return _in_packs(axes, width, aligned)


@lru_cache(maxsize=8192)
def _in_packs(axes: Axes, width: int, aligned: tuple[bool, ...]) -> Axes:
    if not axes.sizes:
        return Axes((0,), ((0,),) * len(axes.steps), width, 0, tail=1)
    count, tail = divmod(axes.sizes[-1], width)
    if tail and len(axes.sizes) > 1:
        return axes
    packed = 0
    for operand, steps in enumerate(axes.steps):
        if steps[-1] == 1:
            if count and not aligned[operand] or any(step % width for step in steps[:-1]):
                return axes
            packed |= 1 << operand
        elif steps[-1] != 0 or operand == 0:  # the first operand is the one that is written
            return axes
    packs = tuple((*steps[:-1], steps[-1] * width) for steps in axes.steps)
    return Axes((*axes.sizes[:-1], count), packs, width, packed, tail)


def walk(
    runtime: Runtime,
    file: str,
    entry: str,
    axes: Axes,
    arguments: Sequence[Any],
    defines: Mapping[str, str],
    reach: int = 0,
    packs_of: Sequence[Array | None] = (),
) -> None:
    """Launch an entry that takes `arguments` and the Layout, one thread an element at a time.

    Args:
        reach: the largest offset the kernel forms besides those of the axes.
        packs_of: the operands of an entry that takes packs of elements, None for numbers.
    """
    if packs_of:
        axes = in_packs(runtime, axes, packs_of)
    index = index_type(axes.extent, reach)
    packs = {"WIDTH": axes.width} if axes.width > 1 else {}
    kernel = get(file, entry, index_t=index, **defines, **packs)
    # A few waves of blocks; each thread then steps by the whole grid.
    threads = max(axes.total, axes.tail)
    blocks = min(-(-threads // THREADS), 32 * runtime.properties().multiprocessors)
    runtime.launch(kernel, (blocks,), (THREADS,), *arguments, axes.layout(index))


def extent_of(array: Array) -> int:
    """The distance in elements between the first element of an array and the farthest."""
    steps = steps_of(array, array.shape)
    return sum(max(n - 1, 0) * abs(step) for n, step in zip(array.shape, steps, strict=True))


def word_of(dtype: np.dtype[Any]) -> tuple[str, np.dtype[Any]]:
    """The unsigned integer of an element's size, for kernels that only move elements."""
    return _WORDS[dtype.itemsize]


def scalar_of(value: Any, dtype: np.dtype[Any]) -> Any:
    """A number as a NumPy scalar of `dtype`; a float beyond its range becomes infinite.

    Raises OverflowError when an integer does not fit.
    """
    if dtype.kind != "f" or -1e38 < value < 1e38:
        return dtype.type(value)
    with np.errstate(over="ignore"):
        return dtype.type(value)

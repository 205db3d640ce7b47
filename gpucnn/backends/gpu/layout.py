"""Arithmetic on shapes and strides: dense or not, in which order of the axes, fewer axes."""

from __future__ import annotations

from collections.abc import Sequence


def axis_order(shape: Sequence[int], strides: Sequence[int]) -> tuple[int, ...]:
    """Axes from slowest to fastest in memory; axes of size 1 keep their place before the next
    larger one.
    """
    # A size-1 axis has no meaningful stride: it takes that of the C-order place it stands in.
    steps = list(strides)
    following = 0
    for axis in reversed(range(len(shape))):
        if shape[axis] == 1:
            steps[axis] = following
        following = steps[axis]
    return tuple(sorted(range(len(shape)), key=lambda axis: -abs(steps[axis])))


def strides_of(
    shape: Sequence[int], itemsize: int, order: Sequence[int] | None = None
) -> tuple[int, ...]:
    """Byte strides of a dense array whose axes lie in memory in `order` (slowest first; None: C
    order).
    """
    strides = [0] * len(shape)
    step = itemsize
    for axis in reversed(range(len(shape)) if order is None else order):
        strides[axis] = step
        step *= max(shape[axis], 1)
    return tuple(strides)


def is_dense(shape: Sequence[int], strides: Sequence[int], itemsize: int) -> bool:
    """Whether the elements fill one block of memory, each once, in some order of the axes."""
    step = itemsize
    used = sorted((stride, size) for size, stride in zip(shape, strides, strict=True) if size != 1)
    if any(size == 0 for _, size in used):
        return True
    for stride, size in used:
        if stride != step:
            return False
        step *= size
    return True


def collapse(
    shape: Sequence[int], *operands: Sequence[int]
) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """Shape and strides of the operands with size-1 axes dropped and axes that step as one joined.

    Axis i and i+1 are joined when in every operand the stride of i is the stride of i+1 times its
    size.
    """
    sizes: list[int] = []
    steps: list[list[int]] = []
    for axis, size in enumerate(shape):
        if size == 1:
            continue
        step = [operand[axis] for operand in operands]
        if sizes and all(
            outer == size * inner for outer, inner in zip(steps[-1], step, strict=True)
        ):
            sizes[-1] *= size
            steps[-1] = step
        else:
            sizes.append(size)
            steps.append(step)
    return tuple(sizes), tuple(tuple(step[i] for step in steps) for i in range(len(operands)))

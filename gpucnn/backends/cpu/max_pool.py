"""Max pooling as operations on shifted slices of whole images (A, H, W, B), see `windows`."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from gpucnn.backends.cpu.blocks import Array, scratch
from gpucnn.backends.cpu.threads import parallel_for
from gpucnn.backends.cpu.windows import Line, Tap, as_planes, grain, lines, taps
from gpucnn.backends.cpu.workspace import workspace
from gpucnn.ops.geometry import Pool2dGeometry

_SIGNED: dict[int, np.dtype[Any]] = {4: np.dtype(np.int32), 8: np.dtype(np.int64)}

_AT_ONCE = 1 << 21
"""Windows times positions for which it is kept what was larger than all before it."""


def max_pool2d(
    x: Array, y: Array, argmax: Array | None = None, *, geometry: Pool2dGeometry
) -> None:
    """y (N, C, P, Q) and, if wanted, argmax = each window's maximum and its position r*S + s."""
    if y.size == 0:
        return
    if argmax is None:
        found, source = as_planes(y, x)
        _maxima(found, source, geometry)
        return
    source, best, position = as_planes(x, y, argmax)

    def work(a: int, b: int) -> None:
        Comparison(source[a:b], argmax.dtype, geometry)(best[a:b], position[a:b])

    parallel_for(source.shape[0], grain(source), work, blas=False)


class Comparison:
    """The elements of x (A, H, W, B) that windows have at each of their positions, and memory to
    compare them in: a thread's scratch memory, or a slot of its workspace."""

    def __init__(
        self, x: Array, places: np.dtype[Any], g: Pool2dGeometry, slot: int | None = None
    ) -> None:
        self.x, self.g, self.steps = x, g, taps(g)
        whole = slice(0, g.p), slice(0, g.q)
        inside = len(self.steps) == g.r * g.s and all(s[1:3] == whole for s in self.steps)
        windows = x.shape[0] * g.p * g.q * x.shape[3]
        self.at_once = inside and places == np.uint8 and len(self.steps) * windows <= _AT_ONCE
        if not self.at_once:
            return
        self.first, *self.others = (x[:, step.rows, step.columns] for step in self.steps)
        memory, slot = (scratch, 0) if slot is None else (workspace, slot)
        larger = memory(slot, (len(self.others), *self.first.shape), np.dtype(np.bool_))
        self.larger, self.places = list(larger), larger.view(np.uint8)
        self.numbers = np.arange(1, len(self.steps), dtype=places).reshape(-1, 1, 1, 1, 1)

    def __call__(self, y: Array, at: Array) -> None:
        """y (A, P, Q, B) = the maxima, at = their positions, the first of equal ones."""
        if self.at_once:
            self._compare(y, at)
        else:
            _maximum(self.x, y, at, self.steps, self.g, nan=False)
        # Comparisons pass over NaN; the values do not. Only then is the slow way needed.
        if np.isnan(np.minimum.reduce(y, axis=None)):
            _maximum(self.x, y, at, self.steps, self.g, nan=True)

    def _compare(self, y: Array, at: Array) -> None:
        if not self.others:
            np.copyto(y, self.first)
            at.fill(0)
            return
        held = self.first
        for candidate, larger in zip(self.others, self.larger, strict=True):
            np.greater(candidate, held, out=larger)
            np.maximum(held, candidate, out=y)
            held = y
        # The last position that was larger than all before it.
        np.multiply(self.places, self.numbers, out=self.places)
        np.maximum.reduce(self.places, axis=0, out=at)


def _maxima(y: Array, x: Array, g: Pool2dGeometry) -> None:
    """The maxima alone, down the columns and then along the rows; NaN is carried along.

    Of zeros of both signs in a window it may be another one than the first.
    """
    down, along = lines(g)

    def work(a: int, b: int) -> None:
        values = x[a:b]
        columns = scratch(0, (b - a, g.p, *values.shape[2:]), x.dtype)
        _largest(values, columns, down)
        _largest(columns, y[a:b], along)

    parallel_for(x.shape[0], grain(x), work, blas=False)


def _largest(x: Array, y: Array, positions: tuple[Line, ...]) -> None:
    """y = the largest elements of x at the positions of windows along one axis."""
    if len(positions) > 1 and positions[0].always and positions[1].always:
        np.maximum(x[positions[0].inputs], x[positions[1].inputs], out=y)
        positions = positions[2:]
    else:
        y.fill(-np.inf)
    for line in positions:
        held = y[line.outputs]
        np.maximum(held, x[line.inputs], out=held)


def _maximum(
    x: Array, y: Array, at: Array, steps: tuple[Tap, ...], g: Pool2dGeometry, nan: bool
) -> None:
    for number, rows, columns, in_rows, in_columns in _begin(x, y, at, steps, g):
        candidate, held = x[:, in_rows, in_columns], y[:, rows, columns]
        larger = scratch(0, candidate.shape, np.bool_)
        np.greater(candidate, held, out=larger)
        if nan:
            larger |= np.isnan(candidate)
        np.maximum(held, candidate, out=held)
        # Positions come in rising order, so "take this one" is a maximum as well.
        chosen = scratch(1, candidate.shape, at.dtype)
        np.multiply(larger.view(np.uint8), at.dtype.type(number), out=chosen)
        held_at = at[:, rows, columns]
        np.maximum(held_at, chosen, out=held_at)


def _begin(
    x: Array, y: Array, at: Array, steps: tuple[Tap, ...], g: Pool2dGeometry
) -> tuple[Tap, ...]:
    """Write what maxima and positions start from: a position that all windows have. The steps
    left."""
    if steps and steps[0][1:3] == (slice(0, g.p), slice(0, g.q)):
        np.copyto(y, x[:, steps[0].rows, steps[0].columns])
        at.fill(steps[0].number)
        return steps[1:]
    y.fill(-np.inf)
    at[...] = _first_inside(g).astype(at.dtype)[:, :, None]
    return steps


def _first_inside(g: Pool2dGeometry) -> Array:
    """For each output (P, Q) the first position of its window that is inside the input."""
    top = np.arange(g.p) * g.stride_h - g.pad_h
    left = np.arange(g.q) * g.stride_w - g.pad_w
    r = np.maximum(0, -(top // g.dilation_h))
    s = np.maximum(0, -(left // g.dilation_w))
    return np.where(top < 0, r, 0)[:, None] * g.s + np.where(left < 0, s, 0)[None, :]


def max_pool2d_backward(
    dy: Array, argmax: Array, y: Array | None, dx: Array, *, geometry: Pool2dGeometry
) -> None:
    """dx (N, C, H, W) = dy (N, C, P, Q) added at the maximum of each window.

    Where the maxima y (N, C, P, Q) of a ReLU's output are given, dy is 0 where y <= 0.
    """
    g = geometry
    if dx.size == 0:
        return
    steps = taps(g)
    if y is None:
        (gradients, position, total), maxima = as_planes(dy, argmax, dx), None
    else:
        gradients, position, maxima, total = as_planes(dy, argmax, y, dx)
    signed = _SIGNED[dx.itemsize]
    apart = g.stride_h >= g.r and g.stride_w >= g.s and g.dilation_h == g.dilation_w == 1
    # Windows that tile the input write each element once: nothing to clear first.
    side_by_side = (g.stride_h, g.stride_w) == (g.r, g.s) and g.pad_h == g.pad_w == 0
    covered = apart and side_by_side and (g.p * g.r, g.q * g.s) == (g.h, g.w)

    def work(a: int, b: int) -> None:
        bits, at = gradients[a:b].view(signed), position[a:b]
        if maxima is not None:
            at = _without(maxima[a:b], at, g)
        if covered:
            _spread(bits, at, total[a:b].view(signed), g)
            return
        total[a:b] = 0
        for number, rows, columns, in_rows, in_columns in reversed(steps):
            some = at[:, rows, columns]
            selector = _selector(some, number, some.shape)
            target = total[a:b, in_rows, in_columns]
            if apart:
                np.bitwise_and(bits[:, rows, columns], selector, out=target.view(signed))
            else:
                share = scratch(1, selector.shape, signed)
                np.bitwise_and(bits[:, rows, columns], selector, out=share)
                np.add(target, share.view(dx.dtype), out=target)

    parallel_for(total.shape[0], grain(total), work, blas=False)


def _without(maxima: Array, at: Array, g: Pool2dGeometry) -> Array:
    """The positions `at`, or one that no window has where a maximum is not positive (NaN is)."""
    dropped = scratch(2, maxima.shape, np.bool_)
    np.less_equal(maxima, 0, out=dropped)
    ones = dropped.view(np.int8)
    np.negative(ones, out=ones)
    if at.dtype == np.uint8 and g.r * g.s < 256:
        ones = ones.view(np.uint8)
    kept = scratch(3, at.shape, np.result_type(at, ones))  # else there is none in 8 bits
    np.bitwise_or(at, ones, out=kept)
    return kept


def _selector(at: Array, number: Any, shape: tuple[int, ...]) -> Array:
    """-1, all bits set, where `at` is `number`, else 0; broadcast to `shape`.

    A mask of bits, not a factor: 0 times infinity would be NaN.
    """
    mask = scratch(0, shape, np.bool_)
    np.equal(at, number, out=mask)
    selector: Array = mask.view(np.int8)
    np.negative(selector, out=selector)
    return selector


def _spread(bits: Array, at: Array, total: Array, g: Pool2dGeometry) -> None:
    """total (n, P R, Q S, B) = bits (n, P, Q, B) at the one position of each window, else 0."""
    n, p, q, b = bits.shape
    windows = total.reshape(n, p, g.r, q, g.s, b).transpose(2, 4, 0, 1, 3, 5)
    selector = _selector(at, _positions(g.r, g.s, at.dtype), (g.r, g.s, *bits.shape))
    np.bitwise_and(bits, selector, out=windows)


@lru_cache(maxsize=64)
def _positions(r: int, s: int, dtype: np.dtype[Any]) -> Array:
    """The positions of a window, (R, S, 1, 1, 1, 1)."""
    return np.arange(r * s, dtype=dtype).reshape(r, s, 1, 1, 1, 1)


def max_pool2d_indices(argmax: Array, indices: Array, *, geometry: Pool2dGeometry) -> None:
    """indices = h*W + w in the input plane, from positions within the window."""
    g = geometry
    at = argmax.astype(np.int64)
    row = (np.arange(g.p) * g.stride_h - g.pad_h)[:, None] + at // g.s * g.dilation_h
    column = np.arange(g.q) * g.stride_w - g.pad_w + at % g.s * g.dilation_w
    np.add(row * g.w, column, out=indices)

"""Patch matrices made a filter tap at a time: as an index by index loop makes them, every time."""

from __future__ import annotations

import numpy as np
import pytest

from gpucnn.backends.cpu import patches
from gpucnn.backends.cpu.patches import Block, patches_by_tap
from gpucnn.ops.geometry import Conv2dGeometry


@pytest.fixture(autouse=True)
def nothing_kept():
    patches._kept.values.clear()
    patches._kept.size = 0


GEOMETRIES = {
    "plain": ((2, 3, 9, 11), (4, 3, 3, 3), 1, 1, 1),
    "stride 2": ((2, 2, 9, 12), (4, 2, 3, 3), 2, 1, 1),
    "stride 3, filter 2": ((1, 3, 12, 12), (4, 3, 2, 2), 3, 0, 1),
    "dilation 2": ((1, 1, 12, 12), (4, 1, 3, 3), 1, 2, 2),
    "dilation 2 of stride 2": ((1, 1, 12, 12), (4, 1, 3, 3), 2, 2, 2),
    "padding beyond the image": ((1, 2, 3, 2), (4, 2, 5, 5), 1, 4, 1),
}


def expected(x, g, block):
    """Element by element; x (N, H, W, C)."""
    n0, n1, p0, p1 = block
    matrix = np.zeros((g.r, g.s, g.c, n1 - n0, p1 - p0, g.q), x.dtype)
    for r, s, p, q in np.ndindex(g.r, g.s, p1 - p0, g.q):
        h = (p0 + p) * g.stride_h - g.pad_top + r * g.dilation_h
        w = q * g.stride_w - g.pad_left + s * g.dilation_w
        if 0 <= h < g.h and 0 <= w < g.w:
            matrix[r, s, :, :, p, q] = x[n0:n1, h, w].T
    rows = matrix.reshape(g.r * g.s * g.c, -1)
    return np.concatenate([rows, np.ones((1, rows.shape[1]), x.dtype)])


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_it_is_the_matrix_of_a_loop(name, kept, dtype, monkeypatch):
    if not kept:
        monkeypatch.setattr(patches, "_SMALL", 0)
    x_shape, w_shape, stride, padding, dilation = GEOMETRIES[name]
    g = Conv2dGeometry.of("test", x_shape, w_shape, stride, padding, dilation, 1)
    blocks = [Block(0, g.n, 0, g.p), Block(g.n - 1, g.n, g.p // 2, g.p), Block(0, 1, 0, 1)]
    rng = np.random.default_rng(0)
    for block in blocks + blocks:
        x = rng.standard_normal((g.n, g.h, g.w, g.c)).astype(dtype)
        np.testing.assert_array_equal(patches_by_tap(x, g, block), expected(x, g, block))
    assert len(patches._kept.values) == (len(set(blocks)) if kept else 0)


def test_what_is_kept_is_bounded(monkeypatch):
    monkeypatch.setattr(patches._kept, "bound", 4000)
    for side in range(4, 9):
        g = Conv2dGeometry.of("test", (1, 1, side, side), (4, 1, 3, 3), 1, 1, 1, 1)
        patches_by_tap(np.ones((1, side, side, 1), np.float32), g, Block(0, 1, 0, g.p))
        assert patches._kept.size <= 4000
    assert patches._kept.values

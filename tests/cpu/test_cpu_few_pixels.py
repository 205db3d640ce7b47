"""Convolution with few output pixels: every geometry, and memory that is kept between calls."""

from __future__ import annotations

import numpy as np
import pytest
from cpu_helpers import using_threads

from gpucnn.backends.cpu import algorithms, few_pixels
from gpucnn.backends.cpu.algorithm_times import FEW_PIXELS, is_of_lines
from gpucnn.backends.cpu.epilogue import Epilogue
from gpucnn.ops.geometry import Conv2dGeometry


@pytest.fixture(autouse=True)
def nothing_kept():
    few_pixels._kept.values.clear()
    few_pixels._kept.size = 0


def geometry(x, w, stride=1, padding=0, dilation=1):
    return Conv2dGeometry.of("test", x, w, stride, padding, dilation, 1)


def arrays(g, seed=0, dtype=np.float32):
    """x (N, H, W, C) and w (R, S, C, K), w as the engine stores it."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((g.n, g.h, g.w, g.c)).astype(dtype)
    w = rng.standard_normal((g.k, g.r, g.s, g.c)).astype(dtype)
    return x, w.transpose(1, 2, 3, 0)


def forward(x, w, g, **epilogue):
    y = np.full((g.n, g.p, g.q, g.k), np.nan, x.dtype)
    few_pixels.forward(x, w, g, Epilogue(y, **epilogue))
    return y


def direct(x, w, g):
    """By loops over the outputs, in float64."""
    padded = np.zeros((g.n, g.h + 64, g.w + 64, g.c))
    padded[:, 32 : 32 + g.h, 32 : 32 + g.w] = x
    y = np.zeros((g.n, g.p, g.q, g.k))
    for r in range(g.r):
        for s in range(g.s):
            top = 32 - g.pad_top + r * g.dilation_h
            left = 32 - g.pad_left + s * g.dilation_w
            rows = slice(top, top + (g.p - 1) * g.stride_h + 1, g.stride_h)
            columns = slice(left, left + (g.q - 1) * g.stride_w + 1, g.stride_w)
            y += padded[:, rows, columns] @ w[r, s].astype(np.float64)
    return y


GEOMETRIES = {
    "plain": ((1, 24, 8, 8), (16, 24, 3, 3), 1, 1, 1),
    "one pixel": ((1, 24, 3, 3), (16, 24, 3, 3), 1, 0, 1),
    "one channel": ((1, 1, 3, 3), (5, 1, 3, 3), 1, 1, 1),
    "pointwise": ((3, 40, 4, 4), (7, 40, 1, 1), 1, 0, 1),
    "pointwise, stride 2": ((1, 40, 7, 9), (7, 40, 1, 1), 2, 0, 1),
    "stride 2": ((1, 24, 9, 7), (16, 24, 3, 3), 2, 1, 1),
    "stride beyond the filter": ((2, 24, 13, 13), (16, 24, 2, 2), 3, 1, 1),
    "strides apart": ((1, 24, 9, 11), (16, 24, 3, 3), (3, 2), (1, 0), 1),
    "dilation": ((1, 24, 9, 9), (16, 24, 3, 3), 1, 2, 2),
    "dilation 3 of stride 2": ((1, 24, 15, 15), (16, 24, 3, 3), 2, 3, 3),
    "dilation 2 of stride 4": ((1, 24, 15, 15), (16, 24, 4, 4), 4, 3, 2),
    "dilation 4 of stride 6": ((1, 24, 25, 25), (16, 24, 4, 3), 6, 4, (4, 2)),
    "large filter": ((1, 24, 12, 12), (16, 24, 7, 5), 2, (3, 2), 1),
    "padding beyond the image": ((1, 24, 2, 2), (16, 24, 5, 5), 1, 4, 1),
    "images": ((5, 24, 3, 4), (16, 24, 3, 3), 1, 1, 1),
    "channels in parts": ((1, 400, 4, 4), (16, 400, 3, 3), 1, 1, 1),
    "channels without a divisor": ((1, 509, 2, 2), (16, 509, 3, 3), 1, 1, 1),
    "filters for several threads": ((1, 256, 4, 4), (520, 256, 3, 3), 1, 1, 1),
}


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_it_agrees_with_a_direct_loop(name, dtype):
    g = geometry(*GEOMETRIES[name])
    x, w = arrays(g, dtype=dtype)
    expected = direct(x, w, g)
    bound = 2e-6 if dtype == np.float32 else 1e-14
    for seed in (0, 1):  # the second finds the memory of the first
        x = arrays(g, seed, dtype)[0]
        expected = direct(x, w, g)
        assert np.abs(forward(x, w, g) - expected).max() <= bound * np.abs(expected).max()


def test_products_are_added_up_in_groups_where_they_would_be_many(monkeypatch):
    g = geometry((1, 24, 9, 9), (16, 24, 5, 5), 2, 2)
    x, w = arrays(g)
    at_once = forward(x, w, g)
    few_pixels._kept.values.clear()
    monkeypatch.setattr(few_pixels, "_PRODUCTS", 1)
    np.testing.assert_allclose(forward(x, w, g), at_once, rtol=1e-5, atol=1e-5)
    ((lines, _),) = few_pixels._kept.values.values()
    assert len(lines.groups) == 5


def test_any_strides_and_what_follows():
    g = geometry((2, 24, 5, 5), (160, 24, 3, 3), 1, 1)
    x, w = arrays(g)
    rng = np.random.default_rng(3)
    bias = rng.standard_normal(g.k).astype(np.float32)
    addend = rng.standard_normal((g.n, g.p, g.q, g.k)).astype(np.float32)
    expected = np.maximum(direct(x, w, g) + bias + addend, 0)
    strange_x = np.zeros((2, 10, 5, 48), np.float32)[:, ::2, :, ::2]
    strange_x[...] = x
    for images, filters in (
        (strange_x, w),
        (np.asfortranarray(x), np.ascontiguousarray(w)),
        (x[:, ::-1].copy()[:, ::-1], w[::-1, ::-1].copy()[::-1, ::-1]),
    ):
        y = forward(images, filters, g, bias=bias, addend=addend, relu=True)
        assert np.abs(y - expected).max() <= 2e-6 * np.abs(expected).max()


@pytest.mark.parametrize("name", ["filters for several threads", "stride 2", "images"])
def test_the_same_bits_for_any_number_of_threads(name):
    g = geometry(*GEOMETRIES[name])
    x, w = arrays(g)
    found = []
    for count in (1, 2, 3):
        with using_threads(count):
            found.append(forward(x, w, g).tobytes())
    assert len(set(found)) == 1


def test_not_a_number_does_not_stay_in_kept_memory():
    g = geometry(*GEOMETRIES["plain"])
    x, w = arrays(g)
    clean = forward(x, w, g)
    assert np.isnan(forward(np.full_like(x, np.nan), w, g)).all()
    assert forward(x, w, g).tobytes() == clean.tobytes()


def test_what_is_kept_is_bounded(monkeypatch):
    monkeypatch.setattr(few_pixels._kept, "bound", 8000)
    for side in range(3, 8):
        g = geometry((1, 24, side, side), (16, 24, 3, 3), 1, 1)
        x, w = arrays(g)
        forward(x, w, g)
        assert few_pixels._kept.size <= 8000
    assert few_pixels._kept.values


def test_it_computes_what_has_few_pixels():
    few, many = (geometry((1, 24, side, 8), (16, 24, 3, 3), 1, 1) for side in (8, 9))
    assert few.p * few.q == FEW_PIXELS and is_of_lines(few) and not is_of_lines(many)
    assert not is_of_lines(geometry((1, 8, 8, 8), (16, 8, 3, 3), 1, 1))  # too few channels
    assert not is_of_lines(geometry((1, 64, 8, 8), (16, 64, 2, 2), 2))  # patches side by side
    assert not is_of_lines(geometry((1, 64, 5, 5), (16, 64, 5, 5)))  # one patch
    assert "patches" in [c.name for c in algorithms.explain(few, "forward")]

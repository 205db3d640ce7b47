"""Winograd's filtering of few tiles, in memory that is kept: as that of many, in every call."""

from __future__ import annotations

import numpy as np
import pytest
from cpu_helpers import using_threads

from gpucnn.backends.cpu import winograd, winograd_filters, winograd_single
from gpucnn.backends.cpu.epilogue import Epilogue
from gpucnn.backends.cpu.winograd_plan import Plan, backward_plan, forward_plan
from gpucnn.ops.geometry import Conv2dGeometry


@pytest.fixture(autouse=True)
def nothing_kept():
    for kept in (winograd_single._kept, winograd_filters._kept):
        kept.values.clear()
        kept.size = 0


GEOMETRIES = {
    "whole tiles": ((1, 32, 16, 16), (24, 32, 3, 3), 1, 1),
    "tiles beyond the image": ((2, 32, 9, 7), (24, 32, 3, 3), 1, 1),
    "no padding": ((1, 32, 10, 10), (24, 32, 3, 3), 1, 0),
    "padding of two": ((1, 32, 6, 6), (24, 32, 3, 3), 1, 2),
    "stride 2": ((1, 32, 16, 12), (24, 32, 3, 3), 2, 1),
    "stride 2 of odd sizes": ((2, 32, 13, 9), (24, 32, 3, 3), 2, 1),
    "long products": ((1, 64, 32, 32), (64, 64, 3, 3), 1, 1),
}


def case(name, m=4):
    x, w, stride, padding = GEOMETRIES[name]
    return Conv2dGeometry.of("test", x, w, stride, padding, 1, 1), m


def arrays(g, seed=0):
    rng = np.random.default_rng(seed)
    shapes = (g.n, g.h, g.w, g.c), (g.k, g.r, g.s, g.c), (g.n, g.p, g.q, g.k)
    x, w, dy = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    return x, w, dy


def forward(x, w, g, m):
    y = np.full((g.n, g.p, g.q, g.k), np.nan, np.float32)
    winograd.forward(x, w.transpose(1, 2, 3, 0), m, g, Epilogue(y))
    return y


def backward(dy, w, g, m):
    dx = np.full((g.n, g.h, g.w, g.c), np.nan, np.float32)
    winograd.backward_input(dy, w.transpose(1, 2, 0, 3), m, g, Epilogue(dx))
    return dx


def without(monkeypatch):
    monkeypatch.setattr(Plan, "is_small", False)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_forward_and_backward_are_those_of_many_tiles(name, monkeypatch):
    g, m = case(name)
    assert forward_plan(m, g).is_small and backward_plan(m, g).is_small
    found = []
    for seed in (0, 1, 1):  # the later calls find the memory of the earlier ones
        x, w, dy = arrays(g, seed)
        found.append((forward(x, w, g, m), backward(dy, w, g, m)))
    without(monkeypatch)
    for seed, (y, dx) in zip((0, 1, 1), found):
        x, w, dy = arrays(g, seed)
        for one, other in ((y, forward(x, w, g, m)), (dx, backward(dy, w, g, m))):
            assert np.abs(one - other).max() <= 1e-5 * np.abs(other).max()


@pytest.mark.parametrize("name", ["tiles beyond the image", "stride 2", "long products"])
def test_the_same_bits_for_any_number_of_threads(name):
    g, m = case(name)
    x, w, dy = arrays(g)
    found = set()
    for count in (1, 2, 3):
        with using_threads(count):
            found.add(forward(x, w, g, m).tobytes() + backward(dy, w, g, m).tobytes())
    assert len(found) == 1


def test_any_strides_of_images_and_outputs():
    g, m = case("whole tiles")
    x, w, _ = arrays(g)
    expected = forward(x, w, g, m)
    wide = np.zeros((g.n, g.h, g.w, 2 * g.c), np.float32)[..., ::2]
    wide[...] = x
    y = np.zeros((g.n, g.p, g.q, 2 * g.k), np.float32)[..., ::2]
    winograd.forward(wide, w.transpose(1, 2, 3, 0), m, g, Epilogue(y))
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    assert forward(np.asfortranarray(x), w, g, m).tobytes() == expected.tobytes()


def test_infinity_does_not_stay_in_kept_memory():
    g, m = case("tiles beyond the image")
    x, w, _ = arrays(g)
    clean = forward(x, w, g, m)
    with np.errstate(all="ignore"):
        assert np.isnan(forward(np.full_like(x, np.inf), w, g, m)).any()
    assert forward(x, w, g, m).tobytes() == clean.tobytes()


def test_what_is_kept_is_bounded(monkeypatch):
    kept = winograd_single._kept
    g, m = case("no padding")
    forward(*arrays(g)[:2], g, m)
    size = kept.size
    monkeypatch.setattr(kept, "bound", size)
    for name in ("whole tiles", "padding of two", "no padding", "long products"):
        g, m = case(name)
        forward(*arrays(g)[:2], g, m)
        assert kept.size <= size
    g, m = case("no padding")
    forward(*arrays(g)[:2], g, m)
    assert list(kept.values) == [(forward_plan(m, g), np.dtype(np.float32))]

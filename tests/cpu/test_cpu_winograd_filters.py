"""Filters' frequencies that are kept between calls: found again, and never out of date."""

from __future__ import annotations

import threading
import warnings

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController

from gpucnn.backends.cpu import CpuBackend, algorithms, winograd_filters
from gpucnn.backends.cpu.winograd_plan import Plan, forward_plan
from gpucnn.ops.geometry import Conv2dGeometry

PRIMITIVES = CpuBackend.primitives


@pytest.fixture(autouse=True)
def nothing_kept():
    winograd_filters._kept.values.clear()
    winograd_filters._kept.size = 0


@pytest.fixture
def transforms(monkeypatch):
    """How often filters were transformed."""
    calls = []
    original = Plan.spectrum
    monkeypatch.setattr(Plan, "spectrum", lambda *args: calls.append(1) or original(*args))
    return calls


def geometry(x, w, stride=1):
    return Conv2dGeometry.of("test", x, w, stride, 1, 1, 1)


def arrays(g: Conv2dGeometry, seed: int = 0):
    """x, and w in its order in memory."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(g.x_shape).astype(np.float32)
    k, c, r, s = g.w_shape
    w = rng.standard_normal((k, r, s, c)).astype(np.float32).transpose(0, 3, 1, 2)
    return x, w


def forward(g: Conv2dGeometry, x, w):
    y = np.empty(g.y_shape, np.float32)
    with algorithms.forced("winograd4"):
        PRIMITIVES["conv2d"](x, w, None, None, y, geometry=g, relu=False, precision="auto")
    return y


@pytest.mark.parametrize("stride", [1, 2])
def test_unchanged_filters_are_transformed_twice_at_most(transforms, stride):
    g = geometry((1, 16, 12, 12), (24, 16, 3, 3), stride=stride)
    x, w = arrays(g)
    ys = [forward(g, x, w) for _ in range(5)]
    assert len(transforms) == 2  # the first time nobody knows that there will be a second
    assert all(y.tobytes() == ys[0].tobytes() for y in ys)


@pytest.mark.parametrize("at", [(0, 0, 0, 0), (23, 15, 2, 2), (7, 3, 1, 0)])
def test_a_change_of_any_element_is_seen(at):
    """Also one that no counter sees, and back again."""
    g = geometry((1, 16, 12, 12), (24, 16, 3, 3))
    x, w = arrays(g)
    before = [forward(g, x, w) for _ in range(3)][-1]
    old = w[at]
    w[at] = np.nextafter(old, np.float32(9))
    changed = [forward(g, x, w) for _ in range(3)]
    winograd_filters._kept.values.clear()
    fresh = forward(g, x, w)
    assert all(y.tobytes() == fresh.tobytes() for y in changed)
    w[at] = old
    assert forward(g, x, w).tobytes() == before.tobytes()


def test_nan_in_the_filters_is_unchanged_too(transforms):
    g = geometry((1, 8, 8, 8), (8, 8, 3, 3))
    x, w = arrays(g)
    w[0, 0, 0, 0] = np.nan
    for _ in range(4):
        assert np.isnan(forward(g, x, w)).any()
    assert len(transforms) == 2


def test_transforms_are_silent_and_on_one_thread(monkeypatch):
    """Those in the first call, and those that are kept in the second."""
    seen = []
    original = Plan.spectrum

    def spectrum(*args):
        info = ThreadpoolController().select(user_api="blas").info()
        seen.append([library["num_threads"] for library in info])
        return original(*args)

    monkeypatch.setattr(Plan, "spectrum", spectrum)
    g = geometry((1, 16, 12, 12), (24, 16, 3, 3))
    x, w = arrays(g)
    w[3, 4, 1, 1] = np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            forward(g, x, w)
    assert len(seen) == 2 and all(count == 1 for counts in seen for count in counts)


def test_other_filters_in_the_same_memory():
    g = geometry((1, 16, 12, 12), (24, 16, 3, 3))
    x, w = arrays(g)
    other = arrays(g, 1)[1]
    expected = forward(g, x, other)
    for _ in range(3):
        forward(g, x, w)
    w[...] = other
    assert forward(g, x, w).tobytes() == expected.tobytes()


def test_what_is_kept_is_bounded(monkeypatch):
    monkeypatch.setattr(winograd_filters._kept, "bound", 3 * (36 * 16 * 24 + 1024))
    g = geometry((1, 16, 12, 12), (24, 16, 3, 3))
    several = [arrays(g, seed) for seed in range(4)]
    for x, w in several:
        forward(g, x, w)
        forward(g, x, w)
    kept = winograd_filters._kept
    assert len(kept.values) == 3 and kept.size == 3 * (36 * 16 * 24 + 1024)
    first = several[0][1].__array_interface__["data"][0]
    assert first not in [key[0] for key in kept.values]


def test_many_images_and_strange_memory_keep_nothing():
    g = geometry((64, 64, 32, 32), (64, 64, 3, 3))
    assert forward_plan(4, g).grid.tiles == 4096
    x, w = arrays(g)
    forward(g, x, w)
    small = geometry((1, 16, 12, 12), (24, 16, 3, 3))
    x, w = arrays(small)
    wide = np.zeros((24, 3, 3, 32), np.float32)[..., ::2].transpose(0, 3, 1, 2)
    wide[...] = w
    assert forward(small, x, wide).tobytes() == forward(small, x, wide).tobytes()
    assert not winograd_filters._kept.values


def test_threads_keep_their_own():
    g = geometry((1, 16, 12, 12), (24, 16, 3, 3))
    x, w = arrays(g)
    expected = forward(g, x, w)
    found = []
    thread = threading.Thread(target=lambda: found.extend(forward(g, x, w) for _ in range(3)))
    thread.start()
    thread.join()
    assert [y.tobytes() for y in found] == [expected.tobytes()] * 3
    assert len(winograd_filters._kept.values) == 1

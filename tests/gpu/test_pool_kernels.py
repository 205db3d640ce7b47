"""Pooling on the emulated device: channels-last images by quads, and any other memory order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from conv_reference import (
    FIRST,
    LAST,
    error,
    max_pool,
    max_pool_backward,
    normal,
    put,
    unwritten,
)

from gpucnn.backends.cpu import pool as cpu_pool
from gpucnn.backends.gpu import nvrtc, pool, pool_quads
from gpucnn.backends.gpu.emulated import EmulatedRuntime
from gpucnn.ops.geometry import Pool2dGeometry

pytestmark = pytest.mark.skipif(not nvrtc.compilers(), reason="NVRTC is not installed")

WINDOWS = [(2, 0, False), (2, 0, True), (2, 1, True), (3, 1, False), (3, 0, True), (3, 1, True)]


@pytest.fixture(scope="module")
def runtime() -> EmulatedRuntime:
    runtime = EmulatedRuntime(counters=True)
    runtime.launches = []
    return runtime


def launched(runtime: EmulatedRuntime) -> list[Any]:
    found, runtime.launches = runtime.launches or [], []
    return found


@contextmanager
def keeping(runtime: EmulatedRuntime) -> Iterator[None]:
    """Within it launches are not kept."""
    kept, runtime.launches = runtime.launches, None
    yield
    runtime.launches = kept


def with_ties(shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(-1, 2, shape).astype(np.float32)


def special(shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    values = np.array([np.nan, np.inf, -np.inf, -np.inf, 0, 1], np.float32)
    return np.random.default_rng(0).choice(values, shape)


@pytest.mark.parametrize(("size", "padding", "ceil_mode"), WINDOWS)
@pytest.mark.parametrize("values", [with_ties, special])
def test_max_pool(
    runtime: EmulatedRuntime, size: int, padding: int, ceil_mode: bool, values: Any
) -> None:
    """Places and gradients to the bit, for full and partly filled groups of quads."""
    for channels in (4, 12, 40):
        g = Pool2dGeometry.of("test", (2, channels, 9, 11), size, 2, padding, 1, ceil_mode)
        x, dy = values(g.x_shape), normal(1, *g.y_shape)
        y, argmax = max_pool(x, g)
        launched(runtime)
        for order in (LAST, FIRST) if channels == 4 else (LAST,):
            found = unwritten(runtime, g.y_shape, order)
            place = unwritten(runtime, g.y_shape, order, "u1")
            pool.max_pool2d(runtime, put(runtime, x, order), found, place, geometry=g)
            assert np.array_equal(found, y, equal_nan=True) and np.array_equal(place, argmax)
            alone = unwritten(runtime, g.y_shape, order)
            with keeping(runtime):
                pool.max_pool2d(runtime, put(runtime, x, order), alone, geometry=g)
            assert np.array_equal(alone, y, equal_nan=True)
            for gate in (None, normal(2, *g.y_shape)):
                dx = unwritten(runtime, g.x_shape, order)
                gradient = put(runtime, dy, order)
                gating = put(runtime, gate, order)
                pool.max_pool2d_backward(runtime, gradient, place, gating, dx, geometry=g)
                masked = dy if gate is None else np.where(gate > 0, dy, 0)
                np.testing.assert_allclose(dx, max_pool_backward(masked, argmax, g), atol=2e-6)
            quads = [launch.kernel.entry for launch in launched(runtime) if "quads" in str(launch)]
            assert len(quads) == (3 if order == LAST else 0)


@pytest.mark.parametrize("size", [2, 3])
def test_max_pool_before_flatten(runtime: EmulatedRuntime, size: int) -> None:
    """Channels-last images whose maxima lie in the order of the linear layer behind them."""
    g = Pool2dGeometry.of("test", (2, 20, 9, 7), size, 2, size // 2)
    x, dy, gate = with_ties(g.x_shape), normal(1, *g.y_shape), normal(2, *g.y_shape)
    y, argmax = max_pool(x, g)
    found = unwritten(runtime, g.y_shape, FIRST)
    place = unwritten(runtime, g.y_shape, FIRST, "u1")
    dx = unwritten(runtime, g.x_shape)
    launched(runtime)
    pool.max_pool2d(runtime, put(runtime, x), found, place, geometry=g)
    operands = put(runtime, dy, FIRST), place, put(runtime, gate)
    pool.max_pool2d_backward(runtime, *operands, dx, geometry=g)
    assert np.array_equal(found, y) and np.array_equal(place, argmax)
    wanted = max_pool_backward(np.where(gate > 0, dy, 0), argmax, g)
    np.testing.assert_allclose(dx, wanted, atol=2e-6)
    assert all("quads" in launch.kernel.entry for launch in launched(runtime))


def test_a_gated_nan_does_not_count(runtime: EmulatedRuntime) -> None:
    g = Pool2dGeometry.of("test", (1, 4, 4, 4), 2, 2, 0)
    place = put(runtime, np.zeros(g.y_shape, np.uint8))
    dy, y = np.full(g.y_shape, np.nan, np.float32), np.zeros(g.y_shape, np.float32)
    for order in (LAST, FIRST):
        dx = unwritten(runtime, g.x_shape, order)
        operands = (put(runtime, a, order) for a in (dy, place, y))
        pool.max_pool2d_backward(runtime, *operands, dx, geometry=g)
        assert not dx.any()


@pytest.mark.parametrize(
    ("size", "padding", "side"),
    [(2, 0, 32), (3, 1, 56), (3, 0, 55)],
    ids=["2", "resnet", "alexnet"],
)
def test_bytes_of_max_pool(
    runtime: EmulatedRuntime,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    padding: int,
    side: int,
) -> None:
    """Every byte moves about once, in whole sectors, as in the long bands of a large batch."""
    monkeypatch.setattr(pool_quads, "FEW", 0)
    g = Pool2dGeometry.of("test", (1, 32, side, side), size, 2, padding)
    x, dy = normal(0, *g.x_shape), normal(1, *g.y_shape)
    y, place = unwritten(runtime, g.y_shape), unwritten(runtime, g.y_shape, LAST, "u1")
    dx = unwritten(runtime, g.x_shape)
    launched(runtime)
    pool.max_pool2d(runtime, put(runtime, x), y, place, geometry=g)
    pool.max_pool2d_backward(runtime, put(runtime, dy), place, y, dx, geometry=g)
    ideal = x.nbytes + dy.nbytes + place.nbytes
    for launch, least in zip(launched(runtime), (ideal, ideal + dy.nbytes), strict=True):
        counters = launch.report.counters
        assert counters.bytes_read + counters.bytes_written < 1.05 * least
        assert counters.store_sectors == counters.store_sectors_ideal


@pytest.mark.parametrize(
    ("shape", "window", "adaptive"),
    [
        ((3, 512, 4, 4), None, (1, 1)), ((2, 64, 7, 7), None, (1, 1)),
        ((2, 16, 10, 10), (2, 2), None), ((2, 20, 11, 9), (2, 3), None),
        ((2, 12, 8, 6), None, (2, 3)), ((1, 4, 1, 5), None, (1, 5)),
    ],
)  # fmt: skip
def test_average_of_windows_side_by_side(
    runtime: EmulatedRuntime, shape: tuple[int, ...], window: Any, adaptive: Any
) -> None:
    """Global and other pools whose windows do not overlap: one launch, each byte once."""
    x = normal(0, *shape)
    if window is None:
        (y_shape, how) = (*shape[:2], *adaptive), {}
        names = "adaptive_avg_pool2d", "adaptive_avg_pool2d_backward"
    else:
        g = Pool2dGeometry.of("test", shape, window, None, 0)
        (y_shape, how), names = (g.y_shape, {"geometry": g}), ("avg_pool2d", "avg_pool2d_backward")
    dy = normal(1, *y_shape)
    y, dx = unwritten(runtime, y_shape), unwritten(runtime, shape)
    launched(runtime)
    getattr(pool, names[0])(runtime, put(runtime, x), y, **how)
    getattr(pool, names[1])(runtime, put(runtime, dy), dx, **how)
    wanted_y, wanted_dx = np.empty(y_shape), np.empty(shape)
    getattr(cpu_pool, names[0])(x.astype(np.float64), wanted_y, **how)
    getattr(cpu_pool, names[1])(dy.astype(np.float64), wanted_dx, **how)
    assert error(y, wanted_y) < 1e-6 and error(dx, wanted_dx) < 1e-6
    found = launched(runtime)
    assert [launch.kernel.module.file for launch in found] == ["avg_pool2d_quads.cu"] * 2
    if shape[1] % 8 == 0:
        for launch in found:
            counters = launch.report.counters
            assert counters.bytes_read + counters.bytes_written == x.nbytes + dy.nbytes


def test_windows_that_overlap_are_left_to_the_other_kernels(runtime: EmulatedRuntime) -> None:
    x = normal(0, 2, 8, 7, 5)
    y = unwritten(runtime, (2, 8, 3, 2))
    launched(runtime)
    pool.adaptive_avg_pool2d(runtime, put(runtime, x), y)
    wanted = np.empty(y.shape)
    cpu_pool.adaptive_avg_pool2d(x.astype(np.float64), wanted)
    assert error(y, wanted) < 1e-6
    assert [launch.kernel.module.file for launch in launched(runtime)] == ["avg_pool2d.cu"]

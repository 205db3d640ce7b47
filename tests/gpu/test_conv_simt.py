"""Every instance of the float convolution on the ordinary lanes, against float64 sums.

Each launch is checked by the emulator (bounds, races, uninitialised memory), its conflicts in
shared memory are counted, and so are the sectors that it stores.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from gpucnn import emulator
from gpucnn.backends.gpu import conv, emulated, nvrtc, select
from gpucnn.backends.gpu.conv_simt import INSTANCES
from gpucnn.backends.gpu.emulated import EmulatedRuntime
from gpucnn.backends.gpu.instances import Instance
from gpucnn.ops.geometry import Conv2dGeometry

Array = np.ndarray[Any, Any]
CHANNELS_LAST = (0, 2, 3, 1)
SMALL = next(i.name for i in INSTANCES if i.direction == "backward_input" and i.tile_k == 8)

pytestmark = pytest.mark.skipif(not nvrtc.compilers(), reason="needs an NVRTC wheel")


def geometry(x: tuple[int, ...], w: tuple[int, ...], **how: Any) -> Conv2dGeometry:
    options = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, **how}
    return Conv2dGeometry.of("conv2d", x, w, **options)


# A few filters or channels behind a tile of 128, pixels behind one, and depths that end in the
# middle of a step of 8 or 16; even and uneven strides, which divide neither sizes nor filters.
# The first of each direction has results in whole sectors.
MANY_FILTERS = geometry((2, 8, 9, 8), (136, 8, 3, 3), padding=1)
MANY_CHANNELS = geometry((2, 136, 9, 8), (8, 136, 3, 3), padding=1)
STRIDED = geometry((2, 20, 11, 7), (8, 20, 3, 2), stride=(2, 3), padding=(1, 2), dilation=(1, 2))
GROUPED = geometry((3, 16, 7, 8), (24, 8, 2, 2), groups=2, dilation=2, padding=1)
POINTWISE = geometry((2, 12, 9, 8), (20, 12, 1, 1), stride=2)
CASES = {
    "forward": (MANY_FILTERS, STRIDED, GROUPED),
    "backward_input": (MANY_CHANNELS, STRIDED, GROUPED, POINTWISE),
    "backward_weight": (MANY_FILTERS, STRIDED, GROUPED),
}


class Operands:
    """Random arrays of a geometry on a runtime, and the sums that a convolution makes of them."""

    def __init__(self, runtime: EmulatedRuntime, g: Conv2dGeometry) -> None:
        self.runtime, self.g = runtime, g
        self.rng = np.random.default_rng(g.c + 7 * g.k)
        self.x, self.w, self.dy = (self.normal(s) for s in (g.x_shape, g.w_shape, g.y_shape))
        self.b = self.normal((g.k,))

    def new(self, shape: tuple[int, ...]) -> Array:
        order = CHANNELS_LAST if len(shape) == 4 else None
        return self.runtime.empty(shape, np.float32, order)

    def normal(self, shape: tuple[int, ...]) -> Array:
        array = self.new(shape)
        array[...] = self.rng.standard_normal(shape)
        return array

    @functools.cached_property
    def sums(self) -> tuple[Array, Array, Array]:
        """y without bias, dx and dw in float64."""
        g = self.g
        y, dw = np.zeros(g.y_shape), np.zeros(g.w_shape)
        dx, x = np.zeros(g.x_shape), self.x.astype(np.float64)
        w, dy = self.w.astype(np.float64), self.dy.astype(np.float64)
        for r in range(g.r):
            for s in range(g.s):
                h = np.arange(g.p) * g.stride_h - g.pad_top + r * g.dilation_h
                v = np.arange(g.q) * g.stride_w - g.pad_left + s * g.dilation_w
                p, q = np.flatnonzero((h >= 0) & (h < g.h)), np.flatnonzero((v >= 0) & (v < g.w))
                inside, outside = (..., h[p][:, None], v[q]), (..., p[:, None], q)
                for group in range(g.groups):
                    c = slice(group * g.c // g.groups, (group + 1) * g.c // g.groups)
                    k = slice(group * g.k // g.groups, (group + 1) * g.k // g.groups)
                    tap = x[:, c][inside], dy[:, k][outside], w[k, :, r, s]
                    y[:, k][outside] += np.einsum("nchw,kc->nkhw", tap[0], tap[2])
                    dx[:, c][inside] += np.einsum("nkhw,kc->nchw", tap[1], tap[2])
                    dw[k, :, r, s] += np.einsum("nchw,nkhw->kc", tap[0], tap[1])
        return y, dx, dw


def close(got: Array, wanted: Array) -> None:
    assert np.abs(got - wanted).max() <= 2e-6 * max(np.abs(wanted).max(), 1) * 8


@pytest.fixture
def runtime() -> Iterator[EmulatedRuntime]:
    runtime = EmulatedRuntime(counters=True)
    runtime.launches = []
    yield runtime


def check_launches(runtime: EmulatedRuntime, instance: Instance, g: Conv2dGeometry) -> None:
    """The instance ran, without conflicts, and its stores touched no sector in vain."""
    assert runtime.launches
    first = runtime.launches[0]
    assert first.kernel.entry == instance.entry
    assert dict(instance.defines).items() <= dict(first.kernel.module.defines).items()
    for launch in runtime.launches:
        c = launch.report.counters
        assert c.shared_load_wavefronts == c.shared_load_wavefronts_ideal
        assert c.shared_store_wavefronts == c.shared_store_wavefronts_ideal
        if g is CASES[instance.direction][0]:
            assert c.store_sectors == c.store_sectors_ideal
    runtime.launches.clear()


def of(direction: str) -> list[Instance]:
    return [instance for instance in INSTANCES if instance.direction == direction]


def by_name(instance: Instance) -> str:
    return f"{instance.tile_m}x{instance.tile_n}x{instance.tile_k}"


@pytest.mark.parametrize("instance", of("forward"), ids=by_name)
def test_forward(runtime: EmulatedRuntime, instance: Instance) -> None:
    for g in CASES["forward"]:
        data = Operands(runtime, g)
        y, addend, expected = data.new(g.y_shape), data.normal(g.y_shape), data.sums[0]
        expected = expected + data.b[:, None, None].astype(np.float64)
        with select.forced(instance.name):
            if g is not MANY_FILTERS:
                conv.conv2d(
                    runtime, data.x, data.w, data.b, addend, y,
                    geometry=g, relu=True, precision="auto",
                )  # fmt: skip
                close(y, np.maximum(expected + addend, 0))
                check_launches(runtime, instance, g)
            if g is not STRIDED:
                _check_statistics(runtime, data, y, expected)
                check_launches(runtime, instance, g)


def _check_statistics(runtime: EmulatedRuntime, data: Operands, y: Array, expected: Array) -> None:
    """y, its mean and variance and the running ones, in two launches."""
    filters = (data.g.k,)
    mean, variance, *running = (data.normal(filters) for _ in range(4))
    before = [np.array(array, np.float64) for array in running]
    conv.conv2d_statistics(
        runtime, data.x, data.w, data.b, *running, y, mean, variance,
        geometry=data.g, precision="auto", momentum=0.25,
    )  # fmt: skip
    assert runtime.launches is not None and len(runtime.launches) == 2
    rows = expected.size // data.g.k
    close(y, expected)
    close(mean, expected.mean((0, 2, 3)))
    close(variance, expected.var((0, 2, 3)))
    close(running[0], 0.75 * before[0] + 0.25 * expected.mean((0, 2, 3)))
    unbiased = expected.var((0, 2, 3)) * rows / (rows - 1)
    close(running[1], 0.75 * before[1] + 0.25 * unbiased)


@pytest.mark.parametrize("instance", of("backward_input"), ids=by_name)
def test_backward_input(runtime: EmulatedRuntime, instance: Instance) -> None:
    for g in CASES["backward_input"]:
        data = Operands(runtime, g)
        dx, addend, mask = data.new(g.x_shape), data.normal(g.x_shape), data.normal(g.x_shape)
        with select.forced(instance.name):
            conv.conv2d_backward_input(
                runtime, data.dy, data.w, addend, mask, dx, geometry=g, precision="auto"
            )
        assert runtime.launches is not None and len(runtime.launches) == 1
        close(dx, np.where(mask > 0, data.sums[1] + addend, 0))
        check_launches(runtime, instance, g)


@pytest.mark.parametrize("instance", of("backward_weight"), ids=by_name)
def test_backward_weight(runtime: EmulatedRuntime, instance: Instance) -> None:
    for g in CASES["backward_weight"]:
        data = Operands(runtime, g)
        dw, db = data.new(g.w_shape), data.new((g.k,))
        with select.forced(instance.name):
            found = select.explain("backward_weight", g, "auto", runtime.properties())[0]
            conv.conv2d_backward_weight(
                runtime, data.x, data.dy, dw, db, geometry=g, precision="auto"
            )
        assert (found.plan.splits > 1) == (g is MANY_FILTERS or g is GROUPED)
        assert runtime.launches is not None and len(runtime.launches) == found.plan.launches
        close(dw, data.sums[2])
        close(db, data.dy.sum((0, 2, 3), dtype=np.float64))
        check_launches(runtime, instance, g)


def test_without_bias_addend_or_mask(runtime: EmulatedRuntime) -> None:
    g = POINTWISE
    data = Operands(runtime, g)
    y, dx, dw = data.new(g.y_shape), data.new(g.x_shape), data.new(g.w_shape)
    with select.forced("simt"):
        conv.conv2d(
            runtime, data.x, data.w, None, None, y, geometry=g, relu=False, precision="auto"
        )
        conv.conv2d_backward_input(
            runtime, data.dy, data.w, None, None, dx, geometry=g, precision="auto"
        )
        conv.conv2d_backward_weight(runtime, data.x, data.dy, dw, geometry=g, precision="auto")
    for got, wanted in zip((y, dx, dw), data.sums, strict=True):
        close(got, wanted)


def test_nan_stays_nan_where_relu_and_mask_let_it(runtime: EmulatedRuntime) -> None:
    g = POINTWISE
    data = Operands(runtime, g)
    data.x[0, :, 0, 0] = np.nan
    data.dy[0, :, 0, 0] = np.nan
    y, dx, mask = data.new(g.y_shape), data.new(g.x_shape), data.normal(g.x_shape)
    with select.forced("simt"):
        conv.conv2d(runtime, data.x, data.w, None, None, y, geometry=g, relu=True, precision="auto")
        conv.conv2d_backward_input(
            runtime, data.dy, data.w, None, mask, dx, geometry=g, precision="auto"
        )
    assert np.isnan(y[0, :, 0, 0]).all() and np.isfinite(y[1]).all()
    assert (np.isnan(dx[0, :, 0, 0]) == (mask[0, :, 0, 0] > 0)).all() and np.isfinite(dx[1]).all()


def test_an_empty_batch(runtime: EmulatedRuntime) -> None:
    g = geometry((0, 8, 5, 5), (4, 8, 3, 3))
    data = Operands(runtime, g)
    dw, db = data.normal(g.w_shape), data.normal((g.k,))
    with select.forced("simt"):
        conv.conv2d_backward_weight(runtime, data.x, data.dy, dw, db, geometry=g, precision="auto")
    assert not dw.any() and not db.any()


def test_other_schedules() -> None:
    """In the order of another schedule, and from the PTX of the newest compiler."""
    newest = nvrtc.compilers()[max(nvrtc.compilers())]
    runtime = EmulatedRuntime(newest, schedule=emulator.RandomSchedule(3))
    data = Operands(runtime, STRIDED)
    y, dx, dw = (data.new(s) for s in (STRIDED.y_shape, STRIDED.x_shape, STRIDED.w_shape))
    _run_small(runtime, data, y, dx, dw)


def test_without_asynchronous_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """sm_75 brings through registers what later architectures copy on their own."""
    monkeypatch.setattr(emulated, "ARCHITECTURE", "compute_75")
    emulated._emulated.cache_clear()
    try:
        runtime = EmulatedRuntime()
        data = Operands(runtime, STRIDED)
        y, dx, dw = (data.new(s) for s in (STRIDED.y_shape, STRIDED.x_shape, STRIDED.w_shape))
        _run_small(runtime, data, y, dx, dw)
    finally:
        emulated._emulated.cache_clear()


def _run_small(runtime: EmulatedRuntime, data: Operands, y: Array, dx: Array, dw: Array) -> None:
    g = data.g
    with select.forced("simt"):
        conv.conv2d(
            runtime, data.x, data.w, None, None, y, geometry=g, relu=False, precision="auto"
        )
        conv.conv2d_backward_input(
            runtime, data.dy, data.w, None, None, dx, geometry=g, precision="auto"
        )
        conv.conv2d_backward_weight(runtime, data.x, data.dy, dw, geometry=g, precision="auto")
    for got, wanted in zip((y, dx, dw), data.sums, strict=True):
        close(got, wanted)

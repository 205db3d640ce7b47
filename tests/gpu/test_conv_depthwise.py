"""Depthwise convolution by quads of channels, on the emulated device."""

from __future__ import annotations

from typing import Any

import conv_reference as reference
import numpy as np
import pytest
from conv_reference import error, geometry, normal, put, unwritten

from gpucnn.backends.gpu import conv, conv_depthwise, depthwise_quads, nvrtc, select
from gpucnn.backends.gpu.emulated import EmulatedRuntime
from gpucnn.backends.gpu.instances import Instance, Problem
from gpucnn.ops.geometry import Conv2dGeometry

pytestmark = pytest.mark.skipif(not nvrtc.compilers(), reason="NVRTC is not installed")


@pytest.fixture(scope="module")
def runtime() -> EmulatedRuntime:
    runtime = EmulatedRuntime(counters=True)
    runtime.launches = []
    return runtime


def launched(runtime: EmulatedRuntime) -> list[Any]:
    found, runtime.launches = runtime.launches or [], []
    return found


def bytes_moved(launches: list[Any]) -> int:
    counters = [launch.report.counters for launch in launches]
    return sum(c.bytes_read + c.bytes_written for c in counters)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("channels", [4, 20])
def test_all_directions(runtime: EmulatedRuntime, stride: int, padding: int, channels: int) -> None:
    """Odd sizes, with and without what an epilogue adds; several bands and shares."""
    g = geometry((2, channels, 17, 7 + stride), channels, 3, stride, padding, channels)
    x, w, b = normal(0, *g.x_shape), normal(1, *g.w_shape), normal(2, g.k)
    more_y, more_x, mask = normal(3, *g.y_shape), normal(4, *g.x_shape), normal(5, *g.x_shape)
    dy = normal(6, *g.y_shape)
    filters, how = put(runtime, w), {"geometry": g, "precision": "auto"}
    launched(runtime)
    for full in (True, False):
        bias, addend, other, gate = (
            put(runtime, a) if full else None for a in (b, more_y, more_x, mask)
        )
        y, dx = unwritten(runtime, g.y_shape), unwritten(runtime, g.x_shape)
        conv.conv2d(runtime, put(runtime, x), filters, bias, addend, y, relu=full, **how)
        wanted = reference.forward(x, w, b if full else None, g)
        assert error(y, np.maximum(wanted + more_y, 0) if full else wanted) < 1e-6
        conv.conv2d_backward_input(runtime, put(runtime, dy), filters, other, gate, dx, **how)
        wanted = reference.backward_input(dy, w, g)
        assert error(dx, np.where(mask > 0, wanted + more_x, 0) if full else wanted) < 1e-6
        dw, db = unwritten(runtime, g.w_shape), unwritten(runtime, (g.k,))
        operands = put(runtime, x), put(runtime, dy)
        conv.conv2d_backward_weight(runtime, *operands, dw, db if full else None, **how)
        assert error(dw, reference.backward_weight(x, dy, g)) < 1e-6
        if full:
            assert error(db, dy.astype(np.float64).sum((0, 2, 3))) < 1e-6
    entries = {launch.kernel.entry for launch in launched(runtime)}
    assert all(
        entry.startswith("conv2d_depthwise_quads") or entry == "split_k_sum" for entry in entries
    )


@pytest.mark.parametrize("stride", [1, 2])
def test_bytes(runtime: EmulatedRuntime, monkeypatch: pytest.MonkeyPatch, stride: int) -> None:
    """Everything moves once, as walked down by the long bands of a large batch."""
    monkeypatch.setattr(depthwise_quads, "FEW", 0)
    g = geometry((1, 16, 56, 56), 16, 3, stride, 1, 16)
    x, w, dy = normal(0, *g.x_shape), normal(1, *g.w_shape), normal(2, *g.y_shape)
    how = {"geometry": g, "precision": "auto"}
    filters, y = put(runtime, w), unwritten(runtime, g.y_shape)
    dw, dx = unwritten(runtime, g.w_shape), unwritten(runtime, g.x_shape)
    ideal = 1.05 * (x.nbytes + dy.nbytes)
    launched(runtime)
    conv.conv2d(runtime, put(runtime, x), filters, None, None, y, relu=False, **how)
    assert bytes_moved(launched(runtime)) < ideal
    conv.conv2d_backward_input(runtime, put(runtime, dy), filters, None, None, dx, **how)
    assert bytes_moved(launched(runtime)) < ideal
    conv.conv2d_backward_weight(runtime, put(runtime, x), put(runtime, dy), dw, **how)
    found = launched(runtime)
    assert bytes_moved(found) < ideal
    counters = found[0].report.counters
    assert counters.shared_load_wavefronts == counters.shared_load_wavefronts_ideal
    assert counters.shared_store_wavefronts == counters.shared_store_wavefronts_ideal


def chosen(runtime: EmulatedRuntime, g: Conv2dGeometry, **more: Any) -> Instance:
    return select.choose("forward", g, "auto", runtime.properties(), **more)


def test_choice(runtime: EmulatedRuntime) -> None:
    """Quads where they can be, single channels for the rest."""
    g = geometry((2, 8, 9, 9), 8, 3, 1, 1, 8)
    assert chosen(runtime, g) in depthwise_quads.INSTANCES
    single = conv_depthwise.INSTANCES[0]
    assert chosen(runtime, g, aligned=False) == chosen(runtime, g, dtype="float64") == single
    for other in (
        geometry((2, 6, 9, 9), 6, 3, 1, 1, 6), geometry((2, 8, 9, 9), 8, 5, 1, 1, 8),
        geometry((2, 8, 9, 9), 16, 3, 1, 1, 8), geometry((2, 8, 9, 9), 8, 3, 3, 1, 8),
    ):  # fmt: skip
        assert chosen(runtime, other) == single
        assert not depthwise_quads.supports(depthwise_quads.INSTANCES[0], Problem("forward", other))

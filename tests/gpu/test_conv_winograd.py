"""Winograd convolution on the emulated device, and for which GPUs and precisions it is chosen."""

from __future__ import annotations

from typing import Any

import conv_reference as reference
import numpy as np
import pytest
from conv_reference import FIRST, LAST, error, geometry, normal, put, unwritten

from gpucnn.backends.gpu import conv_winograd, nvrtc, select
from gpucnn.backends.gpu.emulated import EmulatedRuntime
from gpucnn.backends.gpu.estimate import planned_for
from gpucnn.ops.geometry import Conv2dGeometry

pytestmark = pytest.mark.skipif(not nvrtc.compilers(), reason="NVRTC is not installed")

FORWARD, BACKWARD = conv_winograd.INSTANCES
LARGEST_ERROR = 2e-5
"""Of the largest result: what `gpucnn.precision` documents."""

GEOMETRIES = {
    "two tiles of a block": geometry((2, 8, 8, 10), 64, 3, 1, 1),
    "odd sizes, few filters": geometry((1, 4, 7, 5), 4, 3),
    "two blocks of filters, padding beyond the filter": geometry((3, 12, 9, 7), 68, 3, 1, 3),
    "one output": geometry((1, 4, 3, 3), 8, 3),
}


@pytest.fixture(scope="module")
def runtime() -> EmulatedRuntime:
    runtime = EmulatedRuntime(counters=True)
    runtime.launches = []
    return runtime


def launched(runtime: EmulatedRuntime) -> list[Any]:
    found, runtime.launches = runtime.launches or [], []
    return found


def forward(runtime: EmulatedRuntime, g: Conv2dGeometry, *arrays: Any, relu: bool = False) -> Any:
    y = unwritten(runtime, g.y_shape)
    conv_winograd.forward(runtime, FORWARD, g, *arrays, y, None, relu=relu)
    return y


@pytest.mark.parametrize("sizes", GEOMETRIES)
def test_forward_and_backward_input(runtime: EmulatedRuntime, sizes: str) -> None:
    g = GEOMETRIES[sizes]
    x, w, b = normal(0, *g.x_shape), normal(1, *g.w_shape), normal(2, g.k)
    more_y, more_x, mask = normal(3, *g.y_shape), normal(4, *g.x_shape), normal(5, *g.x_shape)
    dy = normal(6, *g.y_shape)
    launched(runtime)
    for order, full in ((LAST, True), (FIRST, False)):
        filters = put(runtime, w, order)
        bias, addend, other, gate = (
            put(runtime, a) if full else None for a in (b, more_y, more_x, mask)
        )
        y = forward(runtime, g, put(runtime, x), filters, bias, addend, relu=full)
        wanted = reference.forward(x, w, b if full else None, g)
        assert error(y, np.maximum(wanted + more_y, 0) if full else wanted) < LARGEST_ERROR
        dx = unwritten(runtime, g.x_shape)
        conv_winograd.backward_input(
            runtime, BACKWARD, g, put(runtime, dy), filters, other, gate, dx
        )
        wanted = reference.backward_input(dy, w, g)
        assert error(dx, np.where(mask > 0, wanted + more_x, 0) if full else wanted) < 2e-5
    for launch in launched(runtime):
        counters = launch.report.counters
        assert counters.shared_load_wavefronts == counters.shared_load_wavefronts_ideal
        assert counters.shared_store_wavefronts == counters.shared_store_wavefronts_ideal


def test_depth(runtime: EmulatedRuntime) -> None:
    """512 channels of a net's size of numbers: positive ones, whose rounding does not cancel."""
    g = geometry((1, 512, 6, 6), 16, 3, 1, 1)
    x = np.maximum(normal(0, *g.x_shape), 0)
    w = normal(1, *g.w_shape) / np.float32(np.sqrt(9 * g.c))
    y = forward(runtime, g, put(runtime, x), put(runtime, w), None, None)
    assert error(y, reference.forward(x, w, None, g)) < LARGEST_ERROR


def test_filters_are_transformed_apart(runtime: EmulatedRuntime) -> None:
    """To an array that can be kept: G g G^T, and zero beyond the filters."""
    w = normal(0, 5, 4, 3, 3)
    u = conv_winograd.transformed_filters(runtime, put(runtime, w)).reshape(16, 4, 64)
    g = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    wanted = np.einsum("ir,kcrs,js->ijck", g, w.astype(np.float64), g).reshape(16, 4, 5)
    assert error(u[:, :, :5], wanted) < 1e-6 and not u[:, :, 5:].any()


def test_results_store_whole_sectors(runtime: EmulatedRuntime) -> None:
    g = geometry((1, 8, 8, 16), 64, 3, 1, 1)
    launched(runtime)
    forward(runtime, g, put(runtime, normal(0, *g.x_shape)), put(runtime, normal(1, *g.w_shape)),
            None, None)  # fmt: skip
    for launch in launched(runtime):
        counters = launch.report.counters
        assert counters.store_sectors == counters.store_sectors_ideal


@pytest.mark.parametrize(
    ("arch", "precision", "chosen"),
    [
        (75, "auto", True), (86, "auto", True), (89, "auto", True), (120, "auto", True),
        (89, "fp32", False), (80, "auto", False), (90, "auto", False),
    ],
)  # fmt: skip
def test_choice(arch: int, precision: str, chosen: bool) -> None:
    """On GeForce, where fp32 is not asked for to the last bit."""
    g = geometry((128, 64, 32, 32), 64, 3, 1, 1)
    for direction in ("forward", "backward_input"):
        instance = select.choose(direction, g, precision, planned_for(arch))
        assert (instance.algorithm == "winograd") is chosen

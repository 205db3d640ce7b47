"""Direct convolution on the emulated device: every instance, every epilogue, every memory order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import conv_reference as reference
import numpy as np
import pytest
from conv_reference import FIRST, LAST, error, geometry, normal, put, small_integers, unwritten

from gpucnn.backends.gpu import conv, conv_direct, conv_pool, nvrtc, select
from gpucnn.backends.gpu.emulated import EmulatedRuntime
from gpucnn.backends.gpu.estimate import planned_for
from gpucnn.backends.gpu.instances import Instance, Problem
from gpucnn.backends.gpu.select import forced
from gpucnn.ops.geometry import Conv2dGeometry, Pool2dGeometry

pytestmark = pytest.mark.skipif(not nvrtc.compilers(), reason="NVRTC is not installed")

BLOCK = (2, 3, 1, 0)  # order of the axes of an array whose images lie side by side


def of(direction: str, **wanted: int) -> list[Instance]:
    """The instances of a direction with these defines; without batch statistics."""
    return [
        instance
        for instance in conv_direct.INSTANCES
        if instance.direction == direction
        and not instance.statistics
        and all((k.upper(), str(v)) in instance.defines for k, v in wanted.items())
    ]


def name(instance: Instance) -> str:
    return "-".join(value for _, value in instance.defines)


@pytest.fixture(scope="module")
def runtime() -> EmulatedRuntime:
    runtime = EmulatedRuntime(counters=True)
    runtime.launches = []
    return runtime


def launched(runtime: EmulatedRuntime) -> list[Any]:
    """What has been launched since it was asked for last."""
    found, runtime.launches = runtime.launches or [], []
    return found


def no_conflicts(counters: Any) -> bool:
    return counters.shared_load_wavefronts == counters.shared_load_wavefronts_ideal


@pytest.mark.parametrize("instance", of("forward"), ids=name)
def test_forward(runtime: EmulatedRuntime, instance: Instance) -> None:
    """More filters than a block has or fewer, tails on every side, one epilogue of each kind."""
    size, stride = int(instance.defines[0][1]), int(instance.defines[1][1])
    filters = instance.tile_n + (3 if instance.tile_n < 32 else -3)
    g = geometry((2, 3, 4 + size, 2 + size), filters, size, stride, size // 2)
    x, w, b = normal(0, *g.x_shape), normal(1, *g.w_shape), normal(2, g.k)
    addend = normal(3, *g.y_shape)
    launched(runtime)
    for order, bias, more, relu in ((LAST, b, None, True), (FIRST, None, addend, False)):
        y = unwritten(runtime, g.y_shape, order)
        conv_direct.forward(
            runtime, instance, g, put(runtime, x, order), put(runtime, w, order),
            put(runtime, bias), put(runtime, more, order), y, None, relu=relu,
        )  # fmt: skip
        wanted = reference.forward(x, w, bias, g) + (0 if more is None else more)
        assert error(y, np.maximum(wanted, 0) if relu else wanted) < 1e-6
    assert all(no_conflicts(launch.report.counters) for launch in launched(runtime))


def test_forward_stores_whole_sectors(runtime: EmulatedRuntime) -> None:
    """Channels-last in and out, quads of both; no bank is met twice, by stores neither."""
    (instance,) = of("forward", filter=3, stride=1, lanes=4, filters=8)
    g = geometry((2, 16, 13, 18), 32, 3, 1, 1)
    x, w = normal(0, *g.x_shape), normal(1, *g.w_shape)
    launched(runtime)
    y = unwritten(runtime, g.y_shape)
    operands = put(runtime, x), put(runtime, w)
    conv_direct.forward(runtime, instance, g, *operands, None, None, y, None, relu=False)
    assert error(y, reference.forward(x, w, None, g)) < 1e-6
    (launch,) = launched(runtime)
    counters = launch.report.counters
    assert counters.store_sectors == counters.store_sectors_ideal
    assert no_conflicts(counters)
    assert counters.shared_store_wavefronts == counters.shared_store_wavefronts_ideal


def test_infinity_and_nan(runtime: EmulatedRuntime) -> None:
    """A NaN passes the ReLU, and the zeros of the padding meet no infinity of another image."""
    (instance,) = of("forward", filter=3, stride=1, lanes=2, filters=3)
    g = geometry((2, 1, 5, 6), 2, 3, 1, 1)
    x = normal(0, *g.x_shape)
    x[0, 0, 4, 5], x[1, 0, 0, 0] = np.inf, np.nan
    y = unwritten(runtime, g.y_shape)
    w = np.ones(g.w_shape, np.float32)
    operands = put(runtime, x), put(runtime, w)
    conv_direct.forward(runtime, instance, g, *operands, None, None, y, None, relu=True)
    with np.errstate(invalid="ignore"):
        wanted = reference.forward(x, w, None, g)
    assert np.isnan(y[1, :, :2, :2]).all() and np.isnan(y).sum() == 8
    assert np.isinf(y[0, :, 3:, 4:]).all() and np.isinf(y).sum() == 8
    finite = np.isfinite(wanted)
    np.testing.assert_allclose(y[finite], np.maximum(wanted[finite], 0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "instance",
    [*of("backward_input", lanes=2, filters=3), *of("backward_input", lanes=4, filters=8)],
    ids=name,
)
def test_backward_input(runtime: EmulatedRuntime, instance: Instance) -> None:
    size = int(instance.defines[0][1])
    for order, padding, gated in ((LAST, size // 2, True), (FIRST, 0, False), (LAST, size, False)):
        g = geometry((1, 5, 7, 6), 4, size, 1, padding)
        dy, w = normal(0, *g.y_shape), normal(1, *g.w_shape)
        addend, mask = normal(2, *g.x_shape), normal(3, *g.x_shape)
        dx = unwritten(runtime, g.x_shape, order)
        operands = put(runtime, dy, order), put(runtime, w)
        more = [put(runtime, a, order) if gated else None for a in (addend, mask)]
        conv_direct.backward_input(runtime, instance, g, *operands, *more, dx)
        wanted = reference.backward_input(dy, w, g)
        assert error(dx, np.where(mask > 0, wanted + addend, 0) if gated else wanted) < 1e-6


@pytest.mark.parametrize("instance", of("backward_weight"), ids=name)
def test_backward_weight(runtime: EmulatedRuntime, instance: Instance) -> None:
    """Several shares, several blocks of filters and of channels, with and without a bias."""
    size = int(instance.defines[0][1])
    filters = instance.tile_m + 1
    for x_shape, order, with_bias in (((5, 3, 7, 6), FIRST, True), ((2, 9, 4, 5), LAST, False)):
        g = geometry(x_shape, filters, size, 1, 1)
        x, dy = normal(0, *g.x_shape), normal(1, *g.y_shape)
        dw, db = unwritten(runtime, g.w_shape), unwritten(runtime, (g.k,))
        launched(runtime)
        conv_direct.backward_weight(
            runtime, instance, g, put(runtime, x, order), put(runtime, dy, order), dw,
            db if with_bias else None,
        )  # fmt: skip
        found = launched(runtime)
        assert error(dw, reference.backward_weight(x, dy, g)) < 1e-6
        if with_bias:
            assert error(db, dy.astype(np.float64).sum((0, 2, 3))) < 1e-6
            assert [launch.kernel.entry for launch in found[1:]] == ["split_k_sum"]
        counters = found[0].report.counters
        # Only the last sum over the warps may meet a bank twice.
        assert counters.shared_load_wavefronts < 1.3 * counters.shared_load_wavefronts_ideal


def test_an_empty_batch_has_no_gradient(runtime: EmulatedRuntime) -> None:
    g = geometry((0, 3, 9, 8), 4, 3)
    x, dy = runtime.empty(g.x_shape, "f4"), runtime.empty(g.y_shape, "f4")
    dw, db = unwritten(runtime, g.w_shape), unwritten(runtime, (g.k,))
    with forced("direct"):
        conv.conv2d_backward_weight(runtime, x, dy, dw, db, geometry=g, precision="auto")
    assert not dw.any() and not db.any()


@pytest.mark.parametrize("instance", of("forward_max_pool"), ids=name)
def test_max_pool(runtime: EmulatedRuntime, instance: Instance) -> None:
    """Exact sums with many ties: the places are PyTorch's. A last window that is not whole."""
    size = int(instance.defines[0][1])
    g = geometry((3, 2, 4 + size, 2 + size), min(instance.tile_n + 2, 18), size, 1, 1)
    x, w, b = (small_integers(i, *shape) for i, shape in enumerate((g.x_shape, g.w_shape, (g.k,))))
    pool = Pool2dGeometry.of("test", g.y_shape, 2, 2, 0, ceil_mode=True)
    assert g.p % 2 == 1 and 2 * pool.p > g.p
    y, argmax = reference.max_pool(reference.forward(x, w, b, g), pool)
    for order, relu in ((LAST, False), (FIRST, False), (BLOCK, True)):
        found = unwritten(runtime, y.shape, order)
        place = unwritten(runtime, y.shape, order, "u1")
        conv_direct.forward_max_pool(
            runtime, instance, g, pool, put(runtime, x, order), put(runtime, w),
            put(runtime, b), found, place, relu=relu,
        )  # fmt: skip
        assert np.array_equal(found, np.maximum(y, 0) if relu else y)
        assert (
            np.array_equal(place[y > 0], argmax[y > 0]) if relu else np.array_equal(place, argmax)
        )
        assert place.max() < 4


def test_max_pool_of_nan(runtime: EmulatedRuntime) -> None:
    (instance,) = of("forward_max_pool", filter=3, lanes=2, filters=3)
    g = geometry((1, 1, 10, 10), 1, 3)
    pool = Pool2dGeometry.of("test", g.y_shape, 2, 2, 0)
    x = small_integers(0, *g.x_shape)
    x[0, 0, 2, 2], x[0, 0, 9, 9] = np.nan, -np.inf
    w = np.zeros(g.w_shape, np.float32)
    w[0, 0, 1, 1] = 1  # a copy of the inside, but for 0 times NaN and infinity around them
    with np.errstate(invalid="ignore"):
        y, argmax = reference.max_pool(reference.forward(x, w, None, g), pool)
    assert 0 < np.isnan(y).sum() < y.size
    found, place = unwritten(runtime, y.shape), unwritten(runtime, y.shape, LAST, "u1")
    conv_direct.forward_max_pool(
        runtime, instance, g, pool, put(runtime, x), put(runtime, w), None, found, place, relu=True
    )
    assert np.array_equal(found, np.where(y < 0, 0, y), equal_nan=True)
    whole = ~(y <= 0)
    assert np.array_equal(place[whole], argmax[whole])


NETS = {
    "LeNet's first": (geometry((2, 1, 28, 28), 6, 5, 1, 2), FIRST),
    "LeNet's second, before flatten": (geometry((2, 6, 14, 14), 16, 5), FIRST),
    "ConvNet's first": (geometry((1, 3, 32, 32), 32, 3, 1, 1), LAST),
    "the digits net's second": (geometry((2, 16, 8, 8), 32, 3, 1, 1), FIRST),
}


@pytest.mark.parametrize("net", NETS)
def test_a_layer_with_its_pool_is_one_launch(runtime: EmulatedRuntime, net: str) -> None:
    """With its own sectors only: in the order of what follows, whichever that is."""
    g, order = NETS[net]
    pool = Pool2dGeometry.of("test", g.y_shape, 2, 2, 0)
    x, w, b = normal(0, *g.x_shape), normal(1, *g.w_shape), normal(2, g.k)
    y = unwritten(runtime, pool.y_shape, order)
    argmax = unwritten(runtime, pool.y_shape, order, "u1")
    launched(runtime)
    conv_pool.conv2d_max_pool(
        runtime, put(runtime, x, FIRST), put(runtime, w), put(runtime, b), y, argmax,
        geometry=g, pool=pool, relu=True, precision="auto",
    )  # fmt: skip
    (launch,) = launched(runtime)
    assert launch.kernel.entry == "conv2d_direct_max_pool"
    wanted, _ = reference.max_pool(reference.forward(x, w, b, g), pool)
    assert error(y, np.maximum(wanted, 0)) < 1e-6
    assert no_conflicts(launch.report.counters)


def test_other_pools_are_two_launches(runtime: EmulatedRuntime) -> None:
    g = geometry((2, 3, 9, 9), 8, 3, 1, 1)
    pool = Pool2dGeometry.of("test", g.y_shape, 3, 2, 1)
    x, w = small_integers(0, *g.x_shape), small_integers(1, *g.w_shape)
    y, argmax = reference.max_pool(np.maximum(reference.forward(x, w, None, g), 0), pool)
    found, place = unwritten(runtime, y.shape), unwritten(runtime, y.shape, LAST, "u1")
    launched(runtime)
    conv_pool.conv2d_max_pool(
        runtime, put(runtime, x), put(runtime, w), None, found, place,
        geometry=g, pool=pool, relu=True, precision="auto",
    )  # fmt: skip
    assert len(launched(runtime)) == 2
    assert np.array_equal(found, y) and np.array_equal(place, argmax)


def test_planar_images_are_not_copied(runtime: EmulatedRuntime) -> None:
    """The first layer of a net, whose input lies as (N, C, H, W), forward and for its filters."""
    g = geometry((2, 3, 9, 7), 32, 3, 1, 1)
    x, w, dy = normal(0, *g.x_shape), normal(1, *g.w_shape), normal(2, *g.y_shape)
    y, dw = unwritten(runtime, g.y_shape), unwritten(runtime, g.w_shape)
    planar = put(runtime, x, FIRST)
    launched(runtime)
    conv.conv2d(
        runtime, planar, put(runtime, w), None, None, y, geometry=g, relu=False, precision="auto"
    )
    assert [launch.kernel.entry for launch in launched(runtime)] == ["conv2d_direct_forward"]
    assert error(y, reference.forward(x, w, None, g)) < 1e-6
    conv.conv2d_backward_weight(
        runtime, planar, put(runtime, dy, FIRST), dw, geometry=g, precision="auto"
    )
    assert "move" not in "".join(launch.kernel.module.file for launch in launched(runtime))
    assert error(dw, reference.backward_weight(x, dy, g)) < 1e-6


def test_batch_statistics(runtime: EmulatedRuntime) -> None:
    """Far from zero, where a sum of squares would lose the variance; the last part is smaller."""
    g = geometry((5, 3, 8, 8), 40, 3, 1, 1)
    x, w, b = normal(0, *g.x_shape), normal(1, *g.w_shape), 100 + normal(2, g.k)
    (instance,) = (
        i for i in conv_direct.INSTANCES if i.statistics and ("FILTER", "3") in i.defines
    )
    y, mean, variance = (unwritten(runtime, shape) for shape in (g.y_shape, (g.k,), (g.k,)))
    launched(runtime)
    with forced(instance.name):
        conv.conv2d_statistics(
            runtime, put(runtime, x), put(runtime, w), put(runtime, b), None, None,
            y, mean, variance, geometry=g, precision="auto", momentum=0.1,
        )  # fmt: skip
    assert len(launched(runtime)) == 2
    wanted = reference.forward(x, w, b, g)
    assert error(y, wanted) < 1e-6 and error(mean, wanted.mean((0, 2, 3))) < 1e-6
    assert error(variance, wanted.var((0, 2, 3))) < 1e-5
    odd = Problem("forward", replace(g, p=7), statistics=True)
    assert not conv_direct.supports(instance, odd, runtime.properties())


@pytest.mark.parametrize("arch", [75, 80, 86, 89, 90, 120])
def test_small_layers_choose_it_everywhere(arch: int) -> None:
    def best(direction: str, g: Conv2dGeometry) -> str:
        return select.choose(direction, g, "auto", planned_for(arch)).algorithm

    for shape, filters, size, padding in (
        ((128, 1, 28, 28), 6, 5, 2), ((128, 6, 14, 14), 16, 5, 0), ((128, 3, 32, 32), 32, 3, 1),
        ((128, 3, 32, 32), 64, 3, 1), ((64, 1, 8, 8), 16, 3, 1), ((64, 1, 28, 28), 8, 3, 0),
    ):  # fmt: skip
        g = geometry(shape, filters, size, 1, padding)
        assert best("forward", g) == best("backward_weight", g) == "direct"
    assert best("backward_input", geometry((128, 6, 14, 14), 16, 5)) == "direct"

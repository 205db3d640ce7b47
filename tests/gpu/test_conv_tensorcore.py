"""Convolution on tensor cores: every instance against float64, and what it costs."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from tensorcore_products import Product, geometry, seen

from gpucnn.backends.gpu import conv_tensorcore, kernel, nvrtc, select
from gpucnn.backends.gpu.emulated import EmulatedRuntime
from gpucnn.backends.gpu.estimate import planned_for
from gpucnn.backends.gpu.host import A100
from gpucnn.backends.gpu.instances import DIRECTIONS, Instance, Problem
from gpucnn.emulator import RandomSchedule

INSTANCES = conv_tensorcore.INSTANCES
MAJORS = sorted(nvrtc.compilers())

if not MAJORS:
    pytest.skip("no NVRTC to make PTX", allow_module_level=True)

# More than a tile of rows and of columns, and of channels no whole stage; a stride with classes of
# different taps; pixels enough to go round the ring of corners twice, by several splits.
GEOMETRIES = {
    "forward": geometry((2, 24, 9, 8), (136, 24, 3, 2), padding=1, dilation=(1, 2)),
    "backward_input": geometry((2, 136, 11, 12), (24, 136, 3, 3), stride=(2, 1), padding=1),
    "backward_weight": geometry((5, 24, 11, 12), (136, 24, 3, 2), padding=(1, 0)),
}


def runtime(major: int = MAJORS[0], **options: Any) -> EmulatedRuntime:
    found = EmulatedRuntime(nvrtc.compilers()[major], counters=True, **options)
    found.launches = []
    return found


def pick(direction: str, precision: str, m: int = 64, n: int = 64) -> Instance:
    wanted = (direction, precision, m, n)
    return next(i for i in INSTANCES if (i.direction, i.precision, i.tile_m, i.tile_n) == wanted)


def cases() -> list[Any]:
    """All instances, turn by turn with either compiler."""
    return [
        pytest.param(
            instance,
            MAJORS[number % len(MAJORS)],
            id=f"{instance.name.partition(' ARITH')[0]} CUDA {MAJORS[number % len(MAJORS)]}",
        )
        for number, instance in enumerate(INSTANCES)
    ]


def assert_near(got: Any, exact: Any, absolute: Any, error: float) -> None:
    """Within `error` of the sum of absolute products."""
    worst = (np.abs(got - exact) / absolute).max()
    assert worst <= error, f"{worst:.1e} of the sum of absolute products > {error:.1e}"


@pytest.mark.parametrize(("instance", "major"), cases())
def test_products(instance: Instance, major: int) -> None:
    """Right, without a finding or a bank conflict, stores in whole sectors; with its epilogue."""
    rt = runtime(major)
    product = Product(rt, instance.direction, GEOMETRIES[instance.direction])
    g = product.g
    assert conv_tensorcore.supports(instance, Problem(instance.direction, g), A100)
    exact, absolute = product.exact(instance.precision), product.exact(instance.precision, True)
    if instance.direction == "forward":
        bias, addend = product.normal((g.k,)), product.normal(g.y_shape)
        got = product.run(conv_tensorcore, instance, bias, addend, None, relu=True)
        exact += bias[:, None, None] + addend.astype(np.float64)
        exact, absolute = np.maximum(exact, 0), absolute + 1
    elif instance.direction == "backward_input":
        addend, mask = product.normal(g.x_shape), product.normal(g.x_shape)
        got = product.run(conv_tensorcore, instance, addend, mask)
        exact, absolute = np.where(mask > 0, exact + addend, 0), absolute + 1
    else:
        db = product.normal((g.k,))
        got = product.run(conv_tensorcore, instance, db)
        dy = product.b.astype(np.float64)
        assert_near(db, dy.sum((0, 2, 3)), np.abs(dy).sum((0, 2, 3)), 1e-6)
    assert_near(got, exact, absolute, 1e-6)
    launched = [each for each in rt.launches or [] if each.kernel.entry == instance.entry]
    assert len(launched) == 1 and launched[0].shared == instance.shared
    c = launched[0].report.counters
    assert c.shared_load_wavefronts == c.shared_load_wavefronts_ideal
    assert c.shared_store_wavefronts == c.shared_store_wavefronts_ideal
    assert c.store_sectors == c.store_sectors_ideal
    assert conv_tensorcore.plan(instance, Problem(instance.direction, g), A100).launches == len(
        rt.launches or []
    )


@pytest.mark.parametrize("precision", ["3xtf32", "bf16"])
def test_moments_of_the_tiles(precision: str) -> None:
    instance = pick("forward", precision)
    product = Product(runtime(), "forward", geometry((3, 8, 5, 7), (72, 8, 3, 3), padding=1))
    g = product.g
    bias = product.normal((g.k,))
    moments = product.runtime.empty((2, -(-g.n * g.p * g.q // instance.tile_m), g.k), np.float32)
    y = product.run(conv_tensorcore, instance, bias, None, moments)
    rows = y.transpose(0, 2, 3, 1).reshape(-1, g.k).astype(np.float64)
    for number in range(moments.shape[1]):
        tile = rows[number * instance.tile_m : (number + 1) * instance.tile_m]
        assert np.allclose(moments[0, number], tile.mean(0), rtol=1e-5, atol=1e-5)
        deviations = ((tile - tile.mean(0)) ** 2).sum(0)
        assert np.allclose(moments[1, number], deviations, rtol=1e-5)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("precision", ["3xtf32", "fp16"])
def test_small_and_odd_sizes(direction: str, precision: str) -> None:
    """One pixel, filters that are no fours, a stride without taps for most pixels, 5 x 5 taps."""
    instance, forward = pick(direction, precision), direction == "forward"
    for g in (
        geometry((1, 8, 1, 1), (5 if forward else 8, 8, 1, 1)),
        geometry((1, 16, 5, 4), (8, 16, 1, 1), stride=(3, 2)),
        geometry((2, 8, 6, 9), (11 if forward else 16, 8, 5, 5), padding=2, stride=2),
        geometry((1, 8, 9, 9), (8, 8, 3, 3), dilation=2, stride=2, padding=3),
    ):
        product = Product(runtime(), direction, g)
        exact = product.exact(precision)
        absolute = product.exact(precision, True)
        assert_near(product.run(conv_tensorcore, instance), exact, absolute + 1e-3, 1e-6)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("precision", ["3xtf32", "tf32", "bf16"])
def test_any_order_gives_the_same_bits(direction: str, precision: str) -> None:
    g = geometry((1, 16, 9, 9), (16, 16, 3, 3), padding=1, stride=2)
    instance, found = pick(direction, precision), set()
    for schedule in (None, RandomSchedule(1), RandomSchedule(2)):
        rt = runtime(MAJORS[-1])
        if schedule is not None:
            rt.schedule = schedule
        found.add(Product(rt, direction, g).run(conv_tensorcore, instance).tobytes())
    assert len(found) == 1


def test_not_a_number_and_infinity() -> None:
    """NaN stays through a ReLU; an infinity is one, or with operands in halves no number."""
    g = geometry((1, 8, 3, 3), (8, 8, 1, 1))
    for precision in conv_tensorcore.PRECISIONS:
        product = Product(runtime(), "forward", g)
        product.a[0, 3, 1, 1], product.a[0, 2, 2, 0] = np.nan, np.inf
        y = product.run(conv_tensorcore, pick("forward", precision), relu=True)
        assert np.isnan(y[0, :, 1, 1]).all()
        halves = precision == "3xtf32"
        where = (
            np.isnan(y[0, :, 2, 0])
            if halves
            else ~np.isfinite(y[0, :, 2, 0]) | (y[0, :, 2, 0] == 0)
        )
        assert where.all()
        assert np.isfinite(y[0, :, 0]).all()


def test_exact_operands_give_exact_results() -> None:
    """Whole numbers of few digits: no precision may round them."""
    for precision in conv_tensorcore.PRECISIONS:
        g = geometry((1, 32, 5, 5), (16, 32, 3, 3), padding=1)
        whole = partial(np.random.default_rng(3).integers, -8, 9)
        product = Product(runtime(), "forward", g, whole)
        got = product.run(conv_tensorcore, pick("forward", precision))
        assert (got == product.exact(precision)).all()


# ---- the cast
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("major", MAJORS)
def test_cast(precision: str, major: int) -> None:
    """To nearest, ties to even; infinities, NaN and small numbers; whole sectors, each once."""
    rt = runtime(major)
    random = np.random.default_rng(0)
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 65504.0, 65520.0, 1e-7, -3e-8, 3e38, 1 + 2**-9]
    special += [1 + 2**-8, 1 + 3 * 2**-9, 1 + 2**-11, 1 + 3 * 2**-11, 2**-24, 2**-25]
    x = rt.from_host(np.float32(np.exp(random.uniform(-20, 12, 1000))))
    x[: len(special)] = special
    w = rt.from_host(random.standard_normal(260).astype(np.float32))
    words = [rt.empty((array.size,), np.uint16) for array in (x, w)]
    rt.launch(
        kernel.get("cast_narrow.cu", f"narrow_{precision}"), (2,), (256,),
        x, words[0], x.size // 4, w, words[1], w.size // 4,
    )  # fmt: skip
    for array, got in zip((x, w), words):
        expected = seen(array, precision)
        if precision == "bf16":
            value = (got.astype(np.uint32) << 16).view(np.float32)
        else:
            value = got.view(np.float16)
        np.testing.assert_array_equal(value.astype(np.float64), expected)
    c = (rt.launches or [])[0].report.counters
    assert c.load_sectors <= 1.05 * c.load_sectors_ideal
    assert c.store_sectors <= 1.05 * c.store_sectors_ideal


# ---- what is chosen
def test_what_is_supported() -> None:
    def supports(instance: Instance, arch: int = 80, **problem: Any) -> bool:
        g = problem.pop("g", geometry((1, 16, 5, 5), (16, 16, 3, 3)))
        what = Problem(instance.direction, g, **problem)
        return conv_tensorcore.supports(instance, what, planned_for(arch))

    bf16, tf32 = pick("forward", "bf16"), pick("forward", "tf32")
    assert supports(bf16) and supports(tf32)
    assert not supports(bf16, arch=75)
    assert not supports(bf16, dtype="float64")
    assert not supports(bf16, aligned=False)
    twelve = geometry((1, 12, 5, 5), (16, 12, 3, 3))
    assert supports(tf32, g=twelve) and not supports(bf16, g=twelve)
    assert not supports(tf32, g=geometry((1, 3, 5, 5), (16, 3, 3, 3)))
    assert supports(tf32, g=geometry((1, 4, 5, 5), (3, 4, 3, 3)))
    assert not supports(pick("backward_input", "tf32"), g=geometry((1, 4, 5, 5), (3, 4, 3, 3)))
    assert not supports(tf32, g=geometry((1, 4, 9, 9), (4, 4, 6, 6)))
    largest = pick("forward", "3xtf32", 128, 128)
    assert supports(largest, arch=90) and not supports(largest, arch=86)
    assert supports(pick("forward", "3xtf32", 128, 64), arch=86)


def test_auto_takes_halves_on_data_centre_gpus_alone() -> None:
    deep = geometry((32, 256, 14, 14), (256, 256, 3, 3), padding=1)
    shallow = geometry((32, 64, 28, 28), (128, 64, 1, 1))

    def chosen(g: Any, arch: int, precision: str = "auto") -> str:
        return select.choose("forward", g, precision, planned_for(arch)).precision

    assert chosen(deep, 80) == "3xtf32"
    for arch in (75, 86, 89, 120):
        assert chosen(deep, arch) in ("fp32", "winograd")
    assert chosen(shallow, 80) == "fp32" != chosen(shallow, 80, "3xtf32")
    assert chosen(deep, 80, "fp32") == "fp32"
    assert chosen(deep, 80, "bf16") == "bf16" and chosen(deep, 80, "fp16") == "fp16"


@pytest.mark.parametrize("precision", ["3xtf32", "tf32", "bf16", "fp16"])
def test_no_tensor_cores(precision: str) -> None:
    needs = r"needs a GPU of compute capability 8\.0 or later, .* has 7"
    text = f"conv2d: precision '{precision}' {needs}"
    with pytest.raises(RuntimeError, match=text):
        select.choose("forward", geometry((1, 8, 5, 5), (8, 8, 3, 3)), precision, planned_for(75))
    g = geometry((1, 8, 5, 5), (8, 8, 3, 3))
    assert select.choose("forward", g, precision, planned_for(75), dtype="float64")
    assert select.choose("forward", g, "auto", planned_for(75)).precision == "fp32"

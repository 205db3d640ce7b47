"""2-D convolution: the primitives, over the algorithms of `instances`.

The algorithms read and write channels-last memory; what lies otherwise is copied first (operands)
or last (results), unless the direct algorithm is chosen, which takes it as it lies.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from gpucnn.backends.gpu import autotune, conv_direct, norm, select
from gpucnn.backends.gpu.instances import Algorithm, Instance, Problem, algorithm
from gpucnn.backends.gpu.operands import (
    CHANNELS_LAST,
    aligned,
    ceil_div,
    check_limit,
    dense,
    dense_or_none,
    in_order,
    written_in,
)
from gpucnn.backends.gpu.runtime import Array, Runtime

if TYPE_CHECKING:
    from gpucnn.ops.geometry import Conv2dGeometry


def conv2d(
    runtime: Runtime,
    x: Array,
    w: Array,
    b: Array | None,
    addend: Array | None,
    y: Array,
    *,
    geometry: Conv2dGeometry,
    relu: bool,
    precision: str,
) -> None:
    """y (N, K, P, Q) = [relu](x (N, C, H, W) convolved with w (K, C/groups, R, S), + b + addend).

    b is (K,), addend (N, K, P, Q).
    """
    _check("conv2d", geometry)
    direct = conv_direct.in_any_order(runtime, "forward", geometry, precision, (x, w), (y, addend))
    if direct is not None:
        b = dense_or_none(runtime, b)
        conv_direct.forward(runtime, direct, geometry, x, w, b, addend, y, None, relu=relu)
        return
    x, w, addend = (_channels_last(runtime, array) for array in (x, w, addend))
    b = dense_or_none(runtime, b)
    with written_in(runtime, y, CHANNELS_LAST) as out:
        instance, run = _choose(runtime, "forward", geometry, precision, x, w, b, addend, out)
        run.forward(runtime, instance, geometry, x, w, b, addend, out, None, relu=relu)


def conv2d_statistics(
    runtime: Runtime,
    x: Array,
    w: Array,
    b: Array | None,
    running_mean: Array | None,
    running_variance: Array | None,
    y: Array,
    mean: Array,
    variance: Array,
    *,
    geometry: Conv2dGeometry,
    precision: str,
    momentum: float,
) -> None:
    """y = x convolved with w, + b; mean (K,) and biased variance (K,) of y per channel.

    running_mean and running_variance become (1 - momentum) times themselves + momentum times the
    batch's, with the unbiased variance, in place.
    """
    g = geometry
    _check("conv2d_statistics", g)
    instance, x, w, b = _statistics_instance(runtime, x, w, b, y, g, precision)
    running = running_mean, running_variance
    if instance is None:
        conv2d(runtime, x, w, b, None, y, geometry=g, relu=False, precision=precision)
        norm.batch_norm_statistics(runtime, y, *running, mean, variance, momentum=momentum)
        return
    rows = g.n * g.p * g.q
    partial = runtime.empty((2, ceil_div(rows, instance.tile_m), g.k), y.dtype)
    run = algorithm(instance.algorithm)
    run.forward(runtime, instance, g, x, w, b, None, y, partial, relu=False)
    norm.finish_statistics(
        runtime, None, partial, *running, mean, variance,
        momentum=momentum, rows=rows, rows_per_part=instance.tile_m,
    )  # fmt: skip


def _statistics_instance(
    runtime: Runtime,
    x: Array,
    w: Array,
    b: Array | None,
    y: Array,
    geometry: Conv2dGeometry,
    precision: str,
) -> tuple[Instance | None, Array, Array, Array | None]:
    """The instance whose epilogue makes the statistics, and the operands as it takes them.

    None where the one chosen for the convolution does not, and the operands as they came.
    """
    if y.size == 0 or not in_order(y, CHANNELS_LAST):
        return None, x, w, b
    problem = "forward", geometry, precision
    direct = conv_direct.in_any_order(runtime, *problem, (x, w), (y,), statistics=True)
    if direct is not None:
        return direct if direct.statistics else None, x, w, dense_or_none(runtime, b)
    x, w, b = _channels_last(runtime, x), _channels_last(runtime, w), dense_or_none(runtime, b)
    instance, _ = _choose(runtime, *problem, x, w, b, None, y, statistics=True)
    return instance if instance.statistics else None, x, w, b


def conv2d_backward_input(
    runtime: Runtime,
    dy: Array,
    w: Array,
    addend: Array | None,
    mask: Array | None,
    dx: Array,
    *,
    geometry: Conv2dGeometry,
    precision: str,
) -> None:
    """dx (N, C, H, W) = gradient from dy (N, K, P, Q) and w, + addend; 0 where not mask > 0.

    addend and mask are shaped like dx.
    """
    _check("conv2d_backward_input", geometry)
    direct = conv_direct.in_any_order(
        runtime, "backward_input", geometry, precision, (dy, w), (dx, addend, mask)
    )
    if direct is not None:
        conv_direct.backward_input(runtime, direct, geometry, dy, w, addend, mask, dx)
        return
    dy, w, addend, mask = (_channels_last(runtime, array) for array in (dy, w, addend, mask))
    with written_in(runtime, dx, CHANNELS_LAST) as out:
        instance, run = _choose(
            runtime, "backward_input", geometry, precision, dy, w, addend, mask, out
        )
        run.backward_input(runtime, instance, geometry, dy, w, addend, mask, out)


def conv2d_backward_weight(
    runtime: Runtime,
    x: Array,
    dy: Array,
    dw: Array,
    db: Array | None = None,
    *,
    geometry: Conv2dGeometry,
    precision: str,
) -> None:
    """dw (K, C/groups, R, S) from x (N, C, H, W) and dy (N, K, P, Q); db (K,) = dy summed."""
    _check("conv2d_backward_weight", geometry)
    direct = conv_direct.in_any_order(
        runtime, "backward_weight", geometry, precision, (x, dy), (dw,)
    )
    if direct is not None and in_order(dw, CHANNELS_LAST):
        conv_direct.backward_weight(runtime, direct, geometry, x, dy, dw, db)
        return
    x, dy = (_channels_last(runtime, array) for array in (x, dy))
    with written_in(runtime, dw, CHANNELS_LAST) as out:
        instance, run = _choose(runtime, "backward_weight", geometry, precision, x, dy, out)
        run.backward_weight(runtime, instance, geometry, x, dy, out, db)


def _channels_last(runtime: Runtime, array: Array | None) -> Array:
    return None if array is None else dense(runtime, array, CHANNELS_LAST)


def _choose(
    runtime: Runtime,
    direction: str,
    geometry: Conv2dGeometry,
    precision: str,
    *arrays: Array | None,
    statistics: bool = False,
) -> tuple[Instance, Algorithm]:
    """The instance for these arrays (the result last), and the module that launches it."""
    given = [array for array in arrays if array is not None]
    dtype, whole = given[-1].dtype.name, aligned(runtime, *given)
    # Where the result lies over an operand, an attempt would destroy what the next one reads.
    if autotune.enabled() and len({runtime.address(array) for array in given}) == len(given):
        problem = Problem(direction, geometry, dtype, whole, statistics)
        attempt = partial(_attempt, runtime, problem, arrays)
        instance = autotune.choose(runtime, problem, precision, attempt)
    else:
        instance = select.choose(
            direction, geometry, precision, runtime.properties(),
            dtype=dtype, aligned=whole, statistics=statistics,
        )  # fmt: skip
    return instance, algorithm(instance.algorithm)


def _attempt(
    runtime: Runtime, problem: Problem, arrays: tuple[Array | None, ...], instance: Instance
) -> None:
    """The launch of an instance that is timed: it writes the result, which is written again."""
    run, geometry = algorithm(instance.algorithm), problem.geometry
    if problem.direction == "forward":
        x, w, b, addend, y = arrays
        run.forward(runtime, instance, geometry, x, w, b, addend, y, None, relu=False)
    elif problem.direction == "backward_input":
        dy, w, addend, mask, dx = arrays
        run.backward_input(runtime, instance, geometry, dy, w, addend, mask, dx)
    else:
        x, dy, dw = arrays
        run.backward_weight(runtime, instance, geometry, x, dy, dw, None)


def _check(call: str, g: Conv2dGeometry) -> None:
    check_limit(call, "the number of input pixels", g.n * g.h * g.w)
    check_limit(call, "the number of output pixels", g.n * g.p * g.q)
    check_limit(call, "the size of one input image", g.c * g.h * g.w)
    check_limit(call, "the size of one output image", g.k * g.p * g.q)
    check_limit(call, "the size of one filter", g.r * g.s * g.c // g.groups)
    check_limit(call, "the size of one channel's filters", g.r * g.s * g.k // g.groups)

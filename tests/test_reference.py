"""The engine in float64 on the cpu against direct loops: the check that needs no other library.

Rows of the table of cases whose loops take no more than a moment.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import reference

from gpucnn.cases import CASES, Case, run
from gpucnn.cases.compare import assert_close

Array = np.ndarray[Any, Any]
Result = tuple[list[Any], list[Any]]
"""Outputs; gradients of the first output's inputs, for the upstream gradient."""

_KEY = (7, 0)  # of the first random operation after the seed that `run` sets
_WORK = 400_000


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def _batched(function: Callable[..., Result]) -> Callable[..., Result]:
    """Images without a batch as a batch of one."""

    @functools.wraps(function)
    def call(arrays: list[Any], attributes: dict[str, Any], dy: Array) -> Result:
        if arrays[0].ndim == 4:
            return function(arrays, attributes, dy)
        outputs, gradients = function([arrays[0][None], *arrays[1:]], attributes, dy[None])
        return [y[0] for y in outputs], [gradients[0][0], *gradients[1:]]

    return call


@_batched
def conv2d(arrays: list[Any], attributes: dict[str, Any], dy: Array) -> Result:
    x, w, b = arrays
    stride, dilation = _pair(attributes.get("stride", 1)), _pair(attributes.get("dilation", 1))
    padding = attributes.get("padding", 0)
    if padding == "same":
        total = [d * (n - 1) for d, n in zip(dilation, w.shape[2:])]
        pads = total[0] // 2, total[1] // 2, total[0] - total[0] // 2, total[1] - total[1] // 2
    else:
        pads = (0, 0, 0, 0) if padding == "valid" else _pair(padding) * 2
    options = (stride, pads, dilation, attributes.get("groups", 1))
    gradients = [
        reference.conv2d_backward_input(dy, w, x.shape, *options),
        reference.conv2d_backward_weight(x, dy, w.shape, *options),
    ]
    if b is not None:
        gradients.append([math.fsum(dy[:, k].flat) for k in range(len(b))])
    return [reference.conv2d(x, w, b, *options)], gradients


@_batched
def max_pool2d(arrays: list[Any], attributes: dict[str, Any], dy: Array) -> Result:
    (x,) = arrays
    kernel = _pair(attributes["kernel_size"])
    y, _, plane = reference.max_pool2d(
        x, kernel, _pair(attributes.get("stride", kernel)), _pair(attributes.get("padding", 0)),
        _pair(attributes.get("dilation", 1)), attributes.get("ceil_mode", False),
    )  # fmt: skip
    outputs = [y, plane] if attributes.get("return_indices") else [y]
    return outputs, [reference.max_pool2d_backward(dy, plane, x.shape)]


@_batched
def avg_pool2d(arrays: list[Any], attributes: dict[str, Any], dy: Array) -> Result:
    (x,) = arrays
    kernel = _pair(attributes["kernel_size"])
    window = (kernel, _pair(attributes.get("stride", kernel)), _pair(attributes.get("padding", 0)))
    divisor = {
        "count_include_pad": attributes.get("count_include_pad", True),
        "divisor_override": attributes.get("divisor_override"),
    }
    ceil_mode = attributes.get("ceil_mode", False)
    y = reference.avg_pool2d(x, *window, ceil_mode=ceil_mode, **divisor)
    return [y], [reference.avg_pool2d_backward(dy, x.shape, *window, **divisor)]


def adaptive_avg_pool2d(arrays: list[Any], attributes: dict[str, Any], dy: Array) -> Result:
    (x,) = arrays
    size = attributes["output_size"]
    wanted = [n if s is None else s for s, n in zip(_pair(size), x.shape[2:])]
    y = reference.adaptive_avg_pool2d(x, wanted)
    return [y], [reference.adaptive_avg_pool2d_backward(dy, x.shape)]


def softmax(arrays: list[Any], attributes: dict[str, Any], dy: Array) -> Result:
    axis = attributes["dim"] % arrays[0].ndim
    y = reference.softmax(arrays[0], axis)
    return [y], [reference.softmax_backward(dy, y, axis)]


def log_softmax(arrays: list[Any], attributes: dict[str, Any], dy: Array) -> Result:
    axis = attributes["dim"] % arrays[0].ndim
    y = reference.log_softmax(arrays[0], axis)
    return [y], [reference.log_softmax_backward(dy, y, axis)]


def cross_entropy(arrays: list[Any], attributes: dict[str, Any], dy: Array) -> Result:
    x, target, weight = arrays
    rows = x[None] if x.ndim == 1 else np.moveaxis(x, 1, -1)
    flat, labels = rows.reshape(-1, rows.shape[-1]), np.ravel(target)
    y, _, _ = reference.cross_entropy(flat, labels, weight, **attributes)
    up = np.ravel(dy) if attributes.get("reduction") == "none" else dy
    dx = reference.cross_entropy_backward(up, flat, labels, weight, **attributes)
    dx = dx.reshape(rows.shape)
    return [np.reshape(y, dy.shape)], [dx[0] if x.ndim == 1 else np.moveaxis(dx, -1, 1)]


def linear(arrays: list[Any], attributes: dict[str, Any], dy: Array) -> Result:
    x, w, b = arrays
    rows, up = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    gradients = [reference.matmul(up, w).reshape(x.shape), reference.matmul(up.T, rows)]
    if b is not None:
        gradients.append([math.fsum(column) for column in up.T])
    return [reference.matmul(rows, w.T, b).reshape(dy.shape)], gradients


def matmul(arrays: list[Any], attributes: dict[str, Any], dy: Array) -> Result:
    a, b = arrays
    da = reference.matmul(dy, b.swapaxes(-1, -2))
    db = reference.matmul(a.swapaxes(-1, -2), dy)
    return [reference.matmul(a, b)], [_sum_to(da, a.shape), _sum_to(db, b.shape)]


def batch_norm_train(arrays: list[Any], attributes: dict[str, Any], dy: Array) -> Result:
    x, running_mean, running_var, w, b = arrays
    eps, momentum = attributes.get("eps", 1e-5), attributes.get("momentum", 0.1)
    mean, variance = reference.batch_norm_statistics(x)
    count = x.size // x.shape[1]
    running = reference.batch_norm_update(
        running_mean, running_var, mean, variance, momentum, count
    )
    gradients = reference.batch_norm_backward(dy, x, mean, variance, w, eps, True)
    return [reference.batch_norm(x, mean, variance, w, b, eps), *running], list(gradients)


def batch_norm_eval(arrays: list[Any], attributes: dict[str, Any], dy: Array) -> Result:
    x, mean, variance, w, b = arrays
    gradients = reference.batch_norm_backward(dy, x, mean, variance, w, 1e-5, False)
    return [reference.batch_norm(x, mean, variance, w, b)], list(gradients)


def dropout(arrays: list[Any], attributes: dict[str, Any], dy: Array) -> Result:
    (x,), p = arrays, attributes["p"]
    kept = reference.dropout_mask(x.shape, p, _KEY)
    return [np.where(kept, x / (1 - p), 0)], [np.where(kept, dy / (1 - p), 0)]


def sgd_update(arrays: list[Any], attributes: dict[str, Any], dy: Any) -> Result:
    (p, g), buffer = arrays, np.zeros(len(arrays[0]))
    options = {k: v for k, v in attributes.items() if k != "steps"}
    for step in range(attributes["steps"]):
        p, buffer = reference.sgd_step(p, g, buffer, first=step == 0, **options)
    return [p, buffer] if options["momentum"] else [p], []


def adam_update(arrays: list[Any], attributes: dict[str, Any], dy: Any) -> Result:
    p, g = arrays
    state = p, np.zeros(len(p)), np.zeros(len(p))
    options = {k: v for k, v in attributes.items() if k != "steps"}
    for step in range(attributes["steps"]):
        state = reference.adam_step(state[0], g, *state[1:], step=step + 1, **options)
    return list(state), []


LOOPS: dict[str, Callable[..., Result]] = {
    f.__name__: f
    for f in (
        conv2d, max_pool2d, avg_pool2d, adaptive_avg_pool2d, softmax, log_softmax, cross_entropy,
        linear, matmul, batch_norm_train, batch_norm_eval, dropout, sgd_update, adam_update,
    )
}  # fmt: skip


def _work(case: Case) -> float:
    """About how many times a loop goes round."""
    sizes = [math.prod(value.shape) for value in case.inputs if value is not None]
    if case.op == "conv2d":
        x, w = case.inputs[:2]
        assert x is not None and w is not None
        return sizes[0] * sizes[1] / w.shape[1] / math.prod(_pair(case.attributes.get("stride", 1)))
    if case.op in ("linear", "matmul"):
        return sizes[0] * math.sqrt(sizes[1])
    if case.op == "cross_entropy":
        return sizes[0] * sizes[0] / max(sizes[1], 1)
    return sum(sizes) * 10


def _has_loop(case: Case) -> bool:
    """Whether the loops know this form of the operation, and are done in a moment."""
    if case.op not in LOOPS or _work(case) > _WORK:
        return False
    inputs = [value for value in case.inputs if value is not None]
    if case.op == "cross_entropy":
        return not inputs[1].is_float
    if case.op == "matmul":
        return all(len(value.shape) > 1 for value in inputs)
    return all(value.kind != "special" for value in inputs)


def _sum_to(gradient: Array, shape: tuple[int, ...]) -> Array:
    """The gradient of a leading axis that was broadcast."""
    for axis, (n, m) in enumerate(zip(gradient.shape[-len(shape) :], shape)):
        if n != m:
            gradient = gradient.sum(axis - len(shape), keepdims=True)
    return gradient.sum(tuple(range(gradient.ndim - len(shape))))


ROWS = [case for case in CASES if _has_loop(case)]


@pytest.mark.parametrize("case", ROWS, ids=lambda case: case.name)
def test_against_direct_loops(case: Case) -> None:
    """Values and gradients within 1e-10 of the largest entry."""
    ours = run(case, "cpu", np.float64)
    dy = np.random.default_rng(99).standard_normal(ours.outputs[0].shape)
    outputs, gradients = LOOPS[case.op](case.arrays(np.float64), case.attributes, np.asarray(dy))
    assert len(ours.outputs) == len(outputs)
    for number, (y, expected) in enumerate(zip(ours.outputs, outputs)):
        assert_close(y, expected, 1e-10, f"output {number}")
    # A loop may give the gradient of a bias or a weight that the row does not have.
    for number, gradient in enumerate(ours.gradients):
        assert_close(gradient, gradients[number], 1e-10, f"gradient {number}")


def test_every_loop_is_used() -> None:
    assert {case.op for case in ROWS} == set(LOOPS)

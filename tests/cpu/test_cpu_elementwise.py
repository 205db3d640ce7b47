from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from cpu_helpers import BACKEND, CHWN, FLOATS, NHWC, bits, close, in_order, layouts, run, strided

P = BACKEND.primitives
LARGE = 300_017  # more than one piece, not a multiple of a block
SPECIAL = [
    *(0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, math.nan),
    *(1e-30, -3.5, 88.0, -104.0, 1e4, -1e4),
]


def special(dtype, size=None):
    values = np.array(SPECIAL, dtype)
    return values if size is None else np.resize(values, size)


def scalar_unary(op, x):
    """One element in float64, by its definition."""
    if op == "sign":
        return (x > 0) - (x < 0)
    if op == "relu":
        return x if x > 0 or math.isnan(x) else 0.0
    if op == "sigmoid":
        return 0.0 if x < -700 else 1 / (1 + math.exp(-x))
    if op == "negative":
        return -x
    if op == "absolute":
        return abs(x)
    if op == "tanh":
        return math.tanh(x)
    if op == "exp":
        return math.inf if x > 709 else math.exp(x)
    if op == "reciprocal":
        return 1 / x if x else math.copysign(math.inf, x)
    if op == "sqrt":
        return math.nan if x < 0 else math.sqrt(x)
    if op == "log":
        return math.log(x) if x > 0 else (-math.inf if x == 0 else math.nan)
    raise KeyError(op)


FLOAT_UNARY = (
    "negative exp log sqrt absolute sign reciprocal relu sigmoid tanh".split()
)  # logical_not takes bool


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("op", FLOAT_UNARY)
def test_unary_values(op, dtype):
    x = special(dtype)
    expected = np.array([scalar_unary(op, float(v)) for v in x])
    with np.errstate(over="ignore"):
        expected = expected.astype(dtype)
    y = run("unary", [x], [(x.shape, dtype)], op=op)
    np.testing.assert_allclose(y, expected, rtol=4e-7 if dtype == np.float32 else 1e-14)
    # Large arrays take another path: blocks, threads, flat views.
    big = special(dtype, LARGE)
    y_big = run("unary", [big], [(big.shape, dtype)], op=op)
    np.testing.assert_allclose(y_big, np.resize(expected, LARGE), rtol=1e-6, atol=1e-37)


@pytest.mark.parametrize("op", ["relu", "sigmoid", "sign", "exp"])
@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (3, 8, 65, 71)])
def test_unary_any_layout_in_any_layout_out(op, shape):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    expected = run("unary", [x], [(shape, np.float32)], op=op)
    for view, order in itertools.product(layouts(x), (None, NHWC, CHWN)):
        y = run("unary", [view], [(shape, np.float32, order)], op=op)
        np.testing.assert_allclose(y, expected, rtol=3e-7)
    out = strided(x)
    P["unary"](x, out, op=op)
    np.testing.assert_allclose(out, expected, rtol=3e-7)


@pytest.mark.parametrize("size", [5, 5000, LARGE])
@pytest.mark.parametrize("op", FLOAT_UNARY)
def test_unary_in_place_and_overlapping(op, size):
    x = np.random.default_rng(1).standard_normal(size + 1).astype(np.float32)
    expected = run("unary", [x], [(x.shape, np.float32)], op=op)
    same = x.copy()
    P["unary"](same, same, op=op)
    np.testing.assert_array_equal(same, expected)
    shifted = x.copy()
    P["unary"](shifted[:-1], shifted[1:], op=op)
    np.testing.assert_allclose(shifted[1:], expected[:-1], rtol=3e-7)
    reverse = x.copy()
    P["unary"](reverse[::-1], reverse, op=op)
    np.testing.assert_allclose(reverse, expected[::-1], rtol=3e-7)


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8])
def test_unary_integers(dtype):
    x = np.array([0, 1, 5, 100], dtype)
    if dtype != np.uint8:
        x = np.concatenate([x, -x])
    for op, function in (("negative", np.negative), ("absolute", np.abs), ("sign", np.sign)):
        y = run("unary", [x], [(x.shape, dtype)], op=op)
        np.testing.assert_array_equal(y, function(x))


def test_unary_bool():
    x = np.array([True, False, True])
    assert run("unary", [x], [((3,), np.bool_)], op="logical_not").tolist() == [False, True, False]
    for op in ("absolute", "sign"):
        assert run("unary", [x], [((3,), np.bool_)], op=op).tolist() == x.tolist()


ARITHMETIC = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "maximum": lambda a, b: math.nan if a != a or b != b else max(a, b),
    "minimum": lambda a, b: math.nan if a != a or b != b else min(a, b),
    "equal": lambda a, b: a == b,
    "not_equal": lambda a, b: a != b,
    "less": lambda a, b: a < b,
    "less_equal": lambda a, b: a <= b,
    "greater": lambda a, b: a > b,
    "greater_equal": lambda a, b: a >= b,
}
COMPARISONS = {"equal", "not_equal", "less", "less_equal", "greater", "greater_equal"}


@pytest.mark.parametrize("repeat", [1, 1000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.int32, np.uint8])
@pytest.mark.parametrize("op", ARITHMETIC)
def test_binary_values(op, dtype, repeat):
    values = SPECIAL if np.dtype(dtype).kind == "f" else [0, 1, 2, 5, 11]
    a, b = (np.array(v, dtype) for v in zip(*itertools.product(values, values)))
    expected = np.array([ARITHMETIC[op](float(x), float(y)) for x, y in zip(a, b)])
    a, b, expected = np.tile(a, repeat), np.tile(b, repeat), np.tile(expected, repeat)
    result = np.bool_ if op in COMPARISONS else dtype
    with np.errstate(all="ignore"):
        expected = expected.astype(np.int64).astype(dtype) if result == np.uint8 else expected
        expected = expected.astype(result)
    np.testing.assert_array_equal(run("binary", [a, b], [(a.shape, result)], op=op), expected)


@pytest.mark.parametrize("size", [7, 300_000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.int32, np.uint8])
@pytest.mark.parametrize("op", ["add", "subtract", "multiply", "maximum", "minimum", "less"])
def test_binary_with_a_number(op, dtype, size):
    a = np.resize(np.array([4, 3, 2, 7, 6], dtype), size)
    result = np.bool_ if op == "less" else dtype
    function = getattr(np, op)
    for number in (3, 2.0) if np.dtype(dtype).kind == "f" else (3,):
        other = np.full(size, number, dtype)
        y = run("binary", [a, number], [(a.shape, result)], op=op)
        np.testing.assert_array_equal(y, function(a, other))
        y = run("binary", [number, a], [(a.shape, result)], op=op)
        np.testing.assert_array_equal(y, function(other, a))


def test_binary_with_a_number_beyond_float32():
    a = np.array([1.0, -2.0], np.float32)
    y = run("binary", [a, 1e300], [((2,), np.float32)], op="multiply")
    assert y.tolist() == [math.inf, -math.inf]
    y = run("binary", [a, math.nan], [((2,), np.float32)], op="maximum")
    assert np.isnan(y).all()


@pytest.mark.parametrize("dtype", FLOATS)
def test_divide_and_power(dtype):
    a, b = (np.array(v, dtype) for v in zip(*itertools.product(SPECIAL, SPECIAL)))
    with np.errstate(all="ignore"):
        divided = (a.astype(np.float64) / b.astype(np.float64)).astype(dtype)
    np.testing.assert_allclose(
        run("binary", [a, b], [(a.shape, dtype)], op="divide"), divided, rtol=2e-7
    )
    base = np.array([0.5, 1.0, 2.0, 3.0], dtype)
    for exponent in (-1.0, 0.0, 0.5, 1.0, 2.0, 3, 2.5):
        y = run("binary", [base, exponent], [(base.shape, dtype)], op="power")
        close(y, [float(v) ** exponent for v in base], dtype)
    y = run("binary", [2.0, base], [(base.shape, dtype)], op="power")
    close(y, [2.0 ** float(v) for v in base], dtype)


@pytest.mark.parametrize("dtype", [np.int64, np.int32])
def test_integer_division(dtype):
    a, b = (np.array(v, dtype) for v in zip(*itertools.product([-7, -1, 0, 6, 7], [-3, -1, 2, 7])))
    expected = [int(x) // int(y) for x, y in zip(a, b)]
    assert run("binary", [a, b], [(a.shape, dtype)], op="floor_divide").tolist() == expected
    expected = [int(x) % int(y) for x, y in zip(a, b)]
    assert run("binary", [a, b], [(a.shape, dtype)], op="remainder").tolist() == expected
    run("binary", [a, np.zeros_like(a)], [(a.shape, dtype)], op="floor_divide")  # no warning


def test_logical_operations():
    a, b = np.array([True, True, False, False]), np.array([True, False, True, False])
    for op in ("logical_and", "logical_or", "maximum", "minimum", "equal", "less"):
        y = run("binary", [a, b], [((4,), np.bool_)], op=op)
        assert y.tolist() == getattr(np, op)(a, b).tolist()


@pytest.mark.parametrize("size", [13, LARGE])
@pytest.mark.parametrize("dtype", FLOATS)
def test_relu_backward_selects(dtype, size):
    """NaN in y passes dy; infinite or NaN dy where y <= 0 is 0."""
    dy, y = (np.array(v, dtype) for v in zip(*itertools.product(SPECIAL, SPECIAL)))
    dy, y = np.resize(dy, size), np.resize(y, size)
    dx = run("binary", [dy, y], [(dy.shape, dtype)], op="relu_backward")
    expected = np.where(y <= 0, 0, dy)
    np.testing.assert_array_equal(dx, expected)
    in_place = dy.copy()
    P["binary"](in_place, y, in_place, op="relu_backward")
    assert bits(in_place) == bits(dx)
    in_place = y.copy()
    P["binary"](dy, in_place, in_place, op="relu_backward")
    assert bits(in_place) == bits(dx)


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4, 5), (2, 70, 40, 30)])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("op", ["relu_backward", "sigmoid_backward", "tanh_backward"])
def test_activation_gradients(op, dtype, shape):
    rng = np.random.default_rng(2)
    dy, y = (rng.standard_normal(shape).astype(dtype) for _ in "12")
    slope = {
        "relu_backward": (y > 0).astype(np.float64),
        "sigmoid_backward": y.astype(np.float64) * (1 - y.astype(np.float64)),
        "tanh_backward": 1 - y.astype(np.float64) ** 2,
    }[op]
    for view in layouts(y):
        close(run("binary", [dy, view], [(shape, dtype)], op=op), dy * slope, dtype)
        close(run("binary", [view, dy], [(shape, dtype)], op=op),
              y * {"relu_backward": (dy > 0).astype(np.float64),
                   "sigmoid_backward": dy.astype(np.float64) * (1 - dy.astype(np.float64)),
                   "tanh_backward": 1 - dy.astype(np.float64) ** 2}[op], dtype)  # fmt: skip
    broadcast = np.broadcast_to(np.array(2, dtype), shape)
    close(run("binary", [broadcast, y], [(shape, dtype)], op=op), 2 * slope, dtype)


@pytest.mark.parametrize("order", [None, NHWC, CHWN])
@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((2, 3, 5, 7), (1, 3, 1, 1)),
        ((2, 1, 5, 1), (3, 1, 7)),
        ((), (2, 3, 5, 7)),
        ((4, 16, 80, 90), (1, 16, 1, 1)),
        ((4, 16, 80, 90), (90,)),
        ((4, 16, 1, 90), (16, 80, 1)),
        ((1, 2, 1, 300_001), (1, 2, 1, 1)),
    ],
)
@pytest.mark.parametrize("op", ["add", "maximum", "sigmoid_backward"])
def test_binary_broadcasts(op, a, b, order):
    rng = np.random.default_rng(3)
    left, right = rng.standard_normal(a), rng.standard_normal(b)
    left, right = np.asarray(left, np.float32), np.asarray(right, np.float32)
    shape = np.broadcast_shapes(a, b)
    order = order if len(shape) == 4 else None
    expected = {
        "add": lambda: left.astype(np.float64) + right,
        "maximum": lambda: np.maximum(left, right),
        "sigmoid_backward": lambda: left.astype(np.float64) * right * (1 - right.astype(float)),
    }[op]()
    close(run("binary", [left, right], [(shape, np.float32, order)], op=op), expected, np.float32)


@pytest.mark.parametrize("size", [10, LARGE])
def test_binary_in_place_and_overlapping(size):
    rng = np.random.default_rng(4)
    a, b = (rng.standard_normal(size + 1).astype(np.float32) for _ in "12")
    for op in ("add", "maximum", "tanh_backward"):
        expected = run("binary", [a, b], [(a.shape, np.float32)], op=op)
        for target in ("a", "b"):
            pair = {"a": a.copy(), "b": b.copy()}
            P["binary"](pair["a"], pair["b"], pair[target], op=op)
            np.testing.assert_array_equal(pair[target], expected)
        moved = a.copy()
        P["binary"](moved[:-1], b[:-1], moved[1:], op=op)
        np.testing.assert_array_equal(moved[1:], expected[:-1])


@pytest.mark.parametrize("size", [9, 5000, LARGE])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.int32, np.uint8, np.bool_])
def test_where(dtype, size):
    rng = np.random.default_rng(5)
    condition = rng.random(size) < 0.5
    a, b = (rng.integers(0, 2 if dtype == np.bool_ else 100, size).astype(dtype) for _ in "12")
    spec = [((size,), dtype)]
    np.testing.assert_array_equal(run("where", [condition, a, b], spec), np.where(condition, a, b))
    np.testing.assert_array_equal(
        run("where", [condition, 1, b], spec), np.where(condition, np.ones(size, dtype), b)
    )
    np.testing.assert_array_equal(
        run("where", [condition, a, 0], spec), np.where(condition, a, np.zeros(size, dtype))
    )
    for target in (a.copy(), b.copy()):
        expected = np.where(condition, a, b)
        inputs = (target, b) if bits(target) == bits(a) else (a, target)
        P["where"](condition, *inputs, target)
        np.testing.assert_array_equal(target, expected)


def test_where_broadcasts_and_keeps_nan():
    condition = np.array([[True], [False]])
    a = np.array([math.nan, math.inf, -0.0], np.float32)
    y = run("where", [condition, a, 1.5], [((2, 3), np.float32)])
    np.testing.assert_array_equal(y, [[math.nan, math.inf, 0.0], [1.5, 1.5, 1.5]])
    x = np.random.default_rng(6).standard_normal((2, 50, 60, 70)).astype(np.float32)
    for view in layouts(x):
        y = run("where", [view > 0, view, 0.0], [(x.shape, np.float32, NHWC)])
        np.testing.assert_array_equal(y, np.maximum(x, 0))


DTYPES = [np.float32, np.float64, np.int64, np.int32, np.uint8, np.bool_]


@pytest.mark.parametrize("target", DTYPES)
@pytest.mark.parametrize("source", DTYPES)
def test_copy_casts(source, target):
    values = [0, 1, 2, 100] if np.dtype(source).kind in "ub" else [0, 1, -1, 2, 100]
    x = np.array(values, source)
    if np.dtype(source).kind == "f":
        x = np.array([0, 0.5, 1.75, 100.25], source)
        if np.dtype(target).kind in "if":
            x = np.append(x, source(-1.75))
    if target == np.uint8:
        x = x[x >= 0]
    truncated = [math.trunc(v) for v in x.tolist()]
    expected = {"b": [bool(v) for v in x.tolist()], "f": x.tolist()}.get(
        np.dtype(target).kind, truncated
    )
    assert run("copy", [x], [(x.shape, target)]).tolist() == expected


def test_copy_of_nan_to_integers_does_not_warn():
    run("copy", [np.array([math.nan, math.inf], np.float32)], [((2,), np.int64)])
    run("copy", [np.array([1e300, 1.0])], [((2,), np.float32)])


@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3, 4, 5), (3, 20, 70, 80), (1, 1, 1, 300_000)])
def test_copy_between_layouts(shape):
    x = np.random.default_rng(7).standard_normal(shape)
    for view in layouts(np.asarray(x)):
        for order in (None, NHWC, CHWN) if len(shape) == 4 else (None,):
            np.testing.assert_array_equal(run("copy", [view], [(shape, np.float64, order)]), x)
    wide = (3, *shape) if len(shape) < 4 else shape
    np.testing.assert_array_equal(
        run("copy", [np.asarray(x)], [(wide, np.float64)]), np.broadcast_to(x, wide)
    )


@pytest.mark.parametrize("size", [6, LARGE])
def test_copy_overlapping(size):
    x = np.arange(size, dtype=np.float32)
    P["copy"](x[:-1], x[1:])
    np.testing.assert_array_equal(x, [0, *range(size - 1)])
    P["copy"](x[::-1], x)
    np.testing.assert_array_equal(x, [*range(size - 2, -1, -1), 0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (5,), (3, 8, 130, 120)])
def test_full(dtype, shape):
    for order in (None, NHWC) if len(shape) == 4 else (None,):
        y = run("full", [], [(shape, dtype, order)], value=1)
        assert y.dtype == dtype and (y == 1).all()
    if np.dtype(dtype).kind == "f":
        assert np.isnan(run("full", [], [(shape, dtype)], value=math.nan)).all()
    view = np.zeros((5, 6), dtype)
    P["full"](view[::2, 1:4], value=1)
    assert view.sum() == 9


@pytest.mark.parametrize("shape", [(0,), (3, 0, 2), (1,), (1, 1, 1, 1)])
def test_empty_and_single(shape):
    x = np.full(shape, 2.0, np.float32)
    for op in FLOAT_UNARY:
        assert run("unary", [x], [(shape, np.float32)], op=op).shape == shape
    for op in ("add", "maximum", "relu_backward", "sigmoid_backward"):
        assert run("binary", [x, x], [(shape, np.float32)], op=op).shape == shape
    run("where", [x > 0, x, x], [(shape, np.float32)])


def test_float32_stays_float32_inside():
    """A float64 intermediate would differ in the last bit: NumPy 1 and 2 must agree."""
    a = np.array([16777216.0, 1 / 3], np.float32)
    y = run("binary", [a, 1.0], [((2,), np.float32)], op="add")
    assert y[0] == np.float32(16777216.0)
    np.testing.assert_array_equal(in_order(y.reshape(1, 2, 1, 1), NHWC).ravel(), y)

"""Element-wise primitives: unary, binary, where, copy, full."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpucnn.backends.cpu.blocks import BLOCK, Array, Kernel, apply, scratch

Number = int | float | bool
Operand = Array | Number

# Elements a thread takes at a time, so that a piece lasts a few times a thread's wake-up.
_LIGHT = 16 * BLOCK  # bound by memory: about 0.1 ns an element in cache
_HEAVY = 4 * BLOCK  # transcendental functions: 0.5 ns an element and more

_CONSTANT = 8 * BLOCK  # elements of a block of equal values

_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
_ZEROS = {code: np.zeros(_CONSTANT, code) for code in "fdqliB?"}
_BITS: dict[int, np.dtype[Any]] = {d.itemsize: d for d in map(np.dtype, ("i1", "i4", "i8"))}


def _is_vector(array: Array) -> bool:
    """A flat block, as `apply` hands out for large dense arrays."""
    return array.ndim == 1 and array.size >= 512 and array.flags.c_contiguous


def _constant(value: Any, out: Array) -> Any:
    """`value`, as a block of copies where NumPy's loop is faster with an array than a scalar."""
    if not _is_vector(out):
        return value
    if value == 0 and out.size <= _CONSTANT:
        return _ZEROS[out.dtype.char][: out.size]
    block = scratch(3, out.size, out.dtype)
    block.fill(value)
    return block


def _reciprocal(x: Array, y: Array) -> None:
    np.divide(x.dtype.type(1), x, y)  # twice as fast as np.reciprocal


def _relu(x: Array, y: Array) -> None:
    np.maximum(x, _constant(x.dtype.type(0), y), out=y)


def _sigmoid(x: Array, y: Array) -> None:
    one = x.dtype.type(1)
    np.negative(x, y)
    np.exp(y, y)  # overflows to infinity for x << 0, whose reciprocal is the right 0
    np.add(y, one, y)
    np.divide(one, y, y)


def _sign(x: Array, y: Array) -> None:
    """-1, 0 or 1; 0 for NaN, as torch.sign."""
    if x.dtype == np.bool_:
        np.copyto(y, x)
    elif x.dtype not in _FLOATS:
        np.sign(x, y)
    else:
        positive = scratch(0, y.shape, np.bool_)
        negative = scratch(1, y.shape, np.bool_)
        zero = x.dtype.type(0)
        np.greater(x, zero, positive)
        np.less(x, zero, negative)
        np.subtract(positive.view(np.int8), negative.view(np.int8), y)


def _relu_backward(dy: Array, y: Array, dx: Array) -> None:
    """dy where not y <= 0, by its bits: a product with 0 would turn infinite dy into NaN."""
    drop = scratch(0, dx.shape, np.bool_)
    np.less_equal(y, y.dtype.type(0), drop)
    mask = drop.view(np.int8)
    np.subtract(mask, np.int8(1), mask)  # dropped: 0, kept: -1, all bits set
    bits = _BITS[dx.itemsize]
    np.bitwise_and(dy.view(bits), mask, dx.view(bits))


def _sigmoid_backward(dy: Array, y: Array, dx: Array) -> None:
    slope = scratch(0, dx.shape, dx.dtype)
    np.subtract(y.dtype.type(1), y, slope)
    np.multiply(slope, y, slope)
    np.multiply(slope, dy, dx)


def _tanh_backward(dy: Array, y: Array, dx: Array) -> None:
    slope = scratch(0, dx.shape, dx.dtype)
    np.multiply(y, y, slope)
    np.subtract(y.dtype.type(1), slope, slope)
    np.multiply(slope, dy, dx)


def _extremum(function: Callable[..., Any]) -> Callable[..., Any]:
    """np.maximum or np.minimum; with a scalar they are vectorised only against a block of it."""

    def kernel(a: Any, b: Any, y: Array) -> None:
        if not isinstance(b, np.ndarray):
            b = _constant(b, y)
        elif not isinstance(a, np.ndarray):
            a = _constant(a, y)
        function(a, b, out=y)

    return kernel


def _power(a: Any, b: Any, y: Array) -> None:
    if not isinstance(b, np.ndarray) and y.dtype in _FLOATS:
        if b == 2:
            np.multiply(a, a, y)
            return
        if b == 0.5:
            np.sqrt(a, y)
            return
    np.power(a, b, y)


_UNARY = {
    "negative": Kernel(np.negative, _LIGHT),
    "exp": Kernel(np.exp, _HEAVY),
    "log": Kernel(np.log, _HEAVY),
    "sqrt": Kernel(np.sqrt, _HEAVY),
    "absolute": Kernel(np.absolute, _LIGHT),
    "sign": Kernel(_sign, _LIGHT, BLOCK),
    "reciprocal": Kernel(_reciprocal, _LIGHT),
    "relu": Kernel(_relu, _LIGHT, _CONSTANT, single=8192),
    "sigmoid": Kernel(_sigmoid, _HEAVY, BLOCK),
    "tanh": Kernel(np.tanh, _HEAVY),
    "logical_not": Kernel(np.logical_not, _LIGHT),
}

_BINARY = {
    "add": Kernel(np.add, _LIGHT),
    "subtract": Kernel(np.subtract, _LIGHT),
    "multiply": Kernel(np.multiply, _LIGHT),
    "divide": Kernel(np.divide, _LIGHT),
    "power": Kernel(_power, _HEAVY),
    "maximum": Kernel(_extremum(np.maximum), _LIGHT, _CONSTANT),
    "minimum": Kernel(_extremum(np.minimum), _LIGHT, _CONSTANT),
    "floor_divide": Kernel(np.floor_divide, _HEAVY),
    "remainder": Kernel(np.remainder, _HEAVY),
    "equal": Kernel(np.equal, _LIGHT),
    "not_equal": Kernel(np.not_equal, _LIGHT),
    "less": Kernel(np.less, _LIGHT),
    "less_equal": Kernel(np.less_equal, _LIGHT),
    "greater": Kernel(np.greater, _LIGHT),
    "greater_equal": Kernel(np.greater_equal, _LIGHT),
    "logical_and": Kernel(np.logical_and, _LIGHT),
    "logical_or": Kernel(np.logical_or, _LIGHT),
    "relu_backward": Kernel(_relu_backward, _LIGHT, 8 * BLOCK),  # only its mask is kept
    "sigmoid_backward": Kernel(_sigmoid_backward, _LIGHT, BLOCK),
    "tanh_backward": Kernel(_tanh_backward, _LIGHT, BLOCK),
}


def unary(x: Array, y: Array, *, op: str) -> None:
    """y = op(x), of one shape and dtype; op is a key of `_UNARY`."""
    apply(_UNARY[op], x, y)


def binary(a: Operand, b: Operand, y: Array, *, op: str) -> None:
    """y = op(a, b), broadcast to y; one of a and b may be a number; op is a key of `_BINARY`."""
    if not isinstance(a, np.ndarray):
        a = _scalar(a, b)
    elif not isinstance(b, np.ndarray):
        b = _scalar(b, a)
    apply(_BINARY[op], a, b, y)


def _scalar(value: Any, like: Any) -> Any:
    """A number as a scalar of an array's dtype, so that NumPy 1 and 2 promote alike."""
    if -3e38 < value < 3e38:
        return like.dtype.type(value)
    with np.errstate(over="ignore"):  # beyond float32 it becomes infinite
        return like.dtype.type(value)


def _where(condition: Array, a: Any, b: Any, y: Array) -> None:
    flat = all(not isinstance(operand, np.ndarray) or _is_vector(operand) for operand in (a, b))
    if not (flat and _is_vector(y) and _is_vector(condition)):
        np.copyto(y, np.where(condition, a, b))
        return
    # b ^ ((a ^ b) & mask), four times as fast as np.where
    bits = _BITS[y.itemsize]
    mask = scratch(0, y.shape, np.int8)
    np.negative(condition.view(np.int8), mask)
    difference = scratch(1, y.shape, bits)
    np.bitwise_xor(a.view(bits), b.view(bits), difference)
    np.bitwise_and(difference, mask, difference)
    np.bitwise_xor(difference, b.view(bits), y.view(bits))


_WHERE = Kernel(_where, _LIGHT, BLOCK)


def where(condition: Array, a: Operand, b: Operand, y: Array) -> None:
    """y = a where condition else b; everything broadcasts to y, a and b may be numbers."""
    operands = [v if isinstance(v, np.ndarray) else _scalar(v, y) for v in (a, b)]
    apply(_WHERE, condition, *operands, y)


def _cast(x: Array, y: Array) -> None:
    np.copyto(y, x, casting="unsafe")


_COPY = Kernel(_cast, _LIGHT)


def copy(x: Array, y: Array) -> None:
    """y = x, broadcast and cast: floats truncate towards zero, bool is x != 0."""
    apply(_COPY, x, y)


def full(y: Array, *, value: Number) -> None:
    """y = value."""
    apply(_COPY, _scalar(value, y), y)

"""Functions of one tensor: exp, log, sqrt, abs, ReLU, sigmoid, tanh, and their gradients."""

from __future__ import annotations

from typing import Any

from gpucnn.core.autograd import Function
from gpucnn.core.memory import float32
from gpucnn.core.tensor import Tensor
from gpucnn.ops.convert import cast
from gpucnn.ops.elementwise import binary, unary


class OfOutput(Function):
    """y = op(x) whose gradient is a function of y alone: dx = op_backward(dy, y).

    relu: dy where y > 0; sigmoid: dy y (1 - y); tanh: dy (1 - y^2); exp: dy y.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, op: str) -> Tensor:
        y: Tensor = unary(x, op=op)
        ctx.save_for_backward(y)
        ctx.backward_op = "multiply" if op == "exp" else f"{op}_backward"
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (y,) = ctx.saved_tensors
        return binary(dy, y, op=ctx.backward_op), None


class Log(Function):
    """y = log(x); dx = dy / x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return unary(x, op="log")

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return binary(dy, x, op="divide")


class Sqrt(Function):
    """y = sqrt(x); dx = dy / (2 y)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y: Tensor = unary(x, op="sqrt")
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return binary(dy, binary(y, 2, op="multiply"), op="divide")


class Absolute(Function):
    """y = |x|; dx = dy sign(x), 0 at 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return unary(x, op="absolute")

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return binary(dy, unary(x, op="sign"), op="multiply")


class Negative(Function):
    """y = -x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return unary(x, op="negative")

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        return unary(dy, op="negative")


def check_tensor(call: str, value: Any, name: str = "input") -> Tensor:
    """`value`, if it is a Tensor.

    Raises:
        TypeError: it is not.
    """
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{call}: {name} must be a gpucnn.Tensor, got {type(value).__name__}; "
            "make one with gpucnn.tensor(...)"
        )
    return value


def _float(call: str, x: Tensor) -> Tensor:
    return cast(check_tensor(call, x), float32) if x.dtype.kind != "f" else x


def _number(call: str, x: Tensor) -> Tensor:
    if check_tensor(call, x).dtype.kind == "b":
        raise TypeError(f"{call}: a bool tensor has no sign; for `not` write ~x")
    return x


def exp(input: Tensor) -> Tensor:
    """e to the power of each element."""
    return OfOutput.apply(_float("exp", input), "exp")


def log(input: Tensor) -> Tensor:
    """The natural logarithm; log(0) is -inf, of a negative number NaN."""
    return Log.apply(_float("log", input))


def sqrt(input: Tensor) -> Tensor:
    """The square root; NaN for a negative number."""
    return Sqrt.apply(_float("sqrt", input))


def absolute(input: Tensor) -> Tensor:
    """The absolute value; its gradient at 0 is 0."""
    return Absolute.apply(_number("abs", input))


def negative(input: Tensor) -> Tensor:
    """Minus each element."""
    return Negative.apply(_number("negative", input))


def relu(input: Tensor) -> Tensor:
    """max(x, 0) of each element; NaN stays NaN; its gradient at 0 is 0."""
    if check_tensor("relu", input).dtype.kind != "f":
        return binary(_number("relu", input), 0, op="maximum")
    return OfOutput.apply(input, "relu")


def sigmoid(input: Tensor) -> Tensor:
    """1 / (1 + exp(-x)) of each element, without overflow."""
    return OfOutput.apply(_float("sigmoid", input), "sigmoid")


def tanh(input: Tensor) -> Tensor:
    """The hyperbolic tangent of each element."""
    return OfOutput.apply(_float("tanh", input), "tanh")

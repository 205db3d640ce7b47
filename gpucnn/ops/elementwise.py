"""Elementwise arithmetic with broadcasting, and its gradients."""

from __future__ import annotations

from typing import Any

from gpucnn.core import memory
from gpucnn.core.autograd import Function
from gpucnn.core.dispatch import Spec
from gpucnn.core.memory import bool_, float32, int64
from gpucnn.core.primitive import primitive
from gpucnn.core.tensor import Number, Tensor
from gpucnn.ops.broadcasting import (
    Operand,
    bool_tensor,
    broadcast_shapes,
    broadcast_spec,
    common_dtype,
    operand,
    same_device,
    shape_of,
    unbroadcast,
)
from gpucnn.ops.convert import cast

_TO_BOOL = {
    "equal", "not_equal", "less", "less_equal", "greater", "greater_equal",
    "logical_and", "logical_or",
}  # fmt: skip


_WITHIN = {"min": "greater_equal", "max": "less_equal"}


@primitive
def unary(x: Tensor, *, op: str) -> list[Spec]:
    """y = op(x): negative exp log sqrt absolute sign reciprocal relu sigmoid tanh logical_not."""
    return [Spec(x.shape, x.dtype, x.order)]


@primitive
def binary(a: Operand, b: Operand, *, op: str) -> list[Spec]:
    """y = a op b with broadcasting; one of the two may be a Python number."""
    if op.endswith("_backward"):  # b is the forward result: the gradient lies as it does
        return [Spec(b.shape, b.dtype, b.order)]
    return [broadcast_spec(op, bool_ if op in _TO_BOOL else None, a, b)]


@primitive
def where(condition: Tensor, a: Operand, b: Operand) -> list[Spec]:
    """y = a where the condition holds, else b."""
    dtype = next((v.dtype for v in (a, b) if isinstance(v, Tensor)), float32)
    return [broadcast_spec("where", dtype, condition, *(v for v in (a, b)))]


class Add(Function):
    """a + b."""

    @staticmethod
    def forward(ctx: Any, a: Operand, b: Operand) -> Tensor:
        ctx.shapes = shape_of(a), shape_of(b)
        return binary(a, b, op="add")

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        needs = ctx.needs_input_grad
        return tuple(unbroadcast(dy, s) if n else None for n, s in zip(needs, ctx.shapes))


class Subtract(Function):
    """a - b."""

    @staticmethod
    def forward(ctx: Any, a: Operand, b: Operand) -> Tensor:
        ctx.shapes = shape_of(a), shape_of(b)
        return binary(a, b, op="subtract")

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        need_a, need_b = ctx.needs_input_grad
        da = unbroadcast(dy, ctx.shapes[0]) if need_a else None
        db = unary(unbroadcast(dy, ctx.shapes[1]), op="negative") if need_b else None
        return da, db


class Multiply(Function):
    """a * b; da = dy * b, db = dy * a."""

    @staticmethod
    def forward(ctx: Any, a: Operand, b: Operand) -> Tensor:
        _save_operands(ctx, a, b)
        return binary(a, b, op="multiply")

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (a, b), (need_a, need_b) = _saved_operands(ctx), ctx.needs_input_grad
        da = unbroadcast(binary(dy, b, op="multiply"), ctx.shapes[0]) if need_a else None
        db = unbroadcast(binary(dy, a, op="multiply"), ctx.shapes[1]) if need_b else None
        return da, db


class Divide(Function):
    """a / b; da = dy / b, db = -dy * a / b^2."""

    @staticmethod
    def forward(ctx: Any, a: Operand, b: Operand) -> Tensor:
        _save_operands(ctx, a, b)
        return binary(a, b, op="divide")

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (a, b), (need_a, need_b) = _saved_operands(ctx), ctx.needs_input_grad
        over_b = binary(dy, b, op="divide")
        da = unbroadcast(over_b, ctx.shapes[0]) if need_a else None
        db = None
        if need_b:
            slope = unary(binary(a, b, op="divide"), op="negative")
            db = unbroadcast(binary(over_b, slope, op="multiply"), ctx.shapes[1])
        return da, db


class Power(Function):
    """a ** b; da = dy * b * a^(b-1), 0 where b = 0; db = dy * a^b * log(a), 0 where a = 0 <= b."""

    @staticmethod
    def forward(ctx: Any, a: Operand, b: Operand) -> Tensor:
        _save_operands(ctx, a, b)
        return binary(a, b, op="power")

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (a, b), (need_a, need_b) = _saved_operands(ctx), ctx.needs_input_grad
        da = db = None
        if need_a:
            less_one = b - 1 if not isinstance(b, Tensor) else binary(b, 1, op="subtract")
            slope = binary(binary(a, less_one, op="power"), b, op="multiply")
            if isinstance(b, Tensor):
                slope = where(binary(b, 0, op="equal"), 0, slope)
            elif b == 0:
                slope = memory.full(a.shape, 0, a.dtype, a.device, a.order)
            da = unbroadcast(binary(dy, slope, op="multiply"), ctx.shapes[0])
        if need_b:
            y = binary(a, b, op="power")
            if isinstance(a, Tensor):
                log_a, zero = unary(a, op="log"), binary(a, 0, op="equal")
            else:
                like = memory.full((), a, b.dtype, b.device)
                log_a, zero = unary(like, op="log"), binary(like, 0, op="equal")
            # 0 ** b is constant for b >= 0, infinitely steep below.
            flat = binary(zero, binary(b, 0, op="greater_equal"), op="logical_and")
            slope = where(flat, 0, binary(y, log_a, op="multiply"))
            db = unbroadcast(binary(dy, slope, op="multiply"), ctx.shapes[1])
        return da, db


class Extremum(Function):
    """The larger (or smaller) of a and b; at a tie each gets half of the gradient."""

    @staticmethod
    def forward(ctx: Any, a: Operand, b: Operand, op: str) -> Tensor:
        _save_operands(ctx, a, b)
        ctx.op = op
        return binary(a, b, op=op)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        a, b = _saved_operands(ctx)
        loses = "less" if ctx.op == "maximum" else "greater"
        # Written by who loses, so that a NaN, which compares with nothing, passes the gradient on.
        shared = where(binary(a, b, op="equal"), binary(dy, 0.5, op="multiply"), dy)
        first = where(binary(a, b, op=loses), 0, shared)
        second = where(binary(b, a, op=loses), 0, shared)
        needs = ctx.needs_input_grad
        da = unbroadcast(first, ctx.shapes[0]) if needs[0] else None
        return da, unbroadcast(second, ctx.shapes[1]) if needs[1] else None, None


class Where(Function):
    """a where the condition holds, else b."""

    @staticmethod
    def forward(ctx: Any, condition: Tensor, a: Operand, b: Operand) -> Tensor:
        ctx.save_for_backward(condition)
        ctx.shapes = shape_of(a), shape_of(b)
        return where(condition, a, b)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (condition,) = ctx.saved_tensors
        _, need_a, need_b = ctx.needs_input_grad
        da = unbroadcast(where(condition, dy, 0), ctx.shapes[0]) if need_a else None
        db = unbroadcast(where(condition, 0, dy), ctx.shapes[1]) if need_b else None
        return None, da, db


def _save_operands(ctx: Any, a: Operand, b: Operand) -> None:
    ctx.shapes = shape_of(a), shape_of(b)
    ctx.numbers = [None if isinstance(v, Tensor) else v for v in (a, b)]
    ctx.save_for_backward(*(v if isinstance(v, Tensor) else None for v in (a, b)))


def _saved_operands(ctx: Any) -> list[Operand]:
    tensors = ctx.saved_tensors
    return [n if t is None else t for t, n in zip(tensors, ctx.numbers)]


def _binary(function: type[Function], name: str, *extra: Any) -> Any:
    def call(input: Any, other: Any) -> Tensor:
        a, b = operand(name, input), operand(name, other)
        if name == "subtract" and (_is_bool(a) or _is_bool(b)):
            bool_form(name)  # refuses
        a, b = common_dtype(name, a, b)
        broadcast_shapes(name, a, b)
        kind = (a if isinstance(a, Tensor) else b).dtype.kind
        if kind == "f":
            return function.apply(a, b, *extra)
        if name == "divide":
            return function.apply(_as_float(a), _as_float(b))
        if kind == "b" and name not in ("maximum", "minimum"):
            return binary(a, b, op=bool_form(name))
        if name == "power" and isinstance(b, int) and b < 0:
            raise ValueError(f"power: an integer to a negative integer power, {b}; use .float()")
        return function.apply(a, b, *extra)

    call.__name__ = name
    call.__doc__ = f"{(function.__doc__ or '').rstrip('.')}, with broadcasting; PyTorch's dtypes."
    return call


def bool_form(name: str) -> str:
    """The operation that PyTorch's `name` is on two bools.

    Raises:
        TypeError: there is none.
    """
    forms = {"add": "logical_or", "multiply": "logical_and"}
    if name not in forms:
        raise TypeError(f"{name}: not an operation on bools; use .long() or .float()")
    return forms[name]


def _is_bool(value: Operand) -> bool:
    return bool(value.dtype == bool_) if isinstance(value, Tensor) else isinstance(value, bool)


def _as_float(value: Operand) -> Operand:
    return cast(value, float32) if isinstance(value, Tensor) else value


add = _binary(Add, "add")
subtract = _binary(Subtract, "subtract")
multiply = _binary(Multiply, "multiply")
divide = _binary(Divide, "divide")
power = _binary(Power, "power")
maximum = _binary(Extremum, "maximum", "maximum")
minimum = _binary(Extremum, "minimum", "minimum")


def select(condition: Tensor, input: Any, other: Any) -> Tensor:
    """`input` where the bool tensor `condition` holds, else `other` (torch.where)."""
    mask = bool_tensor("where", "condition", condition)
    a, b = operand("where", input), operand("where", other)
    if not isinstance(a, Tensor) and not isinstance(b, Tensor):
        dtype = float32 if isinstance(a, float) else int64 if type(a) is int else bool_
        a = memory.full((), a, dtype, mask.device)
    a, b = common_dtype("where", a, b)
    same_device("where", condition=mask, input=a, other=b)
    broadcast_shapes("where", mask, a, b)
    return Where.apply(mask, a, b)


def clamp(input: Tensor, min: Number | None = None, max: Number | None = None) -> Tensor:
    """The input limited to [min, max]; a value outside has gradient 0, one on a limit keeps it.

    Raises:
        ValueError: neither limit is given.
        TypeError: a limit is not a number.
    """
    call = "clamp"
    x = operand(call, input)
    limits = {"min": min, "max": max}
    given = {name: operand(call, limit) for name, limit in limits.items() if limit is not None}
    if not given:
        raise ValueError(f"{call}: min or max must be given")
    for name, limit in given.items():
        if isinstance(limit, Tensor):
            raise TypeError(f"{call}: {name} must be a number; use maximum or minimum")
        x, _ = common_dtype(call, x, limit)
    limited = x.detach()
    if min is not None:
        limited = binary(limited, min, op="maximum")
    if max is not None:
        limited = binary(limited, max, op="minimum")
    inside = [binary(x, limit, op=_WITHIN[name]) for name, limit in given.items()]
    kept = inside[0] if len(inside) == 1 else binary(*inside, op="logical_and")
    return Where.apply(kept, x, limited)

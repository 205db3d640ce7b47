"""Shapes and dtypes of operands that meet, and the sum that undoes a broadcast."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucnn.core.dispatch import Spec
from gpucnn.core.memory import as_dtype, bool_, check_number, float32, int64
from gpucnn.core.primitive import primitive
from gpucnn.core.tensor import Tensor
from gpucnn.ops.convert import cast

Operand = Any
"""A Tensor, or a Python number."""


@primitive
def reduce(x: Tensor, *, op: str, axes: tuple[int, ...], keepdims: bool) -> list[Spec]:
    """y = the sum, max or min of x over `axes`; NaN propagates through max and min."""
    order = x.order
    if keepdims:
        return [Spec(tuple(1 if i in axes else n for i, n in enumerate(x.shape)), x.dtype, order)]
    return [Spec(tuple(n for i, n in enumerate(x.shape) if i not in axes), x.dtype)]


def promote(a: np.dtype[Any], b: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype of an operation on two tensors, as in PyTorch: a float wins over any integer."""
    if a == b:
        return a
    if (a.kind == "f") != (b.kind == "f"):
        return a if a.kind == "f" else b
    return np.promote_types(a, b)


def _category(dtype: np.dtype[Any]) -> int:
    return {"b": 0, "f": 2}.get(dtype.kind, 1)


def result_dtype(a: Tensor, b: Tensor) -> np.dtype[Any]:
    """The dtype of a op b: one without dimensions counts only where its kind is the higher one."""
    if (a.ndim == 0) == (b.ndim == 0):
        return promote(a.dtype, b.dtype)
    strong, weak = (b.dtype, a.dtype) if a.ndim == 0 else (a.dtype, b.dtype)
    return promote(strong, weak) if _category(weak) > _category(strong) else strong


def check_kind(call: str, target: Tensor, value: Operand) -> None:
    """Refuse to store floats in integers, or integers in bools.

    Raises:
        TypeError: the value's kind is above the target's.
    """
    kind = value.dtype if isinstance(value, Tensor) else np.dtype(type(value))
    if _category(kind) > _category(target.dtype):
        raise TypeError(f"{call}: {kind} cannot be stored in a tensor of {target.dtype}")


def operand(call: str, value: Any) -> Operand:
    """A Tensor or Python number from what a user wrote; a NumPy array is a cpu tensor.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(value, (Tensor, bool, int, float)):
        return value
    if isinstance(value, np.generic):
        return operand(call, value.item())
    if isinstance(value, np.ndarray):
        as_dtype(call, value.dtype)
        return Tensor(value)
    raise TypeError(
        f"{call}: expected a Tensor or a number, got {type(value).__name__}; "
        "make a tensor with gpucnn.tensor(...)"
    )


def same_device(call: str, **tensors: Operand | None) -> None:
    """Refuse tensors of different devices: nothing moves silently.

    Raises:
        RuntimeError: two of the named tensors are on different devices.
    """
    first = None
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            continue
        if first is None:
            first = (name, value.device)
        elif value.device is not first[1]:
            raise RuntimeError(
                f"{call}: {first[0]} is on {first[1]} but {name} is on {value.device}; "
                "move one with .to(...)"
            )


def common_dtype(call: str, a: Operand, b: Operand) -> tuple[Operand, Operand]:
    """The operands, tensors cast to the dtype that PyTorch would compute in."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.device is not b.device:
            same_device(call, input=a, other=b)
        if a.dtype == b.dtype:
            return a, b
        dtype = result_dtype(a, b)
        return cast(a, dtype), cast(b, dtype)
    if isinstance(a, Tensor):
        return _with_number(call, a, b), b
    if isinstance(b, Tensor):
        return a, _with_number(call, b, a)
    raise TypeError(f"{call}: no tensor among the operands")


def _with_number(call: str, x: Tensor, number: float) -> Tensor:
    if x.dtype.kind == "f":
        return x
    if isinstance(number, float):
        return cast(x, float32)
    if x.dtype == bool_ and not isinstance(number, bool):
        return cast(x, int64)
    check_number(call, number, x.dtype)
    return x


def broadcast_shapes(call: str, *operands: Operand) -> tuple[int, ...]:
    """The common shape of operands under NumPy's rules.

    Raises:
        ValueError: they do not broadcast.
    """
    shapes = [value.shape for value in operands if isinstance(value, Tensor)]
    first = shapes[0]
    if all(shape == first for shape in shapes):
        return first
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        listed = " and ".join(str(s) for s in shapes)
        raise ValueError(f"{call}: shapes {listed} do not broadcast") from None


def broadcast_spec(call: str, dtype: np.dtype[Any] | None, *operands: Operand) -> Spec:
    """What an elementwise result looks like: it lies in memory as the first full operand does."""
    shape = broadcast_shapes(call, *operands)
    tensors = [value for value in operands if isinstance(value, Tensor)]
    full = next((t for t in tensors if t.shape == shape), None)
    return Spec(shape, dtype or tensors[-1].dtype, None if full is None else full.order)


def unbroadcast(gradient: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The gradient of a broadcast: the sum over the axes that it stretched."""
    if gradient.shape == shape:
        return gradient
    lead = gradient.ndim - len(shape)
    axes = tuple(range(lead)) + tuple(
        lead + i for i, n in enumerate(shape) if n == 1 and gradient.shape[lead + i] != 1
    )
    summed: Tensor = reduce(gradient, op="sum", axes=axes, keepdims=True)
    return summed.view_of(summed.data.reshape(shape))


def shape_of(value: Operand) -> tuple[int, ...] | None:
    return value.shape if isinstance(value, Tensor) else None


def bool_tensor(call: str, name: str, value: Any) -> Tensor:
    """`value`, if it is a bool tensor.

    Raises:
        TypeError: it is not.
    """
    if not isinstance(value, Tensor) or value.dtype != bool_:
        what = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{call}: {name} must be a bool tensor, got {what}")
    return value

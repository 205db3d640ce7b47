"""Comparisons and logic: bool tensors, without gradients."""

from __future__ import annotations

from typing import Any

from gpucnn.core.tensor import Tensor
from gpucnn.ops.broadcasting import bool_tensor, common_dtype, operand, same_device
from gpucnn.ops.elementwise import binary, unary


def _comparison(name: str) -> Any:
    def call(input: Any, other: Any) -> Tensor:
        a, b = common_dtype(name, operand(name, input), operand(name, other))
        return binary(a, b, op=name)

    call.__name__ = name
    call.__doc__ = f"The bool tensor of input {name.replace('_', ' ')} other, with broadcasting."
    return call


equal = _comparison("equal")
not_equal = _comparison("not_equal")
less = _comparison("less")
less_equal = _comparison("less_equal")
greater = _comparison("greater")
greater_equal = _comparison("greater_equal")


def _logical(name: str) -> Any:
    def call(input: Tensor, other: Tensor) -> Tensor:
        a, b = bool_tensor(name, "input", input), bool_tensor(name, "other", other)
        same_device(name, input=a, other=b)
        return binary(a, b, op=name)

    call.__name__ = name
    call.__doc__ = f"input {name.partition('_')[2]} other, of bool tensors, with broadcasting."
    return call


logical_and = _logical("logical_and")
logical_or = _logical("logical_or")


def logical_not(input: Tensor) -> Tensor:
    """not input, of a bool tensor."""
    return unary(bool_tensor("logical_not", "input", input), op="logical_not")

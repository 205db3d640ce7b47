"""Binds the operations to the tensor: `x + y`, `x.exp()`, `x[0]`, ...

The tensor stands below the operations and does not know them; its file declares these names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpucnn.core.memory import float32, float64, int64
from gpucnn.core.tensor import Tensor
from gpucnn.ops import (
    activation,
    comparison,
    convert,
    elementwise,
    index,
    inplace,
    linear,
    reduction,
    softmax,
    view,
)


def _reflected(function: Callable[..., Tensor]) -> Callable[[Tensor, Any], Tensor]:
    return lambda self, other: function(other, self)


def _operator(function: Callable[..., Tensor]) -> Callable[[Tensor, Any], Any]:
    """An operator leaves operands it does not know to the other side."""

    def method(self: Tensor, other: Any) -> Any:
        if not isinstance(other, (Tensor, bool, int, float)) and not hasattr(other, "dtype"):
            return NotImplemented
        return function(self, other)

    return method


_METHODS: dict[str, Any] = {
    "__add__": _operator(elementwise.add),
    "__radd__": _reflected(elementwise.add),
    "__sub__": _operator(elementwise.subtract),
    "__rsub__": _reflected(elementwise.subtract),
    "__mul__": _operator(elementwise.multiply),
    "__rmul__": _reflected(elementwise.multiply),
    "__truediv__": _operator(elementwise.divide),
    "__rtruediv__": _reflected(elementwise.divide),
    "__pow__": _operator(elementwise.power),
    "__rpow__": _reflected(elementwise.power),
    "__matmul__": linear.product,
    "__rmatmul__": _reflected(linear.product),
    "__neg__": activation.negative,
    "__abs__": activation.absolute,
    "__invert__": comparison.logical_not,
    "__and__": comparison.logical_and,
    "__or__": comparison.logical_or,
    "__lt__": _operator(comparison.less),
    "__le__": _operator(comparison.less_equal),
    "__gt__": _operator(comparison.greater),
    "__ge__": _operator(comparison.greater_equal),
    "__eq__": _operator(comparison.equal),
    "__ne__": _operator(comparison.not_equal),
    "__iadd__": inplace.add_,
    "__isub__": inplace.sub_,
    "__imul__": inplace.mul_,
    "__itruediv__": inplace.div_,
    "__getitem__": index.getitem,
    "__setitem__": index.setitem,
    "add_": inplace.add_,
    "sub_": inplace.sub_,
    "mul_": inplace.mul_,
    "div_": inplace.div_,
    "zero_": inplace.zero_,
    "fill_": inplace.fill_,
    "copy_": inplace.copy_,
    "add": elementwise.add,
    "sub": elementwise.subtract,
    "mul": elementwise.multiply,
    "div": elementwise.divide,
    "neg": activation.negative,
    "eq": comparison.equal,
    "ne": comparison.not_equal,
    "lt": comparison.less,
    "le": comparison.less_equal,
    "gt": comparison.greater,
    "ge": comparison.greater_equal,
    "maximum": elementwise.maximum,
    "minimum": elementwise.minimum,
    "exp": activation.exp,
    "log": activation.log,
    "sqrt": activation.sqrt,
    "abs": activation.absolute,
    "relu": activation.relu,
    "sigmoid": activation.sigmoid,
    "tanh": activation.tanh,
    "pow": elementwise.power,
    "square": lambda self: self * self,
    "clamp": elementwise.clamp,
    "sum": reduction.sum,
    "mean": reduction.mean,
    "var": reduction.var,
    "max": reduction.max,
    "min": reduction.min,
    "amax": reduction.amax,
    "amin": reduction.amin,
    "argmax": reduction.argmax,
    "argmin": reduction.argmin,
    "softmax": softmax.softmax_of,
    "log_softmax": softmax.log_softmax_of,
    "matmul": linear.product,
    "reshape": view.reshape,
    "view": view.reshape,
    "flatten": view.flatten,
    "transpose": view.transpose,
    "t": view.t,
    "permute": view.permute,
    "squeeze": view.squeeze,
    "unsqueeze": view.unsqueeze,
    "expand": view.expand,
    "contiguous": convert.contiguous,
    "index_select": index.index_select,
    "clone": convert.clone,
    "to": convert.to,
    "cpu": lambda self: convert.to(self, "cpu"),
    "cuda": convert.cuda,
    "float": lambda self: convert.to(self, float32),
    "double": lambda self: convert.to(self, float64),
    "long": lambda self: convert.to(self, int64),
    "T": property(lambda self: view.permute(self, *reversed(range(self.ndim)))),
}


def bind() -> None:
    """Give `Tensor` its operators and methods."""
    for name, method in _METHODS.items():
        setattr(Tensor, name, method)

"""Changes in place: of the values of a tensor that the graph does not need."""

from __future__ import annotations

from typing import Any

from gpucnn.core import memory
from gpucnn.core.autograd import is_grad_enabled
from gpucnn.core.tensor import Number, Tensor
from gpucnn.ops.broadcasting import broadcast_shapes, operand, same_device
from gpucnn.ops.convert import cast
from gpucnn.ops.elementwise import binary


def check_in_place(call: str, target: Tensor) -> None:
    """Refuse to change a tensor that the graph still needs.

    Raises:
        RuntimeError: the tensor requires grad and recording is on.
    """
    if target.requires_grad and is_grad_enabled():
        raise RuntimeError(
            f"{call}: the tensor requires grad; change it in place only under gpucnn.no_grad()"
        )


def _in_place(op: str, name: str) -> Any:
    def call(self: Tensor, other: Any) -> Tensor:
        check_in_place(name, self)
        value = operand(name, other)
        if isinstance(value, Tensor):
            same_device(name, self=self, other=value)
            if broadcast_shapes(name, self, value) != self.shape:
                raise ValueError(f"{name}: {value.shape} does not broadcast into {self.shape}")
            value = cast(value.detach(), self.dtype)
        elif isinstance(value, float) and self.dtype.kind != "f":
            raise TypeError(f"{name}: a float cannot be stored in a tensor of {self.dtype}")
        if op == "divide" and self.dtype.kind != "f":
            raise TypeError(f"{name}: the result is a float, the tensor is {self.dtype}")
        return binary(self.detach(), value, op=op, out=self)

    call.__name__ = name
    call.__doc__ = f"self = self {op} other, in place."
    return call


add_ = _in_place("add", "add_")
sub_ = _in_place("subtract", "sub_")
mul_ = _in_place("multiply", "mul_")
div_ = _in_place("divide", "div_")


def fill_(self: Tensor, value: Number) -> Tensor:
    """Set every element, in place."""
    check_in_place("fill_", self)
    return memory.fill(self, value)


def zero_(self: Tensor) -> Tensor:
    """Set every element to 0, in place."""
    return fill_(self, 0)


def copy_(self: Tensor, source: Tensor) -> Tensor:
    """Copy the values of `source` (broadcast, cast, from any device) into this tensor."""
    check_in_place("copy_", self)
    value = source.detach()
    if value.device is not self.device:
        value = value.to(self.device)
    if broadcast_shapes("copy_", self, value) != self.shape:
        raise ValueError(f"copy_: {source.shape} does not broadcast into {self.shape}")
    return memory.copy(value, out=self)

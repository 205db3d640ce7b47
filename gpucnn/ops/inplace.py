"""Changes in place: of the values of a tensor that the graph does not need."""

from __future__ import annotations

from typing import Any

from gpucnn.core import memory
from gpucnn.core.autograd import is_grad_enabled
from gpucnn.core.memory import check_number
from gpucnn.core.tensor import Number, Tensor
from gpucnn.ops.activation import check_tensor
from gpucnn.ops.broadcasting import broadcast_shapes, check_kind, operand, same_device
from gpucnn.ops.convert import cast, clone
from gpucnn.ops.elementwise import binary, bool_form


def check_in_place(call: str, target: Tensor, value: Any = None) -> None:
    """Refuse to change what the graph needs, or to store what the graph would lose.

    Args:
        value: what is to be stored.

    Raises:
        RuntimeError: recording is on and one of the two requires grad; or several elements of the
            target are one place in memory.
    """
    if is_grad_enabled():
        if target.requires_grad:
            raise RuntimeError(
                f"{call}: the tensor requires grad; change it in place only under gpucnn.no_grad()"
            )
        if isinstance(value, Tensor) and value.requires_grad:
            raise RuntimeError(
                f"{call}: the value requires grad and the change would not be recorded; make a "
                "new tensor instead (x = x + y), or .detach() the value"
            )
    if any(s == 0 and n > 1 for s, n in zip(target.data.strides, target.shape)):
        raise RuntimeError(
            f"{call}: elements of the tensor share memory (it was expanded); change a clone"
        )


def _apart(target: Tensor, value: Tensor) -> Tensor:
    """The value, copied if it shares the target's buffer and so would change on the way."""
    shares = value._version is target._version and value.data is not target.data
    return clone(value.detach()) if shares else value.detach()


def _in_place(op: str, name: str) -> Any:
    def call(self: Tensor, other: Any) -> Tensor:
        value = operand(name, other)
        check_in_place(name, self, value)
        check_kind(name, self, value)
        if isinstance(value, Tensor):
            same_device(name, self=self, other=value)
            if broadcast_shapes(name, self, value) != self.shape:
                raise ValueError(f"{name}: {value.shape} does not broadcast into {self.shape}")
            value = cast(_apart(self, value), self.dtype)
        else:
            check_number(name, value, self.dtype)
        if op == "divide" and self.dtype.kind != "f":
            raise TypeError(f"{name}: the result is a float, the tensor is {self.dtype}")
        form = bool_form(op) if self.dtype.kind == "b" else op
        return binary(self.detach(), value, op=form, out=self)

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
    check_in_place("copy_", self, check_tensor("copy_", source, "source"))
    value = _apart(self, source)
    if value.device is not self.device:
        value = value.to(self.device)
    if broadcast_shapes("copy_", self, value) != self.shape:
        raise ValueError(f"copy_: {source.shape} does not broadcast into {self.shape}")
    return memory.copy(value, out=self)

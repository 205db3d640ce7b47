"""Parameter: a tensor that a module trains."""

from __future__ import annotations

from typing import Any

from gpucnn.core.dispatch import Order
from gpucnn.core.memory import copy
from gpucnn.core.tensor import Tensor
from gpucnn.nn import building
from gpucnn.ops.creation import empty


class Parameter(Tensor):
    """A leaf tensor that requires a gradient and that a `Module` registers when assigned.

    Args:
        data: the values; the parameter shares their memory.
        requires_grad: False for a frozen parameter.

    Raises:
        TypeError: `data` is not a Tensor.
    """

    def __init__(self, data: Tensor, requires_grad: bool = True) -> None:
        if not isinstance(data, Tensor):
            raise TypeError(f"Parameter: data must be a Tensor, got {type(data).__name__}")
        super().__init__(data.data, data.device, version=data._version)
        self.requires_grad_(requires_grad)

    def __deepcopy__(self, memo: dict[int, Any]) -> Parameter:
        # The copy stands for itself: it takes neither the graph nor the optimizer's storage along.
        if id(self) not in memo:
            values = copy(self, dtype=self.dtype, order=self.order)
            memo[id(self)] = type(self)(values, self.requires_grad)
        result: Parameter = memo[id(self)]
        return result

    def __repr__(self) -> str:
        return f"Parameter containing:\n{super().__repr__()}"


def new_parameter(
    shape: tuple[int, ...], dtype: Any, device: Any, order: Order = None
) -> Parameter:
    """A parameter of undefined values, for a layer to initialise."""
    device = building.reserve(shape, device)
    return Parameter(empty(shape, dtype=dtype or "float32", device=device, order=order))

"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gpucnn.core.tensor import Tensor
from gpucnn.ops.optimize import sgd_update
from gpucnn.optim.optimizer import Optimizer


class SGD(Optimizer):
    """Gradient descent with momentum, in PyTorch's form.

        g = grad + weight_decay * p
        buffer = g the first time, then momentum * buffer + (1 - dampening) * g
        p = p - lr * (g + momentum * buffer if nesterov else buffer)

    Sutskever et al., "On the importance of initialization and momentum in deep learning",
    ICML 2013, with the learning rate outside the buffer.

    Args:
        params: tensors, (name, tensor) pairs, or dictionaries of a group each.
        maximize: go up the gradient instead.

    Raises:
        ValueError: a value out of its range.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        if not lr >= 0.0:
            raise ValueError(f"Invalid learning rate: {lr}")
        if not momentum >= 0.0:
            raise ValueError(f"Invalid momentum value: {momentum}")
        if not weight_decay >= 0.0:
            raise ValueError(f"Invalid weight_decay value: {weight_decay}")
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def _buffers(self, group: dict[str, Any]) -> tuple[str, ...]:
        return ("momentum_buffer",) if group["momentum"] != 0 else ()

    def _key(self, group: dict[str, Any], state: dict[str, Any]) -> bool:
        # A fresh buffer is zero: only dampening makes the first step another formula.
        return group["dampening"] != 0 and state.get("momentum_buffer") is None

    def _update(
        self,
        group: dict[str, Any],
        values: Tensor,
        gradients: Tensor,
        buffers: list[Tensor],
        states: Iterable[dict[str, Any]],
        key: bool,
    ) -> None:
        sgd_update(
            values,
            gradients,
            buffers[0] if buffers else None,
            self._rates(values, lambda: (group["lr"],)),
            momentum=group["momentum"],
            dampening=group["dampening"],
            weight_decay=group["weight_decay"],
            nesterov=group["nesterov"],
            maximize=group["maximize"],
            first=key,
        )

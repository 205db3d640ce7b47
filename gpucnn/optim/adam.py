"""Adam and AdamW."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from gpucnn.core.tensor import Tensor
from gpucnn.ops.optimize import adam_update
from gpucnn.optim.optimizer import Optimizer


class Adam(Optimizer):
    """Adam (Kingma and Ba, "Adam: a method for stochastic optimization", ICLR 2015).

        g = grad + weight_decay * p
        m = beta1 * m + (1 - beta1) * g;  v = beta2 * v + (1 - beta2) * g^2
        p = p - lr * m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps)

    Args:
        params: tensors, (name, tensor) pairs, or dictionaries of a group each.
        maximize: go up the gradient instead.

    Raises:
        ValueError: a value out of its range.
    """

    _decoupled = False

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        *,
        maximize: bool = False,
    ) -> None:
        if not 0.0 <= lr:
            raise ValueError(f"Invalid learning rate: {lr}")
        if not 0.0 <= eps:
            raise ValueError(f"Invalid epsilon value: {eps}")
        if not 0.0 <= betas[0] < 1.0:
            raise ValueError(f"Invalid beta parameter at index 0: {betas[0]}")
        if not 0.0 <= betas[1] < 1.0:
            raise ValueError(f"Invalid beta parameter at index 1: {betas[1]}")
        if not 0.0 <= weight_decay:
            raise ValueError(f"Invalid weight_decay value: {weight_decay}")
        defaults = {
            "lr": lr,
            "betas": (betas[0], betas[1]),
            "eps": eps,
            "weight_decay": weight_decay,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def _buffers(self, group: dict[str, Any]) -> tuple[str, ...]:
        return "exp_avg", "exp_avg_sq"

    def _key(self, group: dict[str, Any], state: dict[str, Any]) -> int:
        return int(state.get("step", 0))

    def _update(
        self,
        group: dict[str, Any],
        values: Tensor,
        gradients: Tensor,
        buffers: list[Tensor],
        states: Iterable[dict[str, Any]],
        key: int,
    ) -> None:
        (beta1, beta2), states = group["betas"], list(states)

        def rates() -> tuple[float, float, float]:
            step = int(states[0].get("step", 0)) + 1
            for state in states:
                state["step"] = step
            lr = group["lr"]
            return (
                lr / (1 - beta1**step),
                math.sqrt(1 - beta2**step),
                1 - lr * group["weight_decay"],
            )

        adam_update(
            values,
            gradients,
            *buffers,
            self._rates(values, rates),
            beta1=beta1,
            beta2=beta2,
            eps=group["eps"],
            weight_decay=group["weight_decay"],
            decoupled=self._decoupled,
            maximize=group["maximize"],
        )


class AdamW(Adam):
    """Adam whose weight decay does not pass through the moments: first p = p (1 - lr * decay).

    Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019.
    """

    _decoupled = True

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, maximize=maximize)

"""Parameter updates over flat storage: one primitive for all parameters of a group."""

from __future__ import annotations

from gpucnn.core.dispatch import Spec
from gpucnn.core.primitive import mutating
from gpucnn.core.tensor import Tensor


@mutating(0, 2)
def sgd_update(
    p: Tensor,
    g: Tensor,
    momentum_buffer: Tensor | None,
    rates: Tensor,
    *,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    maximize: bool,
    first: bool,
) -> list[Spec]:
    """p -= lr d, with torch.optim.SGD's d, in place over flat float arrays of one length.

    rates = (lr,), float64;
    g' = (-g if maximize else g) + weight_decay p;
    buffer = g' at the first step, then momentum buffer + (1 - dampening) g';
    d = g' + momentum buffer with Nesterov, else the buffer (g' without momentum).
    """
    return []


@mutating(0, 2, 3)
def adam_update(
    p: Tensor,
    g: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    rates: Tensor,
    *,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
    maximize: bool,
) -> list[Spec]:
    """Adam (Kingma and Ba 2015), or AdamW (Loshchilov and Hutter 2019) when decoupled, in place.

    At step t rates = (lr / (1 - beta1^t), sqrt(1 - beta2^t), 1 - lr weight_decay), float64.

    m = beta1 m + (1 - beta1) g, v = beta2 v + (1 - beta2) g^2,
    p -= lr / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) + eps);
    the weight decay is added to g, or decoupled: p *= 1 - lr weight_decay before.
    """
    return []

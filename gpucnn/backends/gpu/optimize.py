"""Parameter updates over flat arrays, one launch each."""

from __future__ import annotations

import math

from gpucnn.backends.gpu import kernel
from gpucnn.backends.gpu.operands import ceil_div, real
from gpucnn.backends.gpu.runtime import Array, Runtime

THREADS = 256


def sgd_update(
    runtime: Runtime,
    p: Array,
    g: Array,
    momentum_buffer: Array | None,
    *,
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    maximize: bool,
    first: bool,
) -> None:
    """torch.optim.SGD's step on p (and the momentum buffer), in place; `first`: buffer = g."""
    runtime.launch(
        kernel.get("optimizer.cu", "sgd_update", real=real(p)),
        (ceil_div(p.size, THREADS),),
        (THREADS,),
        p, g, momentum_buffer if momentum else None, p.size,
        lr, momentum, 1 - dampening, weight_decay,
        bool(nesterov), bool(maximize), bool(first),
    )  # fmt: skip


def adam_update(
    runtime: Runtime,
    p: Array,
    g: Array,
    exp_avg: Array,
    exp_avg_sq: Array,
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
    maximize: bool,
    step: int,
) -> None:
    """torch.optim.Adam's step (AdamW's when `decoupled`) on p and both averages, in place.

    `step` counts from 1.
    """
    runtime.launch(
        kernel.get("optimizer.cu", "adam_update", real=real(p)),
        (ceil_div(p.size, THREADS),),
        (THREADS,),
        p, g, exp_avg, exp_avg_sq, p.size,
        lr / (1 - beta1**step), math.sqrt(1 - beta2**step),
        1 - beta1, beta2, 1 - beta2,
        eps, 0.0 if decoupled else weight_decay, 1 - lr * weight_decay if decoupled else 1.0,
        bool(maximize),
    )  # fmt: skip

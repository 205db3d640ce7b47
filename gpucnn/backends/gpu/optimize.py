"""Parameter updates over flat arrays, one launch each."""

from __future__ import annotations

from gpucnn.backends.gpu import kernel
from gpucnn.backends.gpu.kernel import Kernel
from gpucnn.backends.gpu.operands import aligned, ceil_div, dense, real, struct
from gpucnn.backends.gpu.runtime import Array, Runtime

THREADS = 256
BLOCKS_PER_MULTIPROCESSOR = 16
"""Two full loads of threads: each thread then goes on by whole grids."""


def sgd_update(
    runtime: Runtime,
    p: Array,
    g: Array,
    momentum_buffer: Array | None,
    rates: Array,
    *,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    maximize: bool,
    first: bool,
) -> None:
    """torch.optim.SGD's step on p (and the momentum buffer), in place; `first`: buffer = g.

    rates (1,) float64: the learning rate.
    """
    buffer = momentum_buffer if momentum else None
    function, grid = _plan(runtime, "sgd_update", p, g, buffer)
    options = struct(
        function, "Sgd", None,
        momentum=momentum, undamped=1 - dampening, weight_decay=weight_decay,
        nesterov=nesterov, maximize=maximize, first=first,
    )  # fmt: skip
    runtime.launch(function, grid, (THREADS,), p, g, buffer, dense(runtime, rates), p.size, options)


def adam_update(
    runtime: Runtime,
    p: Array,
    g: Array,
    exp_avg: Array,
    exp_avg_sq: Array,
    rates: Array,
    *,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
    maximize: bool,
) -> None:
    """torch.optim.Adam's step (AdamW's when `decoupled`) on p and both averages, in place.

    rates (3,) float64, of step number t (from 1): lr / (1 - beta1^t), sqrt(1 - beta2^t), and
    1 - lr weight_decay.
    """
    function, grid = _plan(runtime, "adam_update", p, g, exp_avg, exp_avg_sq)
    options = struct(
        function, "Adam", None,
        rest1=1 - beta1, beta2=beta2, rest2=1 - beta2, eps=eps,
        weight_decay=0.0 if decoupled else weight_decay, decoupled=decoupled, maximize=maximize,
    )  # fmt: skip
    runtime.launch(
        function, grid, (THREADS,),
        p, g, exp_avg, exp_avg_sq, dense(runtime, rates), p.size, options,
    )  # fmt: skip


def _plan(
    runtime: Runtime, entry: str, p: Array, *others: Array | None
) -> tuple[Kernel, tuple[int]]:
    """The kernel for these flat arrays, and its grid."""
    present = [array for array in others if array is not None]
    width = 16 // p.itemsize if aligned(runtime, p, *present) else 1
    most = BLOCKS_PER_MULTIPROCESSOR * runtime.properties().multiprocessors
    blocks = min(ceil_div(p.size, THREADS * width), most)
    return kernel.get("optimizer.cu", entry, real=real(p), WIDTH=width), (blocks,)

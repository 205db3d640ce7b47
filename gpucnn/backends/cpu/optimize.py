"""Optimizer steps on flat parameters, in place, as torch.optim does them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gpucnn.backends.cpu.blocks import Array, scratch
from gpucnn.backends.cpu.threads import parallel_for

_BLOCK = 1 << 18
"""Elements of one NumPy call, and of what a thread takes at a time. Smaller blocks would stay in
the inner caches, but threads then wait for each other between the calls."""


def sgd_update(
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
    """One step of torch.optim.SGD on p (n,) along g (n,); `first`: the buffer becomes g.

    rates = (lr,), float64.
    """
    real = p.dtype.type
    rate, friction, fresh = real(rates[0]), real(momentum), real(1 - dampening)

    def block(part: slice) -> None:
        parameter = p[part]
        gradient = _decayed(g[part], parameter, weight_decay, maximize)
        update = scratch(1, parameter.shape, p.dtype)
        if momentum_buffer is None:
            direction = gradient
        else:
            buffer = momentum_buffer[part]
            if first:
                np.copyto(buffer, gradient)
            else:
                np.multiply(buffer, friction, out=buffer)
                if dampening:
                    np.multiply(gradient, fresh, out=update)
                    np.add(buffer, update, out=buffer)
                else:
                    np.add(buffer, gradient, out=buffer)
            direction = buffer
            if nesterov:
                np.multiply(buffer, friction, out=update)
                np.add(update, gradient, out=update)
                direction = update
        np.multiply(direction, rate, out=update)
        np.subtract(parameter, update, out=parameter)

    _for_blocks(p.size, block)


def adam_update(
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
    """One step t of torch.optim.Adam, or AdamW with `decoupled`, on p (n,).

    rates = (lr / (1 - beta1^t), c = sqrt(1 - beta2^t), 1 - lr weight_decay), float64.

    Kingma and Ba, arXiv 1412.6980, algorithm 1, with the bias corrections moved out of the
    elements: p -= rate * m / (sqrt(v) + eps * c), rate = lr * c / (1 - beta1^t).
    """
    real = p.dtype.type
    scale, correction, shrunk = rates.tolist()
    rate, epsilon = real(scale * correction), real(eps * correction)
    keep1, keep2, new1, new2 = real(beta1), real(beta2), real(1 - beta1), real(1 - beta2)
    shrink = real(shrunk)
    decay = 0.0 if decoupled else weight_decay

    def block(part: slice) -> None:
        parameter, mean, square = p[part], exp_avg[part], exp_avg_sq[part]
        if decoupled and weight_decay:
            np.multiply(parameter, shrink, out=parameter)
        gradient = _decayed(g[part], parameter, decay, maximize)
        update = scratch(1, parameter.shape, p.dtype)
        np.multiply(mean, keep1, out=mean)
        np.multiply(gradient, new1, out=update)
        np.add(mean, update, out=mean)
        np.multiply(square, keep2, out=square)
        np.multiply(gradient, gradient, out=update)
        np.multiply(update, new2, out=update)
        np.add(square, update, out=square)
        np.sqrt(square, out=update)
        np.add(update, epsilon, out=update)
        np.divide(mean, update, out=update)
        np.multiply(update, rate, out=update)
        np.subtract(parameter, update, out=parameter)

    _for_blocks(p.size, block)


def _decayed(gradient: Array, parameter: Array, weight_decay: float, maximize: bool) -> Array:
    """gradient, negated with `maximize`, plus weight_decay * parameter."""
    if not (weight_decay or maximize):
        return gradient
    changed = scratch(0, parameter.shape, parameter.dtype)
    if not weight_decay:
        np.negative(gradient, out=changed)
        return changed
    np.multiply(parameter, parameter.dtype.type(weight_decay), out=changed)
    combine = np.subtract if maximize else np.add
    combine(changed, gradient, out=changed)
    return changed


def _for_blocks(size: int, block: Callable[[slice], None]) -> None:
    parallel_for(size, _BLOCK, lambda start, stop: block(slice(start, stop)), blas=False)

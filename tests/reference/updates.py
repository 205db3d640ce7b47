"""Optimizer steps."""

from __future__ import annotations

import math

import numpy as np


def sgd_step(
    p, g, buffer, *, lr, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False,
    maximize=False, first=False,
):  # fmt: skip
    """(p, buffer) after one step, as torch.optim.SGD documents it."""
    new_p, new_buffer = [], []
    for i in range(len(p)):
        gradient = -float(g[i]) if maximize else float(g[i])
        gradient += weight_decay * float(p[i])
        if momentum:
            b = gradient if first else momentum * float(buffer[i]) + (1 - dampening) * gradient
            new_buffer.append(b)
            gradient = gradient + momentum * b if nesterov else b
        new_p.append(float(p[i]) - lr * gradient)
    return np.array(new_p), np.array(new_buffer)


def adam_step(
    p, g, exp_avg, exp_avg_sq, *, lr, beta1, beta2, eps, weight_decay=0.0, decoupled=False,
    maximize=False, step=1,
):  # fmt: skip
    """(p, exp_avg, exp_avg_sq) after one step, as torch.optim.Adam and AdamW document it."""
    new = ([], [], [])
    for i in range(len(p)):
        gradient = -float(g[i]) if maximize else float(g[i])
        value = float(p[i])
        if decoupled:
            value -= lr * weight_decay * value
        else:
            gradient += weight_decay * value
        m = beta1 * float(exp_avg[i]) + (1 - beta1) * gradient
        v = beta2 * float(exp_avg_sq[i]) + (1 - beta2) * gradient**2
        m_hat, v_hat = m / (1 - beta1**step), v / (1 - beta2**step)
        for column, x in zip(new, (value - lr * m_hat / (math.sqrt(v_hat) + eps), m, v)):
            column.append(x)
    return tuple(np.array(column) for column in new)

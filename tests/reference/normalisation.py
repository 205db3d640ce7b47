"""Batch normalisation."""

from __future__ import annotations

import math

import numpy as np


def _channel(x, c):
    """The values of channel c of (N, C, *spatial) as Python floats."""
    return [float(v) for v in np.moveaxis(x, 1, 0)[c].flat]


def batch_norm_statistics(x):
    """(mean, biased variance), each (C,)."""
    mean, variance = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for c in range(x.shape[1]):
        values = _channel(x, c)
        mean[c] = math.fsum(values) / len(values)
        variance[c] = math.fsum((v - mean[c]) ** 2 for v in values) / len(values)
    return mean, variance


def batch_norm(x, mean, variance, weight=None, bias=None, eps=1e-5):
    y = np.zeros(x.shape)
    for i in np.ndindex(*x.shape):
        c = i[1]
        y[i] = (float(x[i]) - float(mean[c])) / math.sqrt(float(variance[c]) + eps)
        if weight is not None:
            y[i] *= float(weight[c])
        if bias is not None:
            y[i] += float(bias[c])
    return y


def batch_norm_backward(dy, x, mean, variance, weight=None, eps=1e-5, training=True):
    """(dx, dweight, dbias). With training, mean and variance depend on x."""
    dx = np.zeros(x.shape)
    dweight, dbias = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for c in range(x.shape[1]):
        deviation = math.sqrt(float(variance[c]) + eps)
        values, upstream = _channel(x, c), _channel(dy, c)
        xhat = [(v - float(mean[c])) / deviation for v in values]
        dbias[c] = math.fsum(upstream)
        dweight[c] = math.fsum(u * h for u, h in zip(upstream, xhat))
        gain = (1.0 if weight is None else float(weight[c])) / deviation
        count = len(values)
        target = np.moveaxis(dx, 1, 0)[c]
        for i, index in enumerate(np.ndindex(*target.shape)):
            gradient = upstream[i]
            if training:
                gradient -= dbias[c] / count + xhat[i] * dweight[c] / count
            target[index] = gain * gradient
    return dx, dweight, dbias


def batch_norm_update(running_mean, running_variance, mean, variance, momentum, count):
    new_mean = [(1 - momentum) * float(r) + momentum * float(m) for r, m in zip(running_mean, mean)]
    new_variance = [
        (1 - momentum) * float(r) + momentum * float(v) * count / (count - 1)
        for r, v in zip(running_variance, variance)
    ]
    return np.array(new_mean), np.array(new_variance)

"""Softmax, log-softmax and cross entropy."""

from __future__ import annotations

import math

import numpy as np


def _lines(shape, axis):
    """Index tuples of every line along `axis`."""
    for index in np.ndindex(*shape[:axis], *shape[axis + 1 :]):
        yield (*index[:axis], slice(None), *index[axis:])


def log_softmax(x, axis):
    y = np.zeros(x.shape)
    for line in _lines(x.shape, axis):
        values = [float(v) for v in x[line]]
        top = max(values)
        log_sum = top + math.log(math.fsum(math.exp(v - top) for v in values))
        y[line] = [v - log_sum for v in values]
    return y


def softmax(x, axis):
    y = np.zeros(x.shape)
    for line in _lines(x.shape, axis):
        values = [float(v) for v in x[line]]
        top = max(values)
        total = math.fsum(math.exp(v - top) for v in values)
        y[line] = [math.exp(v - top) / total for v in values]
    return y


def softmax_backward(dy, y, axis):
    """Row by row the Jacobian y_i ([i == j] - y_j)."""
    dx = np.zeros(y.shape)
    for line in _lines(y.shape, axis):
        up, out = [float(v) for v in dy[line]], [float(v) for v in y[line]]
        dx[line] = [
            math.fsum(up[i] * out[i] * ((i == j) - out[j]) for i in range(len(out)))
            for j in range(len(out))
        ]
    return dx


def log_softmax_backward(dy, y, axis):
    """Row by row the Jacobian [i == j] - exp(y_j)."""
    dx = np.zeros(y.shape)
    for line in _lines(y.shape, axis):
        up, out = [float(v) for v in dy[line]], [float(v) for v in y[line]]
        dx[line] = [
            math.fsum(up[i] * ((i == j) - math.exp(out[j])) for i in range(len(out)))
            for j in range(len(out))
        ]
    return dx


def _smoothed(target, classes, weight, label_smoothing):
    """Weight of -log p[c] in one row's loss: w_c ((1 - e) [c == t] + e / C)."""
    weights = [1.0] * classes if weight is None else [float(w) for w in weight]
    return [
        w * ((1 - label_smoothing) * (c == target) + label_smoothing / classes)
        for c, w in enumerate(weights)
    ]


def _divisor(target, weight, ignore_index, reduction):
    if reduction != "mean":
        return 1.0
    kept = [int(t) for t in target if t != ignore_index]
    return math.fsum(1.0 if weight is None else float(weight[t]) for t in kept)


def cross_entropy(
    logits, target, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"
):
    """(loss, log probabilities, divisor); loss is (M,) for "none", else a number."""
    log_p = log_softmax(logits, 1)
    rows = []
    for i, t in enumerate(target):
        if t == ignore_index:
            rows.append(0.0)
            continue
        shares = _smoothed(int(t), logits.shape[1], weight, label_smoothing)
        rows.append(-math.fsum(a * lp for a, lp in zip(shares, log_p[i]) if a))
    divisor = _divisor(target, weight, ignore_index, reduction)
    if reduction == "none":
        return np.array(rows), log_p, divisor
    return (math.fsum(rows) / divisor if divisor else math.nan), log_p, divisor


def cross_entropy_backward(
    dloss, logits, target, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"
):
    log_p = log_softmax(logits, 1)
    divisor = _divisor(target, weight, ignore_index, reduction)
    dlogits = np.zeros(logits.shape)
    for i, t in enumerate(target):
        if t == ignore_index:
            continue
        up = float(dloss[i]) if reduction == "none" else float(dloss) / divisor
        shares = _smoothed(int(t), logits.shape[1], weight, label_smoothing)
        for j in range(logits.shape[1]):
            # d(-log p_c) / d logit_j = p_j - [c == j]
            p = math.exp(log_p[i, j])
            dlogits[i, j] = up * math.fsum(a * (p - (c == j)) for c, a in enumerate(shares))
    return dlogits

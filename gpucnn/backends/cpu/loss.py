"""Cross entropy of class indices, its gradient, and running sums."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucnn.backends.cpu.blocks import BLOCK, Array
from gpucnn.backends.cpu.softmax import log_softmax_slices
from gpucnn.backends.cpu.threads import parallel_for

_PIECE = BLOCK  # elements a thread takes at a time: they stay in its cache between the steps


def cross_entropy(
    logits: Array,
    target: Array,
    weight: Array | None,
    loss: Array,
    log_probabilities: Array,
    divisor: Array,
    *,
    ignore_index: int,
    label_smoothing: float,
    reduction: str,
) -> None:
    """Loss of logits (M, C) against classes target (M,), with weight (C,) or None.

    Row i with t = target[i], e = label_smoothing and p = softmax gives
    -(1-e) w[t] log p[t] - e/C sum_c w[c] log p[c], or 0 where t is `ignore_index`. `loss` is
    (M,) for "none", () for "sum" and "mean"; `divisor` () the sum of w[t] for "mean", else 1.

    Raises IndexError, before anything is written, when a class is out of range.
    """
    rows, classes = logits.shape
    check_classes("cross_entropy", target, classes, ignore_index)
    _log_softmax(logits, log_probabilities)
    ignored, classes_of = _targets(target, ignore_index)
    row = -log_probabilities[np.arange(rows), classes_of]
    if weight is not None:
        weights = weight[classes_of]
        row *= weights
    if label_smoothing:
        row *= 1 - label_smoothing
        row -= (label_smoothing / classes) * _smooth(log_probabilities, weight)
    if ignored is not None:
        row[ignored] = 0
    divisor[...] = 1
    if reduction == "none":
        loss[...] = row
        return
    total = row.sum(dtype=np.float64)
    if reduction == "mean":
        if weight is None:
            count: Any = rows - (0 if ignored is None else np.count_nonzero(ignored))
        else:
            kept = weights if ignored is None else weights[~ignored]
            count = kept.sum(dtype=np.float64)
        divisor[...] = count
        total = total / count if count else np.nan
    loss[...] = total


def cross_entropy_backward(
    dloss: Array,
    log_probabilities: Array,
    target: Array,
    weight: Array | None,
    divisor: Array,
    dlogits: Array,
    *,
    ignore_index: int,
    label_smoothing: float,
    reduction: str,
) -> None:
    """dlogits (M, C) from dloss, () or (M,) for reduction "none".

    dlogits[i, c] = g (W softmax[i, c] - (1-e) w[t] [c == t] - e/C w[c]) with g = dloss / divisor,
    W = (1-e) w[t] + e/C sum_c w[c]; rows of `ignore_index` are 0.
    """
    rows, classes = log_probabilities.shape
    if rows * classes == 0:
        return
    dtype = dlogits.dtype
    ignored, classes_of = _targets(target, ignore_index)
    scale = np.empty(rows, dtype)
    scale[...] = dloss / divisor
    hit = scale * dtype.type(1 - label_smoothing)
    if weight is not None:
        hit *= weight[classes_of]
    whole = hit
    if label_smoothing:
        share = label_smoothing / classes
        all_weights = classes if weight is None else weight.sum(dtype=np.float64)
        whole = hit + scale * dtype.type(share * all_weights)
        spread = dtype.type(share) if weight is None else weight * dtype.type(share)

    uniform = weight is None and dloss.ndim == 0

    def work(start: int, stop: int) -> None:
        out = dlogits[start:stop]
        np.exp(log_probabilities[start:stop], out=out)
        np.multiply(out, whole[0] if uniform else whole[start:stop, None], out=out)
        if label_smoothing:
            np.subtract(out, scale[start:stop, None] * spread, out=out)
        out[np.arange(stop - start), classes_of[start:stop]] -= hit[start:stop]
        if ignored is not None:
            out[ignored[start:stop]] = 0

    parallel_for(rows, max(1, _PIECE // classes), work, blas=False)


def cross_entropy_with_gradient(
    logits: Array,
    target: Array,
    weight: Array | None,
    loss: Array,
    dlogits: Array,
    *,
    ignore_index: int,
    label_smoothing: float,
    reduction: str,
) -> None:
    """The loss of `cross_entropy`, and the gradient of the logits (M, C) for dloss = 1."""
    options: dict[str, Any] = {
        "ignore_index": ignore_index,
        "label_smoothing": label_smoothing,
        "reduction": reduction,
    }
    divisor = np.empty((), logits.dtype)
    cross_entropy(logits, target, weight, loss, dlogits, divisor, **options)
    one = np.ones(loss.shape, loss.dtype)
    cross_entropy_backward(one, dlogits, target, weight, divisor, dlogits, **options)


def add_scores(
    loss: Array,
    logits: Array,
    target: Array,
    loss_sum: Array,
    correct: Array,
    *,
    images: int,
) -> None:
    """loss_sum += images * loss, and correct += rows of logits whose target has the largest.

    The order is that of argmax: of equals the first, a NaN above all numbers.
    """
    loss_sum += np.float64(loss) * images
    correct += np.count_nonzero(logits.argmax(axis=1) == target)


def check_classes(call: str, target: Array, classes: int, ignore: int) -> None:
    """Raises IndexError when a class number is outside 0 to classes - 1, and not `ignore`."""
    wrong = (target < 0) | (target >= classes)
    if wrong.any():
        bad = target[wrong & (target != ignore)]
        if bad.size:
            raise IndexError(
                f"{call}: target {bad.flat[0]} is outside the {classes} classes 0..{classes - 1}"
            )


def _targets(target: Array, ignore_index: int) -> tuple[Array | None, Array]:
    """Which rows are ignored (None: none is), and the classes with those rows' made 0."""
    ignored = np.equal(target, ignore_index)
    if not ignored.any():
        return None, target
    return ignored, np.where(ignored, 0, target)


def _log_softmax(logits: Array, log_probabilities: Array) -> None:
    rows, classes = logits.shape
    if rows * classes == 0:
        return

    def work(start: int, stop: int) -> None:
        log_softmax_slices(logits[start:stop], log_probabilities[start:stop])

    parallel_for(rows, max(1, _PIECE // classes), work)


def _smooth(log_probabilities: Array, weight: Array | None) -> Array:
    """sum_c w[c] log p[i, c] for every row i."""
    if weight is None:
        return np.asarray(np.add.reduce(log_probabilities, axis=1))
    return np.asarray(np.add.reduce(log_probabilities * weight, axis=1))

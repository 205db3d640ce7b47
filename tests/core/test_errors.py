"""The texts of refusals: they name the call, the argument, the rule and what came."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpucnn
from gpucnn import ones, tensor, zeros
from gpucnn.nn import functional as F

Call = Callable[[], Any]


def image(*shape: int) -> gpucnn.Tensor:
    return ones(*shape)


def whole(*shape: int) -> gpucnn.Tensor:
    return ones(*shape, dtype=gpucnn.int64)


def double(*shape: int) -> gpucnn.Tensor:
    return ones(*shape, dtype=gpucnn.float64)


X, W = (2, 3, 7, 5), (8, 3, 3, 3)
SHAPES = "(input (2, 3, 7, 5), weight (8, 3, 3, 3), groups 1)"

CONVOLUTION: list[tuple[Call, type[Exception], str]] = [
    (lambda: F.conv2d(image(*X), image(8, 4, 3, 3)), ValueError,
     "conv2d: input has 3 channels but weight expects 4 "
     "(input (2, 3, 7, 5), weight (8, 4, 3, 3), groups 1)"),
    (lambda: F.conv2d(image(2, 4, 7, 5), image(9, 2, 3, 3), groups=2), ValueError,
     "conv2d: weight has 9 filters, not a multiple of groups "
     "(input (2, 4, 7, 5), weight (9, 2, 3, 3), groups 2)"),
    (lambda: F.conv2d(image(7, 5), image(*W)), ValueError,
     "conv2d: input must be (N, C, H, W) and weight (K, C / groups, R, S), got "
     "(input (7, 5), weight (8, 3, 3, 3), groups 1)"),
    (lambda: F.conv2d(image(*X), image(8, 3, 3)), ValueError,
     "conv2d: input must be (N, C, H, W) and weight (K, C / groups, R, S), got "
     "(input (2, 3, 7, 5), weight (8, 3, 3), groups 1)"),
    (lambda: F.conv2d(image(*X), image(*W), groups=0), ValueError,
     "conv2d: groups must be a positive integer, got 0"),
    (lambda: F.conv2d(image(*X), image(0, 3, 3, 3)), ValueError,
     "conv2d: weight has no elements (input (2, 3, 7, 5), weight (0, 3, 3, 3), groups 1)"),
    (lambda: F.conv2d(image(2, 3, 0, 5), image(*W), padding=2), ValueError,
     "conv2d: input has no elements, but is no empty batch "
     "(input (2, 3, 0, 5), weight (8, 3, 3, 3), groups 1)"),
    (lambda: F.conv2d(image(*X), image(*W), stride=0), ValueError,
     "conv2d: stride must be at least 1, got 0"),
    (lambda: F.conv2d(image(*X), image(*W), stride=(1, 2, 3)), TypeError,
     "conv2d: stride must be an integer or a pair of integers, got (1, 2, 3)"),
    (lambda: F.conv2d(image(*X), image(*W), padding=(0, -1)), ValueError,
     "conv2d: padding must be at least 0, got (0, -1)"),
    (lambda: F.conv2d(image(*X), image(*W), padding=0.5), TypeError,
     "conv2d: padding must be an integer or a pair of integers, got 0.5"),
    (lambda: F.conv2d(image(*X), image(*W), padding="full"), ValueError,
     "conv2d: padding must be numbers, 'same' or 'valid', got 'full'"),
    (lambda: F.conv2d(image(*X), image(*W), stride=2, padding="same"), ValueError,
     "conv2d: padding='same' needs stride 1, got (2, 2)"),
    (lambda: F.conv2d(image(*X), image(*W), dilation=(0, 1)), ValueError,
     "conv2d: dilation must be at least 1, got (0, 1)"),
    (lambda: F.conv2d(image(*X), image(*W), dilation=3), ValueError,
     f"conv2d: kernel covers 7 x 7 but the padded input is only 7 x 5 {SHAPES}"),
    (lambda: F.conv2d(image(*X), image(*W), image(7)), ValueError,
     "conv2d: bias must have shape (8,), got (7,)"),
    (lambda: F.conv2d(image(*X), double(*W)), TypeError,
     "conv2d: input is float32 but weight is float64"),
    (lambda: F.conv2d(image(*X), image(*W), double(8)), TypeError,
     "conv2d: input is float32 but bias is float64"),
    (lambda: F.conv2d(whole(*X), whole(*W)), TypeError,
     "conv2d: input must be of floats, got int64; use .float()"),
    (lambda: F.conv2d(np.ones(X), image(*W)), TypeError,
     "conv2d: input must be a gpucnn.Tensor, got ndarray; make one with gpucnn.tensor(...)"),
    (lambda: F.conv2d(image(*X), image(*W), 0.5), TypeError,
     "conv2d: bias must be a gpucnn.Tensor, got float; make one with gpucnn.tensor(...)"),
]  # fmt: skip

POOLING: list[tuple[Call, type[Exception], str]] = [
    (lambda: F.max_pool2d(image(3, 5), 2), ValueError,
     "max_pool2d: input must be (N, C, H, W) or (C, H, W), got (3, 5)"),
    (lambda: F.max_pool2d(image(2, 3, 0, 5), 2), ValueError,
     "max_pool2d: only the batch may be empty, got input (2, 3, 0, 5)"),
    (lambda: F.max_pool2d(image(*X), 0), ValueError,
     "max_pool2d: kernel_size must be at least 1, got 0"),
    (lambda: F.max_pool2d(image(*X), 2, 1.5), TypeError,
     "max_pool2d: stride must be an integer or a pair of integers, got 1.5"),
    (lambda: F.max_pool2d(image(*X), (3, 2), padding=(1, 2)), ValueError,
     "max_pool2d: padding must be at most half of the kernel, got padding (1, 2) for a kernel of "
     "(3, 2)"),
    (lambda: F.max_pool2d(image(*X), 3, dilation=3), ValueError,
     "max_pool2d: a window of 7 x 7 does not fit the input (2, 3, 7, 5) with padding (0, 0)"),
    (lambda: F.max_pool2d(whole(*X), 2), TypeError,
     "max_pool2d: input must be of floats, got int64; use .float()"),
    (lambda: F.avg_pool2d(image(*X), 2, divisor_override=0), ValueError,
     "avg_pool2d: divisor_override must not be 0"),
    (lambda: F.avg_pool2d(image(*X), 8), ValueError,
     "avg_pool2d: a window of 8 x 8 does not fit the input (2, 3, 7, 5) with padding (0, 0)"),
    (lambda: F.adaptive_avg_pool2d(image(3, 5), 2), ValueError,
     "adaptive_avg_pool2d: input must be (N, C, H, W) or (C, H, W), got (3, 5)"),
    (lambda: F.adaptive_avg_pool2d(image(*X), (1, 2, 3)), ValueError,
     "adaptive_avg_pool2d: output_size must be one size or two, got (1, 2, 3)"),
    (lambda: F.adaptive_avg_pool2d(image(*X), -1), ValueError,
     "adaptive_avg_pool2d: output_size must be at least 0, got [-1, -1]"),
    (lambda: F.adaptive_avg_pool2d(image(2, 3, 0, 5), 1), ValueError,
     "adaptive_avg_pool2d: input (2, 3, 0, 5) has no elements to average"),
]  # fmt: skip

PRODUCTS: list[tuple[Call, type[Exception], str]] = [
    (lambda: F.linear(image(4, 5), image(3, 6)), ValueError,
     "linear: input must end in the 6 features of weight (input (4, 5), weight (3, 6))"),
    (lambda: F.linear(image(4, 5), image(5)), ValueError,
     "linear: input must end in the 5 features of weight (input (4, 5), weight (5,))"),
    (lambda: F.linear(image(4, 5), image(3, 5), image(4)), ValueError,
     "linear: bias must have shape (3,), got (4,)"),
    (lambda: F.linear(image(4, 5), double(3, 5)), TypeError,
     "linear: input is float32 but weight is float64"),
    (lambda: image(2, 3) @ image(4, 2), ValueError,
     "matmul: inner sizes 3 and 4 differ (input (2, 3), other (4, 2))"),
    (lambda: image(5, 1, 2) @ image(4, 2, 1), ValueError,
     "matmul: leading axes do not broadcast (input (5, 1, 2), other (4, 2, 1))"),
    (lambda: image() @ image(2), ValueError,
     "matmul: operands must have at least one dimension (input (), other (2,))"),
    (lambda: image(2, 2) @ double(2, 2), TypeError,
     "matmul: operands must be of one float dtype, got float32 and float64; use .to()"),
    (lambda: whole(2, 2) @ whole(2, 2), TypeError,
     "matmul: operands must be of one float dtype, got int64 and int64; use .to()"),
]  # fmt: skip

LOSSES: list[tuple[Call, type[Exception], str]] = [
    (lambda: F.cross_entropy(image(2, 3), tensor([0, 3])), IndexError,
     "cross_entropy: target 3 is outside the 3 classes 0..2"),
    (lambda: F.cross_entropy(image(2, 3), tensor([0, -1])), IndexError,
     "cross_entropy: target -1 is outside the 3 classes 0..2"),
    (lambda: F.cross_entropy(image(2, 3, 4), whole(2)), ValueError,
     "cross_entropy: input (2, 3, 4) needs a target of shape (2, 4), got (2,)"),
    (lambda: F.cross_entropy(image(2, 3), image(2, 4)), ValueError,
     "cross_entropy: input (2, 3) needs probabilities of this shape, got (2, 4)"),
    (lambda: F.cross_entropy(image(2, 3), image(2, 3), ignore_index=1), ValueError,
     "cross_entropy: ignore_index needs class numbers, got float32"),
    (lambda: F.cross_entropy(image(2, 3), whole(2), image(2)), ValueError,
     "cross_entropy: weight must be float32 of shape (3,), got float32 (2,)"),
    (lambda: F.cross_entropy(image(2, 3), whole(2), double(3)), ValueError,
     "cross_entropy: weight must be float32 of shape (3,), got float64 (3,)"),
    (lambda: F.cross_entropy(image(2, 3), whole(2), reduction="avg"), ValueError,
     "cross_entropy: reduction must be 'mean', 'sum' or 'none', got 'avg'"),
    (lambda: F.cross_entropy(image(2, 3), whole(2), label_smoothing=1.5), ValueError,
     "cross_entropy: label_smoothing must be in [0, 1], got 1.5"),
    (lambda: F.cross_entropy(whole(2, 3), whole(2)), TypeError,
     "cross_entropy: input must be of floats, got int64; use .float()"),
    (lambda: F.cross_entropy(image(), whole()), ValueError,
     "cross_entropy: input must be (C,), (N, C) or (N, C, d1, ...), got ()"),
    (lambda: F.cross_entropy(image(2, 3), ones(2, dtype=bool)), TypeError,
     "cross_entropy: target must be class numbers, got bool"),
    (lambda: F.cross_entropy(image(2, 3), whole(2), size_average=True), TypeError,
     "cross_entropy: size_average and reduce are gone; use reduction="),
    (lambda: F.nll_loss(image(2, 3), image(2)), TypeError,
     "nll_loss: target must be class numbers, got float32"),
    (lambda: F.nll_loss(image(2, 3), tensor([3, 0])), IndexError,
     "nll_loss: target 3 is outside the 3 classes 0..2"),
    (lambda: F.mse_loss(image(2, 3), image(2, 1)), ValueError,
     "mse_loss: input (2, 3) and target (2, 1) must have one shape"),
    (lambda: F.mse_loss(image(2), image(2), reduction="batchmean"), ValueError,
     "mse_loss: reduction must be 'mean', 'sum' or 'none', got 'batchmean'"),
    (lambda: F.softmax(image(2, 3)), TypeError,
     "softmax: dim must be given, the axis whose values add up to 1"),
    (lambda: F.softmax(image(2, 3), 2), IndexError,
     "softmax: dim 2 is out of range for 2 dimensions"),
    (lambda: F.log_softmax(whole(2, 3), 1), TypeError,
     "log_softmax: input must be of floats, got int64; use .float()"),
]  # fmt: skip

NORMALISATION: list[tuple[Call, type[Exception], str]] = [
    (lambda: F.batch_norm(image(4), None, None, training=True), ValueError,
     "batch_norm: input must be floats (N, C, ...), got float32 (4,)"),
    (lambda: F.batch_norm(image(4, 3), zeros(3), ones(4)), ValueError,
     "batch_norm: running_var must be float32 of shape (3,) for input (4, 3), got float32 (4,)"),
    (lambda: F.batch_norm(image(4, 3), zeros(3), ones(3), double(3)), ValueError,
     "batch_norm: weight must be float32 of shape (3,) for input (4, 3), got float64 (3,)"),
    (lambda: F.batch_norm(image(4, 3), zeros(3), ones(3), None, 0.5), TypeError,
     "batch_norm: bias must be a gpucnn.Tensor, got float; make one with gpucnn.tensor(...)"),
    (lambda: F.batch_norm(image(4, 3), zeros(3), None), ValueError,
     "batch_norm: running_mean and running_var must both be given, or neither"),
    (lambda: F.batch_norm(image(4, 3), None, None), ValueError,
     "batch_norm: running_mean and running_var are needed when not training"),
    (lambda: F.batch_norm(image(4, 3), None, None, training=True, eps=0.0), ValueError,
     "batch_norm: eps must be positive in training, got 0.0"),
    (lambda: F.batch_norm(image(1, 3), None, None, training=True), ValueError,
     "batch_norm: training needs more than one value a channel, got input (1, 3)"),
    (lambda: F.dropout(image(3), 1.5), ValueError, "dropout: p must be in [0, 1], got 1.5"),
    (lambda: F.dropout(whole(3)), TypeError,
     "dropout: input must be of floats, got int64; use .float()"),
]  # fmt: skip

TABLE = [*CONVOLUTION, *POOLING, *PRODUCTS, *LOSSES, *NORMALISATION]


@pytest.mark.parametrize(("call", "kind", "text"), TABLE, ids=[row[2] for row in TABLE])
def test_layers_say_what_is_wrong(call: Call, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind) as error:
        call()
    assert type(error.value) is kind
    assert str(error.value) == text

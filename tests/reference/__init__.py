"""What every operation means, in float64 and plain loops: slow, and easy to see right.

Independent of the engine: nothing here is shared with it. Arrays are NumPy arrays of any float
dtype and any strides; results are float64. Names: N C H W input, K R S filters, P Q output.
"""

from __future__ import annotations

from reference.classification import (
    cross_entropy,
    cross_entropy_backward,
    log_softmax,
    log_softmax_backward,
    softmax,
    softmax_backward,
)
from reference.convolution import (
    conv2d,
    conv2d_backward_input,
    conv2d_backward_weight,
    conv2d_shape,
)
from reference.linear import (
    dropout_mask,
    matmul,
)
from reference.normalisation import (
    batch_norm,
    batch_norm_backward,
    batch_norm_statistics,
    batch_norm_update,
)
from reference.pooling import (
    adaptive_avg_pool2d,
    adaptive_avg_pool2d_backward,
    avg_pool2d,
    avg_pool2d_backward,
    max_pool2d,
    max_pool2d_backward,
    pooled_size,
)
from reference.updates import (
    adam_step,
    sgd_step,
)

__all__ = [
    "adam_step",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool2d_backward",
    "avg_pool2d",
    "avg_pool2d_backward",
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_statistics",
    "batch_norm_update",
    "conv2d",
    "conv2d_backward_input",
    "conv2d_backward_weight",
    "conv2d_shape",
    "cross_entropy",
    "cross_entropy_backward",
    "dropout_mask",
    "log_softmax",
    "log_softmax_backward",
    "matmul",
    "max_pool2d",
    "max_pool2d_backward",
    "pooled_size",
    "sgd_step",
    "softmax",
    "softmax_backward",
]

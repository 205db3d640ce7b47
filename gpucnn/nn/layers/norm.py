"""BatchNorm1d, BatchNorm2d."""

from __future__ import annotations

from typing import Any

from gpucnn.core.device import CPU
from gpucnn.core.recording import each_time, unrepeatable
from gpucnn.core.tensor import Tensor
from gpucnn.nn import building, init
from gpucnn.nn import functional as F
from gpucnn.nn.layers.sizes import positive
from gpucnn.nn.module import Module
from gpucnn.nn.parameter import Parameter, new_parameter
from gpucnn.ops.creation import zeros


class _BatchNorm(Module):
    """y = (x - mean) / sqrt(variance + eps) * weight + bias for each channel (axis 1).

    Mean and (biased) variance are those of the batch in training; in evaluation those of the
    running statistics, which training moves towards the batch's (with the unbiased variance) by
    `momentum`. Ioffe and Szegedy, "Batch normalization", ICML 2015.

    Args:
        num_features: the number of channels C.
        momentum: the share of the batch in the running statistics; None for the plain average of
            all batches so far.
        affine: whether there are a weight (beginning at 1) and, unless `bias` is False, a bias
            (at 0).
        track_running_stats: False uses the batch's statistics in evaluation too.

    Raises:
        ValueError: the input has not the number of dimensions that the class asks for.
    """

    _dimensions: tuple[int, ...] = ()
    _optional_state = ("num_batches_tracked",)  # files from before PyTorch 0.4.1 lack it
    # No kernel reads it: on a GPU each layer would launch one to add 1.
    _host_buffers = ("num_batches_tracked",)

    weight: Parameter | None
    bias: Parameter | None
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.num_features = positive(type(self).__name__, "num_features", num_features, least=0)
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        shape = (num_features,)
        for name, wanted in (("weight", affine), ("bias", affine and bias)):
            value = new_parameter(shape, dtype, device) if wanted else None
            self.register_parameter(name, value)
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, None)
        if track_running_stats:
            device = building.reserve((2 * num_features,), device)
            self.running_mean = zeros(shape, dtype=dtype or "float32", device=device)
            self.running_var = zeros(shape, dtype=dtype or "float32", device=device)
            self.num_batches_tracked = zeros((), dtype="int64", device=CPU)
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """Mean 0, variance 1, no batch seen."""
        if self.running_mean is not None and self.running_var is not None:
            self.running_mean.zero_()
            self.running_var.fill_(1)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.zero_()

    def reset_parameters(self) -> None:
        """Begin anew: weight 1, bias 0, running statistics reset."""
        self.reset_running_stats()
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        if input.ndim not in self._dimensions:
            expected = " or ".join(f"{n}D" for n in self._dimensions)
            raise ValueError(
                f"{type(self).__name__}: expected {expected} input, got {input.ndim}D {input.shape}"
            )
        learning = self.training and self.track_running_stats
        momentum = 0.0 if self.momentum is None else self.momentum
        if learning and self.num_batches_tracked is not None:
            each_time(self._count_batch)
            if self.momentum is None:
                unrepeatable("BatchNorm with momentum=None weighs each batch by another number")
                momentum = 1.0 / float(self.num_batches_tracked.data)
        # In training without tracking, statistics left over from before are not touched.
        use_running = not self.training or self.track_running_stats
        return F.batch_norm(
            input,
            self.running_mean if use_running else None,
            self.running_var if use_running else None,
            self.weight,
            self.bias,
            self.training or self.running_mean is None,
            momentum,
            self.eps,
        )

    def _count_batch(self) -> None:
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.data += 1

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, "
            f"affine={self.affine}, bias={self.bias is not None}, "
            f"track_running_stats={self.track_running_stats}"
        )


class BatchNorm1d(_BatchNorm):
    """Batch norm of (N, C) or (N, C, L)."""

    __doc__ = f"{__doc__}\n\n{_BatchNorm.__doc__}"
    _dimensions = (2, 3)


class BatchNorm2d(_BatchNorm):
    """Batch norm of (N, C, H, W)."""

    __doc__ = f"{__doc__}\n\n{_BatchNorm.__doc__}"
    _dimensions = (4,)

"""Conv2d."""

from __future__ import annotations

import math
from typing import Any

from gpucnn.core.dispatch import CHANNELS_LAST
from gpucnn.core.tensor import Tensor
from gpucnn.nn import functional as F
from gpucnn.nn import init
from gpucnn.nn.layers.sizes import Size, positive
from gpucnn.nn.module import Module
from gpucnn.nn.parameter import Parameter, new_parameter
from gpucnn.ops.geometry import pair


class Conv2d(Module):
    """Convolution (cross-correlation) of images with learned filters.

    (N, C, H, W) -> (N, K, P, Q), or without N. The weight has shape
    (out_channels, in_channels / groups, *kernel_size); weight and bias begin uniform in
    +-1/sqrt(fan_in), fan_in = in_channels / groups * R * S.

    Args:
        padding: zeros on each side, a number, a pair, "same" (output as large as the input; only
            for stride 1) or "valid" (none).
        padding_mode: only "zeros".

    Raises:
        TypeError, ValueError: an argument is not of this form, or `groups` does not divide the
            numbers of channels.
    """

    bias: Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: str | Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.groups = positive("Conv2d", "groups", groups)
        self.in_channels = positive("Conv2d", "in_channels", in_channels)
        self.out_channels = positive("Conv2d", "out_channels", out_channels)
        for name in ("in_channels", "out_channels"):
            if getattr(self, name) % groups:
                raise ValueError(
                    f"Conv2d: {name} must be divisible by groups, "
                    f"got {name} {getattr(self, name)}, groups {groups}"
                )
        self.kernel_size = pair("Conv2d", "kernel_size", kernel_size, 1)
        self.stride = pair("Conv2d", "stride", stride, 1)
        self.dilation = pair("Conv2d", "dilation", dilation, 1)
        self.padding = self._padding(padding)
        if padding_mode != "zeros":
            raise ValueError(f"Conv2d: padding_mode must be 'zeros', got {padding_mode!r}")
        self.padding_mode = padding_mode
        shape = (out_channels, in_channels // groups, *self.kernel_size)
        # OIHW to the user, K R S C in memory: what the kernels read.
        self.weight = new_parameter(shape, dtype, device, CHANNELS_LAST)
        if bias:
            self.bias = new_parameter((out_channels,), dtype, device)
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def _padding(self, padding: str | Size) -> str | tuple[int, int]:
        if not isinstance(padding, str):
            return pair("Conv2d", "padding", padding, 0)
        if padding not in ("same", "valid"):
            raise ValueError(
                f"Conv2d: padding must be a number, a pair, 'same' or 'valid', got {padding!r}"
            )
        if padding == "same" and self.stride != (1, 1):
            raise ValueError(
                f"Conv2d: padding='same' is not supported for strided convolutions, "
                f"got stride {self.stride}"
            )
        return padding

    def reset_parameters(self) -> None:
        """Draw weight and bias anew."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            init.fan_in_uniform_(self.bias, self.weight)

    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(
            input, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )

    def extra_repr(self) -> str:
        text = (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}"
        )
        if self.padding != (0, 0):
            text += f", padding={self.padding}"
        if self.dilation != (1, 1):
            text += f", dilation={self.dilation}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        if self.bias is None:
            text += ", bias=False"
        return text

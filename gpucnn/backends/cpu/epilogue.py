"""What follows a convolution, done to each part of its output while that is still in cache."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gpucnn.backends.cpu import elementwise
from gpucnn.backends.cpu.blocks import Array, rows_together

Part = tuple[slice, ...]


class Epilogue(NamedTuple):
    """y <- y + bias + addend; then its positive part (`relu`), or 0 where mask <= 0.

    All arrays are 4-D views in the axes' order of the algorithm that calls it, channels along
    `axis`; a part is four slices of y.
    """

    y: Array
    axis: int = 3
    bias: Array | None = None
    addend: Array | None = None
    mask: Array | None = None
    relu: bool = False

    def __call__(self, part: Part) -> None:
        if self.bias is None and self.addend is None and self.mask is None and not self.relu:
            return
        out = self.y[part]
        if self.bias is not None:
            self._add_bias(out, self.bias[part[self.axis]])
        if self.addend is not None:
            elementwise.binary(out, self.addend[part], out, op="add")
        if self.relu:
            elementwise.unary(out, out, op="relu")
        if self.mask is not None:
            elementwise.binary(out, self.mask[part], out, op="relu_backward")

    def _add_bias(self, out: Array, bias: Array) -> None:
        if self.axis == 3 and out.flags.c_contiguous:
            # Many pixels at a time: NumPy's loop over few channels is too short.
            channels = len(bias)
            together = rows_together(out.size // channels, channels)
            rows = out.reshape(-1, together * channels)
            np.add(rows, bias.reshape(1, -1).repeat(together, axis=0).reshape(-1), out=rows)
        else:
            np.add(out, bias.reshape((-1,) + (1,) * (3 - self.axis)), out=out)

    def for_channels(self, channels: slice) -> Epilogue:
        """The same for some channels alone, as channels from 0 on."""
        part: Part = (slice(None),) * self.axis + (channels,)

        def cut(array: Array | None) -> Array | None:
            return None if array is None else array[part]

        bias = None if self.bias is None else self.bias[channels]
        return self._replace(
            y=self.y[part], bias=bias, addend=cut(self.addend), mask=cut(self.mask)
        )

"""Rows of layers next to each other, run as captured steps: what the table of patterns joins."""

from __future__ import annotations

from typing import Any

from gpucnn.cases.case import Case, Input

I = Input  # noqa: E741  a table reads better with a short name


def _captured(op: str, *inputs: Any, note: str = "", **attributes: Any) -> Case:
    given = tuple(value if isinstance(value, Input) else Input(value) for value in inputs)
    return Case(op, given, attributes, note, captured=True)


FUSED = [
    _captured("convolution_relu_pool", (3, 1, 28, 28), (6, 1, 5, 5), (6,), pool=2, padding=2,
              note="LeNet's first layer"),
    _captured("convolution_relu_pool", (2, 6, 14, 14), (16, 6, 5, 5), (16,), pool=2,
              note="LeNet's second layer"),
    _captured("convolution_relu_pool", (2, 3, 13, 11), (32, 3, 3, 3), (32,), pool=2, padding=1,
              note="odd sizes: the last row and column are in no window"),
    _captured("convolution_relu_pool", (2, 32, 9, 8), (64, 32, 3, 3), (64,), pool=2, padding=1,
              note="a wider layer"),
    _captured("convolution_relu_pool", (2, 5, 9, 9), (7, 5, 3, 3), (7,), pool=3, stride=2,
              padding=1, note="a stride, windows of three"),
    _captured("convolution_pool_flatten", (2, 3, 11, 9), (5, 3, 3, 2), (5,), (4, 80),
              note="H != W: flattened in the order of NCHW"),
    _captured("two_convolutions", (2, 4, 9, 7), (8, 4, 3, 3), (8,), (12, 8, 3, 3), padding=1,
              note="a ReLU's mask behind the gradient of the second"),
    _captured("two_convolutions", (1, 3, 7, 6), (5, 3, 3, 3), (5,), (3, 5, 3, 3), stride=2,
              padding=1, note="odd channels, strides"),
    _captured("two_layers", (67, 130), (65, 130), (65,), (9, 65), note="beyond tiles of 64"),
    _captured("two_layers", (3, 700), (33, 700), (33,), (5, 33), note="a long sum: split"),
    _captured("residual_block", (2, 8, 7, 5), (8, 8, 3, 3), (8, 8, 3, 3), (8,), (8,), (8,), (8,),
              padding=1, note="statistics, sums and masks inside other primitives"),
    _captured("residual_block", (3, 5, 6, 7), (5, 5, 3, 3), (5, 5, 3, 3), (5,), (5,), (5,), (5,),
              padding=1, note="channels that are no multiple of four"),
    _captured("residual_block", (3, 40, 7, 7), (40, 40, 3, 3), (40, 40, 3, 3), (40,), (40,), (40,),
              (40,), padding=1, note="beyond tiles of 128 rows"),
    _captured("classifier", (9, 7), (5, 7), I((9,), "classes:5"), note="a loss and its gradient"),
    _captured("classifier", (130, 12), (1000, 12), I((130,), "classes:1000"), note="many classes"),
]  # fmt: skip
"""Every fused row."""

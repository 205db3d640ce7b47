"""The suite `ops`: the operations of a net, forward and backward, and parameter updates."""

from __future__ import annotations

import math
from typing import Any

from gpucnn.benchmarks.case_row import CaseRow
from gpucnn.benchmarks.optimizer_row import OptimizerRow
from gpucnn.benchmarks.row import Row, Setup
from gpucnn.cases.case import Case, Input

FEATURES = (128, 32, 16, 16)
"""A feature map of the CIFAR ConvNet at batch 128: 4 MiB."""

RESNET18_PARAMETERS = (
    (64, 3, 3, 3),
    *[(64, 64, 3, 3)] * 4,
    *[(128, 64, 3, 3), (128, 64, 1, 1), *[(128, 128, 3, 3)] * 3],
    *[(256, 128, 3, 3), (256, 128, 1, 1), *[(256, 256, 3, 3)] * 3],
    *[(512, 256, 3, 3), (512, 256, 1, 1), *[(512, 512, 3, 3)] * 3],
    *[(64,)] * 10, *[(128,)] * 10, *[(256,)] * 10, *[(512,)] * 10,
    (10, 512), (10,),
)  # fmt: skip
"""Shapes of the 62 parameters, 11,173,962 numbers, of a ResNet-18 for CIFAR-10 (3x3 stem)."""


def rows(setup: Setup) -> list[Row]:
    """Each row's bytes are what it must read and write once, its FLOPs those of its products."""
    return [
        *_elementwise(),
        *_pooling(),
        *_batch_norm(),
        *_cross_entropy(),
        *_products(),
        *_updates(),
    ]


def _pair(
    op: str,
    inputs: tuple[Input, ...],
    wanted: tuple[int, ...],
    moved: tuple[int, int],
    flops: tuple[int, int] = (0, 0),
    title: str = "",
    **attributes: Any,
) -> list[Row]:
    """The forward row of a case, and its backward row unless nothing is wanted of it."""
    shape = " x ".join(map(str, inputs[0].shape))
    case = Case(op, inputs, attributes)
    both = (("forward", ()), ("backward", wanted))
    return [
        CaseRow(
            suite="ops",
            group=f"{title or op} of {shape}",
            name=name,
            flops=flops[number],
            bytes=4 * moved[number],
            case=case,
            wanted=numbers,
        )
        for number, (name, numbers) in enumerate(both)
        if number == 0 or wanted
    ]


def _elementwise() -> list[Row]:
    x = Input(FEATURES, layout="channels_last")
    n = math.prod(FEATURES)
    return [
        *_pair("add", (x, x), (), (3 * n, 0)),
        *_pair("multiply", (x, x), (0, 1), (3 * n, 5 * n)),
        *_pair("relu", (x,), (0,), (2 * n, 3 * n)),
        *_pair("sigmoid", (x,), (0,), (2 * n, 3 * n)),
    ]


def _pooling() -> list[Row]:
    x = Input(FEATURES, layout="channels_last")
    n, quarter = math.prod(FEATURES), math.prod(FEATURES) // 4
    return [
        *_pair("max_pool2d", (x,), (0,), (n + quarter, n + quarter), title="max pool 2 x 2",
               kernel_size=2),
        *_pair("max_pool2d", (x,), (0,), (n + quarter, n + quarter),
               title="max pool 3 x 3 stride 2", kernel_size=3, stride=2, padding=1),
        *_pair("avg_pool2d", (x,), (0,), (n + quarter, n + quarter), title="average pool 2 x 2",
               kernel_size=2),
    ]  # fmt: skip


def _batch_norm() -> list[Row]:
    x = Input(FEATURES, layout="channels_last")
    n, channels = math.prod(FEATURES), (FEATURES[1],)
    statistics = Input(channels), Input(channels, "positive")
    affine = Input(channels, "positive"), Input(channels)
    # Statistics, then values: the input is read twice, as are both inputs of the backward pass.
    return _pair("batch_norm", (x, *statistics, *affine), (0, 3, 4), (3 * n, 5 * n),
                 title="batch norm", training=True)  # fmt: skip


def _cross_entropy() -> list[Row]:
    found = []
    for shape in ((128, 10), (128, 1000)):
        n = math.prod(shape)
        logits, target = Input(shape), Input(shape[:1], f"classes:{shape[1]}")
        found += _pair("cross_entropy", (logits, target), (0,), (2 * n, 2 * n),
                       title="cross entropy")  # fmt: skip
    return found


def _products() -> list[Row]:
    found = []
    for m, k, n in ((128, 400, 120), (128, 2048, 256)):
        flops = 2 * m * k * n
        moved = m * k + n * k + n + m * n
        inputs = Input((m, k)), Input((n, k)), Input((n,))
        found += _pair("linear", inputs, (0, 1, 2), (moved, 2 * moved), (flops, 2 * flops),
                       title=f"linear {k} -> {n}")  # fmt: skip
    n, c, size, k = 128, 32, 16, 64
    flops = 2 * n * k * size * size * c * 9
    moved = n * (c + k) * size * size + 9 * c * k
    inputs = (
        Input((n, c, size, size), layout="channels_last"),
        Input((k, c, 3, 3), layout="channels_last"),
        Input((k,)),
    )
    found += _pair("conv2d", inputs, (0, 1, 2), (moved, 2 * moved), (flops, 2 * flops),
                   title="conv2d 3 x 3 -> 64", padding=1)  # fmt: skip
    return found


def _updates() -> list[Row]:
    found: list[Row] = []
    count = sum(math.prod(shape) for shape in RESNET18_PARAMETERS)
    for optimizer, moved in (("SGD", 5 * count), ("Adam", 7 * count)):
        momentum = " momentum" if optimizer == "SGD" else ""
        found.append(
            OptimizerRow(
                suite="ops",
                group=f"update of ResNet-18, {count:,} parameters",
                name=f"{optimizer}{momentum}",
                bytes=4 * moved,
                optimizer=optimizer,
                shapes=RESNET18_PARAMETERS,
            )
        )
    return found

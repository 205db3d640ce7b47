"""The suite `train`: whole steps of training, and inference, through the public API."""

from __future__ import annotations

import functools
from typing import Any

from gpucnn import models
from gpucnn.benchmarks.net_row import NETS, TOLERANCE, NetRow
from gpucnn.benchmarks.row import Row, Setup
from gpucnn.core.device import CPU
from gpucnn.nn.summary import summary

BATCHES: dict[str, dict[str, tuple[tuple[int, ...], tuple[int, ...]]]] = {
    # net: batches of training, batches of inference
    "cpu": {
        "lenet5": ((128, 16, 1), (1, 16, 128)),
        "convnet": ((128, 16, 1), (1, 16, 128)),
        "resnet18_cifar": ((64, 16, 1), (1, 16, 128)),
        "digits_net": ((16,), (16,)),
    },
    "cuda": {
        "lenet5": ((16, 128, 1024), (1, 128)),
        "convnet": ((16, 128, 1024), (1, 128)),
        "resnet18_cifar": ((64, 128, 512), (1, 128)),
        "resnet50": ((16, 64), (1, 64)),
    },
}


def rows(setup: Setup) -> list[Row]:
    """Training and inference of each net at its batch sizes."""
    found: list[Row] = []
    for net, (training, inference) in BATCHES[setup.device.type].items():
        found += [net_row("train", net, batch, training=True) for batch in training]
        found += [net_row("train", net, batch, training=False) for batch in inference]
    return found


def net_row(
    suite: str, net: str, batch: int, training: bool, label: str = "", **more: Any
) -> NetRow:
    """The row of a net, its work counted.

    Args:
        label: its name, where that is not the usual one.
        more: fields of `NetRow`.
    """
    shape, forward, first = _work(net)
    # Forward, and backward for weights and inputs, but not for the images themselves.
    flops = batch * (3 * forward - first if training else forward)
    return NetRow(
        suite=suite,
        group=f"{NETS[net]}, images {' x '.join(map(str, shape))}",
        name=label or f"{'training step' if training else 'inference'}, batch {batch}",
        flops=flops,
        images=batch,
        tolerance=TOLERANCE.get(net, 5e-4),
        norm="Euclidean norm",
        cold=False,
        net=net,
        training=training,
        **more,
    )


@functools.cache
def _work(net: str) -> tuple[tuple[int, ...], int, int]:
    """Shape of an image, FLOPs of the forward pass for one, and of its first layer."""
    model = models.create(net)
    counted = summary(model.to(CPU), (1, *model.input_shape))
    return model.input_shape, counted.flops, counted.layers[0].flops

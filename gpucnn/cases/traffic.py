"""Rows for the kernels that memory bounds: packs of elements and their tails, memory orders, sums
in several blocks, images from bytes.
"""

from __future__ import annotations

from typing import Any

from gpucnn.cases.case import Case, Input

I = Input  # noqa: E741  a table reads better with a short name


def _images(shape: tuple[int, ...], size: tuple[int, int], note: str, layout: str = "C") -> Case:
    channels = I((shape[1],), grad=False)
    places = I((shape[0], 3), "index:3")
    images = I(shape, "index:200", layout)
    return Case("prepare_images", (images, places, channels, channels), {"size": size}, note, 0.0)


def _norm(shape: tuple[int, ...], note: str) -> Case:
    c = shape[1]
    statistics = I((c,), grad=False), I((c,), "positive", grad=False)
    x = I(shape, layout="channels_last")
    return Case("batch_norm_train", (x, *statistics, I((c,)), I((c,))), {}, note)


def _order(shape: tuple[int, ...], order: Any, note: str, layout: str = "C") -> Case:
    return Case("reorder", (I(shape, layout=layout, grad=False),), {"order": order}, note)


def _loss(x: tuple[int, int], note: str, **options: Any) -> Case:
    target, weight = I(x[:1], f"classes:{x[1]}"), I(x[1:], "positive", grad=False)
    return Case("loss_and_gradient", (I(x, grad=False), target, weight), options, note)


LAST = (0, 2, 3, 1)

TRAFFIC = [
    *(Case("relu", (I((n,), "distinct"),), note=note)
      for n, note in ((3, "less than a pack"), (1003, "packs and a tail"))),
    Case("add", (I((1003,)), I((1003,))), note="packs and a tail"),
    Case("add", (I((3, 8, 5, 7), layout="channels_last"), I((8, 1, 1))), note="a bias in packs"),
    Case("multiply", (I((5, 6, 8)), I((5, 6, 1))), note="one factor for a pack"),
    Case("where", (I((7, 12), "bool"), I((12,)), I((7, 12)))),
    Case("less", (I((5, 67), "ties"), I((5, 67), "ties")), note="bytes in packs", smooth=False),
    _order((2, 3, 9, 40), LAST, "few channels to channels-last"),
    _order((2, 3, 9, 40), None, "and back", "channels_last"),
    _order((3, 6, 17, 16), LAST, "an even number of them"),
    _order((2, 33, 7, 6), LAST, "tiles to channels-last"),
    _order((2, 33, 7, 6), None, "and back", "channels_last"),
    Case("dropout", (I((1003,)),), {"p": 0.3}, "packs and a tail"),
    Case("dropout", (I((2, 20, 9, 8), layout="channels_last"),), {"p": 0.3}, "short runs"),
    Case("dropout", (I((1, 33, 70, 9), layout="channels_last"),), {"p": 0.6}, "long ones"),
    Case("dropout_of_permuted", (I((5, 6, 7)),), {"p": 0.3, "dims": (2, 1, 0)}),
    _norm((4, 64, 5, 6), "whole lines of channels"),
    _norm((3, 20, 9, 4), "whole rows of quads"),
    _norm((2, 1028, 3, 1), "more quads than threads"),
    *(_loss((7, 10), "weights and smoothing", reduction=r, label_smoothing=0.1)
      for r in ("mean", "sum", "none")),
    _loss((37, 33), "two warps of rows a block"),
    _loss((9, 700), "many logits a thread"),
    _loss((5, 1030), "rows too long for registers"),
    _loss((1030, 128), "more than one block"),
    Case("matmul", (I((2, 9, 1100)), I((1100, 7))), note="a batch of long sums", tolerance=5e-5),
    _images((3, 3, 9, 7), (8, 8), "cut and padded"),
    _images((2, 1, 28, 28), (28, 28), "one channel"),
    _images((2, 3, 33, 31), (32, 32), "several blocks an image"),
    _images((2, 17, 4, 5), (4, 5), "many channels"),
    _images((3, 3, 6, 5), (6, 5), "stored channels-last", "channels_last"),
]  # fmt: skip
"""All of them."""

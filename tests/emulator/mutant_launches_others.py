"""The launches that mutants of all but the convolutions are judged by: few, small and odd."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
from mutant_launches import Recorder, Target

from gpucnn.backends.gpu import (
    augment,
    dropout,
    elementwise,
    gemm,
    gemm_tiles,
    loss,
    norm,
    pool,
    reduce,
    softmax,
)
from gpucnn.backends.gpu.weight_shares import written_in_shares
from gpucnn.ops.geometry import Pool2dGeometry


def _matmul(rt: Recorder, a: Any, b: Any, *, full: bool = False) -> None:
    """`full`: with bias, mask and ReLU."""
    shape = (*a.shape[:-1], b.shape[-1])
    bias, mask = (rt.normal(b.shape[-1]), rt.normal(*shape)) if full else (None, None)
    gemm.matmul(rt, a, b, bias, mask, rt.new(*shape), relu=full, precision="auto")


def _weight(rt: Recorder, rows: int, inputs: int, outputs: int) -> None:
    dw, db = rt.new(outputs, inputs), rt.new(outputs)
    x, dy = rt.normal(rows, inputs), rt.normal(rows, outputs)
    gemm.linear_backward_weight(rt, x, dy, dw, db, precision="auto")


def _gemm(rt: Recorder) -> None:
    small, large = (tile for tile in gemm_tiles.TILES if not tile.is_simt)
    with gemm_tiles.forced(large):
        _matmul(rt, rt.normal(2, 34, 37), rt.normal(2, 37, 35), full=True)
        _matmul(rt, rt.normal(2, 9, 19).swapaxes(1, 2), rt.normal(9, 5))
        _weight(rt, 130, 36, 37)
    with gemm_tiles.forced(small):
        _matmul(rt, rt.normal(8, 20), rt.normal(20, 12), full=True)
        _matmul(rt, rt.normal(3, 521), rt.normal(521, 5))
        _matmul(rt, rt.normal(19, 18).T, rt.normal(20, 19).T)
        _weight(rt, 140, 18, 17)


def _gemm_simt(rt: Recorder) -> None:
    with gemm_tiles.forced(gemm_tiles.TILES[-1]):
        _matmul(rt, rt.normal(2, 66, 36), rt.normal(2, 36, 68), full=True)
        _matmul(rt, rt.normal(2, 8, 20), rt.normal(2, 20, 12))
        _weight(rt, 520, 68, 72)


def _reduce(rt: Recorder) -> None:
    # The last four: a thread walks a whole chunk, and just none.
    for shape, axes in (((37, 5), (1,)), ((2, 5000), (1,)), ((37, 5), (0,)), ((700, 9), (0,)),
                        ((3, 5, 7, 2), (1, 3)), ((5, 70, 3), (0, 2)), ((2, 4500), (1,)),
                        ((300, 9), (0,)), ((240, 9), (0,)), ((241, 9), (0,))):  # fmt: skip
        kept = tuple(n for axis, n in enumerate(shape) if axis not in axes)
        for op, shift in (("sum", 0.0), ("max", -9.0)):
            x = rt.normal(*shape, shift=shift)
            x.flat[::13] = np.nan if len(shape) == 4 else x.flat[::13]
            enough = 1 << 20 if shape[0] in (240, 241, 300) or shape[-1] == 4500 else 4096
            with mock.patch.object(reduce, "_PER_BLOCK", enough):
                reduce.reduce(rt, x, rt.new(*kept), op=op, axes=axes, keepdims=False)


def _arg_reduce(rt: Recorder) -> None:
    for shape, axis in (((37, 5), 1), ((3, 300), 1), ((37, 5), 0), ((300, 3), 0), ((3, 5, 7), 1)):
        kept = tuple(n for i, n in enumerate(shape) if i != axis)
        x = rt.normal(*shape)
        x[...] = np.round(x) - 9  # ties, and none above 0
        x.flat[::61] = np.nan
        y = rt.new(*kept, dtype=np.int64)
        reduce.arg_reduce(rt, x, y, op="argmax", axis=axis, keepdims=False)


def _softmax(rt: Recorder) -> None:
    for log in (False, True):
        for shape in ((67, 5), (9, 2), (11, 70), (3, 300), (3, 1030)):
            x, y, dx = rt.normal(*shape, shift=-5.0), rt.normal(*shape), rt.new(*shape)
            x *= 40  # far below 0, and too far apart for any shift but the maximum
            softmax.softmax(rt, x, rt.new(*shape), axis=1, log=log)
            softmax.softmax_backward(rt, rt.normal(*shape), y, dx, axis=1, log=log)


def _cross_entropy(rt: Recorder) -> None:
    for rows, classes, weighted, smoothing, reduction in (
        (65, 5, True, 0.1, "mean"), (5, 300, False, 0.0, "none"), (33, 6, True, 0.0, "sum"),
        (9, 2, False, 0.1, "mean"),
    ):  # fmt: skip
        x, each = rt.normal(rows, classes, shift=-5.0), reduction == "none"
        x *= 40  # far below 0, and too far apart for any shift but the maximum
        x[::3, -1] += 400
        target = rt.from_host(rt.random.integers(0, classes, rows))
        target[1:4:2] = (-100, classes - 1)
        weight = rt.normal(classes, shift=5.0) if weighted else None
        out = rt.new(*(rows,) * each), rt.new(rows, classes), rt.new()
        options: Any = {"ignore_index": -100, "reduction": reduction}
        options["label_smoothing"] = smoothing
        with mock.patch.object(loss, "BLOCKS", 2):  # a block takes rows one after the other
            loss.cross_entropy(rt, x, target, weight, *out, **options)
            for alone in (1 << 20, 0):  # one block, or several whose sums are finished later
                with mock.patch.object(loss, "ONE_BLOCK", alone):
                    dlogits = rt.new(rows, classes)
                    loss.cross_entropy_with_gradient(
                        rt, x, target, weight, out[0], dlogits, **options
                    )
            if reduction != "none":
                x[2::5] = np.round(x[2::5] / 40)  # ties
                x[2, 1] = x[rows - 2, 0] = np.nan
                right = rt.from_host(x.argmax(1))
                total, correct = rt.new(dtype=np.float64), rt.new(dtype=np.int64)
                for numbers in (right, (right + 1) % classes, target):
                    loss.add_scores(rt, rt.normal(), x, numbers, total, correct, images=rows)
        target[5 % rows] = classes  # neither a class nor ignored: NaN
        logp, by = rt.normal(rows, classes), rt.normal(shift=3.0)
        dloss = rt.normal(*(rows,) * each)
        loss.cross_entropy_backward(
            rt, dloss, logp, target, weight, by, rt.new(rows, classes), **options
        )


def _batch_norm(rt: Recorder) -> None:
    # Channels as neighbours in quads, and alone; rows as neighbours.
    for shape, last, full in (
        ((5, 36, 7, 7), True, True), ((2, 35, 5, 3), True, False), ((3, 4, 17, 6), False, True),
    ):  # fmt: skip
        x, dy, c = rt.normal(*shape, last=last, shift=3.0), rt.normal(*shape, last=last), shape[1]
        more, y = rt.normal(*shape, last=last), rt.new(*shape, last=last)
        mean, variance, weight, bias = (rt.normal(c, shift=shift) for shift in (0, 9, 0, 0))
        running = (rt.normal(c), rt.normal(c, shift=9.0)) if full else (None, None)
        norm.batch_norm_statistics(rt, x, *running, rt.new(c), rt.new(c), momentum=0.3)
        vectors, addend, relued = (weight, bias), more if full else None, more if full else None
        norm.batch_norm(
            rt, x, mean, variance, *(vectors if full else (None, None)), addend, y,
            eps=1e-5, relu=full,
        )  # fmt: skip
        daddend = rt.new(*shape, last=last) if full else None
        norm.batch_norm_backward(
            rt, dy, x, mean, variance, weight if full else None, relued,
            rt.new(*shape, last=last), rt.new(c), rt.new(c), daddend, eps=1e-5, training=full,
        )  # fmt: skip
    partial = rt.normal(2, 40, 35)  # more parts than lines of threads
    norm.finish_statistics(
        rt, None, partial, None, None, rt.new(35), rt.new(35),
        momentum=0.1, rows=40 * 6 - 2, rows_per_part=6,
    )  # fmt: skip


def _dropout(rt: Recorder) -> None:
    key = rt.from_host(np.array([3, -(2**63)], np.int64))
    dropout.dropout(rt, rt.normal(4100), key, rt.new(4100), p=0.3)
    shape = (2, 5, 3, 7)
    dropout.dropout(rt, rt.normal(*shape, last=True), key, rt.new(*shape, last=True), p=0.5)
    with mock.patch.object(dropout, "BLOCKS_PER_MULTIPROCESSOR", 0.5):  # two tiles, one block
        dropout.dropout(rt, rt.normal(2049), key, rt.new(2049), p=0.5)
        shape = (2, 36, 70, 1)
        dropout.dropout(rt, rt.normal(*shape, last=True), key, rt.new(*shape, last=True), p=0.5)


def _move(rt: Recorder) -> None:
    elementwise.copy(rt, rt.normal(2, 37, 66).transpose(0, 2, 1), rt.new(2, 66, 37))
    for channels in (3, 4):
        image = rt.normal(2, channels, 18, 15)
        elementwise.copy(rt, image, rt.new(*image.shape, last=True))
        image = rt.normal(2, channels, 18, 15, last=True)
        elementwise.copy(rt, image, rt.new(*image.shape))


def _sum_shares(rt: Recorder) -> None:
    for weights, biases, splits in ((70, 5, 11), (33, 0, 3)):
        db = rt.new(biases) if biases else None
        with written_in_shares(rt, rt.new(weights), db, splits) as (shares, _, _):
            shares[...] = rt.random.standard_normal(shares.shape)


def _augment(rt: Recorder) -> None:
    # Odd ones; most channels; as many bytes as a block can hold.
    for channels, sizes, height, width, n in (
        (3, (19, 23), 17, 20, 3), (16, (3, 2), 3, 2, 1), (2, (25, 327), 25, 41, 2),
    ):  # fmt: skip
        w = sizes[1]
        images = rt.from_host(rt.random.integers(0, 256, (n, channels, *sizes)).astype(np.uint8))
        some = [[1, 2, 0], [-2, -1, 1], [4, 6, 1]] if n == 3 else [[0, w - width, 0]] * n
        places = rt.from_host(np.array(some, np.int32))
        y = rt.new(n, channels, height, width, last=True)
        with mock.patch.object(augment, "PIXELS", 8 * width if n == 3 else 1025):
            augment.prepare_images(
                rt, images, places, rt.normal(channels), rt.normal(channels), y,
                height=height, width=width,
            )  # fmt: skip


def _max_pool(rt: Recorder) -> None:
    for shape, window, pad, masked in (((2, 12, 9, 13), 3, 1, True), ((1, 20, 8, 7), 2, 0, False)):
        g = Pool2dGeometry.of("max_pool2d", shape, window, 2, pad)
        x = rt.normal(*shape, last=True)
        x[...] = np.round(x)  # ties
        x.flat[::31] = np.nan
        y, dx = rt.new(*g.y_shape, last=True), rt.new(*shape, last=True)
        argmax = rt.new(*g.y_shape, last=True, dtype=g.argmax_dtype)
        pool.max_pool2d(rt, x, y, argmax, geometry=g)
        dy = rt.normal(*g.y_shape, last=True)
        first = rt.new(*g.y_shape), rt.new(*g.y_shape, dtype=g.argmax_dtype)
        pool.max_pool2d(rt, x, *first, geometry=g)
        pool.max_pool2d_backward(rt, dy, argmax, y if masked else None, dx, geometry=g)


def _avg_pool(rt: Recorder) -> None:
    for shape, window in (
        ((2, 12, 9, 7), (4, 3)), ((3, 36, 7, 7), (7, 7)), ((2, 4, 6, 6), (3, 3)),
    ):  # fmt: skip
        g = Pool2dGeometry.of("avg_pool2d", shape, window, None, 0)
        x, dy = rt.normal(*shape, last=True), rt.normal(*g.y_shape, last=True)
        pool.avg_pool2d(rt, x, rt.new(*g.y_shape, last=True), geometry=g)
        pool.avg_pool2d_backward(rt, dy, rt.new(*shape, last=True), geometry=g)


_TREE = "block_reduce.cuh"
OTHERS = (
    Target("gemm.cu", ("gemm_sliced",), ("gemm.cu", "gemm_finish.cuh"), _gemm),
    # min is max, and argmin argmax, with the other sign: the same text.
    Target("reduce.cu", ("sum_rows", "sum_columns", "max_rows", "max_columns"),
           ("reduce.cu", "layout.cuh", _TREE), _reduce),
    Target("arg_reduce.cu", ("argmax_rows", "argmax_columns"),
           ("arg_reduce.cu", _TREE), _arg_reduce),
    Target("softmax.cu", ("softmax_forward_rows", "softmax_backward_rows"),
           ("softmax.cu", "row.cuh", _TREE), _softmax),
    Target("cross_entropy.cu", tuple(f"cross_entropy_{n}" for n in (
        "forward", "finish", "backward", "weights", "with_gradient")) + ("add_scores",),
           ("cross_entropy.cu", "row.cuh", _TREE), _cross_entropy),
    Target("batch_norm.cu", tuple(f"batch_norm_{n}" for n in (
        "moments", "moments_finish", "forward", "backward_sums", "backward")),
           ("batch_norm.cu", "batch_norm.cuh", _TREE), _batch_norm),
    Target("dropout.cu", ("dropout_contiguous", "dropout_channels_last"), ("dropout.cu",),
           _dropout),
    Target("move.cu", ("transpose", "transpose_few"), ("move.cu",), _move),
    Target("augment.cu", ("prepare_images",), ("augment.cu",), _augment),
    Target("max_pool2d_quads.cu", tuple(f"max_pool2d_quads_{n}" for n in ("forward", "backward")),
           ("max_pool2d_quads.cu",), _max_pool),
    Target("avg_pool2d_quads.cu", tuple(f"avg_pool2d_quads_{n}" for n in ("forward", "backward")),
           ("avg_pool2d_quads.cu",), _avg_pool),
    Target("split_k.cu", ("split_k_sum",), ("split_k.cu",), _sum_shares),
    Target("gemm_simt.cu", ("gemm_simt",), ("gemm_simt.cu", "simt_tile.cuh"), _gemm_simt),
)  # fmt: skip

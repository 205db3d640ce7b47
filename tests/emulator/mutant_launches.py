"""The launches that mutants of each shared-memory kernel are judged by: few, small and odd."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

from gpucnn.backends.gpu import conv, dropout, elementwise, gemm, loss, norm, reduce, softmax
from gpucnn.backends.gpu.host import RecordingRuntime
from gpucnn.backends.gpu.kernel import Kernel, Module, Strided, get
from gpucnn.backends.gpu.operands import CHANNELS_LAST, struct
from gpucnn.ops.geometry import Conv2dGeometry

Array = np.ndarray[Any, Any]


class Launch(NamedTuple):
    """One launch; its arrays hold what they do before it (0xFF where nothing was written)."""

    kernel: Kernel
    grid: tuple[int, ...]
    block: tuple[int, ...]
    arguments: tuple[Any, ...]


class Recorder(RecordingRuntime):
    """Keeps the launches of some entries, and arrays of random numbers by seed."""

    def __init__(self, entries: Sequence[str]) -> None:
        super().__init__()
        self.entries, self.random = entries, np.random.default_rng(7)
        self.kept: list[Launch] = []

    def launch(
        self,
        kernel: Kernel,
        grid: Sequence[int],
        block: Sequence[int],
        *arguments: Any,
        shared: int = 0,
    ) -> None:
        if kernel.entry in self.entries:
            plain = [a.array if isinstance(a, Strided) else a for a in arguments]
            kernel.bind(arguments, self.owns)
            kept = tuple(copy.deepcopy(a) for a in plain)
            self.kept.append(Launch(kernel, tuple(grid), tuple(block), kept))

    def normal(self, *shape: int, last: bool = False, shift: float = 0.0) -> Array:
        order = CHANNELS_LAST if last else None
        array = self.empty(shape, np.float32, order)
        array[...] = self.random.standard_normal(shape) + shift
        return array

    def new(self, *shape: int, last: bool = False, dtype: Any = np.float32) -> Array:
        return self.empty(shape, dtype, CHANNELS_LAST if last else None)


@dataclass(frozen=True)
class Target:
    """Kernels of one file.

    Attributes:
        entries: those that use shared memory; the text of others is left out.
        files: whose text is mutated (a header's where its code is told from the others').
        run: calls the primitives.
    """

    file: str
    entries: tuple[str, ...]
    files: tuple[str, ...]
    run: Callable[[Recorder], None]

    def launches(self) -> dict[Module, list[Launch]]:
        """By specialisation, its source cut down to the entries."""
        recorder = Recorder(self.entries)
        self.run(recorder)
        assert {launch.kernel.entry for launch in recorder.kept} == set(self.entries)
        found: dict[Module, list[Launch]] = {}
        for launch in recorder.kept:
            module = launch.kernel.module
            cut = Module(module.file, module.defines, self._cut(module.source))
            found.setdefault(cut, []).append(launch)
        return found

    def _cut(self, source: str) -> str:
        def keep(found: re.Match[str]) -> str:
            return found[0] if found[1] in self.entries else "\n" * found[0].count("\n")

        def named(found: re.Match[str]) -> str:
            return found[0] if any(e.startswith(found[1] + "_") for e in self.entries) else ""

        source = re.sub(r"^\w+_KERNELS\((\w+),.*$", named, source, flags=re.MULTILINE)
        start = r'^extern "C" __global__ void\s(?:\s*__launch_bounds__\([^)]*\))?\s*(\w+)\('
        return re.sub(start + r".*?^\}$", keep, source, flags=re.MULTILINE | re.DOTALL)


def _gemm(rt: Recorder) -> None:
    gemm.matmul(rt, rt.normal(2, 66, 33), rt.normal(2, 33, 67), rt.normal(67), rt.new(2, 66, 67))
    turned = rt.normal(19, 9).T, rt.normal(5, 19).T
    gemm.matmul(rt, *turned, None, rt.new(9, 5))
    gemm.matmul(rt, rt.normal(8, 20), rt.normal(20, 12), rt.normal(12), rt.new(8, 12))
    gemm.matmul(rt, rt.normal(3, 520), rt.normal(520, 5), None, rt.new(3, 5))


def _geometry(n: int, c: int, h: int, w: int, k: int, groups: int = 1, **more: int) -> Any:
    sizes = {"r": 3, "s": 2, "stride_h": 2, "stride_w": 1, "pad_left": 1, "pad_top": 1, **more}
    p, q = (h + 2 - 5) // 2 + 1, (w + 1 - sizes["s"]) // sizes["stride_w"] + 1
    return Conv2dGeometry(
        n=n, c=c, h=h, w=w, k=k, p=p, q=q, pad_bottom=1, pad_right=0, dilation_h=2, dilation_w=1,
        groups=groups, **sizes,
    )  # fmt: skip


# Groups and more than a tile of pixels and of filters or channels; 128-bit accesses and a depth of
# whole steps; a depth (of pixels too) one beyond whole steps.
_FILTERS, _CHANNELS = _geometry(2, 6, 14, 8, 134, 2), _geometry(1, 134, 9, 5, 6, 2, stride_w=2)
_VECTOR, _ODD = _geometry(1, 8, 7, 5, 8), _geometry(1, 9, 15, 8, 9, s=3)
_PIXELS, _DEPTHWISE = _geometry(3, 2, 27, 15, 3), _geometry(4, 20, 23, 17, 40, 20)


def _convolved(g: Conv2dGeometry, rt: Recorder) -> tuple[Array, Array, Array]:
    """x, weight and dy."""
    w = rt.normal(g.k, g.c // g.groups, g.r, g.s, last=True)
    return rt.normal(g.n, g.c, g.h, g.w, last=True), w, rt.normal(g.n, g.k, g.p, g.q, last=True)


def _conv2d_forward(rt: Recorder) -> None:
    for g in (_FILTERS, _VECTOR, _ODD):
        x, w, dy = _convolved(g, rt)
        conv.conv2d(rt, x, w, rt.normal(g.k), rt.new(*dy.shape, last=True), geometry=g)


def _conv2d_backward_input(rt: Recorder) -> None:
    for g in (_CHANNELS, _VECTOR, _ODD):
        x, w, dy = _convolved(g, rt)
        conv.conv2d_backward_input(rt, dy, w, rt.new(*x.shape, last=True), geometry=g)


def _conv2d_backward_weight(rt: Recorder) -> None:
    for g in (_FILTERS, _VECTOR, _ODD, _PIXELS):
        x, w, dy = _convolved(g, rt)
        conv.conv2d_backward_weight(rt, x, dy, rt.new(*w.shape, last=True), geometry=g)


def _depthwise(rt: Recorder) -> None:
    x, w, dy = _convolved(_DEPTHWISE, rt)
    dw = rt.new(*w.shape, last=True)
    conv.conv2d_backward_weight(rt, x, dy, dw, geometry=_DEPTHWISE)


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
        for shape in ((67, 5), (3, 300)):
            x, y, dx = rt.normal(*shape, shift=-5.0), rt.normal(*shape), rt.new(*shape)
            x *= 40  # far below 0, and too far apart for any shift but the maximum
            softmax.softmax(rt, x, rt.new(*shape), axis=1, log=log)
            softmax.softmax_backward(rt, rt.normal(*shape), y, dx, axis=1, log=log)


def _cross_entropy(rt: Recorder) -> None:
    for rows, classes, weighted, smoothing, reduction in (
        (70, 5, True, 0.1, "mean"), (5, 300, False, 0.0, "none"), (5, 130, False, 0.1, "sum"),
        (33, 6, True, 0.0, "sum"),
    ):  # fmt: skip
        x, each = rt.normal(rows, classes, shift=-5.0), reduction == "none"
        x *= 40  # far below 0, and too far apart for any shift but the maximum
        x[::3, -1] += 400
        target = rt.from_host(rt.random.integers(0, classes, rows))
        target[1:4:2] = (-100, classes)
        weight = rt.normal(classes, shift=5.0) if weighted else None
        out = rt.new(*(rows,) * each), rt.new(rows, classes), rt.new()
        options: Any = {"ignore_index": -100, "reduction": reduction}
        options["label_smoothing"] = smoothing
        with mock.patch.object(loss, "BLOCKS", 2):  # a block takes rows one after the other
            loss.cross_entropy(rt, x, target, weight, *out, **options)
        logp, by = rt.normal(rows, classes), rt.normal(shift=3.0)
        dloss = rt.normal(*(rows,) * each)
        loss.cross_entropy_backward(
            rt, dloss, logp, target, weight, by, rt.new(rows, classes), **options
        )
    for parts, mean in ((300, True), (5, False)):
        finish = get("cross_entropy.cu", "cross_entropy_finish", real="float")
        partial = rt.normal(2, parts, shift=2.0)
        rt.launch(finish, (1,), (256,), partial, rt.new(), rt.new(), parts, mean)


def _batch_norm(rt: Recorder) -> None:
    norm.batch_norm_statistics(rt, rt.new(0, 3, 2, 2), rt.new(3), rt.new(3))
    rt.kept.pop()  # the finish takes what the moments would have left: below it is told
    for shape, last in (((5, 35, 7, 7), True), ((3, 4, 17, 6), False)):
        x, dy, c = rt.normal(*shape, last=last, shift=3.0), rt.normal(*shape, last=last), shape[1]
        mean, variance = rt.normal(c), rt.normal(c, shift=9.0)
        norm.batch_norm_statistics(rt, x, rt.new(c), rt.new(c))
        norm.batch_norm_backward(
            rt, dy, x, mean, variance, None, rt.new(*shape, last=last), rt.new(c), rt.new(c),
            eps=1e-5, training=True,
        )  # fmt: skip
    parts, c = 11, 35
    moments = get("batch_norm.cu", "batch_norm_moments_finish", real="float")
    partial = rt.normal(3, parts, c)
    partial[0] = rt.random.integers(0, 4, (parts, c))
    rt.launch(moments, (2,), (32, 8), rt.normal(c, 2), partial, rt.new(c), rt.new(c), c, 2, parts)
    sums = get("batch_norm.cu", "batch_norm_backward_finish", real="float")
    rt.launch(sums, (2,), (32, 8), rt.normal(2, parts, c), rt.new(c), rt.new(c), c, parts)


def _dropout(rt: Recorder) -> None:
    dropout.dropout(rt, rt.normal(4100), rt.new(4100), p=0.3, key=(3, 2**63))
    function = get("dropout.cu", "dropout_contiguous", real="float")
    words = struct(function, "Key", None, low=5, high=7)
    x, y = rt.normal(2049), rt.new(2049)
    rt.launch(function, (1,), (256,), x, y, 2049, 2.0, 2**31, words)  # two tiles, one block


def _transpose(rt: Recorder) -> None:
    elementwise.copy(rt, rt.normal(2, 37, 66).transpose(0, 2, 1), rt.new(2, 66, 37))


_TREE = "block_reduce.cuh"
TARGETS = (
    Target("gemm.cu", ("gemm_tiled",), ("gemm.cu", "gemm_tile.cuh", "real.cuh"), _gemm),
    *(
        Target(f"conv2d_{name}.cu", (f"conv2d_implicit_gemm_{name}",), files, run)
        for name, files, run in (
            ("forward", ("conv2d_forward.cu", "gemm_tile.cuh", "conv2d.cuh"), _conv2d_forward),
            ("backward_input", ("conv2d_backward_input.cu", "gemm_tile.cuh"),
             _conv2d_backward_input),
            ("backward_weight", ("conv2d_backward_weight.cu", "gemm_tile.cuh"),
             _conv2d_backward_weight),
        )
    ),
    Target("conv2d_depthwise.cu", ("conv2d_depthwise_backward_weight",),
           ("conv2d_depthwise.cu", _TREE), _depthwise),
    # min is max, and argmin argmax, with the other sign: the same text.
    Target("reduce.cu", ("sum_rows", "sum_columns", "max_rows", "max_columns"),
           ("reduce.cu", "layout.cuh", _TREE), _reduce),
    Target("arg_reduce.cu", ("argmax_rows", "argmax_columns"),
           ("arg_reduce.cu", _TREE), _arg_reduce),
    Target("softmax.cu", ("softmax_forward_rows", "softmax_backward_rows"),
           ("softmax.cu", _TREE), _softmax),
    Target("cross_entropy.cu", tuple(f"cross_entropy_{n}" for n in ("forward", "finish",
                                                                    "backward")),
           ("cross_entropy.cu", _TREE), _cross_entropy),
    Target("batch_norm.cu", tuple(f"batch_norm_{n}" for n in (
        "moments", "moments_finish", "backward_sums", "backward_finish")),
           ("batch_norm.cu", _TREE), _batch_norm),
    Target("dropout.cu", ("dropout_contiguous",), ("dropout.cu",), _dropout),
    Target("move.cu", ("transpose",), ("move.cu",), _transpose),
)  # fmt: skip

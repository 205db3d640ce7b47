"""The launches that mutants of the convolutions are judged by: few, small and odd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mutant_launches import Array, Recorder, Target

from gpucnn.backends.gpu import conv, conv_pool, conv_winograd, select
from gpucnn.backends.gpu.instances import Instance, instances
from gpucnn.ops.geometry import Conv2dGeometry, Pool2dGeometry


def _geometry(n: int, c: int, h: int, w: int, k: int, groups: int = 1, **more: int) -> Any:
    """Of 3 x 2 filters with a stride and a dilation of 2 downwards, unless `more` says so."""
    size = {"r": 3, "s": 2, "stride_h": 2, "stride_w": 1, "pad_left": 1, "pad_top": 1,
            "pad_bottom": 1, "pad_right": 0, "dilation_h": 2, "dilation_w": 1, **more}  # fmt: skip
    p = h + size["pad_top"] + size["pad_bottom"] - size["dilation_h"] * (size["r"] - 1) - 1
    q = w + size["pad_left"] + size["pad_right"] - size["dilation_w"] * (size["s"] - 1) - 1
    return Conv2dGeometry(
        n=n, c=c, h=h, w=w, k=k, p=p // size["stride_h"] + 1, q=q // size["stride_w"] + 1,
        groups=groups, **size,
    )  # fmt: skip


def _square(n: int, c: int, h: int, w: int, k: int, groups: int = 1, **more: int) -> Any:
    """Of filters as wide as high, 3 x 3 of stride 1 unless told otherwise, padded by 1."""
    stride, r = more.get("stride", 1), more.get("r", 3)
    return _geometry(
        n, c, h, w, k, groups, r=r, s=r, stride_h=stride, stride_w=stride, dilation_h=1,
        pad_right=1,
    )  # fmt: skip


def _named(algorithm: str, direction: str, precision: str = "fp32", **defines: object) -> str:
    """The instance with these defines and the smallest tile."""

    def matches(i: Instance) -> bool:
        own = dict(i.defines)
        return (i.algorithm, i.direction, i.precision) == (algorithm, direction, precision) and (
            all(own.get(name) == str(value) for name, value in defines.items())
            and ("STATISTICS" in own) == ("STATISTICS" in defines)
        )

    return min(filter(matches, instances()), key=lambda i: i.tile_m * i.tile_n).name


def _arrays(rt: Recorder, g: Any, last: bool = True) -> tuple[Array, Array, Array]:
    """x, weight and dy."""
    w = rt.normal(*g.w_shape, last=last)
    return rt.normal(*g.x_shape, last=last), w, rt.normal(*g.y_shape, last=last)


def _forward(rt: Recorder, g: Any, full: bool, last: bool = True) -> None:
    """`full`: with bias, sum and ReLU."""
    x, w, addend = _arrays(rt, g, last)
    b, more = (rt.normal(g.k), addend) if full else (None, None)
    y = rt.new(*g.y_shape, last=last)
    conv.conv2d(rt, x, w, b, more, y, geometry=g, relu=full, precision="auto")


def _statistics(rt: Recorder, g: Any) -> None:
    x, w, y = _arrays(rt, g)
    mean, variance = rt.new(g.k), rt.new(g.k)
    conv.conv2d_statistics(
        rt, x, w, rt.normal(g.k), None, None, y, mean, variance,
        geometry=g, precision="auto", momentum=0.1,
    )  # fmt: skip


def _input(rt: Recorder, g: Any, full: bool, last: bool = True) -> None:
    """`full`: with sum and mask."""
    mask, w, dy = _arrays(rt, g, last)
    addend = rt.normal(*g.x_shape, last=last) if full else None
    dx = rt.new(*g.x_shape, last=last)
    conv.conv2d_backward_input(
        rt, dy, w, addend, mask if full else None, dx, geometry=g, precision="auto"
    )


def _weight(rt: Recorder, g: Any, full: bool, last: bool = True) -> None:
    """`full`: with the bias' gradient."""
    x, w, dy = _arrays(rt, g, last)
    db, dw = rt.new(g.k) if full else None, rt.new(*w.shape, last=True)
    conv.conv2d_backward_weight(rt, x, dy, dw, db, geometry=g, precision="auto")


_RUN: dict[str, Callable[[Recorder, Any, bool], None]] = {
    "forward": _forward, "backward_input": _input, "backward_weight": _weight,
}  # fmt: skip


def _run(algorithm: str, direction: str, *cases: tuple[Any, bool]) -> Callable[[Recorder], None]:
    """Launches of the smallest instance."""

    def run(rt: Recorder) -> None:
        with select.forced(_named(algorithm, direction)):
            for g, full in cases:
                _RUN[direction](rt, g, full)

    return run


# Groups and more than a tile of pixels and of filters or channels; 128-bit accesses and a depth of
# whole steps; a depth (of pixels too) one beyond whole steps.
_FILTERS, _CHANNELS = _geometry(2, 6, 14, 8, 134, 2), _geometry(1, 134, 9, 5, 6, 2, stride_w=2)
_VECTOR, _ODD = _geometry(1, 8, 7, 5, 8), _geometry(1, 9, 15, 8, 9, s=3)
_PIXELS, _DEPTHWISE = _geometry(3, 2, 27, 15, 3), _geometry(4, 20, 23, 17, 40, 20)


def _depthwise(rt: Recorder) -> None:
    _weight(rt, _DEPTHWISE, False)


GENERIC = tuple(
    Target(f"conv2d_{name}.cu", (f"conv2d_implicit_gemm_{name}",), files, run)
    for name, files, run in (
        ("forward", ("conv2d_forward.cu", "gemm_tile.cuh", "conv2d.cuh"),
         _run("generic", "forward", (_FILTERS, True), (_VECTOR, False), (_ODD, True))),
        ("backward_input", ("conv2d_backward_input.cu", "gemm_tile.cuh"),
         _run("generic", "backward_input", (_CHANNELS, True), (_VECTOR, False), (_ODD, True))),
        ("backward_weight", ("conv2d_backward_weight.cu", "gemm_tile.cuh"),
         _run("generic", "backward_weight", (_FILTERS, False), (_VECTOR, False), (_ODD, False),
              (_PIXELS, False))),
    )
)  # fmt: skip
# Two tiles of pixels and of filters or channels, channels and filters that end in a step.
# (some classes of input pixels have fewer tiles than others).
_WIDE, _DEEP = _geometry(2, 20, 14, 8, 68), _geometry(1, 68, 17, 8, 20)
_GROUPS, _SHARES = _geometry(1, 8, 7, 5, 8, 2), _geometry(4, 12, 22, 12, 68)


def _simt_forward(rt: Recorder) -> None:
    with select.forced(_named("simt", "forward")):
        _forward(rt, _WIDE, True)
        _statistics(rt, _GROUPS)


SIMT = tuple(
    Target(f"conv2d_simt_{name}.cu", (f"conv2d_implicit_gemm_simt_{name}",),
           (f"conv2d_simt_{name}.cu", *headers), run)
    for name, headers, run in (
        ("forward", ("conv2d_simt.cuh", "simt_tile.cuh"), _simt_forward),
        ("backward_input", ("conv2d_simt.cuh",),
         _run("simt", "backward_input", (_DEEP, True), (_GROUPS, False))),
        ("backward_weight", ("simt_tile.cuh",),
         _run("simt", "backward_weight", (_SHARES, True), (_GROUPS, False))),
    )
)  # fmt: skip


def _direct_forward(rt: Recorder) -> None:
    some, odd = _square(2, 12, 9, 13, 20), _square(1, 3, 11, 7, 5)
    for g, full, last, defines in (
        (some, True, True, {"FILTER": 3, "STRIDE": 1, "LANES": 4, "FILTERS": 4}),
        (odd, True, False, {"FILTER": 3, "STRIDE": 1, "LANES": 2, "FILTERS": 3}),
        (_square(1, 5, 19, 17, 33, stride=2), False, True,
         {"FILTER": 3, "STRIDE": 2, "LANES": 8, "FILTERS": 4}),
    ):  # fmt: skip
        with select.forced(_named("direct", "forward", **defines)):
            _forward(rt, g, full, last)
    with select.forced(_named("direct", "backward_input", FILTER=3, LANES=4, FILTERS=4)):
        _input(rt, _square(1, 7, 9, 10, 3), True)
    with select.forced(_named("direct", "forward", FILTER=3, STATISTICS="true")):
        _statistics(rt, _square(1, 3, 16, 16, 64))


def _direct_max_pool(rt: Recorder) -> None:
    # Rows of tiles and images beyond the first; runs that end one behind a quad; few filters.
    some, odd = _square(2, 3, 9, 13, 7), _square(1, 3, 5, 5, 7)
    for g, filters, last in ((some, 4, True), (odd, 4, True), (some, 3, False)):
        pool = Pool2dGeometry.of("max_pool2d", g.y_shape, 2, 2, 0, 1, ceil_mode=last)
        x, w, _ = _arrays(rt, g, last)
        y = rt.new(*pool.y_shape, last=last)
        argmax = rt.new(*pool.y_shape, last=last, dtype=pool.argmax_dtype)
        with select.forced(_named("direct", "forward_max_pool", FILTER=3, FILTERS=filters)):
            conv_pool.conv2d_max_pool(
                rt, x, w, rt.normal(g.k), y, argmax,
                geometry=g, pool=pool, relu=last, precision="auto",
            )  # fmt: skip


def _direct_weight(rt: Recorder) -> None:
    for g, last, defines in (
        (_square(3, 8, 17, 13, 12), True, {"FILTER": 3, "LANES": 8, "FILTERS": 8}),
        (_square(1, 2, 7, 9, 9), False, {"FILTER": 3, "LANES": 8, "FILTERS": 8}),
        (_square(1, 3, 9, 7, 7, r=5), True, {"FILTER": 5, "LANES": 2, "FILTERS": 3}),
    ):
        with select.forced(_named("direct", "backward_weight", **defines)):
            _weight(rt, g, True, last)


DIRECT = tuple(
    Target(f"conv2d_direct_{name}.cu", (f"conv2d_direct_{name}",),
           (f"conv2d_direct_{name}.cu", *headers), run)
    for name, headers, run in (
        ("forward", ("conv2d_direct_sums.cuh", "conv2d_direct.cuh"), _direct_forward),
        ("max_pool", (), _direct_max_pool),
        ("backward_weight", ("conv2d_direct.cuh",), _direct_weight),
    )
)  # fmt: skip


def _winograd(rt: Recorder) -> None:
    forward, backward = conv_winograd.INSTANCES
    for g, full in ((_square(3, 12, 9, 7, 68), True), (_square(1, 4, 3, 3, 8), False)):
        x, w, y = _arrays(rt, g)
        b, addend = rt.normal(g.k), rt.normal(*g.y_shape, last=True)
        conv_winograd.forward(
            rt, forward, g, x, w, b if full else None, addend if full else None, y, None, relu=full
        )
        mask = rt.normal(*x.shape, last=True) if full else None
        dx = rt.new(*x.shape, last=True)
        conv_winograd.backward_input(rt, backward, g, addend, w, None, mask, dx)


def _winograd_filter(rt: Recorder) -> None:
    for shape, last in (((68, 12, 3, 3), True), ((5, 20, 3, 3), False)):
        conv_winograd.transformed_filters(rt, rt.normal(*shape, last=last))


def _tensorcore(direction: str, *cases: tuple[str, Any, bool]) -> Callable[[Recorder], None]:
    def run(rt: Recorder) -> None:
        for precision, g, full in cases:
            with select.forced(_named("tensorcore", direction, precision)):
                _RUN[direction](rt, g, full)
                if direction == "forward" and not full:
                    _statistics(rt, g)

    return run


_EIGHTS, _EIGHTS_DEEP = _geometry(2, 24, 14, 8, 72), _geometry(1, 72, 17, 8, 24)
_LONG = _geometry(5, 12, 22, 12, 20)
_SMALL, _SMALL_EIGHTS = _geometry(1, 20, 7, 5, 12), _geometry(1, 40, 7, 5, 24)
TENSORCORE = tuple(
    Target(f"conv2d_tensorcore_{name}.cu", (f"conv2d_tensorcore_{name}",),
           (f"conv2d_tensorcore_{name}.cu", *headers), _tensorcore(name, *cases))
    for name, headers, cases in (
        ("forward", ("conv2d_tensorcore.cuh", "tensorcore_tile.cuh"),
         (("3xtf32", _WIDE, True), ("bf16", _SMALL_EIGHTS, False))),
        ("backward_input", ("tensorcore_operand.cuh",),
         (("3xtf32", _SMALL, False), ("bf16", _EIGHTS_DEEP, True))),
        ("backward_weight", ("tensorcore_operand.cuh",),
         (("3xtf32", _SMALL, True), ("tf32", _LONG, False), ("bf16", _EIGHTS, True))),
    )
)  # fmt: skip

_QUADS, _QUADS_APART = _square(2, 20, 17, 8, 20, 20), _square(2, 20, 17, 9, 20, 20, stride=2)
_BANDS = _square(1, 8, 33, 4, 8, 8, stride=2)


def _quads(direction: str, *geometries: Any) -> Callable[[Recorder], None]:
    def run(rt: Recorder) -> None:
        for g, full in zip(geometries, (True, False)):
            _RUN[direction](rt, g, full)

    return run


QUADS = tuple(
    Target(f"conv2d_depthwise_quads_{name}.cu", (f"conv2d_depthwise_quads_{name}",),
           (f"conv2d_depthwise_quads_{name}.cu", *headers), run)
    for name, headers, run in (
        ("forward", ("conv2d_depthwise_quads.cuh",), _quads("forward", _QUADS, _QUADS_APART)),
        ("backward_input", (), _quads("backward_input", _QUADS_APART, _BANDS)),
        ("backward_weight", (), _quads("backward_weight", _QUADS, _QUADS_APART)),
    )
)  # fmt: skip

CONV = (
    *GENERIC,
    *SIMT,
    *DIRECT,
    *TENSORCORE,
    *QUADS,
    Target("conv2d_winograd.cu", ("conv2d_winograd",), ("conv2d_winograd.cu",), _winograd),
    Target("conv2d_winograd_filter.cu", ("conv2d_winograd_filter",),
           ("conv2d_winograd_filter.cu",), _winograd_filter),
    Target("conv2d_depthwise.cu", ("conv2d_depthwise_backward_weight",),
           ("conv2d_depthwise.cu", "block_reduce.cuh"), _depthwise),
)  # fmt: skip

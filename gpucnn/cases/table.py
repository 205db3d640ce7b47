"""The rows. Shapes are odd and prime-like, and sit on both sides of tile edges."""

from __future__ import annotations

from typing import Any

from gpucnn.cases.algorithms import ALGORITHMS, PRECISIONS, conv
from gpucnn.cases.case import Case, Input
from gpucnn.cases.fused import FUSED
from gpucnn.cases.traffic import TRAFFIC

I = Input  # noqa: E741  a table reads better with a short name


CONVOLUTION = [
    conv((2, 3, 7, 5), (4, 3, 3, 3), note="no padding"),
    conv((2, 3, 7, 5), (4, 3, 3, 3), bias=False, padding=1, note="no bias"),
    conv((3, 1, 28, 28), (6, 1, 5, 5), padding=2, note="LeNet's first layer"),
    conv((2, 6, 14, 14), (16, 6, 5, 5), note="LeNet's second layer"),
    conv((2, 3, 13, 11), (5, 3, 3, 2), stride=(2, 3), padding=(1, 0), note="uneven strides"),
    conv((2, 4, 11, 13), (7, 4, 3, 3), dilation=(2, 3), padding=(2, 1), note="dilation"),
    conv((1, 5, 9, 9), (3, 5, 4, 4), padding="same", note="even filter: more padding at the end"),
    conv((2, 2, 8, 6), (3, 2, 3, 5), padding="valid"),
    conv((2, 6, 7, 7), (9, 2, 3, 3), groups=3, padding=1, note="groups"),
    conv((2, 7, 9, 8), (7, 1, 3, 3), groups=7, padding=1, note="depthwise"),
    conv((2, 5, 9, 8), (5, 1, 3, 3), groups=5, stride=2, padding=1, note="strided depthwise"),
    conv((2, 3, 9, 9), (6, 1, 3, 3), groups=3, note="depthwise with a multiplier"),
    conv((2, 17, 6, 5), (19, 17, 1, 1), note="pointwise"),
    conv((2, 8, 9, 7), (16, 8, 1, 1), stride=2, bias=False, note="a ResNet shortcut"),
    conv((1, 3, 31, 29), (8, 3, 7, 7), stride=2, padding=3, note="an ImageNet stem"),
    conv((1, 3, 35, 35), (5, 3, 11, 11), stride=4, padding=2, note="AlexNet's first layer"),
    conv((3, 64, 8, 8), (65, 64, 3, 3), padding=1, note="one filter beyond a tile of 64"),
    conv((1, 67, 9, 7), (63, 67, 3, 3), padding=1, note="channels beyond a tile"),
    conv((5, 16, 17, 19), (32, 16, 3, 3), padding=1, note="split sum over positions"),
    conv((17, 3, 9, 8), (5, 3, 3, 2), stride=(2, 1), padding=1, dilation=(1, 2), note="a batch"),
    conv((16, 1, 12, 12), (6, 1, 5, 5), padding=2, note="few channels of a batch"),
    conv((1, 1, 1, 1), (1, 1, 1, 1), note="one of everything"),
    conv((1, 2, 3, 3), (4, 2, 3, 3), note="one output position"),
    conv((2, 3, 4, 4), (2, 3, 3, 3), padding=4, note="padding beyond the filter"),
    conv((0, 3, 7, 5), (4, 3, 3, 3), note="an empty batch"),
    conv(I((2, 4, 7, 5), layout="channels_last"), (4, 4, 3, 3), padding=1),
    conv(I((2, 3, 7, 6), layout="transposed"), (4, 3, 3, 3), padding=1, note="a transposed view"),
    conv(I((2, 3, 7, 6), layout="reversed"), (4, 3, 3, 3), padding=1, note="negative strides"),
    conv((2, 4, 7, 6), I((8, 4, 3, 3), layout="channels_last"), padding=1, note="KRSC weights"),
    conv((3, 7, 6), (4, 3, 3, 3), note="an image without a batch"),
]


def _max(x: Any, kernel: Any, note: str = "", kind: str = "distinct", **attributes: Any) -> Case:
    x = x if isinstance(x, Input) else Input(x, kind)
    smooth = x.kind == "distinct"
    return Case("max_pool2d", (x,), {"kernel_size": kernel, **attributes}, note, 1e-6, smooth)


def _avg(x: Any, kernel: Any, note: str = "", **attributes: Any) -> Case:
    x = x if isinstance(x, Input) else Input(x)
    return Case("avg_pool2d", (x,), {"kernel_size": kernel, **attributes}, note)


def _adaptive(x: tuple[int, ...], size: Any, note: str = "") -> Case:
    return Case("adaptive_avg_pool2d", (Input(x),), {"output_size": size}, note)


POOLING = [
    _max((2, 3, 8, 6), 2, note="the usual"),
    _max((2, 3, 9, 7), 2, note="a rest left out"),
    _max((2, 3, 9, 7), 2, ceil_mode=True, note="a rest taken in"),
    _max((2, 5, 13, 11), 3, stride=2, padding=1, note="overlapping windows (AlexNet, ResNet)"),
    _max((2, 3, 11, 9), (3, 2), stride=(2, 1), padding=(1, 0), dilation=(2, 3)),
    _max((1, 2, 7, 7), 3, stride=4, note="gaps between windows"),
    _max((2, 3, 7, 7), 3, stride=2, padding=1, ceil_mode=True, dilation=2),
    _max((2, 3, 8, 6), 2, kind="ties", note="ties go to the first"),
    _max((2, 3, 9, 9), 3, kind="ties", stride=1, padding=1, note="ties in shared windows"),
    _max((2, 3, 8, 6), 2, kind="special", note="NaN and infinity"),
    _max((2, 3, 8, 7), 3, kind="special", stride=2, padding=1, return_indices=True),
    _max((2, 3, 9, 7), 3, stride=2, padding=1, return_indices=True, note="indices"),
    _max((1, 1, 18, 17), 17, stride=1, note="more than 256 positions a window"),
    _max(I((2, 4, 8, 6), "distinct", "channels_last"), 2),
    _max(I((2, 3, 8, 6), "distinct", "transposed"), 2),
    _max((0, 3, 8, 6), 2, note="an empty batch"),
    _max((3, 8, 6), 2, note="an image without a batch"),
    _avg((2, 3, 8, 6), 2, note="the usual"),
    _avg((2, 3, 9, 7), 3, stride=2, padding=1, note="padding counts"),
    _avg((2, 3, 9, 7), 3, stride=2, padding=1, count_include_pad=False),
    _avg((2, 3, 9, 7), 2, stride=2, padding=1, ceil_mode=True),
    _avg((2, 3, 9, 7), (3, 2), ceil_mode=True, count_include_pad=False, divisor_override=5),
    _avg((1, 2, 5, 5), 3, stride=1, note="overlapping windows"),
    _avg(I((2, 4, 8, 6), layout="channels_last"), 2),
    _avg((0, 2, 5, 5), 3),
    _adaptive((2, 3, 7, 5), 1, note="global"),
    _adaptive((2, 3, 7, 5), (3, 2), note="windows that overlap"),
    _adaptive((2, 3, 4, 5), (6, 7), note="more outputs than inputs"),
    _adaptive((1, 2, 8, 8), (4, None), note="a length kept"),
]

_KINKED = ("relu", "abs")
ACTIVATION = [
    *(
        Case(op, (I((3, 5, 7, 4), "distinct" if op in _KINKED else "normal"),))
        for op in ("relu", "sigmoid", "tanh", "exp", "abs", "negative")
    ),
    *(Case(op, (I((3, 37), "positive"),)) for op in ("log", "sqrt")),
    Case("relu", (I((3, 41), "special"),), note="NaN stays", smooth=False),
    Case("relu", (I((2, 3, 5, 4), "distinct", "channels_last"),)),
    Case("sigmoid", (I((4, 9), "special"),), note="extreme arguments", smooth=False),
    Case("tanh", (I((4, 9), "special"),), note="extreme arguments", smooth=False),
    Case("relu", (I((0, 3)),), note="nothing"),
    Case("relu", (I((), "distinct"),), note="a scalar"),
    Case("exp", (I((70001,)),), note="more than one block"),
    Case("clamp", (I((4, 9), "distinct"),), {"min": -0.1, "max": 0.2}),
    *(Case(op, (I((3, 11)),), {"dim": d}) for op in ("softmax", "log_softmax") for d in (0, 1)),
    Case("softmax", (I((2, 5, 3, 4)),), {"dim": 1}, "across channels"),
    Case("log_softmax", (I((2, 1031)),), {"dim": -1}, "a long row"),
    Case("softmax", (I((2, 7, 3, 4), layout="channels_last"),), {"dim": 1}),
    Case("dropout", (I((3, 5, 7, 3)),), {"p": 0.3}),
    Case(
        "dropout", (I((2, 5, 4, 6), layout="channels_last"),), {"p": 0.5}, "same mask behind NHWC"
    ),
    Case("dropout", (I((13,)),), {"p": 0.999}),
]


def _two(op: str, a: Any, b: Any, note: str = "", **more: Any) -> Case:
    first = a if isinstance(a, Input) else Input(a)
    second = b if isinstance(b, Input) else Input(b)
    return Case(op, (first, second), {}, note, **more)


_COMPARISONS = ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal")
ARITHMETIC = [
    *(_two(op, (3, 5, 7), (5, 1), "both broadcast") for op in ("add", "subtract", "multiply")),
    _two("divide", (4, 1, 6), I((5, 6), "positive")),
    _two("power", I((3, 7), "positive"), (1, 7)),
    _two("add", (2, 3, 5, 4), I((2, 3, 5, 4), layout="channels_last"), "two memory orders"),
    _two("add", (2, 3, 5, 4), (3, 1, 1), "a value a channel"),
    _two("multiply", I((6, 5), layout="transposed"), I((6, 5), layout="reversed")),
    _two("multiply", I((6, 5), layout="sliced"), I((6, 5), layout="expanded")),
    _two("multiply", (2, 1, 3, 1, 2), (1, 3, 1, 2, 1), "five axes"),
    _two("add", (0, 5), (1, 5), "nothing"),
    _two("add", (), (), "scalars"),
    *(Case(op, (I((3, 7), "positive"),), {"scalar": 1.5}) for op in (
        "add", "radd", "subtract", "rsubtract", "multiply", "divide", "rdivide", "power",
        "rpower")),
    Case("power", (I((3, 7)),), {"scalar": 2}, "a square of negatives"),
    *(_two(op, I((4, 6), "ties"), I((4, 6), "ties"), smooth=False) for op in _COMPARISONS),
    _two("maximum", I((4, 6), "distinct"), I((6,), "distinct"), smooth=False),
    _two("minimum", I((4, 6), "ties"), I((4, 6), "ties"), "ties share", smooth=False),
    _two("maximum", I((4, 6), "special"), I((4, 6), "special"), "NaN stays", smooth=False),
    _two("logical_and", I((3, 5), "bool"), I((3, 5), "bool")),
    _two("logical_or", I((3, 5), "bool"), I((3, 5), "bool")),
    Case("logical_not", (I((3, 5), "bool"),)),
    *(Case(op, (I((4, 6), "nonzero:9"),), note="integers")
      for op in ("negative", "abs", "sign")),
    *(_two(op, I((4, 6), "nonzero:9"), I((6,), "nonzero:4"), "integers")
      for op in ("subtract", "maximum", "minimum", "floor_divide", "remainder")),
    Case("power", (I((4, 6), "nonzero:9"),), {"scalar": 3}, "integers"),
    Case("reciprocal", (I((3, 7), "positive", grad=False),)),
    Case("where", (I((3, 1, 5), "bool"), I((4, 5)), I((3, 4, 1)))),
    *(Case("in_place", (I((3, 4, 5)), I((5,), "positive")), {"name": name})
      for name in ("add_", "sub_", "mul_", "div_", "copy_")),
    *(Case("cast", (I((3, 7), "ties"),), {"dtype": d})
      for d in ("float64", "float32", "int64", "int32", "bool")),
    Case("cast", (I((3, 7), "positive"),), {"dtype": "uint8"}, smooth=False),
    Case("cast", (I((3, 7), "classes:9"),), {"dtype": "float32"}),
    Case("cast", (I((3, 7), "bool"),), {"dtype": "int64"}),
]  # fmt: skip

SHAPES = [
    *(Case("sum", (I((3, 5, 7)),), {"dim": d}) for d in (None, 0, 1, (0, 2), -1)),
    Case("sum", (I((7, 64, 5, 3), layout="channels_last"),), {"dim": (0, 2, 3)}, "a bias gradient"),
    Case("sum", (I((5, 3000)),), {"dim": 1, "keepdim": True}, "long rows"),
    Case("sum", (I((3000, 5)),), {"dim": 0}, "long columns"),
    Case("sum", (I((70001,)),), note="more than one block"),
    Case("sum", (I((0, 4)),), {"dim": 0}, "of nothing"),
    Case("sum", (I((5, 9), "bool"),), {"dim": 1}, "counts"),
    Case("mean", (I((3, 5, 7)),), {"dim": (1, 2), "keepdim": True}),
    Case("mean", (I((3, 5, 7), layout="transposed"),)),
    Case("var", (I((4, 9)),), {"dim": 1}),
    *(Case(op, (I((4, 9), "distinct"),), {"dim": d})
      for op in ("max", "min") for d in (None, 0, 1)),
    Case("max", (I((4, 9), "ties"),), {"dim": 1}, "ties go to the first", smooth=False),
    Case("max", (I((4, 9), "ties"),), note="ties share", smooth=False),
    Case("max", (I((4, 9), "special"),), {"dim": 1}, "NaN wins", smooth=False),
    Case("amax", (I((3, 4, 5), "distinct"),), {"dim": (0, 2)}),
    *(Case(op, (I((4, 9), "special"),), {"dim": 1}, smooth=False) for op in ("argmax", "argmin")),
    Case("argmax", (I((130, 10), "ties"),), {"dim": 1}, "predictions of a batch", smooth=False),
    Case("argmax", (I((3, 5, 7), "distinct"),), smooth=False),
    Case("reshape", (I((2, 3, 5, 4), layout="channels_last"),), {"shape": (2, 60)}, "NCHW values"),
    Case("flatten", (I((2, 3, 5, 4), layout="channels_last"),), {"start_dim": 1}),
    Case("permute", (I((2, 3, 5)),), {"dims": (2, 0, 1)}),
    Case("contiguous", (I((3, 5), layout="transposed"),)),
    Case("expand", (I((3, 1, 4)),), {"shape": (2, 3, 5, 4)}),
    Case("cat", (I((2, 3, 4)), I((2, 5, 4)), I((2, 1, 4))), {"dim": 1}),
    Case("cat", (I((2, 3, 4, 2), layout="channels_last"), I((2, 5, 4, 2))), {"dim": 1}, "channels"),
    Case("pad", (I((2, 3, 4)),), {"pad": (1, 2)}),
    Case("pad", (I((2, 3, 5, 4)),), {"pad": (1, 2, 3, 0), "value": 0.5}, "an image"),
    Case("pad", (I((2, 3, 5, 4)),), {"pad": (-1, 2)}, "cut on one side"),
    *(Case("pad", (I((2, 3, 5, 4)),), {"pad": (2, 1, 1, 3), "mode": m})
      for m in ("replicate", "reflect", "circular")),
    Case("index_select", (I((7, 5)), I((4,), "index:7")), {"dim": 0}, "repeats and negatives"),
    Case("index_select", (I((3, 5, 6)), I((8,), "index:5")), {"dim": 1}),
    Case("getitem", (I((4, 5, 6)),), {"key": (slice(1, None, 2), 2)}),
    Case("getitem", (I((4, 5, 6)),), {"key": (Ellipsis, slice(None, None, -1), None)}),
    Case("getitem", (I((6, 5)), I((4,), "index:6"), I((4,), "index:5")), note="one a row"),
    Case("setitem", (I((4, 5)), I((5,))), {"key": (slice(None, None, 2),)}),
]  # fmt: skip


def _ce(
    x: tuple[int, ...], kind: str = "normal", weight: bool = False, note: str = "", **more: Any
) -> Case:
    classes = x[1] if len(x) > 1 else x[0]
    target = x[:1] + x[2:] if len(x) > 1 else ()
    w = Input((classes,), "positive", grad=False) if weight else None
    return Case(
        "cross_entropy", (Input(x, kind), Input(target, f"classes:{classes}"), w), more, note
    )


MODEL = [
    _ce((7, 10), note="with ignored rows"),
    *(_ce((7, 10), weight=True, reduction=r, label_smoothing=0.1) for r in ("mean", "sum", "none")),
    _ce((3, 5, 4, 2), note="a label a pixel"),
    _ce((5,), note="one sample"),
    _ce((130, 1000), note="many classes"),
    _ce((4, 1), note="one class"),
    Case("cross_entropy", (I((4, 5)), I((4, 5), "positive", grad=False)), note="probabilities"),
    Case("nll_loss", (I((6, 5)), I((6,), "classes:5"))),
    *(Case("mse_loss", (I((3, 5)), I((3, 5))), {"reduction": r}) for r in ("mean", "sum", "none")),
    Case("linear", (I((5, 7)), I((3, 7)), I((3,)))),
    Case("linear", (I((2, 3, 17)), I((9, 17)), None), note="leading axes, no bias"),
    Case("linear", (I((67, 130)), I((65, 130)), I((65,))), note="beyond tiles of 64"),
    Case("linear", (I((1, 400)), I((120, 400)), I((120,))), note="one sample"),
    Case("linear", (I((0, 7)), I((3, 7)), I((3,))), note="an empty batch"),
    Case("linear", (I((33, 2500)), I((10, 2500)), I((10,))), note="a long sum"),
    Case("linear", (I((1024, 16)), I((1024, 16)), I((1024,))), note="tiles of 64 x 64 quads"),
    Case("linear", (I((1024, 32)), I((512, 32)), I((512,))), note="tiles of 128 x 64"),
    _two("matmul", (5, 7), (7, 3)),
    _two("matmul", I((5, 7), layout="transposed"), I((7, 3), layout="reversed")),
    _two("matmul", (2, 1, 5, 7), (3, 7, 2), "leading axes broadcast"),
    _two("matmul", (7,), (7,), "an inner product"),
    _two("matmul", (3, 0), (0, 4), "an empty sum"),
    *(Case("batch_norm_train", (I(s, layout=lay), I((s[1],), grad=False),
                                I((s[1],), "positive", grad=False), I((s[1],)), I((s[1],))), {}, n)
      for s, lay, n in (((4, 5, 3, 7), "C", ""), ((4, 6, 3, 5), "channels_last", ""),
                        ((9, 4), "C", "after a linear layer"), ((3, 4, 11), "C", "sequences"),
                        ((5, 67, 9, 9), "channels_last", "channels beyond a tile"))),
    Case("batch_norm_train", (I((4, 3, 5, 5)), I((3,), grad=False), I((3,), "positive", grad=False),
                              None, None), {"momentum": 0.3, "eps": 1e-3}, "no weight, no bias"),
    Case("batch_norm_eval", (I((4, 5, 3, 7)), I((5,), grad=False), I((5,), "positive", grad=False),
                             I((5,)), I((5,))), {}, "given statistics"),
    *(Case("add_scores", (I(s, kind, lay, grad=False), I(s[:1], f"classes:{s[1]}")), {}, n)
      for s, kind, lay, n in (((9, 5), "ties", "C", "the first of equals counts"),
                              ((67, 10), "special", "transposed", "a NaN is the largest"),
                              ((5, 130), "normal", "C", "several numbers a thread"),
                              ((130, 1), "normal", "sliced", "one class, several blocks"),
                              ((0, 3), "normal", "C", "no image"))),
    *(Case("sgd_update", (I((1003,), grad=False), I((1003,), grad=False)),
           {"steps": 3, "lr": 0.1, "momentum": m, "dampening": d, "weight_decay": 0.01,
            "nesterov": nesterov, "maximize": maximize})
      for m, d, nesterov, maximize in ((0.0, 0.0, False, False), (0.9, 0.0, False, False),
                                       (0.9, 0.0, True, False), (0.9, 0.1, False, True))),
    *(Case("adam_update", (I((1003,), grad=False), I((1003,), grad=False)),
           {"steps": 3, "lr": 0.01, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8,
            "weight_decay": 0.01, "decoupled": decoupled, "maximize": False})
      for decoupled in (False, True)),
]  # fmt: skip

CASES: list[Case] = [
    *CONVOLUTION, *POOLING, *ACTIVATION, *ARITHMETIC, *SHAPES, *MODEL, *FUSED, *TRAFFIC,
    *PRECISIONS, *ALGORITHMS,
]  # fmt: skip
"""Every row, in one list."""

"""Elementwise arithmetic, reductions, shapes and indexing."""

from __future__ import annotations

from typing import Any

import numpy as np

from configurations.drawing import Configuration, Draw


def _stretched(draw: Draw, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape that broadcasts with `shape`, mostly."""
    other = [1 if draw.chance(0.3) else n for n in shape]
    if draw.chance(0.03) and other:
        other[-1] += 1
    return tuple(other[draw.integer(0, len(other)) if draw.chance(0.3) else 0 :])


def arithmetic(draw: Draw) -> Configuration:
    shape = draw.shape(0, 5, 5)
    a, b = _stretched(draw, shape), _stretched(draw, shape)
    op = draw.choice("add", "sub", "mul", "truediv", "radd", "rsub", "rmul", "rtruediv")
    divisor = op.endswith("div")
    make = draw.positive if divisor else draw.values
    if draw.chance(0.3):
        number = draw.choice(2, -3, 0.5, True)
        return Configuration(
            [make(a)], lambda _, F, x: getattr(x, f"__{op}__")(number), f"{op} {number}"
        )
    return Configuration([make(a), make(b)], lambda _, F, x, y: getattr(x, f"__{op}__")(y), op)


def power(draw: Draw) -> Configuration:
    shape = draw.shape(0, 3, 5)
    a, b = _stretched(draw, shape), _stretched(draw, shape)
    if draw.chance(0.4):
        exponent = draw.choice(0, 1, 2, 3, -1, 0.5, -2.5)
        base = draw.ties(a) if exponent in (0, 1, 2, 3) else draw.positive(a)
        return Configuration([base], lambda _, F, x: x**exponent, f"{exponent}")
    if draw.chance(0.3):
        number = draw.choice(2, 0.5, 0)
        return Configuration([draw.positive(a)], lambda _, F, x: number**x, f"{number}")
    base = np.maximum(draw.ties(a), 0)
    return Configuration([base, draw.ties(b)], lambda _, F, x, y: x**y)


def extremum(draw: Draw) -> Configuration:
    shape = draw.shape(0, 4, 5)
    op = draw.choice("maximum", "minimum", "max", "min")
    a, b = draw.values(_stretched(draw, shape)), draw.values(_stretched(draw, shape))
    return Configuration([a, b], lambda lib, F, x, y: getattr(lib, op)(x, y), op)


def comparison(draw: Draw) -> Configuration:
    shape = draw.shape(0, 4, 5)
    op = draw.choice("eq", "ne", "lt", "le", "gt", "ge")
    a, b = draw.values(_stretched(draw, shape)), draw.values(_stretched(draw, shape))
    return Configuration([a, b], lambda _, F, x, y: getattr(x, f"__{op}__")(y), op)


def unary(draw: Draw) -> Configuration:
    op = draw.choice("exp", "log", "sqrt", "abs", "sigmoid", "tanh", "relu", "neg", "square")
    make = draw.positive if op in ("log", "sqrt") else draw.values
    return Configuration([make(draw.shape(0, 4, 7))], lambda _, F, x: getattr(x, op)(), op)


def where(draw: Draw) -> Configuration:
    shape = draw.shape(0, 4, 5)
    condition = draw.rng.random(_stretched(draw, shape)) < 0.5
    a, b = draw.normal(_stretched(draw, shape)), draw.normal(_stretched(draw, shape))
    return Configuration([np.asarray(condition), a, b], lambda lib, F, c, x, y: lib.where(c, x, y))


def clamp(draw: Draw) -> Configuration:
    low, high = draw.choice((None, 1), (-1, None), (-1, 1), (-0.5, 0.25), (1, -1))
    x = draw.values(draw.shape(0, 4, 6))
    return Configuration([x], lambda _, F, x: x.clamp(min=low, max=high), f"{low} {high}")


def _axes(draw: Draw, ndim: int) -> Any:
    if draw.chance(0.25):
        return None
    chosen = [d for d in range(ndim) if draw.chance(0.5)]
    signed = tuple(d - ndim if draw.chance(0.3) else d for d in chosen)
    if draw.chance(0.05):
        return ndim
    return signed if draw.chance(0.7) or len(signed) != 1 else signed[0]


def reduction(draw: Draw) -> Configuration:
    op = draw.choice("sum", "mean", "sum", "var", "amax", "amin")
    shape = draw.shape(0, 4, 7)
    x = draw.values(shape) if op in ("sum", "mean") else draw.normal(shape)
    dim, keepdim = _axes(draw, len(shape)), draw.chance(0.5)
    if op in ("amax", "amin") and dim is None:
        dim = ()
    if op == "var" and dim == ():
        dim = None
    return Configuration(
        [x], lambda _, F, x: getattr(x, op)(dim=dim, keepdim=keepdim), f"{op} {dim} {keepdim}"
    )


def extreme_along(draw: Draw) -> Configuration:
    op = draw.choice("max", "min", "argmax", "argmin")
    x = draw.values(draw.shape(0, 4, 6))
    dim, keepdim = draw.integer(-1 - x.ndim, x.ndim), draw.chance(0.5)
    if draw.chance(0.2):
        return Configuration([x], lambda _, F, x: getattr(x, op)(), op)

    def call(_: Any, F: Any, x: Any) -> Any:
        result = getattr(x, op)(dim=dim, keepdim=keepdim)
        return result if op.startswith("arg") else (result.values, result.indices)

    return Configuration([x], call, f"{op} {dim} {keepdim}")


def pad(draw: Draw) -> Configuration:
    mode = draw.choice("constant", "replicate", "reflect", "circular")
    x = draw.normal(
        (draw.integer(1, 2), draw.integer(1, 3), draw.integer(3, 6), draw.integer(3, 6))
    )
    low = -2 if mode == "constant" else 0
    count = 4 if mode != "constant" else draw.choice(0, 2, 4, 6, 8)
    pads = [draw.integer(low, 3) for _ in range(count)]
    value = draw.choice(None, 0.5, 0) if mode == "constant" else None
    return Configuration(
        [x], lambda _, F, x: F.pad(x, pads, mode=mode, value=value), f"{pads} {mode} {value}"
    )


def joining(draw: Draw) -> Configuration:
    shape = list(draw.shape(1, 4, 5))
    op, dim = draw.choice("cat", "stack"), draw.integer(-len(shape), len(shape) - 1)
    shapes = [list(shape) for _ in range(draw.integer(1, 4))]
    if op == "cat":
        for other in shapes:
            other[dim] = draw.integer(0, 5)
    return Configuration(
        [draw.normal(s) for s in shapes],
        lambda lib, F, *xs: getattr(lib, op)(list(xs), dim=dim),
        f"{op} {dim}",
    )


def reshaping(draw: Draw) -> Configuration:
    """A chain of views with arithmetic between them."""
    shape = draw.shape(2, 4, 6)
    steps = [draw.integer(0, 5) for _ in range(draw.integer(1, 4))]
    axes = [int(a) for a in draw.rng.permutation(len(shape))]

    def call(_: Any, F: Any, x: Any) -> Any:
        for step in steps:
            if step == 0 and x.ndim == len(shape):
                x = x.permute(*axes)
            elif step == 1:
                x = x.flatten(max(x.ndim - 2, 0))
            elif step == 2:
                x = x.unsqueeze(1).transpose(0, -1)
            elif step == 3:
                x = x.reshape(-1, x.shape[-1]) if x.numel() else x
            elif step == 4:
                x = x.squeeze()
            else:
                x = x * 1.5
        return x

    return Configuration([draw.normal(shape)], call, f"{steps} {axes}")


def indexing(draw: Draw) -> Configuration:
    shape = tuple(draw.integer(2, 6) for _ in range(draw.integer(1, 4)))
    key: list[Any] = []
    together = draw.integer(1, 4)
    for n in shape[: draw.integer(0, len(shape))]:
        kind = draw.integer(0, 4)
        if kind == 0:
            key.append(draw.integer(-n, n - 1))
        elif kind == 1:
            start, stop = sorted((draw.integer(-n, n), draw.integer(-n, n)))
            key.append(slice(start, stop, draw.choice(None, 1, 2)))
        elif kind == 2:
            key.append([draw.integer(-n, n - 1) for _ in range(together)])
        elif kind == 3:
            key.append(slice(None))
        else:
            key.append(np.asarray(draw.rng.integers(-n, n, (2, together))))
    if draw.chance(0.3):
        key.insert(draw.integer(0, len(key)), None)
    if draw.chance(0.3):
        key.insert(draw.integer(0, len(key)), Ellipsis)
    return Configuration([draw.normal(shape)], lambda _, F, x: x[tuple(key)], f"{key}")


def index_select(draw: Draw) -> Configuration:
    x = draw.normal(draw.shape(1, 4, 6, 0))
    dim = draw.integer(-x.ndim, x.ndim - 1)
    index = draw.rng.integers(0, x.shape[dim], draw.integer(0, 7))
    return Configuration([x, index], lambda _, F, x, i: x.index_select(dim, i), f"{dim}")


GENERATORS = [arithmetic, power, extremum, comparison, unary, where, clamp, reduction,
              extreme_along, pad, joining, reshaping, indexing, index_select]  # fmt: skip

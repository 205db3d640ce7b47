"""What the rows of the table call: a function by its name, or a little arrangement of some."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

import gpucnn
from gpucnn.core import memory
from gpucnn.core.tensor import Tensor
from gpucnn.nn import functional
from gpucnn.ops import augment, elementwise, loss, optimize


def operation(name: str) -> Callable[..., Any]:
    """The function behind a case's op: a helper, of nn.functional, of gpucnn, or a method."""
    if name in _HELPERS:
        return _HELPERS[name]
    for home in (functional, gpucnn):
        if callable(getattr(home, name, None)):
            return getattr(home, name)
    return getattr(Tensor, name)


def _getitem(x: Tensor, *index: Tensor, key: Any = None) -> Tensor:
    return x[index if index else key]


def _setitem(x: Tensor, value: Tensor, key: Any) -> Tensor:
    copy = x.clone().detach()
    copy[key] = value.detach()
    return copy


def _cat(*tensors: Tensor, dim: int) -> Tensor:
    return gpucnn.cat(list(tensors), dim)


def _binary(name: str, x: Tensor, other: Tensor | None = None, scalar: Any = None) -> Any:
    return getattr(x, name)(scalar if other is None else other)


def _batch_norm_train(x: Tensor, mean: Tensor, var: Tensor, w: Tensor, b: Tensor, **kw: Any) -> Any:
    mean, var = mean.clone(), var.clone()
    y = functional.batch_norm(x, mean, var, w, b, training=True, **kw)
    return y, mean, var


def _rates(p: Tensor, *values: float) -> Tensor:
    return gpucnn.tensor(values, dtype=gpucnn.float64, device=p.device)


def _sgd(p: Tensor, g: Tensor, steps: int, lr: float, **options: Any) -> Any:
    p, buffer = p.clone(), p * 0.0 if options["momentum"] else None
    for step in range(steps):
        optimize.sgd_update(p, g, buffer, _rates(p, lr), first=step == 0, **options)
    return (p, buffer) if buffer is not None else p


def _adam(p: Tensor, g: Tensor, steps: int, lr: float, **options: Any) -> Any:
    p, m, v = p.clone(), p * 0.0, p * 0.0
    beta1, beta2 = options["beta1"], options["beta2"]
    for step in range(1, steps + 1):
        corrected, root = lr / (1 - beta1**step), (1 - beta2**step) ** 0.5
        rates = _rates(p, corrected, root, 1 - lr * options["weight_decay"])
        optimize.adam_update(p, g, m, v, rates, **options)
    return p, m, v


def _convolution_relu_pool(x: Tensor, w: Tensor, b: Tensor, pool: int, **kw: Any) -> Tensor:
    return functional.max_pool2d(functional.relu(functional.conv2d(x, w, b, **kw)), pool)


def _convolution_pool_flatten(x: Tensor, w: Tensor, b: Tensor, v: Tensor) -> Tensor:
    pooled = functional.max_pool2d(functional.conv2d(x, w, b), 2)
    return functional.linear(pooled.flatten(1), v)


def _two_convolutions(x: Tensor, w: Tensor, b: Tensor, v: Tensor, **kw: Any) -> Tensor:
    return functional.conv2d(functional.relu(functional.conv2d(x, w, b, **kw)), v, **kw)


def _two_layers(x: Tensor, w: Tensor, b: Tensor, v: Tensor) -> Tensor:
    return functional.linear(functional.relu(functional.linear(x, w, b)), v)


def _convolution_batch_norm(x: Tensor, w: Tensor, scale: Tensor, shift: Tensor, **kw: Any) -> Any:
    y = functional.conv2d(x, w, None, **kw)
    return functional.batch_norm(y, None, None, scale, shift, training=True)


def _residual_block(x: Tensor, w: Tensor, v: Tensor, *affine: Tensor, **kw: Any) -> Tensor:
    """relu(bn(conv(relu(bn(conv(x))))) + x), as in ResNet (He et al. 2016)."""

    def normalized(y: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return functional.batch_norm(y, None, None, scale, shift, training=True)

    y = functional.relu(normalized(functional.conv2d(x, w, None, **kw), *affine[:2]))
    return functional.relu(normalized(functional.conv2d(y, v, None, **kw), *affine[2:]) + x)


def _classifier(x: Tensor, w: Tensor, target: Tensor) -> Tensor:
    return functional.cross_entropy(functional.linear(x, w), target)


def _loss_and_gradient(
    x: Tensor, target: Tensor, weight: Tensor, reduction: str = "mean", label_smoothing: float = 0.0
) -> Any:
    return loss.cross_entropy_with_gradient(
        x, target, weight,
        ignore_index=-100, label_smoothing=label_smoothing, reduction=reduction,
    )  # fmt: skip


def _scores(x: Tensor, target: Tensor) -> Any:
    """The running sums of two batches of equal loss; in the second all classes are right."""
    total = gpucnn.tensor(0.5, dtype=gpucnn.float64, device=x.device)
    correct = gpucnn.tensor(3, dtype=gpucnn.int64, device=x.device)
    mean = gpucnn.tensor(1.25, dtype=x.dtype, device=x.device)
    for numbers in (target, x.argmax(1)):
        loss.add_scores(mean, x, numbers, total, correct, images=len(x))
    return total, correct


def _prepare_images(
    x: Tensor, places: Tensor, factor: Tensor, offset: Tensor, size: tuple[int, int]
) -> Tensor:
    images, where = x.to(gpucnn.uint8), places.to(gpucnn.int32)
    return augment.prepare(images, where, factor.float(), offset.float(), size)


def _cast(x: Tensor, dtype: str) -> Tensor:
    return x.to(np.dtype(dtype))


def _in_place(x: Tensor, other: Tensor, name: str) -> Tensor:
    y = x.clone().detach()
    return getattr(y, name)(other.detach())


_HELPERS: dict[str, Callable[..., Any]] = {
    "getitem": _getitem,
    "setitem": _setitem,
    "cat": _cat,
    "batch_norm_train": _batch_norm_train,
    "add_scores": _scores,
    "sgd_update": _sgd,
    "adam_update": _adam,
    "cast": _cast,
    "convolution_relu_pool": _convolution_relu_pool,
    "convolution_batch_norm": _convolution_batch_norm,
    "convolution_pool_flatten": _convolution_pool_flatten,
    "two_convolutions": _two_convolutions,
    "two_layers": _two_layers,
    "residual_block": _residual_block,
    "classifier": _classifier,
    "loss_and_gradient": _loss_and_gradient,
    "prepare_images": _prepare_images,
    "reorder": lambda x, order: memory.copy(x, order=order),
    "dropout_of_permuted": lambda x, p, dims: functional.dropout(x.permute(dims), p),
    "in_place": _in_place,
    "reshape": lambda x, shape: x.reshape(shape),
    "permute": lambda x, dims: x.permute(dims),
    "expand": lambda x, shape: x.expand(shape),
    "index_select": lambda x, index, dim: x.index_select(dim, index),
    **{
        name: functools.partial(_binary, f"__{dunder}__")
        for name, dunder in {
            "add": "add", "radd": "radd", "subtract": "sub", "rsubtract": "rsub",
            "multiply": "mul", "divide": "truediv", "rdivide": "rtruediv", "power": "pow",
            "rpower": "rpow", "equal": "eq", "not_equal": "ne", "less": "lt",
            "less_equal": "le", "greater": "gt", "greater_equal": "ge",
            "logical_and": "and", "logical_or": "or",
        }.items()
    },
    **{op: functools.partial(elementwise.unary, op=op) for op in ("sign", "reciprocal")},
    **{op: functools.partial(elementwise.binary, op=op) for op in ("floor_divide", "remainder")},
    "negative": lambda x: -x,
    "logical_not": lambda x: ~x,
    "batch_norm_eval": functional.batch_norm,
}  # fmt: skip

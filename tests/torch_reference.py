"""The table of cases in PyTorch, float64 on the cpu."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from gpucnn.cases import Case

_DUNDER = {
    "add": "add", "radd": "radd", "subtract": "sub", "rsubtract": "rsub", "multiply": "mul",
    "divide": "truediv", "rdivide": "rtruediv", "power": "pow", "rpower": "rpow", "equal": "eq",
    "not_equal": "ne", "less": "lt", "less_equal": "le", "greater": "gt", "greater_equal": "ge",
    "logical_and": "and", "logical_or": "or",
}  # fmt: skip


def _binary(op: str) -> Any:
    def call(x: Any, other: Any = None, scalar: Any = None) -> Any:
        return getattr(x, f"__{_DUNDER[op]}__")(scalar if other is None else other)

    return call


def _batch_norm_train(x: Any, mean: Any, var: Any, w: Any, b: Any, **kw: Any) -> Any:
    mean, var = mean.clone(), var.clone()
    return F.batch_norm(x, mean, var, w, b, training=True, **kw), mean, var


def _sgd(p: Any, g: Any, steps: int, **o: Any) -> Any:
    p = p.clone().requires_grad_()
    keys = ("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize")
    optimizer = torch.optim.SGD([p], **{k: o[k] for k in keys})
    for _ in range(steps):
        p.grad = g.clone()
        optimizer.step()
    if not o["momentum"]:
        return p.detach()
    return p.detach(), optimizer.state[p]["momentum_buffer"]


def _adam(p: Any, g: Any, steps: int, **o: Any) -> Any:
    p = p.clone().requires_grad_()
    kind = torch.optim.AdamW if o["decoupled"] else torch.optim.Adam
    optimizer = kind(
        [p], lr=o["lr"], betas=(o["beta1"], o["beta2"]), eps=o["eps"],
        weight_decay=o["weight_decay"], maximize=o["maximize"],
    )  # fmt: skip
    for _ in range(steps):
        p.grad = g.clone()
        optimizer.step()
    state = optimizer.state[p]
    return p.detach(), state["exp_avg"], state["exp_avg_sq"]


def _setitem(x: Any, value: Any, key: Any) -> Any:
    copy = x.detach().clone()
    copy[key] = value.detach()
    return copy


def _getitem(x: Any, *index: Any, key: Any = None) -> Any:
    if index:
        return x[index]
    if any(isinstance(k, slice) and k.step is not None and k.step < 0 for k in key):
        return x.flip(-1).unsqueeze(-1)  # torch has no negative steps; the one key of the table
    return x[key]


def _convolution_relu_pool(x: Any, w: Any, b: Any, pool: int, **kw: Any) -> Any:
    return F.max_pool2d(F.relu(F.conv2d(x, w, b, **kw)), pool)


def _convolution_pool_flatten(x: Any, w: Any, b: Any, v: Any) -> Any:
    return F.linear(F.max_pool2d(F.conv2d(x, w, b), 2).flatten(1), v)


def _two_convolutions(x: Any, w: Any, b: Any, v: Any, **kw: Any) -> Any:
    return F.conv2d(F.relu(F.conv2d(x, w, b, **kw)), v, **kw)


def _loss_and_gradient(x: Any, target: Any, weight: Any, **kw: Any) -> Any:
    x = x.detach().requires_grad_()
    loss = F.cross_entropy(x, target, weight, **kw)
    return loss.detach(), torch.autograd.grad(loss.sum(), x)[0]


def _scores(x: Any, target: Any) -> Any:
    total = torch.tensor(0.5 + 2 * 1.25 * len(x), dtype=torch.float64)
    return total, 3 + (x.argmax(1) == target).sum() + len(x)


def _prepare_images(x: Any, places: Any, factor: Any, offset: Any, size: Any) -> Any:
    """Image by image: mirrored windows of a copy padded with zeros on all sides."""
    (height, width), far = size, 4
    padded = F.pad(x.to(torch.uint8), (far,) * 4)
    windows = []
    for image, (top, left, flip) in zip(padded, places.tolist()):
        window = image[:, top + far :, left + far :][:, :height, :width]
        window = F.pad(window, (0, width - window.shape[2], 0, height - window.shape[1]))
        windows.append(window.flip(2) if flip else window)
    factor, offset = (v.float()[:, None, None] for v in (factor, offset))
    return torch.stack(windows).float() * factor + offset


def _residual_block(x: Any, w: Any, v: Any, *affine: Any, **kw: Any) -> Any:
    y = F.conv2d(x, w, None, **kw)
    y = F.conv2d(F.relu(F.batch_norm(y, None, None, *affine[:2], training=True)), v, None, **kw)
    return F.relu(F.batch_norm(y, None, None, *affine[2:], training=True) + x)


_SPECIAL = {
    "convolution_relu_pool": _convolution_relu_pool,
    "convolution_pool_flatten": _convolution_pool_flatten,
    "two_convolutions": _two_convolutions,
    "two_layers": lambda x, w, b, v: F.linear(F.relu(F.linear(x, w, b)), v),
    "residual_block": _residual_block,
    "classifier": lambda x, w, target: F.cross_entropy(F.linear(x, w), target),
    "loss_and_gradient": _loss_and_gradient,
    "prepare_images": _prepare_images,
    "reorder": lambda x, order: x,
    "batch_norm_train": _batch_norm_train,
    "batch_norm_eval": F.batch_norm,
    "add_scores": _scores,
    "sgd_update": _sgd,
    "adam_update": _adam,
    "setitem": _setitem,
    "getitem": _getitem,
    "cat": lambda *tensors, dim: torch.cat(tensors, dim),
    "negative": lambda x: -x,
    "logical_not": lambda x: ~x,
    "cast": lambda x, dtype: x.to(getattr(torch, dtype)),
    "in_place": lambda x, other, name: getattr(x.detach().clone(), name)(other.detach()),
    "permute": lambda x, dims: x.permute(dims),
    "reshape": lambda x, shape: x.reshape(shape),
    "expand": lambda x, shape: x.expand(shape),
    "index_select": lambda x, index, dim: x.index_select(dim, index % x.shape[dim]),
    "sum": lambda x, dim=None, keepdim=False: x.sum(dim, keepdim),
    "max": lambda x, dim=None: x.max() if dim is None else tuple(x.max(dim)),
    "min": lambda x, dim=None: x.min() if dim is None else tuple(x.min(dim)),
    "abs": torch.abs,
    **{op: _binary(op) for op in _DUNDER},
}


def _operation(name: str) -> Any:
    if name in _SPECIAL:
        return _SPECIAL[name]
    for home in (F, torch, torch.Tensor):
        if hasattr(home, name):
            return getattr(home, name)
    raise KeyError(name)


def run(case: Case) -> tuple[list[np.ndarray[Any, Any]], list[np.ndarray[Any, Any] | None]]:
    """Outputs and gradients of a case, with the upstream gradient that `gpucnn.cases.run` draws."""
    tensors = []
    for array, spec in zip(case.arrays(np.float64), case.inputs):
        tensor = None if array is None else torch.from_numpy(np.array(array))
        if tensor is not None and spec is not None and spec.differentiable:
            tensor.requires_grad_()
        tensors.append(tensor)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # notes on speed
        result = _operation(case.op)(*tensors, **case.attributes)
    outputs = list(result) if isinstance(result, tuple) else [result]
    roots = [y for y in outputs if y.requires_grad]
    gradients: list[np.ndarray[Any, Any] | None] = []
    if roots:
        wanted = [t for t in tensors if t is not None and t.requires_grad]
        upstream = np.random.default_rng(99).standard_normal(tuple(roots[0].shape))
        given = torch.from_numpy(np.asarray(upstream))
        found = torch.autograd.grad(roots[0], wanted, given, allow_unused=True)
        gradients = [None if g is None else g.numpy() for g in found]
    return [y.detach().numpy() for y in outputs], gradients

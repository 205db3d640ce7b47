"""Indexing: slices are views; integer tensors, lists and masks select along axes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpucnn import backends
from gpucnn.core import memory
from gpucnn.core.autograd import Function
from gpucnn.core.device import CPU, Device
from gpucnn.core.dispatch import Spec
from gpucnn.core.memory import bool_, check_number, int64
from gpucnn.core.primitive import primitive
from gpucnn.core.tensor import Number, Tensor
from gpucnn.ops.activation import check_tensor
from gpucnn.ops.broadcasting import same_device
from gpucnn.ops.convert import cast
from gpucnn.ops.elementwise import binary, where
from gpucnn.ops.inplace import check_in_place, copy_
from gpucnn.ops.view import axis_of, permute, reshape


@primitive
def take(x: Tensor, index: Tensor, *, axis: int) -> list[Spec]:
    """y = x with `axis` replaced by its elements number index[0], index[1], ..."""
    shape = x.shape[:axis] + index.shape + x.shape[axis + 1 :]
    return [Spec(shape, x.dtype, x.order)]


@primitive
def take_backward(dy: Tensor, index: Tensor, *, axis: int, shape: tuple[int, ...]) -> list[Spec]:
    """dx = 0, then dx[index[m]] += dy[m] along `axis`, in the order of m."""
    return [Spec(shape, dy.dtype, dy.order)]


class GetItem(Function):
    """A view by integers, slices, None and Ellipsis; the gradient is zero outside of it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, key: tuple[Any, ...]) -> Tensor:
        ctx.key, ctx.like = key, (x.shape, x.order)
        return x.view_of(_basic(x.data, key))

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        shape, order = ctx.like
        dx = memory.full(shape, 0, dy.dtype, dy.device, order)
        memory.copy(dy, out=dx.view_of(_basic(dx.data, ctx.key)))
        return dx, None


class Take(Function):
    """Elements of one axis by number; the gradient adds up where a number repeats."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, axis: int) -> Tensor:
        ctx.save_for_backward(index)
        ctx.axis, ctx.shape = axis, x.shape
        return take(x, index, axis=axis)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (index,) = ctx.saved_tensors
        return take_backward(dy, index, axis=ctx.axis, shape=ctx.shape), None, None


def _basic(array: Any, key: tuple[Any, ...]) -> Any:
    """The view array[key]; a full set of integers gives a 0-d array, not a scalar."""
    return array[key if Ellipsis in key else (*key, Ellipsis)]


def index_select(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """The elements of axis `dim` numbered by the 1-D integer tensor `index`.

    Raises:
        IndexError: a number is out of range (checked on the cpu; a GPU does not wait to look).
    """
    axis = axis_of("index_select", dim, check_tensor("index_select", input).ndim)
    if index.ndim != 1 or index.dtype.kind not in "iu":
        raise TypeError(
            f"index_select: index must be 1-D and of integers, got {index.dtype} {index.shape}"
        )
    same_device("index_select", input=input, index=index)
    number = cast(index, int64)
    if input.device is CPU:
        _check_range("index_select", number.data, input.shape[axis], axis)
    return Take.apply(input, number, axis)


def _check_range(call: str, index: np.ndarray[Any, Any], length: int, axis: int) -> None:
    if index.size and (index.min() < -length or index.max() >= length):
        wrong = index[(index < -length) | (index >= length)].flat[0]
        raise IndexError(f"{call}: index {wrong} is out of range for dim {axis} of length {length}")


def getitem(input: Tensor, key: Any) -> Tensor:
    """input[key] by integers, slices, None, Ellipsis, and integer and bool arrays.

    As in PyTorch, integers pick their elements before the arrays do; slices may step backwards.

    Raises:
        IndexError: too many indices, one out of range, or a mask of another shape.
        TypeError: an entry that is no index.
    """
    entries = _entries(key)
    if not any(_is_array(e) for e in entries):
        _check_basic(input, entries)
        return GetItem.apply(input, entries)
    return _advanced(input, entries)


def _entries(key: Any) -> tuple[Any, ...]:
    return tuple(_entry(e) for e in (key if isinstance(key, tuple) else (key,)))


def _entry(entry: Any) -> Any:
    if isinstance(entry, (list, range)):
        entry = np.asarray(entry, dtype=None if len(entry) else np.int64)
    if isinstance(entry, np.integer):
        return int(entry)
    if _is_array(entry) and entry.ndim == 0 and entry.dtype.kind in "iu":
        return int(entry.item())
    return entry


def _is_array(entry: Any) -> bool:
    return isinstance(entry, (Tensor, np.ndarray))


def _check_basic(input: Tensor, entries: tuple[Any, ...]) -> None:
    for entry in entries:
        if isinstance(entry, bool) or not (
            entry is None or entry is Ellipsis or isinstance(entry, (int, slice))
        ):
            raise TypeError(f"getitem: {entry!r} is not an index")
        if isinstance(entry, slice) and entry.step == 0:
            raise ValueError("getitem: a slice cannot step by 0")
    used = [e for e in entries if e is not None and e is not Ellipsis]
    if sum(e is Ellipsis for e in entries) > 1:
        raise IndexError("getitem: more than one Ellipsis")
    if len(used) > input.ndim:
        raise IndexError(f"getitem: {len(used)} indices for shape {input.shape}")
    axes = _axes(entries, input.ndim)
    for entry, axis in zip(entries, axes):
        if isinstance(entry, int) and not -input.shape[axis] <= entry < input.shape[axis]:
            raise IndexError(
                f"getitem: index {entry} is out of range for dim {axis} of shape {input.shape}"
            )


def _axes(entries: tuple[Any, ...], ndim: int) -> list[int]:
    """For each entry, the first axis of the array that it speaks of."""
    consumed = sum(_consumes(e) for e in entries)
    axes, axis = [], 0
    for entry in entries:
        axes.append(axis)
        axis += ndim - consumed if entry is Ellipsis else _consumes(entry)
    return axes


def _consumes(entry: Any) -> int:
    if entry is None or entry is Ellipsis:
        return 0
    if _is_array(entry) and entry.dtype == bool_:
        return int(entry.ndim)
    return 1


def _advanced(input: Tensor, entries: tuple[Any, ...]) -> Tensor:
    """Slices first, as a view; then the array indices together as one `take` over merged axes."""
    expanded: list[Any] = []
    for entry, axis in zip(entries, _axes(entries, input.ndim)):
        if _is_array(entry) and entry.dtype == bool_:
            mask = np.asarray(entry)  # the result's size depends on the mask: it must be known here
            if mask.shape != input.shape[axis : axis + mask.ndim]:
                raise IndexError(f"getitem: mask of shape {mask.shape} for shape {input.shape}")
            expanded.extend(np.nonzero(mask))
        else:
            expanded.append(entry)
    chosen = tuple(slice(None) if _is_array(e) else e for e in expanded)
    _check_basic(input, chosen)
    view: Tensor = GetItem.apply(input, chosen)
    remaining = [e for e in expanded if not isinstance(e, int)]
    arrays, axes, position = [], [], 0
    rest = view.ndim - sum(e is not Ellipsis for e in remaining)
    for entry in remaining:
        if _is_array(entry):
            arrays.append(entry)
            axes.append(position)
        position += rest if entry is Ellipsis else 1
    lengths = [view.shape[axis] for axis in axes]
    index, shape = _linear_index(arrays, lengths, axes, view.device)
    others = [axis for axis in range(view.ndim) if axis not in axes]
    merged = permute(view, *axes, *others)
    merged = reshape(merged, math.prod(lengths), *(view.shape[axis] for axis in others))
    result: Tensor = Take.apply(merged, index, 0)
    result = reshape(result, *shape, *result.shape[1:])
    if axes == list(range(axes[0], axes[0] + len(axes))) and axes[0] > 0:
        # Neighbouring array indices leave their result where they stood; others put it in front.
        ahead = axes[0]
        indexed = list(range(len(shape)))
        behind = list(range(len(shape), result.ndim))
        result = permute(result, *behind[:ahead], *indexed, *behind[ahead:])
    return result


def _linear_index(
    arrays: list[Any], lengths: list[int], axes: list[int], device: Device
) -> tuple[Tensor, tuple[int, ...]]:
    """One number for each tuple of indices, as if the indexed axes were one; and their shape."""
    for entry in arrays:
        if entry.dtype.kind not in "iu":
            raise IndexError(f"getitem: an index array must be of integers, got {entry.dtype}")
        if isinstance(entry, Tensor) and entry.device is not device:
            raise RuntimeError(f"getitem: input is on {device} but the index on {entry.device}")
    try:
        shape = np.broadcast_shapes(*(e.shape for e in arrays))
    except ValueError:
        listed = " and ".join(str(e.shape) for e in arrays)
        raise IndexError(f"getitem: index arrays {listed} do not broadcast") from None
    if any(isinstance(e, Tensor) and e.device is not CPU for e in arrays):
        total: Any = 0
        for entry, length in zip(arrays, lengths):
            number: Any = entry
            if isinstance(entry, Tensor):
                number = cast(entry, int64)
                wrapped = binary(number, length, op="add")
                number = where(binary(number, 0, op="less"), wrapped, number)
            else:
                host = np.asarray(entry, dtype=np.int64) % length
                number = Tensor(backends.get(device).from_host(host), device)
            total = total * length + number
        index = total.expand(*shape).reshape(-1)
        return index, shape
    linear = np.zeros(shape, dtype=np.int64)
    for entry, length, axis in zip(arrays, lengths, axes):
        host = np.asarray(entry)
        _check_range("getitem", host, length, axis)
        linear = linear * length + np.where(host < 0, host + length, host)
    flat = np.ascontiguousarray(linear).reshape(-1)
    return Tensor(backends.get(device).from_host(flat), device), shape


def setitem(input: Tensor, key: Any, value: Tensor | Number) -> None:
    """input[key] = value in place, for integers, slices, and a bool mask of the input's shape.

    Raises:
        TypeError: the key holds an integer array, or there is a value for each element of a mask:
            this engine does not scatter.
    """
    if isinstance(value, (np.ndarray, np.generic, list)):
        from gpucnn.ops.creation import tensor

        value = tensor(value, dtype=input.dtype, device=input.device)
    check_in_place("setitem", input, value)
    if isinstance(key, np.ndarray) and key.dtype == bool_:
        key = Tensor(backends.get(input.device).from_host(key), input.device)
    if isinstance(key, Tensor) and key.dtype == bool_ and key.shape == input.shape and key.ndim:
        same_device("setitem", input=input, key=key, value=value)
        if isinstance(value, Tensor):
            if value.numel() != 1:
                raise TypeError(f"setitem: one value for a whole mask, got {value.shape}")
            value = cast(reshape(value.detach()), input.dtype)
        else:
            check_number("setitem", value, input.dtype)
        where(key, value, input.detach(), out=input)
        return
    entries = _entries(key)
    if any(_is_array(e) for e in entries):
        raise TypeError(
            "setitem: assign through integers, slices or a bool mask of the tensor's shape"
        )
    _check_basic(input, entries)
    target = input.view_of(_basic(input.data, entries))
    if isinstance(value, Tensor):
        copy_(target, value)
    else:
        memory.fill(target, value)

"""Flat storage: many parameters in one buffer, their gradients in another.

An optimizer moves its parameters here, so that a step is one primitive over the whole buffer.
Each parameter keeps its shape and the order of its axes in memory; only its address changes.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from gpucnn.core.dispatch import Order
from gpucnn.core.memory import copy, full
from gpucnn.core.tensor import Array, Tensor

_ALIGNMENT = 256
"""Bytes: every parameter begins where the vector loads of any kernel may begin. The gap behind it
belongs to no one: updates run over it, nothing that reduces may read it."""


class GradientSlot(Tensor):
    """Where autograd puts the gradient of one parameter: a view of a flat gradient buffer.

    Attributes:
        storage: the buffers.
        start, stop: the parameter's elements in them, the gap behind it included.
        values: the parameter's array there; while `parameter.data` is this object, the parameter
            has not moved elsewhere.
    """

    __slots__ = ("storage", "start", "stop", "values")

    def __init__(self, storage: FlatStorage, start: int, stop: int, like: Tensor) -> None:
        order = like.order
        gradients = window(storage.gradients, start, like.shape, order)
        super().__init__(gradients, like.device, version=storage.gradients._version)
        self.storage = storage
        self.start, self.stop = start, stop
        self.values = window(storage.values, start, like.shape, order)


def window(flat: Tensor, start: int, shape: tuple[int, ...], order: Order) -> Array:
    """The elements of `flat` from `start` on as an array of `shape`, its axes lying in `order`."""
    axes = tuple(range(len(shape))) if order is None else order
    lengths = tuple(shape[axis] for axis in axes)
    count = 1
    for length in lengths:
        count *= length
    array = flat.data[start : start + count].reshape(lengths)
    return array.transpose(tuple(axes.index(axis) for axis in range(len(shape))))


class FlatStorage:
    """The buffers of some parameters, which move in when it is made; their gradients come along.

    Attributes:
        values, gradients: flat tensors of one dtype on one device.
        users: the optimizers that work on it.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        first = parameters[0]
        step = _ALIGNMENT // first.dtype.itemsize
        starts = [0]
        for parameter in parameters:
            starts.append(starts[-1] + -(-parameter.numel() // step) * step)
        self.values = full((starts[-1],), 0, first.dtype, first.device)
        self.gradients = full((starts[-1],), 0, first.dtype, first.device)
        self.users: weakref.WeakSet[Any] = weakref.WeakSet()
        self._slices: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        for parameter, start, stop in zip(parameters, starts, starts[1:]):
            self._move_in(parameter, GradientSlot(self, start, stop, parameter))

    def _move_in(self, parameter: Tensor, slot: GradientSlot) -> None:
        copy(parameter.detach(), out=Tensor(slot.values, slot.device))
        parameter.data = slot.values
        # A counter of its own: the values of other parameters may change without this one's.
        parameter._version = [parameter._version[0] + 1]
        parameter._grad_slot = slot
        if parameter.grad is not None:
            copy(parameter.grad.detach(), out=slot)
            parameter.grad = slot

    def slices(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Views of the values and of the gradients from `start` to `stop`."""
        key = (start, stop)
        if key not in self._slices:
            self._slices[key] = (
                self.values.view_of(self.values.data[start:stop]),
                self.gradients.view_of(self.gradients.data[start:stop]),
            )
        return self._slices[key]


def slot_of(parameter: Tensor) -> GradientSlot | None:
    """Where the parameter lies in flat storage; None if it does not, or has moved away since."""
    slot = parameter._grad_slot
    if isinstance(slot, GradientSlot) and parameter.data is slot.values:
        return slot
    return None


def settle(parameters: Sequence[Tensor], user: Any) -> list[GradientSlot]:
    """Make every parameter lie in flat storage, and say where.

    One that lies in storage used by another living optimizer stays there (two optimizers over the
    same parameters work on the same buffers); the others move together.
    """
    for parameter in parameters:
        if isinstance(parameter._grad_slot, GradientSlot):
            parameter._grad_slot.storage.users.discard(user)
    movable: dict[tuple[Any, Any], list[Tensor]] = {}
    for parameter in parameters:
        slot = slot_of(parameter)
        if slot is None or not slot.storage.users:
            movable.setdefault((parameter.device, parameter.dtype), []).append(parameter)
    for together in movable.values():
        FlatStorage(together)
    slots = [slot for slot in map(slot_of, parameters) if slot is not None]
    for slot in slots:
        slot.storage.users.add(user)
    return slots


class Run(NamedTuple):
    """Neighbours in flat storage: parameters number `first` to `last` (excluded) of a list."""

    storage: FlatStorage
    start: int
    stop: int
    first: int
    last: int


def runs(slots: Iterable[GradientSlot | None], keys: Iterable[Any]) -> list[Run]:
    """Join neighbours that have equal keys; None leaves a parameter out."""
    result: list[Run] = []
    open_key: Any = None
    for number, (slot, key) in enumerate(zip(slots, keys)):
        if slot is None:
            continue
        last = result[-1] if result else None
        if (
            last is not None
            and last.last == number
            and last.storage is slot.storage
            and last.stop == slot.start
            and open_key == key
        ):
            result[-1] = Run(slot.storage, last.start, slot.stop, last.first, number + 1)
        else:
            result.append(Run(slot.storage, slot.start, slot.stop, number, number + 1))
        open_key = key
    return result

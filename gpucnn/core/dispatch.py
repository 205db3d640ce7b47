"""The one door between the operations and the primitives of a backend.

Every primitive call of the engine passes `dispatch`: what its outputs look like is known before
anything is allocated or launched, so a step can be recorded, rewritten and planned here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gpucnn import backends
from gpucnn.core import recording
from gpucnn.core.device import Device

Order = tuple[int, ...] | None
"""Axes from slowest to fastest in memory; None is C order. (0, 2, 3, 1) is channels-last."""

CHANNELS_LAST: Order = (0, 2, 3, 1)


class Spec(NamedTuple):
    """What an array looks like: its shape, its dtype and the order of its axes in memory."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    order: Order = None


def dispatch(
    name: str,
    device: Device,
    inputs: Sequence[Any],
    specs: Sequence[Spec],
    attributes: Mapping[str, Any],
    outputs: Sequence[Any] | None = None,
) -> Sequence[Any]:
    """Run the primitive `name` of the device's backend and return its output arrays.

    Args:
        inputs: raw arrays of that device; `None` for an absent one; Python numbers where the
            primitive takes them.
        specs: the outputs' shapes, dtypes and memory orders.
        outputs: existing arrays to write into, instead of new ones.
    """
    recorder = recording.state.recorder
    if recorder is not None:
        return recorder.call(name, device, inputs, specs, attributes, outputs)
    backend = backends.get(device)
    if outputs is None:
        outputs = [backend.empty(shape, dtype, order) for shape, dtype, order in specs]
    backend.primitives[name](*inputs, *outputs, **attributes)
    return outputs


def memory_order(array: Any) -> Order:
    """The order of the array's axes in memory, slowest first; None when that is C order.

    Axes of size one have no place of their own: a dense channels-last array is recognised first,
    so that a single-channel image keeps the layout of its neighbours. Broadcast axes (stride 0)
    stay where they stand.
    """
    ndim = array.ndim
    if ndim < 2 or (array.flags.c_contiguous and ndim != 4):
        return None
    if ndim == 4 and array.transpose(0, 2, 3, 1).flags.c_contiguous:
        return CHANNELS_LAST
    if array.flags.c_contiguous:
        return None
    strides = [abs(s) for s in array.strides]
    axes = tuple(sorted(range(ndim), key=lambda axis: -strides[axis]))
    return None if axes == tuple(range(ndim)) else axes

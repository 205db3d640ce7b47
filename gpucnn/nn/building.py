"""Building a net whose numbers come from elsewhere, such as a file.

Inside `building(limit, device)`, layers draw no initial numbers (so the seed's stream does not
move), all together may not ask for more than `limit` elements, and they live on `device`.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator
from typing import Any

from gpucnn.core.device import Device


class TooLargeError(ValueError):
    """The net wants more parameters than its source has."""


class _State(threading.local):
    left: int | None = None
    device: Device | None = None


_state = _State()


@contextlib.contextmanager
def building(limit: int, device: Device) -> Iterator[None]:
    """Build without initial values, at most `limit` elements of parameters and buffers."""
    before = _state.left, _state.device
    _state.left, _state.device = limit, device
    try:
        yield
    finally:
        _state.left, _state.device = before


def is_building() -> bool:
    """Whether initial values are to be left out."""
    return _state.left is not None


def reserve(shape: tuple[int, ...], device: Any = None) -> Any:
    """Count a parameter or buffer about to be made, and say where: `device`, if it is given.

    Raises:
        TooLargeError: there would be more elements than allowed.
    """
    if _state.left is None:
        return device
    wanted = math.prod(shape)
    if wanted > _state.left:
        raise TooLargeError(f"a tensor of shape {shape} is larger than what is left to fill it")
    _state.left -= wanted
    return device or _state.device
